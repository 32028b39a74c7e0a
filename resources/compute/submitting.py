"""How every backend submits: once, whoever asks and however often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resources.compute.interface import Handle, JobSpec
from resources.compute.job_directory import SubmissionDirectory
from resources.compute.places import locked


def submit_once(spec: JobSpec, ask: Callable[[SubmissionDirectory, int], Mapping[str, Any]]) -> Handle:
    """The handle of a submission; ``ask(files, lock)`` asks the site for it where that was not answered before.

    ``lock`` is the descriptor of the lock under which all this happens: a command that inherits it holds it until it
    has ended, also when this process dies. What ``ask`` returns (with the key ``reference``) is kept as the handle.
    """
    files = SubmissionDirectory(spec.directory)
    spec.directory.mkdir(parents=True, exist_ok=True)
    with locked(spec.directory / "lock") as lock:
        known = files.read_handle()
        if known is None:
            known = ask(files, lock)
            files.write_handle(known)
    return Handle(spec.key, spec.directory, known["reference"])
