"""Training intent: no training starts over by accident, and nothing that was trained is overwritten.

A plan says what a training would do, or why it is refused; `begin_attempt` is the moment from which it is known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from home import Home
from resources.attempts import Attempt, KnownAttempt, known_attempts

FRESH, RESUME = "fresh", "resume"


class IntentRefused(ValueError):
    """A training whose intent is missing, or does not fit what is there."""


@dataclass(frozen=True)
class Intent:
    """What a user wants: None, `fresh` or `resume`, and the step that a resume expects."""

    kind: str | None = None
    step: int | None = None


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


def begun_attempt(
    home: Home, policy: str, task: str, settings: Mapping[str, Any], demonstrations_hash: str, root_run: str
) -> Attempt | None:
    """The attempt that this run, or the one that it re-executes, has begun with the same settings; None before that.

    It is the same attempt that goes on, not a new one: its intent was judged when it began.
    """
    found = sorted((home.training / policy / task).glob(f"*-{root_run[:8]}/attempt.json"))
    begun = [Attempt.read(path.parent) for path in found]
    fitting = [
        each
        for each in begun
        if each.config_hash == config_hash(settings) and each.demonstrations_hash == demonstrations_hash
    ]
    return fitting[-1] if fitting else None


def begin_attempt(home: Home, plan: TrainingPlan, demonstrations_hash: str, root_run: str) -> Attempt:
    """Create the attempt's directory and write down what it is, before anything is trained.

    Raises
    ------
    FileExistsError
        When the directory exists: an attempt is never written over.
    """
    now = datetime.now(UTC)
    name = f"{now:%Y%m%d-%H%M%S}-{root_run[:8]}"
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
