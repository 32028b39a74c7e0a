"""The backend of a site."""

from __future__ import annotations

from pathlib import Path

from resources.compute.allocation import AllocationBackend
from resources.compute.interface import Backend
from resources.compute.processes import ProcessBackend
from resources.compute.sites import Site
from resources.compute.slurm import SlurmBackend


def backend_of(site: Site, state: Path) -> Backend:
    """What runs jobs at a site; ``state`` is the folder of what is known of it."""
    if site.inside_allocation:
        return AllocationBackend(site, state)
    if site.scheduler == "slurm":
        return SlurmBackend(site, state)
    return ProcessBackend(site, state)
