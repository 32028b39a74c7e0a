"""Which endings are worth another submission, and how it must differ.

What cannot end otherwise is never repeated: an error of the workload, a GPU without code for it, a job that could not
be launched, one that somebody cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from resources.compute.endings import GPU_MEMORY
from resources.compute.interface import Ending, Needs, Status
from resources.compute.job_directory import SubmissionDirectory
from resources.compute.sites import Site

MOST_SUBMISSIONS = 4
"""Of one job in one run; a bad node is left out after the first, so more would meet something else."""


@dataclass(frozen=True)
class Retry:
    """Another submission: what it needs, the node that it must not meet, and why it is made."""

    needs: Needs
    exclude_node: str | None
    why: str


def another(status: Status, submissions: Sequence[SubmissionDirectory], needs: Needs, site: Site) -> Retry | None:
    """The next submission after one that ended so, or None.

    ``submissions`` are those of this run, oldest first.
    """
    if len(submissions) >= MOST_SUBMISSIONS:
        return None
    match status.ending:
        case Ending.NODE_FAIL:
            return Retry(needs, status.node, f"node {status.node} failed")
        case Ending.PREEMPTED:
            return Retry(needs, None, "it was preempted")
        case Ending.TIMEOUT:
            return _after_time_limit(submissions, needs)
        case Ending.OUT_OF_MEMORY if GPU_MEMORY not in status.detail:
            return _with_more_memory(needs, site)
        case _:
            return None


def _with_more_memory(needs: Needs, site: Site) -> Retry | None:
    if site.max_memory_gb is None or needs.memory_gb >= site.max_memory_gb:
        return None
    memory_gb = min(2 * needs.memory_gb, site.max_memory_gb)
    return Retry(replace(needs, memory_gb=memory_gb), None, f"it ran out of memory: {memory_gb:g} GB now")


def _after_time_limit(submissions: Sequence[SubmissionDirectory], needs: Needs) -> Retry | None:
    """Only where a checkpoint was saved, and a later one than before: otherwise it would end the same way."""
    steps = [launch.checkpoint_step() if (launch := each.launch()) else None for each in submissions]
    saved, before = steps[-1], max((step for step in steps[:-1] if step is not None), default=-1)
    if saved is None or saved <= before:
        return None
    return Retry(needs, None, f"its time limit was reached; it goes on from step {saved}")
