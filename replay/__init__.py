"""Computing a published value again from its record, in a scratch home, and holding the two against each other.

Read in this order: `target.py` (what is replayed), `configuration.py` (with which settings), `environment.py` (what
differs now), `scratch.py` and `trainings.py` (the home that holds exactly the recorded inputs), `run.py` (all of it),
`compare.py` and `artifacts.py` (equal, or where not), `episode.py` (one episode, state by state), `words.py`.
"""
