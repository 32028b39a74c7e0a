"""Training attempts: every one has a directory of its own, `training/<policy>/<task>/<attempt>/`.

In it are `attempt.json` from before the job starts, checkpoints `step-<n>.pth` or `step-<n>.tar`, `curve.jsonl` and
`ending`. What is known is the union of directories and of the tables `train_attempts` and `checkpoint`, so that neither
a lost folder nor a lost table makes a training begin anew in silence.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from home import Home
from io_managers.schemas import table
from io_managers.tables import TableStore

_CHECKPOINT = re.compile(r"step-(\d+)\.(?:pth|tar)")


@dataclass(frozen=True)
class KnownAttempt:
    """Something that was trained or imported before.

    Attributes
    ----------
    name : of the attempt; its directory may be gone.
    checkpoints : step -> file, of those that are there.
    settings : its configuration; empty where it is not known.
    note : what else to say of it.
    demonstrations_hash : of the dataset it was trained on; None where it is not known.
    """

    name: str
    checkpoints: Mapping[int, Path]
    settings: Mapping[str, Any]
    note: str
    demonstrations_hash: str | None = None

    def sentence(self) -> str:
        """One line of a list."""
        steps = ", ".join(map(str, self.checkpoints)) or "none"
        return f"{self.name}: {self.note}; checkpoints at steps {steps}"


@dataclass(frozen=True)
class Attempt:
    """One training attempt, from before its job starts."""

    name: str
    policy: str
    task: str
    intent: str
    settings: Mapping[str, Any]
    config_hash: str
    demonstrations_hash: str
    resume_from: str | None
    resumed_attempt: str | None
    first_step: int
    directory: str
    started_at: str

    def described(self) -> dict[str, Any]:
        """Plain values, for the job."""
        return asdict(self)

    @classmethod
    def read(cls, directory: Path) -> Attempt:
        """The attempt of a directory."""
        return cls(**json.loads((directory / "attempt.json").read_text()))

    def recorded(self, ended: str | None = None) -> dict[str, pl.DataFrame]:
        """Rows of `train_attempts` and `train_curve`, from what the job has left in its directory.

        ``ended`` is what is known of a job that left no word itself.
        """
        directory = Path(self.directory)
        curve = read_curve(directory)
        suite, _, task = self.task.partition(".")
        which = {"suite": suite, "task": task, "policy": self.policy, "attempt": self.name}
        last = max([self.first_step, *(point["step"] for point in curve), *checkpoints_in(directory)])
        attempt = which | {
            "intent": self.intent,
            "resumed_from": self.resumed_attempt,
            "first_step": self.first_step,
            "last_step": last,
            "ending": _ending(directory, ended),
            "config_hash": self.config_hash,
            "demonstrations_hash": self.demonstrations_hash,
            "directory": self.directory,
            "started_at": datetime.fromisoformat(self.started_at),
            "ended_at": datetime.now(UTC),
        }
        return {
            "train_attempts": _frame("train_attempts", [attempt]),
            "train_curve": _frame("train_curve", [which | point for point in curve]),
        }


def known_attempts(home: Home, policy: str, task: str) -> list[KnownAttempt]:
    """Everything that is known of a policy on a task, oldest first."""
    found: dict[str, KnownAttempt] = {}
    for path in sorted((home.training / policy / task).glob("*/attempt.json")):
        content = json.loads(path.read_text())
        found[content["name"]] = KnownAttempt(
            content["name"],
            checkpoints_in(path.parent),
            content["settings"],
            f"{content['intent']} of {content['started_at'][:16]}, {_ending(path.parent)}",
            content["demonstrations_hash"],
        )
    suite, _, name = task.partition(".")
    mine = (pl.col("policy") == policy) & (pl.col("suite") == suite) & (pl.col("task") == name)
    store = TableStore(home.tables)
    for row in store.scan("train_attempts").filter(mine).iter_rows(named=True):
        note = f"{row['intent']} of {row['started_at']:%Y-%m-%dT%H:%M}, its directory {row['directory']} is gone"
        found.setdefault(row["attempt"], KnownAttempt(row["attempt"], {}, {}, note))
    for row in store.scan("checkpoint").filter(mine & (pl.col("origin") == "EXTERNAL")).iter_rows(named=True):
        found.setdefault(row["attempt"], KnownAttempt(row["attempt"], {}, {}, f"imported from {row['source']}"))
    return list(found.values())


def checkpoints_in(directory: Path) -> dict[int, Path]:
    """Step -> complete checkpoint of an attempt, in order of steps."""
    steps = {int(match[1]): path for path in directory.glob("step-*") if (match := _CHECKPOINT.fullmatch(path.name))}
    return dict(sorted(steps.items()))


def read_curve(directory: Path) -> list[dict[str, Any]]:
    """The points of an attempt's curve: `{step, loss}` and `{step, selection_successes, selection_n}`."""
    path = directory / "curve.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def chain(attempt: Attempt) -> list[tuple[Attempt, int]]:
    """An attempt and those that it goes on from, oldest first, each with the last step that belongs to the chain."""
    links = [(attempt, sys.maxsize)]
    while (source := links[0][0].resume_from) is not None and (Path(source).parent / "attempt.json").exists():
        links.insert(0, (Attempt.read(Path(source).parent), links[0][0].first_step))
    return links


def attempts_without_rows(home: Home, policy: str, task: str) -> list[Attempt]:
    """Attempts of which the table has no row: whoever started them died before their end."""
    suite, _, name = task.partition(".")
    mine = (pl.col("policy") == policy) & (pl.col("suite") == suite) & (pl.col("task") == name)
    recorded = set(TableStore(home.tables).scan("train_attempts").filter(mine)["attempt"])
    every = [Attempt.read(path.parent) for path in sorted((home.training / policy / task).glob("*/attempt.json"))]
    return [attempt for attempt in every if attempt.name not in recorded]


def _ending(directory: Path, ended: str | None = None) -> str:
    path = directory / "ending"
    return path.read_text() if path.exists() else ended or "running, or ended without a word"


def _frame(name: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={column.name: column.dtype for column in table(name).columns})
