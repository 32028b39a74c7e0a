"""Lineage records, written at the moment of publication.

Dagster's own input pointers name the latest event of any partition, so they are wrong for partitioned inputs; the
truth is what was really read. Each materialisation records every input by asset, partition, content hash, run and
address, in the table `lineage`, just BEFORE its rows appear: a record without its rows is harmless, the reverse is not.
The event of the materialisation carries the same record. Reading them back is `records.py`.
"""

from __future__ import annotations

import json
import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from home import ROOT
from io_managers.schemas import table
from io_managers.tables import TablePartition, TableStore

DECIDING_LIBRARIES = (
    "anndata",
    "dagster",
    "h5py",
    "jax",
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

LINEAGE_METADATA = "lineage"
"""Metadata of a materialisation's event that holds its record, as JSON."""

FILE = "file"
"""The asset name of an input that is a file from outside the platform."""


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
    """Who computed a materialisation: its code, its configuration, and where it ran.

    ``versions`` are those of the node's interpreter; None where the run itself computed it.
    """

    code_version: str
    job_key: str | None = None
    node: str = THIS_HOST
    config: Mapping[str, Any] | None = None
    versions: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Record:
    """The lineage of one materialisation.

    Attributes
    ----------
    asset, partition, content_hash, run_id, address : what was published, and where.
    code_version, git_commit, versions : the code; None where it is not known.
    config : the asset's configuration in that run; None where it is not known.
    job_key, node : the job that computed it (None where the run itself did), and the host.
    recorded_at : just before publication.
    inputs : everything that was read, in the order in which it was recorded.
    """

    asset: str
    partition: str
    content_hash: str
    run_id: str
    address: str
    code_version: str
    git_commit: str | None
    versions: Mapping[str, str]
    config: Mapping[str, Any] | None
    job_key: str | None
    node: str
    recorded_at: datetime
    inputs: tuple[Input, ...]

    def described(self) -> dict[str, Any]:
        """Plain values, for an event's metadata."""
        return asdict(self) | {"recorded_at": self.recorded_at.isoformat()}

    @classmethod
    def from_described(cls, content: Mapping[str, Any]) -> Record:
        """The record that `described` gave."""
        inputs = tuple(Input(**each) for each in content["inputs"])
        return cls(**{**content, "inputs": inputs, "recorded_at": datetime.fromisoformat(content["recorded_at"])})


def record(store: TableStore, output: TablePartition, inputs: Sequence[Input], origin: Origin) -> Record:
    """Write the lineage of a partition that is about to be published."""
    made = Record(
        output.asset,
        output.partition,
        output.data_version,
        output.run_id,
        str(output.address),
        origin.code_version,
        git_commit(),
        origin.versions or deciding_versions(),
        origin.config,
        origin.job_key,
        origin.node,
        datetime.now(UTC),
        tuple(inputs),
    )
    write_record(store, made)
    return made


def write_record(store: TableStore, made: Record) -> None:
    """Put one record into the table."""
    constants = {
        "asset": made.asset,
        "partition": made.partition,
        "content_hash": made.content_hash,
        "code_version": made.code_version,
        "address": made.address,
        "job_key": made.job_key,
        "node": made.node,
        "git_commit": made.git_commit,
        "versions": json.dumps(dict(made.versions)),
        "config": None if made.config is None else json.dumps(made.config, default=str),
        "recorded_at": made.recorded_at,
    }
    rows = [{**_input_columns(each), **constants} for each in made.inputs] or [constants]
    schema = {column.name: column.dtype for column in table("lineage").columns}
    store.publish(
        "lineage",
        record_key(made.asset, made.partition, made.content_hash, made.run_id),
        pl.DataFrame(rows, schema=schema),
        asset=made.asset,
        partition=made.partition,
        run_id=made.run_id,
    )


def record_key(asset: str, partition: str, content_hash: str, run_id: str) -> tuple[str, ...]:
    """The key of a record in table `lineage`: all records of one partition lie in one folder.

    A run may publish the same partition twice (a re-execution within it): the content hash keeps both records.
    """
    return (*record_folder(asset, partition), content_hash[:16], run_id)


def record_folder(asset: str, partition: str) -> tuple[str, str]:
    """The folder of all records of a partition, below the table's."""
    return asset.replace("/", "."), partition.replace("|", "--") or "all"


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
def deciding_versions() -> Mapping[str, str]:
    """What decides numbers beside the code, here: libraries, and the model of the CPU, which chooses their kernels."""
    return {**library_versions(), "cpu": _cpu_model()}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


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
