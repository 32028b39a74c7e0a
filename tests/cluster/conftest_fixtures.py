"""Pytest fixtures of a real cluster, for `tests/conftest.py` to import; one cluster per xdist worker, made when asked.

A test takes `cluster` (reset before each test) rather than `slurm`. Where Slurm or sshd cannot run, tests are skipped
with the reason.
"""

from collections.abc import Iterator

import pytest

from .folders import short_folder
from .slurm import SlurmCluster
from .sshd import Sshd


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A Slurm with accounting, for the whole session."""
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    with short_folder() as folder, SlurmCluster(folder) as started:
        yield started


@pytest.fixture(scope="session")
def slurm_without_accounting() -> Iterator[SlurmCluster]:
    """A second Slurm whose sacct says that accounting is disabled."""
    if reason := SlurmCluster.missing(accounting=False):
        pytest.skip(reason)
    with short_folder() as folder, SlurmCluster(folder, accounting=False) as started:
        yield started


@pytest.fixture(scope="session")
def sshd(slurm: SlurmCluster) -> Iterator[Sshd]:
    """The login node of `slurm`: its sessions see the cluster."""
    if reason := Sshd.missing():
        pytest.skip(reason)
    with short_folder() as folder, Sshd(folder, environment=slurm.environment()) as started:
        yield started


@pytest.fixture
def cluster(slurm: SlurmCluster) -> SlurmCluster:
    """The session's Slurm without jobs, with all daemons running and all nodes idle."""
    slurm.reset()
    return slurm
