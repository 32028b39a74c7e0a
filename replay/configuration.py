"""The configuration that a replay runs with: what the record says, and nothing of what the files say now.

The record holds the asset's own configuration. What an asset took from `recipes.toml` beside it (demonstrations and
trainings) is in the rows that it published; the scratch home gets a `recipes.toml` that says just that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from io_managers.addresses import table_of
from replay.refusals import ReplayRefused
from replay.target import Target


@dataclass(frozen=True)
class Configuration:
    """What a run is configured with.

    Attributes
    ----------
    config : the asset's configuration.
    source : where it was read, in words.
    recipes : text of a `recipes.toml`; None where the asset reads none.
    """

    config: Mapping[str, Any]
    source: str
    recipes: str | None


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
    recipes = _recipes(target)
    if record.config is not None:
        return Configuration(record.config, "from the record", recipes)
    if not getattr(asset.op.config_schema.config_type, "fields", None):
        return Configuration({}, "none: this asset takes none", recipes)
    if not from_run:
        raise ReplayRefused(
            f"the record of {target.title} of run {record.run_id} is older than the recording of configurations, and "
            "this asset has one; give --config-from-run to read it from the Dagster run, where that is still there"
        )
    return Configuration(_of_run(record.run_id, asset.op.name), f"from Dagster's run {record.run_id}", recipes)


def _of_run(run_id: str, op: str) -> Mapping[str, Any]:
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
    if run is None:
        raise ReplayRefused(f"Dagster knows no run {run_id} (any more), so the configuration is not known")
    ops: Any = run.run_config.get("ops") or {}
    return (ops.get(op) or {}).get("config") or {}


def _recipes(target: Target) -> str | None:
    """What the rows say of the settings that they were made with, as a `recipes.toml` of one task."""
    name, variant = table_of(target.record.asset)
    if name == "demonstrations":
        made = [row for row in target.rows.to_dicts() if row["origin"] == "scripted"]
        return _toml(name, target.record.partition, json.loads(made[0]["settings"]) if made else None)
    if name == "checkpoint":
        # A training writes its own rows first, and those that it was merged with behind them.
        made = [row for row in target.rows.to_dicts() if row["origin"] == "TRAINED"]
        return _toml(variant[0], target.record.partition, json.loads(made[0]["settings"]) if made else None)
    return None


def _toml(kind: str, task: str, settings: Mapping[str, Any] | None) -> str | None:
    if settings is None:
        return None
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items() if value is not None]
    return "\n".join([f'[{kind}."{task}"]', *lines, ""])
