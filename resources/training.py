"""Training attempts and intent: no training starts over by accident, and nothing that was trained is overwritten.

Every attempt has a directory of its own, `training/<policy>/<task>/<attempt>/`, with `attempt.json` from before the job
starts, checkpoints `step-<n>.pth`, `curve.jsonl` and `ending`. What is known is the union of directories and of the
tables `train_attempts` and `checkpoint`, so that neither a lost folder nor a lost table makes a training begin anew in
silence.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from home import Home
from io_managers.schemas import table
from io_managers.tables import TableStore

FRESH, RESUME = "fresh", "resume"
_CHECKPOINT = re.compile(r"step-(\d+)\.pth")


class IntentRefused(ValueError):
    """A training whose intent is missing, or does not fit what is there."""


@dataclass(frozen=True)
class Intent:
    """What a user wants: None, `fresh` or `resume`, and the step that a resume expects."""

    kind: str | None = None
    step: int | None = None


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
class TrainingPlan:
    """What a training would do.

    Attributes
    ----------
    settings : the resolved configuration; ``config_hash`` is its hash.
    intent : fresh or resume.
    resume_from, resumed_attempt : the checkpoint and attempt that it goes on from, or None.
    first_step : 0, or the step of that checkpoint.
    sentence : all of this in words.
    """

    policy: str
    task: str
    settings: Mapping[str, Any]
    config_hash: str
    intent: str
    resume_from: Path | None
    resumed_attempt: str | None
    first_step: int
    sentence: str


def config_hash(settings: Mapping[str, Any]) -> str:
    """Hash of everything that was configured."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()


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
    steps = {
        int(match[1]): path for path in directory.glob("step-*.pth") if (match := _CHECKPOINT.fullmatch(path.name))
    }
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


def plan_training(
    home: Home,
    policy: str,
    task: str,
    settings: Mapping[str, Any],
    intent: Intent,
    *,
    free: Collection[str] = (),
    demonstrations_hash: str | None = None,
) -> TrainingPlan:
    """What this training would do, if its intent allows it.

    ``settings`` are complete; a resume may change those named in ``free``. ``demonstrations_hash`` is that of the
    present dataset, or None where there is none to compare.

    Raises
    ------
    IntentRefused
        When something is known and no intent was given, or when the checkpoint to resume from is not there or belongs
        to another configuration. The message lists what is there.
    """
    known = known_attempts(home, policy, task)
    listed = "\n".join(f"  - {each.sentence()}" for each in known) or "  - nothing"
    what = f"{policy} on {task}"
    if intent.kind not in (None, FRESH, RESUME):
        raise IntentRefused(f"found intent {intent.kind!r} for {what}, expected fresh or resume")
    if intent.kind is None and intent.step is not None:
        raise IntentRefused(f"{what}: a step to resume from was given without intent: resume")
    if intent.kind == RESUME:
        wanted = _Resume(policy, task, settings, frozenset(free), demonstrations_hash, intent.step)
        return wanted.plan(known, listed)
    if intent.kind is None and known:
        raise IntentRefused(
            f"{what} was trained or imported before, and no intent was given. Known:\n{listed}\nSay `intent: resume` "
            "with `resume_step` (or `resume_steps: {task: step}` in a backfill) to go on, or `intent: fresh` to begin "
            f"anew in a new directory. `tracebed train plan {policy} {task}` shows what would happen."
        )
    steps = settings.get("steps")
    sentence = f"{what}: fresh, steps 0 to {steps}" + (f"; {len(known)} attempts are known and stay" if known else "")
    return TrainingPlan(policy, task, settings, config_hash(settings), FRESH, None, None, 0, sentence)


@dataclass(frozen=True)
class _Resume:
    """A resume that is wanted."""

    policy: str
    task: str
    settings: Mapping[str, Any]
    free: frozenset[str]
    demonstrations_hash: str | None
    step: int | None

    def plan(self, known: list[KnownAttempt], listed: str) -> TrainingPlan:
        """What it would do; the newest attempt that holds the step and has the same settings is gone on from."""
        what, step = f"{self.policy} on {self.task}", self.step
        if step is None:
            raise IntentRefused(
                f"{what}: a resume must name the step that it expects (`resume_step`). Known:\n{listed}"
            )
        holders = [each for each in known if step in each.checkpoints]
        if not holders:
            raise IntentRefused(f"{what}: no checkpoint at step {step}; nothing was started. Known:\n{listed}")
        fitting = [each for each in holders if not self._differ(each)]
        if not fitting:
            told = "\n".join(f"  - {each.name}: {self._differ(each)}" for each in holders)
            raise IntentRefused(
                f"{what}: no attempt with a checkpoint at step {step} has these settings and demonstrations:\n{told}\n"
                "Resume with its own, or begin fresh"
            )
        attempt, last = fitting[-1], self.settings["steps"]
        if step > last:
            raise IntentRefused(f"{what}: step {step} is beyond the last step {last}: raise `steps`, or begin fresh")
        left = "nothing is left to train, its checkpoints are published" if step == last else f"to {last}"
        return TrainingPlan(
            self.policy,
            self.task,
            self.settings,
            config_hash(self.settings),
            RESUME,
            attempt.checkpoints[step],
            attempt.name,
            step,
            f"{what}: resume attempt {attempt.name} at step {step}, {left}",
        )

    def _differ(self, attempt: KnownAttempt) -> str:
        """What differs from an attempt and may not, in words; empty where nothing does."""
        names = sorted({*attempt.settings, *self.settings} - self.free)
        told = [
            f"{name} was {attempt.settings.get(name)!r} and is {self.settings.get(name)!r}"
            for name in names
            if attempt.settings.get(name) != self.settings.get(name)
        ]
        if None not in (self.demonstrations_hash, attempt.demonstrations_hash) and (
            self.demonstrations_hash != attempt.demonstrations_hash
        ):
            told.append("the demonstrations are others (SHA-256)")
        return "; ".join(told)


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


def _frame(name: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={column.name: column.dtype for column in table(name).columns})


def begin_attempt(home: Home, plan: TrainingPlan, demonstrations_hash: str, run_id: str) -> Attempt:
    """Create the attempt's directory and write down what it is, before anything is trained.

    Raises
    ------
    FileExistsError
        When the directory exists: an attempt is never written over.
    """
    now = datetime.now(UTC)
    name = f"{now:%Y%m%d-%H%M%S}-{run_id[:8]}"
    directory = home.training / plan.policy / plan.task / name
    directory.mkdir(parents=True)
    attempt = Attempt(
        name,
        plan.policy,
        plan.task,
        plan.intent,
        dict(plan.settings),
        plan.config_hash,
        demonstrations_hash,
        str(plan.resume_from) if plan.resume_from else None,
        plan.resumed_attempt,
        plan.first_step,
        str(directory),
        now.isoformat(),
    )
    draft = directory / ".attempt.json"
    draft.write_text(json.dumps(attempt.described(), indent=1))
    draft.replace(directory / "attempt.json")
    return attempt
