"""A policy that a server answers for, as if it were here: its identity is verified, its memory is restored."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from science.robots.policies.base import PolicyError
from science.robots.policies.batched import BatchedPolicy, Row, SessionLost, image_key
from science.robots.serving.client import WAIT_S, PolicyClient
from science.robots.serving.protocol import IDENTITY, PROMPT, PROTOCOL

_TRIES = 4
"""Times that a session is shown to a server that keeps losing it."""


class RemotePolicy(BatchedPolicy):
    """The policy behind a server of `science.robots.serving`. Rows of one call are asked one after another.

    A policy that keeps state is shown a session again from its first step when its server lost it.
    """

    def __init__(
        self,
        address: str,
        expected: Mapping[str, Any],
        *,
        api_key: str | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        """Connect to a server, and hold it against what is expected of its metadata, now and at every reconnection.

        Raises
        ------
        ServerGone, PolicyError
            As `PolicyClient`, and for a server that is another one than expected.
        """

        def check(metadata: Mapping[str, Any]) -> None:
            require_identity(address, metadata, expected)

        self._client = PolicyClient(address, api_key=api_key, wait_s=wait_s, check=check)
        told = self._client.metadata
        self.observation = dict(told["observation"])
        self.cameras = {camera: (size[0], size[1]) for camera, size in told["cameras"].items()}
        self.action_dim, self.horizon_steps = told["action_dim"], told["action_horizon"]
        self.replan_steps, self.stateful, self.prompt = told["replan_steps"], told["stateful"], told[PROMPT]
        self._shown: dict[str, list[Row]] = {}

    @property
    def server_s(self) -> float:  # type: ignore[override]
        return self._client.server_s

    @property
    def reconnected(self) -> int:
        """How often the server was connected to again."""
        return self._client.reconnected

    def infer(self, rows: Sequence[Row]) -> np.ndarray:
        return np.stack([self._answer(row) for row in rows])

    def forget(self, session: str) -> None:
        self._shown.pop(session, None)
        self._client.forget(session)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _answer(self, row: Row) -> np.ndarray:
        if not self.stateful:
            return self._ask(row)
        shown = self._shown.setdefault(row.session, [])
        for left in reversed(range(_TRIES)):
            try:
                actions = self._ask(row)
                break
            except SessionLost:
                if not left or not shown:
                    raise
            with contextlib.suppress(SessionLost):  # lost once more meanwhile: the next try begins anew
                for earlier in shown:
                    self._ask(earlier)
        if not shown or shown[-1].step < row.step:
            shown.append(row)
        return actions

    def _ask(self, row: Row) -> np.ndarray:
        keys = [*self.observation, *map(image_key, self.cameras)]
        message: dict[str, Any] = {key: np.asarray(row.observation[key]) for key in keys}
        if row.prompt:
            message[PROMPT] = row.prompt
        answer = self._client.infer(message, session=row.session, seed=row.seed, step=row.step)
        actions = np.asarray(answer.get("actions"))
        if actions.shape != (self.horizon_steps, self.action_dim):
            raise PolicyError(
                f"the server at {self._client.address} gave actions of shape {actions.shape}, expected "
                f"{(self.horizon_steps, self.action_dim)}"
            )
        return actions


def require_identity(address: str, metadata: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Hold the metadata of a server against what is expected of it.

    Raises
    ------
    PolicyError
        Naming what differs.
    """
    if PROTOCOL not in metadata:
        raise PolicyError(
            f"the server at {address} does not say who it is: found metadata {sorted(metadata)}, expected "
            f"{[*IDENTITY]}; start it with `tracebed policy serve`, or describe it for the policy `openpi`"
        )
    differ = {key: (metadata.get(key), value) for key, value in expected.items() if metadata.get(key) != value}
    if differ:
        told = ", ".join(f"{key} {found!r} (expected {value!r})" for key, (found, value) in differ.items())
        raise PolicyError(f"the server at {address} answers for another policy: found {told}; start the right one")
