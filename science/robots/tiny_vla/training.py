"""Training tiny_vla by flow matching, from random weights or from a base, and resuming it bit for bit.

Everything that decides a weight is a function of the settings, the demonstrations, the base and the step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from science.robots.tiny_vla.checkpoint import (
    CheckpointError,
    CheckpointInfo,
    inspect_checkpoint,
    read_train_state,
    read_weights,
    write_checkpoint,
)
from science.robots.tiny_vla.config import CONSTANT, TinyVlaConfig
from science.robots.tiny_vla.data import TrainingData
from science.robots.tiny_vla.jax_runtime import jax
from science.robots.tiny_vla.model import Weights, flow_loss, initial_weights, trainable
from science.robots.tiny_vla.weights import require_shapes
from science.robots.training_loop import TrainingHooks, run_to_step
from science.robots.training_result import TrainingError, TrainingResult

_MAX_GRAD_NORM = 1.0


def train(
    config: TinyVlaConfig,
    datasets: Mapping[str, Path],
    directory: Path,
    *,
    base: Path | None = None,
    resume_from: Path | None = None,
    **hooks: Unpack[TrainingHooks],
) -> TrainingResult:
    """Train to ``config.steps`` gradient steps, writing ``step-000500.tar`` and so on into ``directory``.

    Parameters
    ----------
    datasets : task key -> its demonstrations, robomimic HDF5, with pictures where the settings name cameras.
    base : the checkpoint that ``config.weight_loader`` names.
    resume_from : a checkpoint of the same settings and demonstrations; the result is that of one long run.
    hooks : ``on_step``, ``before_checkpoint``, ``on_checkpoint``, ``should_stop``; see `training_loop.TrainingHooks`.

    Raises
    ------
    DemonstrationError, TrainingError
        For demonstrations that cannot be trained on, a base that is missing, or a loss that is not finite.
    CheckpointError
        For a base or a checkpoint to resume that is damaged, or of other settings or data.
    OSError
        When the folder is full or not writable; earlier checkpoints stay.
    """
    run = _Run(config, datasets, base, resume_from)
    return run_to_step(
        run,
        config.steps,
        config.checkpoint_every,
        lambda step: directory / f"step-{step:06d}.tar",
        **hooks,
    )


class _Run:
    """Weights, the optimiser's state, and the number of gradient steps done."""

    def __init__(
        self, config: TinyVlaConfig, datasets: Mapping[str, Path], base: Path | None, resume_from: Path | None
    ) -> None:
        self.config, self.data, self.step = config, TrainingData(config, datasets), 0
        weights = self._resumed(resume_from) if resume_from else self._begun(base)
        self.frozen = {name: each for name, each in weights.items() if not trainable(name, config)}
        self.trained = {name: each for name, each in weights.items() if trainable(name, config)}
        self.optimiser, self._schedule = _optimiser(config)
        self.state = self.optimiser.init(self.trained)
        if resume_from is not None:
            self._restore_state(resume_from)
        self._update = jax.jit(functools.partial(_update, config, self.optimiser), donate_argnums=(0, 1))

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self._schedule(self.step))

    def take_step(self) -> float:
        """One gradient step; returns the loss.

        Raises
        ------
        TrainingError
            For a loss that is not finite.
        """
        batch = self.data.batch(self.step)
        self.trained, self.state, loss = self._update(self.trained, self.state, self.frozen, batch)
        if not math.isfinite(float(loss)):
            raise TrainingError(
                f"found loss {float(loss)} at step {self.step + 1}, expected a finite number; lower learning_rate "
                f"({self.config.learning_rate:g}) or look for observations of an impossible size"
            )
        self.step += 1
        return float(loss)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        info = CheckpointInfo(
            step=self.step,
            settings=self.config.settings(),
            tasks=self.data.tasks,
            action_dim=self.data.action_dim,
            data_hashes=self.data.hashes,
            versions={name: version(name) for name in ("jax", "optax", "orbax-checkpoint", "numpy")},
        )
        weights = {name: np.asarray(each) for name, each in sorted({**self.frozen, **self.trained}.items())}
        write_checkpoint(path, info, weights, _numbered(self.state))

    def _begun(self, base: Path | None) -> Weights:
        """The weights of a fresh training."""
        weights = initial_weights(self.config, self.data.action_dim)
        named = self.config.weight_loader
        if (base is None) != (named is None):
            raise TrainingError(
                f"found weight_loader = {named!r} and {'no checkpoint' if base is None else base} of a base, expected "
                "both or neither"
            )
        if base is None:
            return weights
        info = inspect_checkpoint(base)
        theirs = TinyVlaConfig.from_settings(info.settings)
        if (theirs.architecture(), info.action_dim) != (self.config.architecture(), self.data.action_dim):
            mine = {**self.config.architecture(), "action_dim": self.data.action_dim}
            other = {**theirs.architecture(), "action_dim": info.action_dim}
            told = {key: (other[key], mine[key]) for key in mine if other[key] != mine[key]}
            raise CheckpointError(
                f"found base {named!r} of another shape, setting -> (base, this training): {told}; give this training "
                "the base's settings, or train another base"
            )
        if theirs.lora_rank:
            raise CheckpointError(
                f"found base {named!r} with LoRA of rank {theirs.lora_rank}, expected one whose weights were all "
                "trained"
            )
        return {**weights, **read_weights(base)}

    def _resumed(self, path: Path) -> Weights:
        """The weights to go on from."""
        info = inspect_checkpoint(path)
        free = {"checkpoint_every"} | ({"steps"} if self.config.schedule == CONSTANT else set())
        mine, theirs = self.config.settings(), dict(info.settings)
        differ = {
            key: (theirs.get(key), mine.get(key))
            for key in sorted({*mine, *theirs} - free)
            if theirs.get(key) != mine.get(key)
        }
        if dict(info.data_hashes) != self.data.hashes:
            differ["demonstrations"] = (dict(info.data_hashes), self.data.hashes)
        if differ:
            raise CheckpointError(
                f"found {path} of another training, what differs -> (checkpoint, now): {differ}; training can only be "
                "resumed where everything is equal: resume with the same, or train from the start"
            )
        self.step = info.step
        weights = read_weights(path)
        require_shapes(path, weights, self.config, info.action_dim)
        return weights

    def _restore_state(self, path: Path) -> None:
        leaves, tree = jax.tree.flatten(self.state)
        kept = read_train_state(path)
        found = [kept.get(f"{number:04d}") for number in range(len(leaves))]
        shapes = [None if each is None else each.shape for each in found]
        if shapes != [np.shape(leaf) for leaf in leaves] or len(kept) != len(leaves):
            raise CheckpointError(f"found another optimiser's state in {path}, expected that of these settings")
        self.state = jax.tree.unflatten(tree, found)


