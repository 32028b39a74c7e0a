"""Commands about policies: `tracebed policy list`, `check` and `serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from home import Home
from terminal import Group, print_frame

if TYPE_CHECKING:
    from science.robots.policies.base import PolicySpec

_TASK = click.argument("task", metavar="TASK")
_CHECKPOINT = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True),
    help="A checkpoint; default: the one that is chosen now in this home.",
)


@click.group(name="policy", cls=Group)
def policy_group() -> None:
    """Policies: what is installed, whether it may be batched, and a server that answers many rollouts at once."""


@policy_group.command(name="list")
def policy_list() -> None:
    """Every policy that is installed."""
    import polars as pl

    from science.robots.policies.registry import policy_specs

    rows = [
        {
            "policy": spec.name,
            "kind": "control" if spec.control else "trained here" if spec.train else "imported",
            "served": spec.served,
            "packages": ", ".join(spec.packages),
            "description": spec.description,
        }
        for spec in policy_specs().values()
    ]
    print_frame(pl.DataFrame(rows))


@policy_group.command(name="check")
@click.argument("policy")
@_TASK
@_CHECKPOINT
@click.pass_obj
def policy_check(home: Home, policy: str, task: str, checkpoint: Path | None) -> None:
    """Hold POLICY on TASK against what every policy must keep to be batched. Exit status 1: it does not."""
    from science.robots.policies.conformance import problems
    from science.robots.policies.registry import find_policy
    from science.robots.tasks.registry import find_task

    spec = find_policy(policy)
    loaded = spec.make_batched(find_task(task), checkpoint or _chosen(home, spec, task))
    found = problems(loaded)
    for problem in found:
        click.echo(f"- {problem}")
    if found:
        sys.exit(1)
    promise = "bit for bit" if loaded.stateful or loaded.batch_sizes is not None else "within a relative 1e-5"
    click.echo(
        f"{policy} on {task} may be batched: chunks of {loaded.horizon_steps} actions, asked every "
        f"{loaded.replan_steps} steps; an answer does not depend on the batch, {promise}"
    )


@policy_group.command(name="serve")
@click.argument("policy")
@_TASK
@_CHECKPOINT
@click.option("--host", default="127.0.0.1", show_default=True, help="Others than loopback need $TRACEBED_SERVER_KEY.")
@click.option("--port", type=int, default=8000, show_default=True)
@click.option("--max-batch", type=int, help="Rows of a batch at most.")
@click.pass_obj
def policy_serve(
    home: Home, policy: str, task: str, checkpoint: Path | None, host: str, port: int, max_batch: int | None
) -> None:
    """Serve POLICY for TASK over openpi's websocket protocol until SIGTERM or Ctrl-C; rows in hand are answered first.

    Rollouts ask it with `server: ws://host:port` in their configuration. The API key is read from $TRACEBED_SERVER_KEY.
    """
    from science.robots.policies.registry import find_policy

    chosen = checkpoint or _chosen(home, find_policy(policy), task)
    command = [sys.executable, "-m", "science.robots.serving.serve", "--policy", policy, "--task", task]
    command += ["--host", host, "--port", str(port)]
    command += ["--checkpoint", str(chosen)] if chosen else []
    command += ["--max-batch", str(max_batch)] if max_batch else []
    os.execv(sys.executable, command)  # signals go to the server itself


def _chosen(home: Home, spec: PolicySpec, task: str) -> Path | None:
    """The checkpoint that is chosen now, held against its hash; None for a policy that is not trained."""
    from io_managers.artifacts import ArtifactStore
    from io_managers.tables import MissingPartition, TableStore

    if not spec.trained:
        return None
    try:
        rows = TableStore(home.tables).partition("checkpoint", (spec.name, task)).frame().filter("chosen")
    except MissingPartition as missing:
        raise click.ClickException(
            f"there is no checkpoint of {spec.name} on {task} in this home: give --checkpoint, or materialise "
            f"policy/checkpoint/{spec.name} [{task}]"
        ) from missing
    return ArtifactStore(home.artifacts).verified(rows["checkpoint_artifact"][0])
