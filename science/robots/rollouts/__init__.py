"""Rollouts: a policy on a task, one episode a seed and arm.

Read in this order: `episode.py` (one episode and its record), `pool.py` with `worker_process.py` and `worker.py` (many
of them, in warm processes), `store.py` (what was run is kept and not run again), `replay.py` (a stored episode, run
again bit for bit).
"""
