"""A client that outlives its server: it waits for it, connects again, and repeats what was not answered.

An answer depends on an episode's seed and step, so one that is asked for twice is the same. It works with openpi's own
server as well, which knows nothing of seeds and steps.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from science.robots.policies.base import PolicyError
from science.robots.policies.batched import SessionLost
from science.robots.serving.protocol import (
    ENDED,
    MAX_BYTES,
    PROTOCOL,
    SEED,
    SESSION,
    SESSION_LOST,
    STEP,
    ProtocolError,
    pack,
    unpack,
)

_LOG = logging.getLogger(__name__)

WAIT_S = 540.0
"""A server is waited for so long: a large policy loads and compiles for minutes.

It is less than a worker of rollouts has to start, so that what is said is which server did not come.
"""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_ASKS = 4  # an observation of which a server dies must not use up all restarts that a job's own has
_METADATA_S = 60.0  # from the handshake; a stock server sends them when it has answered others
_PING_S, _PONG_S = 20.0, 300.0  # a stock server answers no ping while it computes
_UNAVAILABLE, _REFUSED = 503, (401, 403)


class ServerGone(PolicyError):
    """A server that was waited for and did not come (back)."""


class PolicyClient:
    """One connection to a policy server.

    Attributes
    ----------
    metadata : what the server that is connected says of itself.
    server_s : queue and inference in the server so far, in s, as it says.
    reconnected : connections after the first one.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        wait_s: float = WAIT_S,
        check: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        """Connect.

        Parameters
        ----------
        address : ws://host:port.
        wait_s : a server that is not there, is full, or went away is waited for so long.
        check : called with the metadata of every connection; raises where it is not the server that is wanted.

        Raises
        ------
        ServerGone
            When it did not come in time.
        PolicyError
            For a wrong key, an address that is none, or a server that speaks another protocol.
        """
        self.address, self._api_key, self._wait_s, self._check = address, api_key, wait_s, check
        self.metadata: Mapping[str, Any] = {}
        self.server_s, self.reconnected = 0.0, -1
        self._ended: list[str] = []
        self._connection: ClientConnection | None = None
        self._connect()

    def infer(
        self, observation: Mapping[str, Any], *, session: str | None = None, seed: int = 0, step: int = 0
    ) -> dict[str, Any]:
        """The answer to an observation; its arrays are read-only.

        Parameters
        ----------
        session, seed, step : name the step of the episode, for a server that takes them; without a session, the
            connection is one.

        Raises
        ------
        SessionLost
            When the server has not seen the session's earlier steps: it is a new one.
        PolicyError
            With the server's words, when it refuses the observation or fails on it.
        ServerGone
            When it went away and did not come back in time, or went away every time that it was asked this.
        """
        for _ in range(_ASKS):
            message = dict(observation)
            if PROTOCOL in self.metadata:
                message |= {ENDED: self._ended} if self._ended else {}
                message |= {SESSION: session, SEED: seed, STEP: step} if session is not None else {}
            try:
                connection = self._connection or self._connect()
                connection.send(pack(message))
                answer = connection.recv()
            except (ConnectionClosed, OSError) as error:
                self._drop()
                if isinstance(error, ConnectionClosed) and error.rcvd is not None and error.rcvd.code == 1009:
                    raise PolicyError(f"the server at {self.address} takes no message so large: {error}") from error
                continue
            if isinstance(answer, str):
                self._drop()  # as the server does
                lost = answer.startswith(SESSION_LOST)
                raise (SessionLost if lost else PolicyError)(f"the server at {self.address} says: {answer.strip()}")
            self._ended.clear()
            return self._understood(answer)
        raise ServerGone(f"the server at {self.address} went away {_ASKS} times when it was asked the same")

    def forget(self, session: str) -> None:
        """A session is over; the server is told with the next observation."""
        self._ended.append(session)

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self._drop()

    def _understood(self, answer: bytes) -> dict[str, Any]:
        try:
            found = unpack(answer)
        except ProtocolError as error:
            raise PolicyError(f"the server at {self.address} gave no answer of the protocol: {error}") from error
        timing = found.get("server_timing") or {}
        self.server_s += (timing.get("queue_ms", 0.0) + timing.get("infer_ms", 0.0)) / 1000
        return found

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(ConnectionClosed, OSError):
                self._connection.close()
            self._connection = None

    def _connect(self) -> ClientConnection:
        """A connection whose server was checked.

        Raises
        ------
        ServerGone, PolicyError
            As the constructor.
        """
        deadline_s, pause_s = time.monotonic() + self._wait_s, _FIRST_PAUSE_S
        while True:
            try:
                connection, metadata = self._open()
                break
            except InvalidStatus as error:
                status, said = error.response.status_code, (error.response.body or b"").decode(errors="replace").strip()
                if status in _REFUSED:
                    raise PolicyError(f"the server at {self.address} refuses: {said or status}") from error
                if status != _UNAVAILABLE:
                    raise PolicyError(
                        f"found status {status} at {self.address} ({said}), expected a policy server"
                    ) from error
                why = said
            except InvalidURI as error:
                raise PolicyError(f"found address {self.address!r}, expected ws://host:port") from error
            except (OSError, InvalidHandshake, ConnectionClosed, EOFError) as error:
                why = f"{type(error).__name__}: {error}"
            if time.monotonic() + pause_s > deadline_s:
                raise ServerGone(f"no policy server at {self.address} within {self._wait_s:g} s; last: {why}")
            if pause_s == _FIRST_PAUSE_S:
                _LOG.warning("waiting up to %g s for the policy server at %s: %s", self._wait_s, self.address, why)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        try:
            if self._check is not None:
                self._check(metadata)
        except PolicyError:
            connection.close()
            raise
        self._connection, self.metadata = connection, metadata
        self.reconnected += 1
        return connection

    def _open(self) -> tuple[ClientConnection, dict[str, Any]]:
        headers = {"Authorization": f"Api-Key {self._api_key}"} if self._api_key else None
        connection = connect(
            self.address,
            additional_headers=headers,
            compression=None,
            max_size=MAX_BYTES,
            ping_interval=_PING_S,
            ping_timeout=_PONG_S,
            proxy=None,
        )
        try:
            first = connection.recv(timeout=_METADATA_S)
            if isinstance(first, str):
                raise PolicyError(f"the server at {self.address} says: {first.strip()}")
            return connection, unpack(first)
        except ProtocolError as error:
            connection.close()
            raise PolicyError(f"found no metadata of openpi's protocol at {self.address}: {error}") from error
        except BaseException:  # also when interrupted: nobody else knows of the connection
            connection.close()
            raise
