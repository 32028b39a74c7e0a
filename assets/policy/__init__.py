"""The policy stream, in the order in which one artifact is made from another.

`demonstrations.py`, `checkpoint.py` (training and import), `rollouts.py`, `success_rate.py`, `diagnosis.py`,
`videos.py`, `benchmark.py`. Policies come from the entry points `tracebed.policies`, tasks from `tracebed.suites`;
what a task is trained with comes from `recipes.toml`.
"""
