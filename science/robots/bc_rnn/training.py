"""Training BC-RNN with robomimic's own algorithm, and resuming it bit for bit.

Everything that decides a weight is a function of the settings, the demonstrations and the step: initial weights and
the order of sequences come from the seed, one thread computes. A checkpoint is robomimic's own format and loads with
robomimic's `policy_from_checkpoint`; beside it stands what resuming needs. For worker processes: imports robomimic.
"""

from __future__ import annotations

import hashlib
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from files import write_whole
from science.robots.bc_rnn.checkpoint import EXTRAS, CheckpointError, describe, read_checkpoint
from science.robots.bc_rnn.config import CONSTANT, BcRnnConfig
from science.robots.bc_rnn.robomimic_imports import (
    ROBOMIMIC_VERSION,
    algo_factory,
    get_env_metadata_from_dataset,
    get_shape_metadata_from_dataset,
    obs_utils,
    quiet,
)
from science.robots.bc_rnn.sequences import TrainingSequences
from science.robots.demonstration_checks import TRAIN, DemonstrationError, validate_demonstrations
from science.robots.tasks.base import Task
from science.robots.training_loop import TrainingHooks, run_to_step
from science.robots.training_result import TrainingError, TrainingResult


def train(
    config: BcRnnConfig,
    demonstrations: Path,
    task: Task,
    directory: Path,
    *,
    resume_from: Path | None = None,
    **hooks: Unpack[TrainingHooks],
) -> TrainingResult:
    """Train to ``config.steps`` gradient steps, writing ``step-000500.pth`` and so on into ``directory``.

    Parameters
    ----------
    resume_from : a checkpoint of the same settings, task and demonstrations; the result is that of one long run.
    hooks : ``on_step``, ``before_checkpoint``, ``on_checkpoint``, ``should_stop``; see `training_loop.TrainingHooks`.

    Raises
    ------
    DemonstrationError
        For demonstrations that do not fit the task or have no ``mask/train``.
    CheckpointError
        For a checkpoint that cannot be resumed: damaged, or of another task, data or settings.
    TrainingError
        For fewer sequences than a batch, or a loss that is not finite.
    OSError
        When the folder is full or not writable; earlier checkpoints stay.
    """
    torch.set_num_threads(1)
    run = _Run(config, demonstrations, task)
    if resume_from is not None:
        run.resume(resume_from)
    run.algo.set_train()
    return run_to_step(
        run,
        config.steps,
        config.checkpoint_every,
        lambda step: directory / f"step-{step:06d}.pth",
        **hooks,
    )


