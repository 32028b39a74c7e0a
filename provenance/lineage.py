"""Lineage records, written at the moment of publication.

Dagster's own input pointers name the latest event of any partition, so they are wrong for partitioned inputs; the
truth is what was really read. Each materialisation records every input by asset, partition, content hash, run and
address, in the table `lineage`, just BEFORE its rows appear: a record without its rows is harmless, the reverse is not.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import polars as pl

from home import ROOT
from io_managers.schemas import table
from io_managers.tables import TablePartition, TableStore

DECIDING_LIBRARIES = (
    "anndata",
    "dagster",
    "h5py",
    "mujoco",
    "numba",
    "numpy",
    "polars",
    "POT",
    "praxis-robomimic",
    "robosuite",
    "scanpy",
    "scikit-learn",
    "scipy",
    "squidpy",
    "torch",
)

THIS_HOST = socket.gethostname()


@dataclass(frozen=True)
class Input:
    """One thing that was read: a published partition, or a file from outside the platform (asset `file`)."""

    asset: str
    partition: str
    content_hash: str
    run_id: str | None
    address: str

    @classmethod
    def of(cls, partition: TablePartition) -> Input:
        """The record of a partition that was read."""
        return cls(
            partition.asset, partition.partition, partition.data_version, partition.run_id, str(partition.address)
        )


@dataclass(frozen=True)
class Origin:
    """Who computed a materialisation: its code and where it ran."""

    code_version: str
    job_key: str | None = None
    node: str = THIS_HOST


def record(store: TableStore, output: TablePartition, inputs: Sequence[Input], origin: Origin) -> None:
    """Write the lineage of a partition that is about to be published."""
    constants = {
        "asset": output.asset,
        "partition": output.partition,
        "content_hash": output.data_version,
        "code_version": origin.code_version,
        "address": str(output.address),
        "job_key": origin.job_key,
        "node": origin.node,
        "git_commit": git_commit(),
        "versions": json.dumps(library_versions()),
        "recorded_at": datetime.now(UTC),
    }
    rows = [{**_input_columns(each), **constants} for each in inputs] or [constants]
    schema = {column.name: column.dtype for column in table("lineage").columns}
    # A run may publish the same partition twice (a re-execution within it): the content hash keeps both records.
    key = (output.run_id, output.asset.replace("/", "."), output.partition.replace("|", "--") or "all")
    store.publish(
        "lineage",
        (*key, output.data_version[:16]),
        pl.DataFrame(rows, schema=schema),
        asset=output.asset,
        partition=output.partition,
        run_id=output.run_id,
    )


def _input_columns(each: Input) -> dict[str, str | None]:
    return {
        "input_asset": each.asset,
        "input_partition": each.partition,
        "input_hash": each.content_hash,
        "input_run_id": each.run_id,
        "input_address": each.address,
    }


@cache
def git_commit() -> str | None:
    """The commit of the running code, with `+dirty` where tracked files differ; None outside a git checkout."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+dirty" if status.stdout.strip() else "")


@cache
def library_versions() -> Mapping[str, str]:
    """Versions of the libraries that decide numbers, of those that are installed."""
    found = {}
    for name in DECIDING_LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
