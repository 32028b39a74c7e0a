"""A real Slurm and a real sshd on one machine, for tests: started, broken and stopped by process id.

`slurm.py` the cluster, `slurm_files.py` its configuration, `sshd.py` the login node, `processes.py` what both need to
start and end processes, `folders.py` where it all lies. Standard library only. By hand: `python -m tests.cluster`.
"""

from .slurm import SlurmCluster
from .sshd import Sshd

__all__ = ["SlurmCluster", "Sshd"]
