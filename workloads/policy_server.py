"""Who answers for the policy of a job's rollouts: every worker for itself, one server in the job, or one elsewhere."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from science.robots.egl_devices import EglDevice
from science.robots.policies.base import PolicySpec
from science.robots.rollouts.placement import place
from science.robots.rollouts.pool import RolloutRequest
from science.robots.serving import KEY_VARIABLE
from science.robots.serving.process import ServerProcess

OWN, NONE = "own", "none"


@dataclass(frozen=True)
class Answering:
    """Who answers.

    Attributes
    ----------
    request : as workers get it.
    workers : their environment; None for the job's own.
    who : in words.
    server : of this job; None where there is none.
    """

    request: RolloutRequest
    workers: Mapping[str, str] | None
    who: str
    server: ServerProcess | None = None

    @property
    def said(self) -> str:
        """Who answered so far, in words."""
        restarts = self.server.restarts if self.server else 0
        return f"{self.who}; it died and was started again, {restarts} x" if restarts else self.who


@contextmanager
def answering(request: RolloutRequest, spec: PolicySpec, wanted: str | None) -> Iterator[Answering]:
    """Have the policy of a request answered for as long as the context lasts.

    Parameters
    ----------
    wanted : `own`, `none`, or the address of a server; None: `own` for a policy that is served.

    Raises
    ------
    ServerDied
        When the job's own server does not come up.
    """
    where = wanted or (OWN if spec.served else NONE)
    if where == NONE:
        yield Answering(request, None, "every worker for itself")
    elif where != OWN:
        yield Answering(replace(request, server=where), None, f"the server at {where}")
    else:
        placed = place(os.environ, _egl_devices)
        key = {KEY_VARIABLE: secrets.token_urlsafe(32)}
        with ServerProcess(spec.name, request.task, request.checkpoint, environment={**placed.server, **key}) as server:
            own = replace(request, server=server.address)
            yield Answering(own, {**placed.workers, **key}, f"one server in this job; {placed.said}", server)


def _egl_devices() -> list[EglDevice]:
    """EGL's devices, asked in a process of its own, in which a driver may crash."""
    asked = [sys.executable, "-m", "science.robots.egl_devices"]
    ended = subprocess.run(asked, capture_output=True, text=True, check=True)
    return [EglDevice(**each) for each in json.loads(ended.stdout.splitlines()[-1])]
