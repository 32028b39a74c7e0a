"""A client's message as a row, held against the policy: a bad one is refused before it meets those of others."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from science.robots.policies.batched import BatchedPolicy, Row, episode_noise, image_key
from science.robots.serving.protocol import PROMPT, SEED, SESSION, STEP


class ObservationError(ValueError):
    """An observation that the policy cannot read."""


def read_row(policy: BatchedPolicy, message: Mapping[str, Any], connection: str, asked: int) -> Row:
    """The row of a message.

    Parameters
    ----------
    connection : names the connection, which is the session of a client that names none.
    asked : observations that came on it before, which is then the step; the seed is 0.

    Raises
    ------
    ObservationError
        For keys that are missing, or values of another shape or type, NaN or infinity among them.
    """
    observation: dict[str, np.ndarray] = {}
    for key, length in policy.observation.items():
        values = np.atleast_1d(_array(message, key, policy))
        if values.shape != (length,) or values.dtype.kind not in "fiub":
            raise ObservationError(f"found {key} of shape {values.shape}, {values.dtype}, expected {length} numbers")
        if not np.isfinite(values).all():
            raise ObservationError(f"found NaN or infinity in {key}: {values.tolist()}, expected finite numbers")
        observation[key] = values
    for camera, (height, width) in policy.cameras.items():
        key = image_key(camera)
        picture = _array(message, key, policy)
        if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
            raise ObservationError(
                f"found {key} of shape {picture.shape}, {picture.dtype}, expected {(height, width, 3)}, uint8"
            )
        observation[key] = picture
    named = SESSION in message
    session = message[SESSION] if named else connection
    seed, step = (message.get(SEED), message.get(STEP)) if named else (0, asked)
    prompt = message.get(PROMPT, "")
    if not isinstance(session, str) or not isinstance(prompt, str):
        raise ObservationError(f"found {SESSION} = {session!r}, {PROMPT} = {prompt!r}, expected text")
    seed, step = _whole(SEED, seed), _whole(STEP, step)
    noise = episode_noise(seed, step, policy.noise_shape)
    return Row(session, seed, step, observation, noise, prompt or policy.prompt or "")


def _array(message: Mapping[str, Any], key: str, policy: BatchedPolicy) -> np.ndarray:
    if key not in message:
        reads = [*policy.observation, *map(image_key, policy.cameras)]
        raise ObservationError(f"found keys {sorted(map(str, message))}, expected {reads}: {key} is missing")
    try:
        return np.asarray(message[key])
    except ValueError as error:
        raise ObservationError(f"found {key} as lists of different lengths, expected an array: {error}") from error


def _whole(key: str, value: object) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ObservationError(f"found {key} = {value!r}, expected a whole number from 0 on")
    return int(value)
