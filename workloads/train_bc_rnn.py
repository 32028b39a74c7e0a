"""Trains BC-RNN on demonstrations, shows the loss live, and evaluates each checkpoint on the selection seeds."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from io_managers.content import file_hash
from io_managers.schemas import table
from provenance.lineage import git_commit, library_versions
from science.robots.bc_rnn.checkpoint import inspect_checkpoint
from science.robots.bc_rnn.config import BcRnnConfig, ConfigError
from science.robots.bc_rnn.training import TrainingResult, train
from science.robots.policies.registry import find_policy
from science.robots.rollouts.episode import run_episode
from science.robots.seeds import SELECTION, take
from science.robots.tasks.base import Task
from science.robots.tasks.engines import make_simulation
from science.robots.tasks.registry import find_task, require_available
from science.robots.training_figure import training_figure
from workloads.job import Job, open_job
from workloads.policy_inputs import inline_png

_LOG_EVERY_STEPS = 50


class TrainingStopped(RuntimeError):
    """A training that was asked to end; its last checkpoint is kept and can be resumed."""


def main() -> None:
    """Run the job."""
    with open_job() as job:
        attempt = job.params["attempt"]
        directory = Path(attempt["directory"])
        task = find_task(job.params["task"])
        require_available(task)
        settings = dict(attempt["settings"])
        selection_seeds = take(SELECTION, settings.pop("selection_n"))
        run = _Run(job, task, directory, _config(settings), selection_seeds)
        try:
            result = run.train(attempt["resume_from"])
        except Exception as error:
            (directory / "ending").write_text(f"{type(error).__name__}: {error}")
            raise
        if not result.finished:
            (directory / "ending").write_text(f"stopped at step {result.last_step}")
            raise TrainingStopped(
                f"the training was asked to end at step {result.last_step} of {run.config.steps}; its checkpoint is "
                f"kept: resume it with intent: resume, resume_step: {result.last_step}"
            )
        (directory / "ending").write_text("FINISHED")
        _publish(job, attempt, run, result)


def _config(settings: Mapping[str, Any]) -> BcRnnConfig:
    known = {**BcRnnConfig().settings(), **settings}
    if unknown := sorted(set(settings) - set(BcRnnConfig().settings())):
        raise ConfigError(f"found settings {unknown}, expected some of {sorted(BcRnnConfig().settings())}")
    return BcRnnConfig.from_settings(known)


class _Run:
    """One training: its curve goes to `curve.jsonl` as it grows."""

    def __init__(self, job: Job, task: Task, directory: Path, config: BcRnnConfig, selection_seeds: list[int]):
        self.job, self.task, self.directory, self.config = job, task, directory, config
        self.selection_seeds = selection_seeds
        self.curve: list[dict[str, Any]] = []
        self.selected: dict[int, tuple[int, int]] = {}
        self._losses: list[float] = []
        self._stop = False

    def train(self, resume_from: str | None) -> TrainingResult:
        """Train to the end, or until SIGTERM: then the step is finished, saved, and nothing is lost."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stop", True))
        dataset = self.job.artifact(self.job.input("demonstrations").frame()["dataset_artifact"][0])
        self._simulation = make_simulation(self.task) if self.selection_seeds else None
        try:
            return train(
                self.config,
                dataset,
                self.task,
                self.directory,
                resume_from=Path(resume_from) if resume_from else None,
                on_step=self._on_step,
                on_checkpoint=self._on_checkpoint,
                should_stop=lambda: self._stop,
            )
        finally:
            if self._simulation is not None:
                self._simulation.close()

    def _on_step(self, step: int, loss: float, learning_rate: float) -> None:
        self._losses.append(loss)
        if step % _LOG_EVERY_STEPS == 0 or step == self.config.steps:
            mean = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self._record({"step": step, "loss": mean})
            self.job.progress(step / self.config.steps, f"step {step} of {self.config.steps}: loss {mean:.3f}")

    def _on_checkpoint(self, step: int, path: Path) -> None:
        if self._simulation is None or self._stop:
            return
        policy = find_policy(self.job.params["policy"]).make(self.task, path)
        outcomes = [run_episode(self._simulation, policy, seed).outcome for seed in self.selection_seeds]
        ended = [outcome for outcome in outcomes if outcome in ("success", "failure")]
        self.selected[step] = (ended.count("success"), len(ended))
        self._record({"step": step, "selection_successes": ended.count("success"), "selection_n": len(ended)})
        self.job.say(f"step {step}: {ended.count('success')} of {len(ended)} selection episodes solved")

    def _record(self, point: dict[str, Any]) -> None:
        self.curve.append(point)
        with (self.directory / "curve.jsonl").open("a") as stream:
            stream.write(json.dumps(point) + "\n")


def _publish(job: Job, attempt: Mapping[str, Any], run: _Run, result: TrainingResult) -> None:
    chosen = max(result.checkpoints, key=lambda step: (*run.selected.get(step, (0, 0))[:1], step))
    losses = {point["step"]: point["loss"] for point in run.curve if "loss" in point}
    constants = {
        "suite": run.task.suite,
        "task": run.task.name,
        "policy": job.params["policy"],
        "origin": "TRAINED",
        "attempt": attempt["name"],
        "seed": run.config.seed,
        "demonstrations_hash": attempt["demonstrations_hash"],
        "config_hash": attempt["config_hash"],
        "settings": json.dumps(run.config.settings(), sort_keys=True),
        "versions": json.dumps(library_versions()),
        "git_commit": git_commit(),
        "source": None,
        "recorded_at": datetime.now(UTC),
    }
    rows = []
    for step, path in sorted(result.checkpoints.items(), reverse=True):
        inspect_checkpoint(path)
        successes, n = run.selected.get(step, (None, None))
        rows.append(
            constants
            | {
                "step": step,
                "chosen": step == chosen,
                "checkpoint_hash": file_hash(path),
                "checkpoint_artifact": job.keep_copy(path),
                "loss": losses.get(step),
                "selection_successes": successes,
                "selection_n": n,
            }
        )
    tenth = max(1, len(result.losses) // 10)
    first, last = (sum(each) / len(each) for each in (result.losses[:tenth], result.losses[-tenth:]))
    job.check("complete", result.finished, {"last_step": result.last_step, "checkpoints": len(rows)})
    job.check("loss_fell", last < first, {"first_tenth": first, "last_tenth": last}, blocking=False)
    schema = {column.name: column.dtype for column in table("checkpoint").columns}
    metadata: dict[str, Any] = {
        "attempt": attempt["name"],
        "intent": attempt["intent"],
        "chosen_step": chosen,
        "loss": last,
        "curve": {"raw_value": inline_png(training_figure(run.curve), "loss and success over training"), "type": "md"},
    }
    if chosen in run.selected:
        metadata["selection"] = "{} of {} on the selection seeds".format(*run.selected[chosen])
    job.publish(pl.DataFrame(rows, schema=schema), metadata)


if __name__ == "__main__":
    main()
