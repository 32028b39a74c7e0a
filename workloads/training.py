"""Trains a policy on demonstrations: the curve live, each checkpoint evaluated on the selection seeds, all published.

What differs from policy to policy is its `Method`; `train_<policy>.py` names it. A base is trained on several tasks and
published in table `base_checkpoint`, everything else on one.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from files import write_whole
from io_managers.content import file_hash
from io_managers.schemas import table
from provenance.lineage import git_commit, library_versions
from provenance.weights.of_training import attempts_before
from resources.attempts import Attempt, chain, checkpoints_in, read_curve
from science.robots.cameras import Cameras
from science.robots.policies.registry import find_policy
from science.robots.rollouts.episode import run_episode
from science.robots.seeds import SELECTION, take
from science.robots.tasks.base import Simulation, Task
from science.robots.tasks.engines import make_simulation
from science.robots.tasks.registry import find_task, require_available
from science.robots.training_figure import training_figure
from science.robots.training_result import TrainingResult
from workloads.fence import FencedOut, require_fence
from workloads.job import Job, open_job
from workloads.policy_inputs import inline_png
from workloads.weights_origin import origin_columns

SELECTION_SETTING = "selection_n"
"""Episodes of each task on the selection seeds at each checkpoint: a setting of the job, of no network."""

_LOG_EVERY_STEPS = 50


class TrainingStopped(RuntimeError):
    """A training that was asked to end; its last checkpoint is kept and can be resumed."""


@dataclass(frozen=True)
class TrainingInputs:
    """What a training is given.

    Attributes
    ----------
    settings : resolved, without `selection_n`.
    tasks, datasets : what is trained on, and each task's demonstrations by its key, robomimic HDF5.
    directory : of the attempt; checkpoints are written there.
    base : the checkpoint that a fresh training begins from; None for none.
    resume_from : the checkpoint to go on from; None for a fresh training.
    hooks : ``on_step``, ``before_checkpoint``, ``on_checkpoint`` and ``should_stop``, to be handed on.
    """

    settings: Mapping[str, Any]
    tasks: Sequence[Task]
    datasets: Mapping[str, Path]
    directory: Path
    base: Path | None
    resume_from: Path | None
    hooks: Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Method:
    """What differs from policy to policy.

    Attributes
    ----------
    learn : trains to the last step, or until it is asked to stop.
    versions : of the libraries that a checkpoint was trained with, read from it.
    """

    learn: Callable[[TrainingInputs], TrainingResult]
    versions: Callable[[Path], Mapping[str, str]]


def run_training(method: Method) -> None:
    """Run the job."""
    with open_job() as job:
        attempt = Attempt(**job.params["attempt"])
        ending = Path(attempt.directory) / "ending"
        try:
            run = _Run(job, attempt, method)
            ending.unlink(missing_ok=True)
            result = run.train()
        except FencedOut:  # the attempt is another copy's now
            raise
        except Exception as error:
            ending.write_text(f"{type(error).__name__}: {error}")
            raise
        if not result.finished:
            ending.write_text(f"stopped at step {result.last_step}")
            raise TrainingStopped(
                f"the training was asked to end at step {result.last_step} of {run.steps}; its checkpoint is kept: "
                f"resume it with intent: resume, resume_step: {result.last_step}"
            )
        ending.write_text("FINISHED")
        _publish(run, result)


class _Run:
    """One training: its curve goes to `curve.jsonl` as it grows."""

    def __init__(self, job: Job, attempt: Attempt, method: Method):
        self.job, self.attempt, self.method = job, attempt, method
        self.directory = Path(attempt.directory)
        self.tasks = [find_task(key) for key in job.params["tasks"]]
        for task in self.tasks:
            require_available(task)
        self.settings = dict(attempt.settings)
        self.selection_seeds = take(SELECTION, self.settings.pop(SELECTION_SETTING))
        self.steps: int = self.settings["steps"]
        self.spec = find_policy(job.params["policy"])
        self._simulations: list[Simulation] = []
        self._losses: list[float] = []
        self._stop = False

    def train(self) -> TrainingResult:
        """Train to the end, or until SIGTERM: then the step is finished, saved, and nothing is lost.

        An attempt whose node failed, or whose time was up, goes on from its own last checkpoint.
        """
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stop", True))
        demonstrations = self.job.inputs("demonstrations")
        datasets = {key: self.job.artifact(each.frame()["dataset_artifact"][0]) for key, each in demonstrations.items()}
        self._simulations = [make_simulation(task) for task in self.tasks] if self.selection_seeds else []
        own = self._own_last_checkpoint()
        resume_from = own or self.attempt.resume_from
        try:
            if own is not None:
                self._evaluate_what_was_missed(own)
            return self.method.learn(
                TrainingInputs(
                    self.settings,
                    self.tasks,
                    datasets,
                    self.directory,
                    self._base(),
                    Path(resume_from) if resume_from else None,
                    {
                        "on_step": self._on_step,
                        "before_checkpoint": require_fence,
                        "on_checkpoint": self._on_checkpoint,
                        "should_stop": lambda: self._stop,
                    },
                )
            )
        finally:
            for simulation in self._simulations:
                simulation.close()

    def _base(self) -> Path | None:
        """The chosen checkpoint of the base that the settings name, held against its hash."""
        for rows in self.job.inputs("base").values():
            return self.job.artifact(rows.frame().filter("chosen")["checkpoint_artifact"][0])
        return None

    def _own_last_checkpoint(self) -> str | None:
        """The last checkpoint of this attempt, where it was begun before; the curve is cut back to it."""
        own = checkpoints_in(self.directory)
        if not own:
            return None
        step, path = max(own.items())
        points = [point for point in read_curve(self.directory) if point["step"] <= step]
        lines = "".join(json.dumps(point) + "\n" for point in points)
        write_whole(self.directory / "curve.jsonl", lambda draft: draft.write_text(lines))
        self.job.say(f"this attempt was begun before and goes on from step {step}")
        return str(path)

    def _evaluate_what_was_missed(self, checkpoint: str) -> None:
        """Evaluate a checkpoint after which the attempt was interrupted, as one long run would have."""
        step = max(checkpoints_in(self.directory))
        regular = step % self.settings["checkpoint_every"] == 0 or step == self.steps
        evaluated = any(point["step"] == step and "selection_n" in point for point in read_curve(self.directory))
        if regular and not evaluated:
            self._on_checkpoint(step, Path(checkpoint))

    def _on_step(self, step: int, loss: float, learning_rate: float) -> None:
        self._losses.append(loss)
        if step % _LOG_EVERY_STEPS == 0 or step == self.steps:
            mean = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self._record({"step": step, "loss": mean})
            self.job.progress(step / self.steps, f"step {step} of {self.steps}: loss {mean:.3f}")

    def _on_checkpoint(self, step: int, path: Path) -> None:
        self.job.saved(step)
        if not self._simulations or self._stop:
            return
        outcomes = []
        for simulation in self._simulations:
            policy = self.spec.make(simulation.task, path)
            with Cameras(simulation, policy.cameras) as cameras:
                outcomes += [
                    run_episode(simulation, policy, seed, cameras=cameras).outcome for seed in self.selection_seeds
                ]
        ended = [outcome for outcome in outcomes if outcome in ("success", "failure")]
        self._record({"step": step, "selection_successes": ended.count("success"), "selection_n": len(ended)})
        self.job.say(f"step {step}: {ended.count('success')} of {len(ended)} selection episodes solved")

    def _record(self, point: dict[str, Any]) -> None:
        require_fence()
        with (self.directory / "curve.jsonl").open("a") as stream:
            stream.write(json.dumps(point) + "\n")


def _publish(run: _Run, result: TrainingResult) -> None:
    """Report every kept checkpoint of the attempt and of those that it went on from, and choose among them."""
    job = run.job
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    for each, last in chain(run.attempt):
        points = [point for point in read_curve(Path(each.directory)) if point["step"] <= last]
        checkpoints = {step: path for step, path in checkpoints_in(Path(each.directory)).items() if step <= last}
        rows += [_row(run, each, step, path, points) for step, path in checkpoints.items()]
        curve += points
    chosen = max(rows, key=_merit)
    chosen["chosen"] = True
    losses = [point["loss"] for point in curve if point.get("loss") is not None]
    tenth = max(1, len(losses) // 10)
    first, last_mean = (sum(each) / len(each) for each in (losses[:tenth], losses[-tenth:]))
    job.check("complete", result.finished, {"last_step": result.last_step, "checkpoints": len(rows)})
    job.check("loss_fell", last_mean < first, {"first_tenth": first, "last_tenth": last_mean}, blocking=False)
    name = "base_checkpoint" if "base" in job.params else "checkpoint"
    schema = {column.name: column.dtype for column in table(name).columns}
    metadata: dict[str, Any] = {
        "attempt": run.attempt.name,
        "intent": run.attempt.intent,
        "chosen_step": chosen["step"],
        "loss": last_mean,
        "curve": {"raw_value": inline_png(training_figure(curve), "loss and success over training"), "type": "md"},
    }
    if chosen["selection_n"] is not None:
        metadata["selection"] = f"{chosen['selection_successes']} of {chosen['selection_n']} on the selection seeds"
    job.publish(pl.DataFrame(rows, schema=schema).sort("step", descending=True), metadata)


def _merit(row: Mapping[str, Any]) -> tuple[int, int, str]:
    """Selection episodes solved (one that was not evaluated comes last), then the later step."""
    solved = row["selection_successes"]
    return (-1 if solved is None else solved, row["step"], row["attempt"])


def _row(run: _Run, attempt: Attempt, step: int, path: Path, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    job = run.job
    at_step = {name: value for point in points if point["step"] == step for name, value in point.items()}
    evidence = attempts_before(job.home, attempt.policy, attempt.task, attempt.name)
    return {
        **_subject(run),
        "policy": run.spec.name,
        "checkpoint_hash": file_hash(path),
        "checkpoint_artifact": job.keep_copy(path),
        "origin": "TRAINED",
        "attempt": attempt.name,
        "step": step,
        "chosen": False,
        "loss": at_step.get("loss"),
        "selection_successes": at_step.get("selection_successes"),
        "selection_n": at_step.get("selection_n"),
        "seed": attempt.settings["seed"],
        "demonstrations_hash": attempt.demonstrations_hash,
        "config_hash": attempt.config_hash,
        "settings": json.dumps(dict(attempt.settings), sort_keys=True),
        "versions": json.dumps({**library_versions(), **run.method.versions(path)}),
        "git_commit": git_commit(),
        "source": None,
        **origin_columns(job, run.spec, path, attempt.settings, evidence),
        "recorded_at": datetime.now(UTC),
    }


def _subject(run: _Run) -> dict[str, Any]:
    """The columns that say what was trained: a base, or a task."""
    if "base" in run.job.params:
        return {"base": run.job.params["base"], "tasks": json.dumps([task.key for task in run.tasks])}
    (task,) = run.tasks
    return {"suite": task.suite, "task": task.name}
