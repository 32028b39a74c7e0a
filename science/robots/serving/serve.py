"""Serve a policy: `tracebed policy serve`, and the server that a rollouts job starts for itself.

    python -m science.robots.serving.serve --policy NAME --task TASK [--checkpoint FILE] [--host HOST] [--port PORT]
                                           [--max-batch N] [--ready FILE] [--parent PID]

The API key is $TRACEBED_SERVER_KEY; without one, only this machine is served. SIGTERM and SIGINT end it when what is in
hand is answered. FILE of `--ready` gets the port once clients can come.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
from pathlib import Path
from typing import Any

from files import write_whole
from science.robots.parent import end_with_parent
from science.robots.policies.base import PolicyError, PolicySpec, called
from science.robots.policies.registry import find_policy
from science.robots.serving import KEY_VARIABLE
from science.robots.serving.rollouts import identity
from science.robots.serving.server import PolicyServer
from science.robots.tasks.registry import find_task


def main() -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--max-batch", type=int)
    parser.add_argument("--ready", type=Path)
    parser.add_argument("--parent", type=int, help="end with this process, which keeps the port")
    options = parser.parse_args()
    if options.parent is not None:
        end_with_parent(options.parent)
    api_key = os.environ.get(KEY_VARIABLE) or None
    require_key(options.host, api_key)
    spec, task = find_policy(options.policy), find_task(options.task)
    policy = spec.make_batched(task, options.checkpoint)
    says = {**told(spec, options.checkpoint), **identity(spec, task, options.checkpoint)}

    def ready(port: int) -> None:
        print(f"{spec.name} for {task.key} at ws://{options.host}:{port}", flush=True)
        if options.ready is not None:
            write_whole(options.ready, lambda draft: draft.write_text(str(port)))

    async def serve() -> None:
        server = PolicyServer(policy, says, api_key=api_key, max_batch=options.max_batch)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.drain)
        await server.run(options.host, options.port, ready, kept_port=options.parent is not None)

    asyncio.run(serve())


def require_key(host: str, api_key: str | None) -> None:
    """Hold that a server which others can reach has a key.

    Raises
    ------
    PolicyError
        When it has none.
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and api_key is None:
        raise PolicyError(
            f"found host {host!r} and no API key, expected ${KEY_VARIABLE} to be set where others can reach the server"
        )


def told(spec: PolicySpec, checkpoint: Path | None) -> dict[str, Any]:
    """What a checkpoint says of its training, for the metadata: its step and settings."""
    if spec.inspect is None or checkpoint is None:
        return {}
    found = called(spec.inspect, checkpoint)
    return {"step": found.step, "settings": dict(found.settings)}


if __name__ == "__main__":
    main()
