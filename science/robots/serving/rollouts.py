"""The policy of a rollout's request, answered by a server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from science.robots.policies.base import Policy, PolicySpec, require_fit
from science.robots.policies.batched import ChunkedEpisode
from science.robots.serving import KEY_VARIABLE
from science.robots.serving.remote import RemotePolicy
from science.robots.tasks.base import Task


def served_policy(address: str, spec: PolicySpec, task: Task, checkpoint: Path | None) -> Policy:
    """The policy at an address, one episode at a time; the API key is taken from ``$TRACEBED_SERVER_KEY``.

    Raises
    ------
    ServerGone, PolicyError
        For a server that does not come, has another policy, version, task or checkpoint, or does not fit the task.
    """
    remote = RemotePolicy(address, identity(spec, task, checkpoint), api_key=os.environ.get(KEY_VARIABLE))
    require_fit(f"the server at {address}", remote, task)
    return ChunkedEpisode(remote)


def identity(spec: PolicySpec, task: Task, checkpoint: Path | None) -> dict[str, Any]:
    """What a server's metadata says of who it is (`protocol.IDENTITY`)."""
    digest = None
    if checkpoint is not None:
        with checkpoint.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"policy": spec.name, "policy_version": spec.version, "task": task.key, "checkpoint_hash": digest}
