"""What a BC-RNN checkpoint says of itself, for an import and for a diagnosis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from science.robots.bc_rnn.checkpoint import inspect_checkpoint
from science.robots.policies.base import Inspected


def inspect(checkpoint: Path) -> Inspected:
    """What the file tells; nothing in it is run.

    Raises
    ------
    CheckpointError
        For a file that is no sound BC-RNN checkpoint.
    """
    info = inspect_checkpoint(checkpoint)
    settings = {
        **info.settings,
        "observation": dict(info.observation),
        "seq_length": info.seq_length,
        "rnn_horizon": info.rnn_horizon,
        "normalised": info.normalised,
        "env_name": info.env_name,
    }
    return Inspected(info.step, info.settings.get("seed"), settings, dict(info.versions), info.data_sha256)


def facts(checkpoint: Path) -> dict[str, Any]:
    """Fields of `Facts` that the file tells. It brings its normalisation along, so evaluation normalises likewise."""
    info = inspect_checkpoint(checkpoint)
    return {
        "rnn": True,
        "seq_length": info.seq_length,
        "rnn_horizon": info.rnn_horizon,
        "normalised": info.normalised,
        "evaluation_normalises": info.normalised,
        "checkpoint_observation": dict(info.observation),
        "checkpoint_action_dim": info.action_dim,
        "checkpoint_task": info.task,
        "training_steps": info.step,
        "batch_size": info.settings.get("batch_size"),
    }
