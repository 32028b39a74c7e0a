"""What a BC-RNN checkpoint is, read without running anything that the file brings along.

A checkpoint is a pickle, and a pickle can run code. robomimic's own loader allows that; here `torch.load` admits only
tensors, containers and NumPy arrays, which is all that robomimic writes. A file that needs more is refused by name.
Importing this imports torch (a second), not robomimic.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

EXTRAS = "tracebed"
"""Key of a checkpoint that holds what robomimic's own lacks: step, settings, data, random state, task, versions."""

_REQUIRED = ("algo_name", "config", "env_metadata", "model", "shape_metadata")

_MULTIARRAY = import_module("numpy._core.multiarray")

_NUMPY: list[Any] = [
    *((_MULTIARRAY._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("_core", "core")),
    *((_MULTIARRAY.scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1")),
]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or not be used for what was asked."""


@dataclass(frozen=True)
class CheckpointInfo:
    """Facts of a checkpoint.

    Attributes
    ----------
    algo : robomimic's algorithm, always ``bc`` with an RNN and a Gaussian mixture.
    step : gradient steps that it was trained for; None where the file does not say.
    observation : keys that the policy reads and their lengths.
    action_dim : length of its actions.
    env_name, env_args : robomimic's environment that its demonstrations are of.
    task, task_version : `<suite>.<name>` and its version, or None for a checkpoint of other origin.
    seq_length, rnn_horizon : control steps of a training sequence, and between resets of the hidden state.
    normalised : whether observations are normalised before the network.
    has_optimizer : whether training can go on from it.
    data_sha256 : of the demonstrations; None where the file does not say.
    settings : of the training run; empty where the file does not say.
    versions : of the packages that trained it; empty where the file does not say.
    """

    algo: str
    step: int | None
    observation: Mapping[str, int]
    action_dim: int
    env_name: str
    env_args: Mapping[str, Any]
    task: str | None
    task_version: str | None
    seq_length: int
    rnn_horizon: int
    normalised: bool
    has_optimizer: bool
    data_sha256: str | None
    settings: Mapping[str, Any]
    versions: Mapping[str, str]


def read_checkpoint(path: Path, *, trusted: bool = False) -> dict[str, Any]:
    """The checkpoint's content, tensors on the CPU.

    Parameters
    ----------
    trusted : load by unrestricted pickle, which RUNS CODE IN THE FILE. Only for a file whose origin you trust.

    Raises
    ------
    CheckpointError
        For a file that is missing, empty, truncated, needs more than data, or is not robomimic's.
    """
    if not path.is_file():
        raise CheckpointError(f"found no file {path}, expected a robomimic checkpoint (.pth); train it or name another")
    if path.stat().st_size == 0:
        raise CheckpointError(
            f"found an empty file {path}, expected a robomimic checkpoint; write or download it again"
        )
    try:
        if trusted:
            content = torch.load(path, map_location="cpu", weights_only=False)
        else:
            with torch.serialization.safe_globals(_NUMPY):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except (RuntimeError, EOFError, OSError, KeyError, IndexError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"found {path} damaged or truncated ({reason}), expected a robomimic checkpoint; write or download it again"
        ) from error
    missing = [key for key in _REQUIRED if not isinstance(content, dict) or key not in content]
    if missing:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"found {found} in {path}, expected a robomimic checkpoint with {list(_REQUIRED)}: {missing} missing; "
            "give the file that robomimic's save_model wrote"
        )
    return content


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    try:
        wanted = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError):
        wanted = []
    if not wanted:
        return f"found {path}, which is no pickle that torch can read ({str(error).splitlines()[0]}); download it again"
    return (
        f"found {path} asking to run {wanted[:5]} while it is loaded, expected tensors and plain data only; a file of "
        "an origin that you trust can be loaded with trusted=True (this runs code in the file)"
    )


def inspect_checkpoint(path: Path, *, trusted: bool = False) -> CheckpointInfo:
    """The facts of a checkpoint; nothing of it is run unless ``trusted``.

    Raises
    ------
    CheckpointError
        As `read_checkpoint`, and for another algorithm or a configuration that cannot be read.
    """
    return describe(read_checkpoint(path, trusted=trusted), str(path))


def describe(content: Mapping[str, Any], where: str) -> CheckpointInfo:
    """The facts of a checkpoint's content; ``where`` names it in messages.

    Raises
    ------
    CheckpointError
        For another algorithm, images, or a configuration that cannot be read.
    """
    try:
        config = json.loads(content["config"])
        algo, train = config["algo"], config["train"]
        shapes = {key: tuple(shape) for key, shape in content["shape_metadata"]["all_shapes"].items()}
        action_dim = int(content["shape_metadata"]["ac_dim"])
        env_args = content["env_metadata"]
        env_name = str(env_args["env_name"])
        recurrent = bool(algo.get("rnn", {}).get("enabled")) and bool(algo.get("gmm", {}).get("enabled"))
        seq_length, horizon = int(train["seq_length"]), int(algo.get("rnn", {}).get("horizon", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"found a configuration in {where} that cannot be read ({type(error).__name__}: {error}), expected "
            "robomimic's JSON; give the file that robomimic's save_model wrote"
        ) from error
    if content["algo_name"] != "bc" or not recurrent:
        raise CheckpointError(
            f"found algorithm {content['algo_name']!r} (RNN with Gaussian mixture: {recurrent}) in {where}, expected "
            "'bc' with both; this reader is for BC-RNN-GMM"
        )
    images = sorted(key for key, shape in shapes.items() if len(shape) != 1)
    if images:
        raise CheckpointError(f"found observations {images} that are images in {where}, expected low-dimensional ones")
    extras = content.get(EXTRAS) or {}
    model = content["model"]
    return CheckpointInfo(
        algo="bc",
        step=extras.get("step"),
        observation={key: int(shape[0]) for key, shape in shapes.items()},
        action_dim=action_dim,
        env_name=env_name,
        env_args=env_args,
        task=extras.get("task"),
        task_version=extras.get("task_version"),
        seq_length=seq_length,
        rnn_horizon=horizon,
        normalised=content.get("obs_normalization_stats") is not None,
        has_optimizer=bool(model.get("optimizers")) and EXTRAS in content,
        data_sha256=extras.get("data_sha256"),
        settings=extras.get("settings", {}),
        versions=extras.get("versions", {}),
    )
