"""The trainings that a value goes back to, which are folders and no table: a resume and a diagnosis read them.

What is placed are the attempts that the value stood on, and no other: to a training that began fresh nothing is known.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from io_managers.addresses import table_of
from io_managers.tables import TablePartition
from provenance.weights.bases import CHECKPOINT_TABLE
from replay.refusals import ReplayRefused
from replay.scratch import Scratch, link
from replay.target import Target
from resources.attempts import Attempt, checkpoints_in
from resources.compute.job_directory import JobDirectory
from resources.training import RESUME

_SMALL_FILES = ("curve.jsonl", "ending")
_DEPTH = 3  # <policy>/<task>/<attempt>, wherever the home was then


def place_trainings(scratch: Scratch, target: Target, inputs: Sequence[TablePartition]) -> None:
    """Put the training attempts into place that the run which made ``target`` could read.

    Raises
    ------
    ReplayRefused
        When a resumed attempt is gone.
    """
    if table_of(target.record.asset)[0] in ("checkpoint", CHECKPOINT_TABLE):
        if (target.record.config or {}).get("intent") == RESUME:
            _place_chain(scratch, _resumed(target))
        return
    for each in inputs:
        name, variant = table_of(each.asset)
        if name == "checkpoint":
            folder = scratch.original.training / variant[0] / each.partition
            _place_known(scratch, (folder / attempt for attempt in each.frame()["attempt"].unique()))


def _resumed(target: Target) -> Path:
    """The attempt that a resume went on from."""
    job = JobDirectory(target.home.jobs / (target.record.job_key or ""))
    if job.inputs.is_file():
        own = Attempt(**json.loads(job.inputs.read_text())["params"]["attempt"])
        if own.resume_from is not None and (Path(own.resume_from).parent / "attempt.json").is_file():
            return Path(own.resume_from).parent
    raise ReplayRefused(
        f"{target.title} was resumed from another attempt, whose folder under {target.home.training} (or the job that "
        "says which it was) is gone: it cannot be trained again from there"
    )


def _place_known(scratch: Scratch, folders: Iterable[Path]) -> None:
    for folder in folders:
        if (folder / "attempt.json").is_file():
            _place_chain(scratch, folder)


def _place_chain(scratch: Scratch, folder: Path) -> None:
    """Link an attempt and what it went on from, with the folders of the scratch home in their descriptions."""
    attempt = Attempt.read(folder)
    there = scratch.home.training.joinpath(*folder.parts[-_DEPTH:])
    if (there / "attempt.json").exists():
        return
    for path in checkpoints_in(folder).values():
        link(path, there / path.name)
    for name in _SMALL_FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, there / name)
    resume_from = attempt.resume_from
    if resume_from is not None and (Path(resume_from).parent / "attempt.json").is_file():
        _place_chain(scratch, Path(resume_from).parent)
        resume_from = str(scratch.home.training.joinpath(*Path(resume_from).parts[-_DEPTH - 1 :]))
    moved = replace(attempt, directory=str(there), resume_from=resume_from)
    (there / "attempt.json").write_text(json.dumps(moved.described(), indent=1))
