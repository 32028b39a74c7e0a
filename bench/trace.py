"""`tracebed trace` in homes of 10,000 and 100,000 materialisations, as a command and in a process that has it loaded.

    python bench/trace.py [--sizes 10000 100000]

The figure of one series: six assets, five hops deep. The baseline is a trace in a home of 60 materialisations: what a
trace costs must not depend on what else there is. Beside it, the time of `SELECT count(*) FROM lineage`, which does.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _synthetic_lineage import make_home

from home import ROOT, Home
from io_managers.catalog import connect
from io_managers.tables import TableStore
from provenance.records import Records
from provenance.trace import trace
from provenance.views.text import as_text

BASELINE, ROUNDS, COMMANDS = 60, 15, 3
FIGURE = "spatial/niche_figure/pca"


def loaded_ms(home: Home, partition: str) -> float:
    """Median CPU milliseconds of a trace and its text, once everything is imported."""
    spent = []
    for _ in range(ROUNDS):
        started = time.process_time()
        as_text(trace(home, FIGURE, partition))
        spent.append(1000 * (time.process_time() - started))
    return statistics.median(spent)


def command_s(home: Home, partition: str) -> tuple[float, float]:
    """Median wall and CPU seconds of the command, from its start."""
    walls, cpus = [], []
    for _ in range(COMMANDS):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [sys.executable, "-W", "ignore", "-m", "cli", "trace", FIGURE, partition]
        subprocess.run(command, check=True, cwd=ROOT, env=home.environment(), stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(time.monotonic() - started)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(walls), statistics.median(cpus)


def count_s(home: Home) -> float:
    """Wall seconds of counting all records in SQL."""
    started = time.monotonic()
    with connect(home) as connection:
        connection.execute("SELECT count(*) FROM lineage").fetchall()
    return time.monotonic() - started


def main() -> None:
    """Print a row a size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    sizes = [BASELINE, *parser.parse_args().sizes]
    print("| materialisations | trace, ms CPU | ratio | the command, s (CPU) | counting records in SQL, s |")
    print("|---:|---:|---:|---:|---:|")
    baseline = 0.0
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            home, instance = make_home(Path(folder), size)
            instance.dispose()
            partition = Records(TableStore(home.tables)).partitions(FIGURE)[-1]
            spent = loaded_ms(home, partition)
            baseline = baseline or spent
            wall, cpu = command_s(home, partition)
            print(
                f"| {size:,} | {spent:.0f} | {spent / baseline:.2f} | {wall:.2f} ({cpu:.2f}) | {count_s(home):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
