"""Where heavy work runs: one interface, and a backend for each kind of site.

Read in this order: `interface.py` (needs, jobs, endings, what a backend must do), `job_directory.py` and `launch.sh` (a
job is a directory; one launch of it on a node), `endings.py` (how it ended), `sites.py` (`sites.toml`), `reach.py`
(this host, or ssh), `submitting.py` and `polling.py` (what all backends do), with `snapshot.py` and `patience.py` (what
a site says, and when to believe it), the backends `processes.py` with `supervisor.sh`, `slurm.py` with
`slurm_commands.py`, and `allocation.py`; then `running.py` (one job to its end, with `retries.py` and `excluded.py`),
`messages.py` and `compute.py` (Dagster).

`incident*.py` ask who was on a node when it failed. Nothing here knows an asset.
"""