class _Run:
    """robomimic's algorithm, its sequences, and the number of gradient steps done."""

    def __init__(self, config: BcRnnConfig, demonstrations: Path, task: Task) -> None:
        self.config, self.task, self.step = config, task, 0
        report = validate_demonstrations(demonstrations, task)
        if TRAIN not in report.masks:
            raise DemonstrationError(
                f"found masks {sorted(report.masks)} in {demonstrations}, expected {TRAIN!r}; import_demonstrations "
                "adds masks"
            )
        absent = sorted(set(config.observation) - set(task.observation))
        if absent:
            raise TrainingError(f"found observation keys {absent}, expected some of {sorted(task.observation)}")
        with demonstrations.open("rb") as file:
            self.data_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self.attempts: list[dict[str, Any]] = [{"from_step": 0, "versions": _versions()}]
        self.robomimic_config = config.robomimic()
        with quiet():
            obs_utils.initialize_obs_utils_with_config(self.robomimic_config)
            self.env_metadata = get_env_metadata_from_dataset(str(demonstrations))
            self.shape_metadata = get_shape_metadata_from_dataset(
                {"path": str(demonstrations)},
                action_keys=self.robomimic_config.train.action_keys,
                all_obs_keys=list(self.robomimic_config.all_obs_keys),
            )
        self.sequences = TrainingSequences(demonstrations, config, self.robomimic_config)
        if self.sequences.n < config.batch_size:
            raise TrainingError(
                f"found {self.sequences.n} sequences in {demonstrations}, expected at least a batch of "
                f"{config.batch_size}; record more demonstrations or lower batch_size"
            )
        torch.manual_seed(config.seed)
        self.algo = algo_factory(
            "bc",
            self.robomimic_config,
            obs_key_shapes=self.shape_metadata["all_shapes"],
            ac_dim=self.shape_metadata["ac_dim"],
            device=torch.device("cpu"),
        )

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.algo.optimizers["policy"].param_groups[0]["lr"])

    def take_step(self) -> float:
        """One gradient step as robomimic's `run_epoch` takes it; returns the loss."""
        batch = self.algo.process_batch_for_training(self.sequences.batch(self.step))
        try:
            info = self.algo.train_on_batch(batch, epoch=1)
            loss = float(info["losses"]["action_loss"])
        except ValueError as error:  # torch's distributions refuse parameters that are NaN
            if "invalid values" not in str(error):
                raise
            loss = math.nan
        if not math.isfinite(loss):
            raise TrainingError(
                f"found loss {loss} at step {self.step + 1}, expected a finite number; lower learning_rate "
                f"({self.config.learning_rate:g}), set max_grad_norm, raise gmm_min_std, or look for observations of "
                "an impossible size"
            )
        self.algo.on_gradient_step()
        self.step += 1
        return loss

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        statistics = {"obs": self.sequences.observation_statistics, "action": self.sequences.action_statistics}
        content = {
            "model": self.algo.serialize(),
            "config": self.robomimic_config.dump(),
            "algo_name": "bc",
            "env_metadata": self.env_metadata,
            "shape_metadata": self.shape_metadata,
            "variable_state": {
                "epoch": 1,
                "best_valid_loss": None,
                "best_return": None,
                "best_success_rate": None,
            },
            **{
                f"{kind}_normalization_stats": {
                    key: {name: np.asarray(values).tolist() for name, values in entry.items()}
                    for key, entry in found.items()
                }
                for kind, found in statistics.items()
                if found is not None
            },
            EXTRAS: {
                "step": self.step,
                "task": self.task.key,
                "task_version": self.task.version,
                "settings": self.config.settings(),
                "data_sha256": self.data_sha256,
                "versions": _versions(),
                "attempts": self.attempts,
                "torch_random_state": torch.get_rng_state(),
            },
        }

        def write(draft: Path) -> None:
            with draft.open("wb") as file:  # given a path, torch writes its name into the archive
                torch.save(content, file)

        write_whole(path, write)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        CheckpointError
            For one that is damaged, or of another task, data or settings.
        """
        content = read_checkpoint(path)
        info = describe(content, str(path))
        if not info.has_optimizer or info.step is None:
            raise CheckpointError(
                f"found no optimiser state in {path}, expected a checkpoint that this project wrote; "
                "train from the start"
            )
        for what, found, expected in (
            ("task", info.task, self.task.key),
            (
                "observation",
                dict(info.observation),
                {key: self.task.observation[key] for key in self.config.observation},
            ),
            ("demonstrations (SHA-256)", info.data_sha256, self.data_sha256),
            ("settings", self._deciding(dict(info.settings)), self._deciding(self.config.settings())),
        ):
            if found != expected:
                raise CheckpointError(
                    f"found {what} {_difference(found, expected)} in {path}; training can only be resumed where "
                    "everything is equal: resume with the same, or train from the start"
                )
        try:
            self.algo.deserialize(content["model"], load_optimizers=True)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"found weights in {path} that do not fit its own settings ({error})") from error
        self.step = info.step
        self.attempts = [*content[EXTRAS]["attempts"], {"from_step": self.step, "versions": _versions()}]
        torch.set_rng_state(content[EXTRAS]["torch_random_state"])

    def _deciding(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings that decide the weights so far: not the checkpoints, nor the end under a constant learning rate."""
        free = {"checkpoint_every"} | ({"steps"} if self.config.schedule == CONSTANT else set())
        return {key: value for key, value in settings.items() if key not in free}


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
        return ", ".join(f"{key}={found.get(key)!r} (expected {expected.get(key)!r})" for key in keys)
    return f"{found!r} (expected {expected!r})"


def _versions() -> dict[str, str]:
    return {"torch": str(torch.__version__), "robomimic": ROBOMIMIC_VERSION, "numpy": version("numpy")}
