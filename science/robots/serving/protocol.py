"""openpi's websocket protocol, and what is added to it. Clients and servers of either origin understand each other.

A server first sends its metadata; then every observation that comes in is answered before the next. Both are msgpack
with NumPy arrays; text in place of an answer is an error, and the connection is closed. openpi_client packs them;
unpacking is done here, since NumPy ends the process for some types and shapes that openpi_client would hand to it.

Added keys of an observation name the episode: `SESSION`, `SEED` and `STEP`, from which the server draws the noise, and
`ENDED`, a session that is over. Added keys of the metadata say who answers: `IDENTITY`, and `PROTOCOL` that tells this
server from others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from openpi_client import msgpack_numpy

MAX_BYTES = 16 * 2**20
"""Of one message; two pictures of 224 x 224 pixels are 0.3 MB."""

PROTOCOL = "tracebed_protocol"
SESSION, SEED, STEP, ENDED = (f"tracebed/{name}" for name in ("session", "seed", "step", "ended"))
IDENTITY = ("policy", "policy_version", "task", "checkpoint_hash")
PROMPT = "prompt"

HEALTH_PATH, STATS_PATH = "/healthz", "/stats"

SESSION_LOST = "SessionLost"
"""First word of the error by which a server asks to be shown an episode from its beginning."""

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_TYPE = re.compile(r"[<>|=]?[biufSU][1-9][0-9]{0,7}")
"""Types of arrays that are read: truth values, numbers and text; no objects, records, complex numbers or times."""

_MALFORMED = (msgpack.UnpackException, ValueError, TypeError, KeyError, RecursionError, OverflowError)


class ProtocolError(ValueError):
    """Bytes that are no message of the protocol."""


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as bytes.

    Raises
    ------
    ProtocolError
        For arrays of objects, records or complex numbers.
    """
    try:
        return bytes(msgpack_numpy.packb(message))
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"this cannot be sent: {error}") from error


def unpack(message: bytes) -> dict[str, Any]:
    """The message in some bytes; its arrays are read-only.

    Raises
    ------
    ProtocolError
        For what is garbage, cut, or no mapping.
    """
    try:
        found = msgpack.unpackb(message, object_hook=_array_or_mapping)
    except _MALFORMED as error:
        raise ProtocolError(
            f"found {len(message)} bytes that are no msgpack message ({type(error).__name__}: {error}), expected a "
            "mapping packed as openpi_client.msgpack_numpy does"
        ) from error
    if not isinstance(found, dict):
        raise ProtocolError(f"found a message of type {type(found).__name__}, expected a mapping")
    return found


def _array_or_mapping(found: dict[Any, Any]) -> Any:
    """The array or scalar that a mapping packs, or the mapping itself."""
    if _ARRAY in found:
        kind, data, shape = _kind(found), found[b"data"], found[b"shape"]
        if not isinstance(data, bytes) or not isinstance(shape, list) or not all(map(_is_length, shape)):
            raise ValueError(f"an array of shape {shape!r} in {type(data).__name__}, expected lengths and bytes")
        if len(data) != kind.itemsize * math.prod(shape):
            raise ValueError(f"{len(data)} bytes for an array of shape {shape}, {kind}")
        return np.ndarray(tuple(shape), kind, buffer=data)
    if _SCALAR in found:
        kind, data = _kind(found), found[b"data"]
        if not isinstance(data, int | float):
            raise ValueError(f"a scalar in {type(data).__name__}, expected a number")
        return kind.type(data)
    return found


def _kind(found: Mapping[Any, Any]) -> np.dtype[Any]:
    name = found[b"dtype"]
    if not isinstance(name, str) or not _TYPE.fullmatch(name):
        raise ValueError(f"an array of type {name!r}, expected truth values, numbers or text")
    return np.dtype(name)


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
