"""What a policy is: it sees the observation of one episode at a time and answers with an action.

Other packages add policies through the entry point group `tracebed.policies`, whose entries are `PolicySpec`s. Loading
a spec must import nothing heavy: asset definitions are made from it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from science.robots.tasks.base import Observation, Task

if TYPE_CHECKING:
    from science.robots.policies.batched import BatchedPolicy

ACTION_TOLERANCE = 1e-6


class PolicyError(ValueError):
    """A policy that cannot be used: unknown, without its checkpoint, or made for another task or observation."""


class ActionError(ValueError):
    """An action that no simulation may be given."""


class Policy(ABC):
    """A policy that is ready to act.

    Attributes
    ----------
    observation : keys that it reads and their lengths; checked against the task before any episode.
    cameras : pictures that it reads, camera -> (height, width); each is in the observation as ``<camera>_image``,
        ``[height, width, 3]`` uint8, first row on top.
    action_dim : length of its actions.
    server_s : queue and inference in a policy server since `start`, in s; None where no server is asked.
    """

    observation: Mapping[str, int]
    cameras: Mapping[str, tuple[int, int]] = {}
    action_dim: int

    @property
    def server_s(self) -> float | None:
        return None

    @abstractmethod
    def start(self, seed: int) -> None:
        """Begin an episode: forget everything of the last one; all randomness comes from ``seed``."""

    @abstractmethod
    def act(self, observation: Observation) -> np.ndarray:
        """The action ``[action_dim]`` float64 in [-1, 1] for one observation."""

    def fork(self) -> Self:
        """The same policy for another episode at the same time, sharing nothing that an episode changes."""
        return copy.deepcopy(self)


@dataclass(frozen=True)
class PolicySpec:
    """How a policy is named and loaded.

    Attributes
    ----------
    name : part of asset keys: lower-case letters, digits and `_`.
    description : one sentence.
    load : `module:function`; the function is called as ``function(task, checkpoint)`` with a `Task` and the `Path` of
        a checkpoint (None for a policy that is not trained) and returns a `Policy` or a `BatchedPolicy`.
    trained : whether there is a checkpoint asset behind it.
    train : module of the workload that trains it; None where checkpoints are only imported.
    settings : `module:function`, called with what was configured for a training; returns all of its settings, checked,
        and the names of those that a resume may change. Imports nothing heavy. A setting `weight_loader` names the
        base weights that a fresh training starts from; without it, a training is one from scratch.
    inspect : `module:function`, called with the `Path` of a checkpoint from elsewhere; returns what it says of itself
        as `Inspected`, after it was found to be sound.
    rewrite_trusted : `module:function`, called with such a checkpoint that asks to run code and is trusted, and the
        `Path` at which to write it as plain data; None where checkpoints hold no code.
    weights : whether a checkpoint holds weights; False where it only says which server to ask.
    frozen : `module:function`, called with the settings of a training; returns patterns of the leaves that it leaves
        untouched, by which a wrong base shows.
    facts : `module:function`, called with the `Path` of a checkpoint; returns what is known of its settings (fields of
        `science.robots.diagnosis.facts.Facts`) for a diagnosis.
    framework : what its checkpoints are made with, for the UI; None where there is nothing to say.
    packages : Python packages, by import name, that must be where it is trained or rolled out.
    served : whether rollouts ask one server for it unless they are told otherwise, rather than load it in each worker.
    control : whether it stands in every table as a bound, not as a contestant.
    version : raised whenever the policy's own code changes what it does.
    """

    name: str
    description: str
    load: str
    trained: bool = False
    train: str | None = None
    settings: str | None = None
    inspect: str | None = None
    rewrite_trusted: str | None = None
    weights: bool = True
    frozen: str | None = None
    facts: str | None = None
    framework: str | None = None
    packages: tuple[str, ...] = ()
    served: bool = False
    control: bool = False
    version: str = "1"

    def make(self, task: Task, checkpoint: Path | None = None) -> Policy:
        """Load the policy for episodes of a task, one at a time.

        Raises
        ------
        PolicyError
            For a missing checkpoint, or observation keys and lengths or an action that do not fit the task.
        """
        from science.robots.policies.batched import BatchedPolicy, ChunkedEpisode

        policy = self._load(task, checkpoint)
        return ChunkedEpisode(policy) if isinstance(policy, BatchedPolicy) else policy

    def make_batched(self, task: Task, checkpoint: Path | None = None) -> BatchedPolicy:
        """Load the policy for many episodes of a task at once.

        Raises
        ------
        PolicyError
            As `make`.
        """
        from science.robots.policies.batched import BatchedPolicy, Sessions

        policy = self._load(task, checkpoint)
        return policy if isinstance(policy, BatchedPolicy) else Sessions(policy)

    def _load(self, task: Task, checkpoint: Path | None) -> Policy | BatchedPolicy:
        if self.trained and checkpoint is None:
            raise PolicyError(f"policy {self.name!r} needs a checkpoint and was given none")
        policy: Policy | BatchedPolicy = called(self.load, task, checkpoint)
        require_fit(f"policy {self.name!r}", policy, task)
        return policy


@dataclass(frozen=True)
class Inspected:
    """What a checkpoint from elsewhere says of itself, as JSON types.

    Attributes
    ----------
    step : training steps; None where it does not say.
    seed : of its training; None where it does not say.
    settings : its configuration; `weight_loader` where it says what it began from.
    versions : of the libraries that trained it.
    data_hash : SHA-256 of the dataset; None where it does not say.
    """

    step: int | None
    seed: int | None
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    data_hash: str | None = None


def called(function: str, *arguments: object) -> Any:
    """The result of a spec's ``module:function``."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*arguments)


def require_fit(what: str, policy: Policy | BatchedPolicy, task: Task) -> None:
    """Refuse a policy that reads what a task does not give, or gives actions that it does not take.

    Raises
    ------
    PolicyError
        Naming both; ``what`` names the policy.
    """
    reads = dict(policy.observation)
    unfit = {key: length for key, length in reads.items() if task.observation.get(key) != length}
    unknown = sorted(set(policy.cameras) - set(task.cameras))
    if unfit or unknown or policy.action_dim != task.action_dim:
        raise PolicyError(
            f"{what} does not fit task {task.key}: it reads {reads}, cameras {sorted(policy.cameras)}, and gives "
            f"{policy.action_dim} actions; the task gives {dict(task.observation)}, cameras {sorted(task.cameras)}, "
            f"and takes {task.action_dim} actions"
        )


def checked_action(action: object, action_dim: int) -> np.ndarray:
    """The action as float64 ``[action_dim]``, if a simulation may be given it.

    Raises
    ------
    ActionError
        For another size, NaN or infinity, or elements outside [-1, 1] (by more than 1e-6, which is clipped).
    """
    found = np.asarray(action, dtype=np.float64)
    if found.shape != (action_dim,):
        raise ActionError(f"the policy gave an action of shape {found.shape}, expected ({action_dim},)")
    if not np.isfinite(found).all():
        raise ActionError(f"the policy gave an action that is not finite: {found.tolist()}")
    if np.abs(found).max() > 1 + ACTION_TOLERANCE:
        raise ActionError(f"the policy gave an action outside [-1, 1]: {found.tolist()}")
    return np.clip(found, -1.0, 1.0)
