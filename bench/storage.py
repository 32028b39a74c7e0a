"""Three writers and a reader at once: Parquet partitions behind views, beside the stock DuckDB I/O manager's pattern.

    python bench/storage.py

Each of 3 processes writes 20 partitions of 2,000 rows x 37 values, five times over, while a fourth asks for the row
count ten times a second. The stock pattern is what dagster-duckdb does: connect (with retries while the file is
locked), DELETE the partition, INSERT it.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from home import Home
from io_managers.catalog import ensure_catalog
from io_managers.tables import TableStore

WRITERS, PARTITIONS, ROUNDS, ROWS, WIDTH = 3, 20, 5, 2_000, 30
READS_PER_S = 10
RETRIES, FIRST_WAIT_S = 10, 0.1


def frame(writer: int, partition: int) -> pl.DataFrame:
    values = np.random.default_rng(writer * 1000 + partition).random((ROWS, WIDTH), dtype=np.float32)
    return pl.DataFrame(
        {
            "method": ["bench"] * ROWS,
            "seed": [0] * ROWS,
            "section": [f"w{writer}p{partition}"] * ROWS,
            "barcode": [f"spot{i}" for i in range(ROWS)],
            "z": pl.Series(values.tolist(), dtype=pl.List(pl.Float32)),
            "encoder_artifact": ["none"] * ROWS,
            "gene_share": [1.0] * ROWS,
            "section_version": ["none"] * ROWS,
        }
    )


def write_partitions(root: str, writer: int, frames: list[pl.DataFrame]) -> None:
    store = TableStore(Home(Path(root)).tables)
    for partition, each in enumerate(frames):
        key = f"w{writer}p{partition}"
        store.publish("embedding", ("bench", key), each, asset="bench", partition=key, run_id="bench")


def read_views(root: str) -> int:
    with duckdb.connect(str(Home(Path(root)).catalog), read_only=True) as connection:
        return connection.execute("SELECT count(*) FROM embedding").fetchall()[0][0]


def write_stock(root: str, writer: int, frames: list[pl.DataFrame]) -> None:
    for partition, each in enumerate(frames):
        connection = _connect_with_retries(f"{root}/stock.duckdb")
        with connection:
            connection.execute("CREATE TABLE IF NOT EXISTS embedding AS SELECT * FROM each LIMIT 0")
            connection.execute("DELETE FROM embedding WHERE section = ?", [f"w{writer}p{partition}"])
            connection.execute("INSERT INTO embedding SELECT * FROM each")
        del each


def _connect_with_retries(path: str) -> duckdb.DuckDBPyConnection:
    for attempt in range(RETRIES):
        try:
            return duckdb.connect(path)
        except duckdb.IOException:
            time.sleep(FIRST_WAIT_S * 2**attempt)
    raise TimeoutError(f"{path} stayed locked")


def read_stock(root: str) -> int:
    with duckdb.connect(f"{root}/stock.duckdb", read_only=True) as connection:
        return connection.execute("SELECT count(*) FROM embedding").fetchall()[0][0]


def _writer(write, root: str, writer: int, start, seconds) -> None:
    frames = [frame(writer, partition) for partition in range(PARTITIONS)]
    start.wait()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        write(root, writer, frames)
    seconds.put((time.perf_counter() - began) / ROUNDS)


def _reader(read, root: str, start, stop, outcome) -> None:
    good = failed = torn = 0
    start.wait()
    while not stop.is_set():
        try:
            torn += read(root) % ROWS != 0
            good += 1
        except duckdb.Error:
            failed += 1
        time.sleep(1 / READS_PER_S)
    outcome.put((good, failed, torn))


def measure(name: str, write, read) -> str:
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as root:
        ensure_catalog(Home(Path(root)))
        start, stop = processes.Barrier(WRITERS + 1), processes.Event()
        seconds, outcome = processes.Queue(), processes.Queue()
        reader = processes.Process(target=_reader, args=(read, root, start, stop, outcome))
        writers = [processes.Process(target=_writer, args=(write, root, i, start, seconds)) for i in range(WRITERS)]
        for process in (reader, *writers):
            process.start()
        for process in writers:
            process.join()
        stop.set()
        good, failed, torn = outcome.get(timeout=60)
        reader.join()
        done = [seconds.get() for process in writers if process.exitcode == 0]
        lost = WRITERS * PARTITIONS - read(root) // ROWS
        median = statistics.median(done) if done else float("nan")
        return f"| {name} | {median:.2f} | {good} | {failed} | {torn} | {lost} |"


def main() -> None:
    written = f"{PARTITIONS} partitions of {ROWS} rows x {WIDTH + 7} values"
    print(f"{WRITERS} writers x {written}, {ROUNDS} rounds, a reader at {READS_PER_S} Hz\n")
    print("| design | s a writer and round (median) | reads good | reads failed | reads torn | partitions lost |")
    print("|---|---:|---:|---:|---:|---:|")
    print(measure("Parquet partitions + views", write_partitions, read_views))
    print(measure("stock DuckDB I/O manager's pattern", write_stock, read_stock))


if __name__ == "__main__":
    main()
