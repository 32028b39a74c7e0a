"""Asset definitions, by subject. Nothing imports this package but `defs.py` and the studies; it imports no torch,
scanpy or mujoco.
"""

import warnings

import dagster as dg

# Single-run backfills are used on purpose and pinned; without this every process of a run would say that they are beta.
warnings.filterwarnings("ignore", message=".*`backfill_policy`", category=dg.BetaWarning)
