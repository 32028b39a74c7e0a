"""Trains BC-RNN on demonstrations, shows the loss live, and evaluates each checkpoint on the selection seeds."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from files import write_whole
from io_managers.content import file_hash
from io_managers.schemas import table
from provenance.lineage import git_commit, library_versions
from resources.attempts import Attempt, chain, checkpoints_in, read_curve
from science.robots.bc_rnn.checkpoint import inspect_checkpoint
from science.robots.bc_rnn.config import SELECTION as SELECTION_SETTING
from science.robots.bc_rnn.config import BcRnnConfig
from science.robots.bc_rnn.training import TrainingResult, train
from science.robots.policies.registry import find_policy
from science.robots.rollouts.episode import run_episode
from science.robots.seeds import SELECTION, take
from science.robots.tasks.base import Task
from science.robots.tasks.engines import make_simulation
from science.robots.tasks.registry import find_task, require_available
from science.robots.training_figure import training_figure
from workloads.fence import FencedOut, require_fence
from workloads.job import Job, open_job
from workloads.policy_inputs import inline_png

_LOG_EVERY_STEPS = 50


class TrainingStopped(RuntimeError):
    """A training that was asked to end; its last checkpoint is kept and can be resumed."""


def main() -> None:
    """Run the job."""
    with open_job() as job:
        attempt = Attempt(**job.params["attempt"])
        ending = Path(attempt.directory) / "ending"
        try:
            task = find_task(job.params["task"])
            require_available(task)
            settings = dict(attempt.settings)
            selection_seeds = take(SELECTION, settings.pop(SELECTION_SETTING))
            run = _Run(job, task, Path(attempt.directory), BcRnnConfig.from_settings(settings), selection_seeds)
            ending.unlink(missing_ok=True)
            result = run.train(attempt)
        except FencedOut:  # the attempt is another copy's now
            raise
        except Exception as error:
            ending.write_text(f"{type(error).__name__}: {error}")
            raise
        if not result.finished:
            ending.write_text(f"stopped at step {result.last_step}")
            raise TrainingStopped(
                f"the training was asked to end at step {result.last_step} of {run.config.steps}; its checkpoint is "
                f"kept: resume it with intent: resume, resume_step: {result.last_step}"
            )
        ending.write_text("FINISHED")
        _publish(job, attempt, run, result)


class _Run:
    """One training: its curve goes to `curve.jsonl` as it grows."""

    def __init__(self, job: Job, task: Task, directory: Path, config: BcRnnConfig, selection_seeds: list[int]):
        self.job, self.task, self.directory, self.config = job, task, directory, config
        self.selection_seeds = selection_seeds
        self._losses: list[float] = []
        self._stop = False

    def train(self, attempt: Attempt) -> TrainingResult:
        """Train to the end, or until SIGTERM: then the step is finished, saved, and nothing is lost.

        An attempt whose node failed, or whose time was up, goes on from its own last checkpoint.
        """
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stop", True))
        dataset = self.job.artifact(self.job.input("demonstrations").frame()["dataset_artifact"][0])
        self._simulation = make_simulation(self.task) if self.selection_seeds else None
        own = self._own_last_checkpoint()
        resume_from = own or attempt.resume_from
        try:
            if own is not None:
                self._evaluate_what_was_missed(own)
            return train(
                self.config,
                dataset,
                self.task,
                self.directory,
                resume_from=Path(resume_from) if resume_from else None,
                on_step=self._on_step,
                before_checkpoint=require_fence,
                on_checkpoint=self._on_checkpoint,
                should_stop=lambda: self._stop,
            )
        finally:
            if self._simulation is not None:
                self._simulation.close()

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
        regular = step % self.config.checkpoint_every == 0 or step == self.config.steps
        evaluated = any(point["step"] == step and "selection_n" in point for point in read_curve(self.directory))
        if regular and not evaluated:
            self._on_checkpoint(step, Path(checkpoint))

    def _on_step(self, step: int, loss: float, learning_rate: float) -> None:
        self._losses.append(loss)
        if step % _LOG_EVERY_STEPS == 0 or step == self.config.steps:
            mean = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self._record({"step": step, "loss": mean})
            self.job.progress(step / self.config.steps, f"step {step} of {self.config.steps}: loss {mean:.3f}")

    def _on_checkpoint(self, step: int, path: Path) -> None:
        self.job.saved(step)
        if self._simulation is None or self._stop:
            return
        policy = find_policy(self.job.params["policy"]).make(self.task, path)
        outcomes = [run_episode(self._simulation, policy, seed).outcome for seed in self.selection_seeds]
        ended = [outcome for outcome in outcomes if outcome in ("success", "failure")]
        self._record({"step": step, "selection_successes": ended.count("success"), "selection_n": len(ended)})
        self.job.say(f"step {step}: {ended.count('success')} of {len(ended)} selection episodes solved")

    def _record(self, point: dict[str, Any]) -> None:
        require_fence()
        with (self.directory / "curve.jsonl").open("a") as stream:
            stream.write(json.dumps(point) + "\n")


def _publish(job: Job, attempt: Attempt, run: _Run, result: TrainingResult) -> None:
    """Report every kept checkpoint of the attempt and of those that it went on from, and choose among them."""
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    for each, last in chain(attempt):
        points = [point for point in read_curve(Path(each.directory)) if point["step"] <= last]
        checkpoints = {step: path for step, path in checkpoints_in(Path(each.directory)).items() if step <= last}
        rows += [_row(job, run, each, step, path, points) for step, path in checkpoints.items()]
        curve += points
    chosen = max(rows, key=_merit)
    chosen["chosen"] = True
    losses = [point["loss"] for point in curve if point.get("loss") is not None]
    tenth = max(1, len(losses) // 10)
    first, last_mean = (sum(each) / len(each) for each in (losses[:tenth], losses[-tenth:]))
    job.check("complete", result.finished, {"last_step": result.last_step, "checkpoints": len(rows)})
    job.check("loss_fell", last_mean < first, {"first_tenth": first, "last_tenth": last_mean}, blocking=False)
    schema = {column.name: column.dtype for column in table("checkpoint").columns}
    metadata: dict[str, Any] = {
        "attempt": attempt.name,
        "intent": attempt.intent,
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


def _row(
    job: Job, run: _Run, attempt: Attempt, step: int, path: Path, points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    info = inspect_checkpoint(path)
    at_step = {name: value for point in points if point["step"] == step for name, value in point.items()}
    return {
        "suite": run.task.suite,
        "task": run.task.name,
        "policy": job.params["policy"],
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
        "versions": json.dumps({**library_versions(), **info.versions}),
        "git_commit": git_commit(),
        "source": None,
        "recorded_at": datetime.now(UTC),
    }


if __name__ == "__main__":
    main()
