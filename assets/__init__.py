"""Asset definitions, by subject. Nothing imports this package but `defs.py`; it imports no torch, scanpy or mujoco."""
