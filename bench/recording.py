"""What recording costs a materialisation: publishing with its lineage record and its trace, beside publishing alone.

    python bench/recording.py

The rate of one evaluation, 30 rows, published 100 times each way in turn in a home of 10,000 records. Hashing the rows
is part of both; hashing artifacts is not part of either.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from home import Home
from io_managers.catalog import ensure_catalog
from io_managers.schemas import table
from io_managers.tables import TablePartition, TableStore
from provenance.lineage import Input, Origin, Record, record, write_record
from provenance.trace import trace

ROUNDS, RECORDS, ROWS = 100, 10_000, 30
ASSET, PARTITION, KEY = "policy/success_rate/bench", "open.Lift", ("bench", "open.Lift")


def rates(n: int) -> pl.DataFrame:
    row = {"suite": "open", "task": "Lift", "policy": "bench", "control": False, "checkpoint_hash": None, "step": None}
    row |= {"environment_hash": "env", "chosen": True, "n": n, "successes": n, "errors": 0, "solved_at_reset": 0}
    row |= {"rate": 1.0, "ci_low": 0.5, "ci_high": 1.0, "evaluation": "e"}
    rows = [row | {"arm": "control" if arm == 0 else f"arm{arm}"} for arm in range(ROWS)]
    return pl.DataFrame(rows, schema={column.name: column.dtype for column in table("success_rate").columns})


def fill(store: TableStore) -> list[TablePartition]:
    """Other partitions' records, and a chain of six published ancestors."""
    origin = Origin("1")
    published: list[TablePartition] = []
    for level in range(6):
        asset = f"policy/success_rate/level{level}"
        done = store.publish(
            "success_rate", (f"level{level}", PARTITION), rates(level), asset=asset, partition=PARTITION, run_id="run"
        )
        made = record(store, done, [Input.of(published[-1])] if published else [], origin)
        published.append(done)
    for number in range(RECORDS):
        other = Record(**{**vars(made), "asset": f"policy/other{number % 100}/x", "run_id": f"run-{number}"})
        write_record(store, other)
    return published


def main() -> None:
    """Print milliseconds a materialisation, and the difference."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        ensure_catalog(home)
        store = TableStore(home.tables)
        source = fill(store)[-1]

        def publish(n: int) -> TablePartition:
            return store.publish("success_rate", KEY, rates(n), asset=ASSET, partition=PARTITION, run_id=f"run-{n}")

        def recorded(n: int) -> None:
            record(store, publish(n), [Input.of(source)], Origin("1", config={"n": 20}))

        def traced(n: int) -> None:
            recorded(n)
            trace(home, ASSET, PARTITION, verify=False)

        ways: dict[str, Callable[[int], object]] = {"published": publish, "recorded": recorded, "traced": traced}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for n in range(1, ROUNDS + 1):
            for name, way in ways.items():
                started = time.process_time()
                way(n)
                spent[name].append(1000 * (time.process_time() - started))
    median = {name: statistics.median(each) for name, each in spent.items()}
    print("| a materialisation of a metric | CPU, ms | beyond publishing, ms |\n|---|---:|---:|")
    for name, label in (
        ("published", "rows published"),
        ("recorded", "with their lineage record"),
        ("traced", "with their record and their trace (7 hops)"),
    ):
        print(f"| {label} | {median[name]:.1f} | {median[name] - median['published']:.1f} |")


if __name__ == "__main__":
    main()
