"""What runs on a node: one module a kind of job, started as `python -m workloads.<module>`.

Each reads its context through `job.py`, calls `science`, and reports through Dagster Pipes. None imports assets.
"""
