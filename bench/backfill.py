"""Sixteen partitions of a cheap asset: one single-run backfill beside sixteen runs.

    python bench/backfill.py

CPU seconds of `dagster asset materialize` processes on the mirror `spatial/section_as_target`, and whether every
partition kept the data version of its own content.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import dagster as dg
import polars as pl

from assets.spatial.keys import SECTION_AS_TARGET
from home import ROOT, Home
from io_managers.catalog import ensure_catalog
from io_managers.tables import TableStore
from partitions import add_section_key

KEYS = [f"s{i:02d}" for i in range(16)]


def prepare(home: Home) -> None:
    ensure_catalog(home)
    store = TableStore(home.tables)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        for key in KEYS:
            row = {
                "section": key,
                "barcode": "spot",
                "array_row": 0,
                "array_col": 0,
                "pixel_x": 0.0,
                "pixel_y": 0.0,
                "layer": "WM",
                "sum_umi": 1.0,
                "n_neighbours": 1,
                "simulated": True,
                "section_artifact": "none",
            }
            frame = pl.DataFrame([row])
            store.publish("section", (key,), frame, asset="spatial/section", partition=key, run_id="bench")
            add_section_key(instance, key)


def materialise(home: Home, *selection: str) -> float:
    """CPU seconds of one `dagster asset materialize`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(Path(sys.executable).with_name("dagster")), "asset", "materialize", "-f", str(ROOT / "defs.py")]
    subprocess.run(
        [*command, "--select", 'key:"spatial/section_as_target"', *selection],
        check=True,
        cwd=ROOT,
        env={**home.environment(), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def own_versions(home: Home) -> int:
    """Partitions whose latest event carries the data version of their own content."""
    store = TableStore(home.tables)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        records = instance.fetch_materializations(SECTION_AS_TARGET, limit=len(KEYS)).records
    latest = {}
    for record in records:
        event = record.asset_materialization
        if event is not None and event.partition is not None:
            latest[event.partition] = (event.tags or {}).get("dagster/data_version")
    return sum(store.partition("section", (key,)).data_version == version for key, version in latest.items())


def main() -> None:
    os.environ.pop("DAGSTER_HOME", None)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder)).ensure()
        prepare(home)
        one = materialise(home, "--partition-range", f"{KEYS[0]}...{KEYS[-1]}")
        rows.append(("one run of 16 partitions", one, own_versions(home)))
        each = sum(materialise(home, "--partition", key) for key in KEYS)
        rows.append(("16 runs of one partition", each, own_versions(home)))
    print("| backfill | CPU seconds | ratio | partitions with their own data version |")
    print("|---|---:|---:|---:|")
    for name, seconds, own in rows:
        print(f"| {name} | {seconds:.1f} | {seconds / rows[0][1]:.1f} | {own} of {len(KEYS)} |")


if __name__ == "__main__":
    main()
