"""openpi's websocket protocol, and what is added to it. Clients and servers of either origin understand each other.

A server first sends its metadata; then every observation that comes in is answered before the next. Both are msgpack
with NumPy arrays (openpi_client's own packing); text in place of an answer is an error, and the connection is closed.

Added keys of an observation name the episode: `SESSION`, `SEED` and `STEP`, from which the server draws the noise, and
`ENDED`, a session that is over. Added keys of the metadata say who answers: `IDENTITY`, and `PROTOCOL` that tells this
server from others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
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
        found = msgpack_numpy.unpackb(message)
    except _MALFORMED as error:
        raise ProtocolError(
            f"found {len(message)} bytes that are no msgpack message ({type(error).__name__}: {error}), expected a "
            "mapping packed as openpi_client.msgpack_numpy does"
        ) from error
    if not isinstance(found, dict):
        raise ProtocolError(f"found a message of type {type(found).__name__}, expected a mapping")
    return found