def _update(config: TinyVlaConfig, optimiser: Any, trained: Weights, state: Any, frozen: Weights, batch: Any) -> Any:
    loss, gradient = jax.value_and_grad(lambda weights: flow_loss({**frozen, **weights}, batch, config))(trained)
    updates, state = optimiser.update(gradient, state, trained)
    return jax.tree.map(lambda value, change: value + change, trained, updates), state, loss


def _optimiser(config: TinyVlaConfig) -> tuple[Any, Callable[[int], Any]]:
    """AdamW with a warm-up, and its learning rate by step."""
    import optax

    warm_up = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    after = max(1, config.steps - config.warmup_steps)
    rest = (
        optax.constant_schedule(config.learning_rate)
        if config.schedule == CONSTANT
        else optax.cosine_decay_schedule(config.learning_rate, after)
    )
    schedule = optax.join_schedules([warm_up, rest], [config.warmup_steps])
    optimiser = optax.chain(
        optax.clip_by_global_norm(_MAX_GRAD_NORM), optax.adamw(schedule, weight_decay=config.weight_decay)
    )
    return optimiser, schedule


def _numbered(state: Any) -> dict[str, np.ndarray]:
    """The leaves of an optimiser's state under their numbers: its tree is that of the settings."""
    return {f"{number:04d}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(state))}
