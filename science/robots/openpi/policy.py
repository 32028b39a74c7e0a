"""openpi's own server as a policy: observations in the form that it was trained on, its identity verified.

The stock server draws its noise in the order in which it is asked, so its episodes differ when they are run again; one
that takes the seed and step of an episode (`science.robots.serving`) answers the same whoever asks beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from science.robots.openpi.descriptor import AXIS_ANGLE, Descriptor, Picture, read_descriptor
from science.robots.policies.base import Inspected, PolicyError
from science.robots.policies.batched import BatchedPolicy, Row, image_key
from science.robots.serving.client import PolicyClient
from science.robots.tasks.base import Task


def load(task: Task, checkpoint: Path) -> OpenpiPolicy:
    """The policy that a descriptor names, for a task.

    Raises
    ------
    PolicyError
        For a descriptor that cannot be used, a server that is another one than it says, or one that does not fit the
        task.
    """
    return OpenpiPolicy(read_descriptor(checkpoint), task)


def inspect(checkpoint: Path) -> Inspected:
    """What a descriptor says; the server itself is asked when the policy is loaded."""
    described = read_descriptor(checkpoint)
    step = (described.identity or {}).get("step")
    return Inspected(step if isinstance(step, int) else None, None, described.content, {})


class OpenpiPolicy(BatchedPolicy):
    """Rows are asked one after another over one connection; more workers have more connections.

    Actions beyond [-1, 1] are clipped, as robosuite's controllers do with their inputs.
    """

    def __init__(self, described: Descriptor, task: Task) -> None:
        """Connect, and hold the server against its description."""
        parts = [part.removesuffix(AXIS_ANGLE) for parts in described.state.values() for part in parts]
        if unknown := sorted(set(parts) - set(task.observation)):
            raise PolicyError(f"found state {unknown}, expected some of {sorted(task.observation)} of {task.key}")
        self._described = described
        self.observation = {part: task.observation[part] for part in parts}
        self.cameras = _cameras(described.pictures)
        self._client = PolicyClient(described.address, api_key=_api_key(described))
        _require_identity(described, self._client.metadata)
        self.action_dim = _number(described.action_dim, self._client.metadata, "action_dim")
        self.horizon_steps = _number(described.action_horizon, self._client.metadata, "action_horizon")
        if described.replan_steps > self.horizon_steps:
            raise PolicyError(
                f"found replan_steps = {described.replan_steps} for the server at {described.address}, expected at "
                f"most its chunks of {self.horizon_steps} actions"
            )
        self.replan_steps = described.replan_steps
        self.prompt = task.instruction if described.prompt is None else described.prompt

    @property
    def server_s(self) -> float:  # type: ignore[override]
        return self._client.server_s

    def infer(self, rows: Sequence[Row]) -> np.ndarray:
        return np.stack([self._ask(row) for row in rows])

    def forget(self, session: str) -> None:
        self._client.forget(session)

    def _ask(self, row: Row) -> np.ndarray:
        shown: dict[str, Any] = {"prompt": row.prompt or self.prompt}
        for key, parts in self._described.state.items():
            shown[key] = np.concatenate([_vector(part, row.observation) for part in parts]).astype(np.float32)
        for key, picture in self._described.pictures.items():
            shown[key] = _shown(picture, row.observation[image_key(picture.camera)])
        answer = self._client.infer(shown, session=row.session, seed=row.seed, step=row.step)
        actions = np.asarray(answer.get("actions"), dtype=np.float64)
        if actions.shape != (self.horizon_steps, self.action_dim):
            raise PolicyError(
                f"the server at {self._described.address} gave actions of shape {actions.shape}, expected "
                f"{(self.horizon_steps, self.action_dim)}; correct action_horizon and action_dim of its description"
            )
        return np.clip(actions, -1.0, 1.0)


def _api_key(described: Descriptor) -> str | None:
    name = described.api_key_variable
    if name is None:
        return None
    if not os.environ.get(name):
        raise PolicyError(f"found no ${name}, expected the API key of {described.address}; set it where rollouts run")
    return os.environ[name]


def _cameras(pictures: Mapping[str, Picture]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for picture in pictures.values():
        size = (picture.render_px, picture.render_px)
        if found.setdefault(picture.camera, size) != size:
            raise PolicyError(f"found two sizes of camera {picture.camera!r}, expected one render_px for each camera")
    return found


def _require_identity(described: Descriptor, metadata: Mapping[str, Any]) -> None:
    if described.identity is None:
        return
    differ = {
        key: (metadata.get(key), expected)
        for key, expected in described.identity.items()
        if metadata.get(key) != expected
    }
    if differ:
        told = ", ".join(f"{key} {found!r} (expected {expected!r})" for key, (found, expected) in differ.items())
        raise PolicyError(
            f"the server at {described.address} is not the one described: found {told}; start the right one, or for a "
            "server that says nothing of itself write unidentified = true in place of [identity]"
        )


def _number(declared: int | None, metadata: Mapping[str, Any], name: str) -> int:
    told = metadata.get(name)
    found = declared if told is None else told
    if found is None:
        raise PolicyError(
            f"found no {name} in the server's metadata {sorted(metadata)}, expected the description to say it"
        )
    if None not in (declared, told) and declared != told:
        raise PolicyError(f"found {name} = {declared} in the description and {told} in the server's metadata")
    return int(found)


def _vector(part: str, observation: Mapping[str, np.ndarray]) -> np.ndarray:
    if not part.endswith(AXIS_ANGLE):
        return np.atleast_1d(observation[part])
    from robosuite.utils.transform_utils import quat2axisangle

    return np.asarray(quat2axisangle(np.array(observation[part.removesuffix(AXIS_ANGLE)], dtype=np.float64)))


def _shown(picture: Picture, drawn: np.ndarray) -> np.ndarray:
    from openpi_client.image_tools import resize_with_pad

    if "vertical" in picture.flip:
        drawn = drawn[::-1]
    if "horizontal" in picture.flip:
        drawn = drawn[:, ::-1]
    return resize_with_pad(np.ascontiguousarray(drawn), picture.size_px, picture.size_px)
