"""How every backend polls: a job's own files first, then one question to its site for those that are still open."""

from __future__ import annotations

from collections.abc import Sequence

from resources.compute.endings import Seen, status
from resources.compute.interface import Handle, State, Status
from resources.compute.job_directory import SubmissionDirectory
from resources.compute.patience import Patience
from resources.compute.snapshot import Snapshot


def poll(handles: Sequence[Handle], snapshot: Snapshot, patience: Patience) -> dict[str, Status]:
    """The state of every job, by key; the site is asked no more about those that have ended."""
    files = {handle.key: SubmissionDirectory(handle.directory) for handle in handles}
    found = {key: status(each, Seen(State.UNKNOWN)) for key, each in files.items()}
    still_open = [handle for handle in handles if found[handle.key].ending is None]
    seen = snapshot.seen([handle.reference for handle in still_open])
    for handle in still_open:
        each = files[handle.key]
        found[handle.key] = status(each, patience.believed(each, seen[handle.reference]))
    for handle in handles:
        if found[handle.key].ending is not None:
            snapshot.forget(handle.reference)
    return found
