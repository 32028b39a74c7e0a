"""The configuration that a replay runs with: what the record says, and nothing of what the files say now.

The record holds the asset's own configuration. What an asset took from `recipes.toml` beside it (demonstrations and
trainings) or `bases.toml` is in the rows that it published; the scratch home gets a file that says just that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from io_managers.addresses import table_of
from provenance.weights.bases import CHECKPOINT_TABLE
from replay.refusals import ReplayRefused
from replay.target import Target


@dataclass(frozen=True)
class Configuration:
    """What a run is configured with.

    Attributes
    ----------
    config : the asset's configuration.
    source : where it was read, in words.
    files : variable -> text of the file that it is to name: a `recipes.toml` or `bases.toml`, where one is read.
    """

    config: Mapping[str, Any]
    source: str
    files: Mapping[str, str]


def configuration_of(target: Target, asset: dg.AssetsDefinition, *, from_run: bool) -> Configuration:
    """The configuration of the run that made a value.

    Parameters
    ----------
    from_run : read it from the Dagster run where the record lacks it.

    Raises
    ------
    ReplayRefused
        When neither has it.
    """
    record = target.record
    files = _files(target)
    if record.config is not None:
        return Configuration(record.config, "from the record", files)
    if not getattr(asset.op.config_schema.config_type, "fields", None):
        return Configuration({}, "none: this asset takes none", files)
    if not from_run:
        raise ReplayRefused(
            f"the record of {target.title} of run {record.run_id} is older than the recording of configurations, and "
            "this asset has one; give --config-from-run to read it from the Dagster run, where that is still there"
        )
    return Configuration(_of_run(record.run_id, asset.op.name), f"from Dagster's run {record.run_id}", files)


def _of_run(run_id: str, op: str) -> Mapping[str, Any]:
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
    if run is None:
        raise ReplayRefused(f"Dagster knows no run {run_id} (any more), so the configuration is not known")
    ops: Any = run.run_config.get("ops") or {}
    return (ops.get(op) or {}).get("config") or {}


def _files(target: Target) -> dict[str, str]:
    """What the rows say of the settings that they were made with, as the file that the asset reads them from."""
    name, variant = table_of(target.record.asset)
    # A training writes its own rows first, and those that it was merged with behind them.
    origin = "scripted" if name == "demonstrations" else "TRAINED"
    if name not in ("demonstrations", "checkpoint", CHECKPOINT_TABLE):
        return {}
    made = [row for row in target.rows.to_dicts() if row["origin"] == origin]
    if not made:
        return {}
    settings = json.loads(made[0]["settings"])
    if name == CHECKPOINT_TABLE:
        (base,) = variant
        given = {"policy": made[0]["policy"], "tasks": json.loads(made[0]["tasks"])}
        return {"TRACEBED_BASES": _toml(f"base.{base}", given) + _toml(f"base.{base}.settings", settings)}
    kind = variant[0] if variant else name
    return {"TRACEBED_RECIPES": _toml(f'{kind}."{target.record.partition}"', settings)}


def _toml(table: str, values: Mapping[str, Any]) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    return "\n".join([f"[{table}]", *lines, ""])
