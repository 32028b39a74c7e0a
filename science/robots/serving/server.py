"""The websocket server: one connection a client, each observation handed to the batcher and answered in turn.

It listens when the policy is warm, refuses what is not for it, and on `drain` answers what is in hand and ends.
"""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from science.robots.policies.batched import BatchedPolicy, SessionLost
from science.robots.serving.batching import Batcher, Client, RowFailed
from science.robots.serving.protocol import (
    ENDED,
    HEALTH_PATH,
    MAX_BYTES,
    PROMPT,
    PROTOCOL,
    STATS_PATH,
    ProtocolError,
    pack,
    unpack,
)
from science.robots.serving.rows import ObservationError, read_row
from science.robots.serving.stats import CONTENT_TYPE, Stats

MAX_CONNECTIONS = 256
"""Each has one observation in the queue at most, so this bounds the queue."""

_DRAIN_S = 60.0
_FRAMES_AHEAD = 2
_ENDING = "the server was asked to end"


class PolicyServer:
    """Serves one policy; use `run`."""

    def __init__(
        self,
        policy: BatchedPolicy,
        identity: Mapping[str, Any],
        *,
        api_key: str | None = None,
        max_batch: int | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        """``identity`` becomes part of the metadata, beside what the policy says of itself."""
        self.policy, self.stats = policy, Stats()
        self.metadata = {**identity, **describe(policy), "instance": uuid.uuid4().hex}
        self._api_key, self._max_connections = api_key, max_connections
        self._batcher = Batcher(policy, self.stats, max_batch)
        self._drained = asyncio.Event()
        self._draining = False
        self._connections = self._in_hand = 0

    def drain(self) -> None:
        """Take nothing new, answer what is in hand, and end."""
        self._draining = True
        self._drained.set()

    async def run(self, host: str, port: int, ready: Callable[[int], object], *, kept_port: bool = False) -> None:
        """Warm up, listen, call ``ready`` with the port, and serve until `drain`.

        Parameters
        ----------
        kept_port : another process keeps the port for this one, bound with SO_REUSEPORT and not listening.

        Raises
        ------
        OSError
            When the port is taken.
        """
        await self._batcher.warm_up()
        async with serve(
            self._talk,
            host,
            port,
            process_request=self._first_request,
            compression=None,
            max_size=MAX_BYTES,
            max_queue=_FRAMES_AHEAD,
            reuse_port=kept_port or None,
        ) as server:
            answering = asyncio.create_task(self._batcher.run())
            ready(_port(server))
            drained = asyncio.create_task(self._drained.wait())
            # The batcher ends only by a fault of its own, which then ends the server instead of leaving it mute.
            await asyncio.wait([drained, answering], return_when=asyncio.FIRST_COMPLETED)
            self._draining = True
            await self._finish(answering)
            server.close(code=CloseCode.GOING_AWAY, reason=_ENDING)
            await server.wait_closed()
            if answering.done():
                answering.result()
            answering.cancel()

    async def _finish(self, answering: asyncio.Task[None]) -> None:
        """Wait until everything in hand is answered."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _DRAIN_S
        while self._in_hand and not answering.done() and loop.time() < deadline_s:
            await asyncio.sleep(0.01)

    def _first_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer pages; turn away who may not come in."""
        if request.path == HEALTH_PATH:
            return (
                _page(HTTPStatus.SERVICE_UNAVAILABLE, b"draining\n")
                if self._draining
                else _page(HTTPStatus.OK, b"OK\n")
            )
        if request.path == STATS_PATH:
            return _page(HTTPStatus.OK, self.stats.page(), CONTENT_TYPE)
        if not self._admits(request.headers.get("Authorization")):
            self.stats.turned_away.labels("key").inc()
            return connection.respond(
                HTTPStatus.UNAUTHORIZED, "found no or another API key, expected `Authorization: Api-Key ...`\n"
            )
        if self._draining or self._connections >= self._max_connections:
            self.stats.turned_away.labels("draining" if self._draining else "full").inc()
            why = "the server is about to end" if self._draining else f"{self._max_connections} clients are connected"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{why}; come again later\n")
        return None

    def _admits(self, authorization: str | None) -> bool:
        if self._api_key is None:
            return True
        return hmac.compare_digest((authorization or "").encode(), f"Api-Key {self._api_key}".encode())

    async def _talk(self, connection: ServerConnection) -> None:
        client, name = Client(), uuid.uuid4().hex
        gone = asyncio.ensure_future(connection.wait_closed())
        self._connections += 1
        self.stats.connections.inc()
        self._batcher.clients.add(client)
        try:
            await connection.send(pack(self.metadata))
            asked = 0
            while await self._answer_one(connection, client, name, asked, gone):
                asked += 1
        except ConnectionClosed:
            pass  # the client has gone; its row was left out of its batch
        finally:
            self._batcher.clients.discard(client)
            self._batcher.forget([name])
            self._connections -= 1
            self.stats.connections.dec()
            gone.cancel()

    async def _answer_one(
        self, connection: ServerConnection, client: Client, name: str, asked: int, gone: asyncio.Future[None]
    ) -> bool:
        """Answer the next observation; returns whether the connection goes on."""
        received = await connection.recv()
        if self._draining:
            await connection.close(CloseCode.GOING_AWAY, _ENDING)
            return False
        self._in_hand += 1
        try:
            return await self._answer(received, connection, client, name, asked, gone)
        finally:
            self._in_hand -= 1

    async def _answer(
        self,
        received: str | bytes,
        connection: ServerConnection,
        client: Client,
        name: str,
        asked: int,
        gone: asyncio.Future[None],
    ) -> bool:
        try:
            if isinstance(received, str):
                raise ProtocolError("found text, expected a msgpack message")
            message = unpack(received)
            self._batcher.forget(_ended(message))
            row = read_row(self.policy, message, name, asked)
        except (ProtocolError, ObservationError) as error:
            return await self._refuse(connection, type(error).__name__, f"{type(error).__name__}: {error}")
        try:
            answer = await self._batcher.ask(client, row, gone)
        except SessionLost as lost:
            return await self._refuse(connection, "SessionLost", str(lost))
        except RowFailed as failed:
            return await self._refuse(connection, "RowFailed", f"Error in inference: {failed}")
        if answer is None:
            self.stats.abandoned.inc()
            return False
        infer_ms = answer.infer_s * 1000
        timing = {"queue_ms": answer.queue_s * 1000, "infer_ms": infer_ms, "batch_size": answer.batch_size}
        reply = {"actions": answer.actions, "policy_timing": {"infer_ms": infer_ms}, "server_timing": timing}
        await connection.send(pack(reply))
        self.stats.answered.inc()
        return True

    async def _refuse(self, connection: ServerConnection, why: str, text: str) -> bool:
        """Say in text what is wrong and close, as openpi's own server does."""
        self.stats.refused.labels(why).inc()
        await connection.send(text)
        await connection.close(CloseCode.INTERNAL_ERROR, why)
        return False


def describe(policy: BatchedPolicy) -> dict[str, Any]:
    """What the metadata says of a policy, beside who it is."""
    return {
        PROTOCOL: 1,
        PROMPT: policy.prompt,
        "action_horizon": policy.horizon_steps,
        "action_dim": policy.action_dim,
        "replan_steps": policy.replan_steps,
        "stateful": policy.stateful,
        "observation": dict(policy.observation),
        "cameras": {camera: list(size) for camera, size in policy.cameras.items()},
    }


def _ended(message: Mapping[str, Any]) -> list[str]:
    ended = message.get(ENDED, [])
    if not isinstance(ended, list) or not all(isinstance(each, str) for each in ended):
        raise ObservationError(f"found {ENDED} = {ended!r}, expected a list of sessions")
    return ended


def _page(status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8") -> Response:
    headers = Headers({"Content-Type": content_type, "Content-Length": str(len(body)), "Connection": "close"})
    return Response(status.value, status.phrase, headers, body)


def _port(server: Server) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])
