"""Where heavy work runs. One interface, one backend a kind of site.

Read in this order: `interface.py` (jobs, endings, the backend contract), `job_directory.py` (the files of a job),
`local.py` (the backend that needs nothing), `messages.py` (Pipes messages that survive), `compute.py` (the resource).
"""
