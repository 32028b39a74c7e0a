"""Robot policies: tasks, experts, demonstrations, policies, rollouts, statistics, diagnosis and video, as plain Python.

Read in this order: `tasks/base.py` and `policies/base.py` (the two interfaces that everything meets), then `seeds.py`,
`rollouts/`, `demonstrations.py`, `bc_rnn/`, `statistics.py`, `diagnosis/`, `video.py`. Importing a module here is
light; mujoco, robosuite, robomimic and torch are imported where they are used, in worker processes.
"""
