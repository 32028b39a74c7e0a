"""What a tiny_vla checkpoint says of itself, for an import and for a diagnosis."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from science.robots.policies.base import Inspected
from science.robots.tiny_vla.checkpoint import inspect_checkpoint


def inspect(checkpoint: Path) -> Inspected:
    """What the file tells; nothing in it is run.

    Raises
    ------
    CheckpointError
        For a file that is no sound checkpoint.
    """
    info = inspect_checkpoint(checkpoint)
    settings = {**info.settings, "tasks": sorted(info.tasks)}
    return Inspected(info.step, info.settings["seed"], settings, dict(info.versions), _data_hash(info.data_hashes))


def facts(checkpoint: Path) -> dict[str, Any]:
    """Fields of `Facts` that the file tells. It brings its normalisation along, so evaluation normalises likewise."""
    info = inspect_checkpoint(checkpoint)
    told: dict[str, Any] = {
        "rnn": False,
        "normalised": True,
        "evaluation_normalises": True,
        "actions_normalised": True,
        "evaluation_unnormalises_actions": True,
        "checkpoint_action_dim": info.action_dim,
        "training_steps": info.step,
        "batch_size": info.settings["batch_size"],
    }
    if len(info.tasks) == 1:
        ((task, inputs),) = info.tasks.items()
        told |= {"checkpoint_task": task, "checkpoint_observation": dict(inputs.observation)}
    return told


def _data_hash(hashes: Any) -> str:
    """The dataset's hash, or that of the names and hashes of several."""
    if len(hashes) == 1:
        return str(next(iter(hashes.values())))
    lines = "\n".join(f"{task} {digest}" for task, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
