"""Table partitions: published whole or not at all, readable throughout, refused when they do not fit."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from io_managers.artifacts import ArtifactError, ArtifactStore
from io_managers.content import content_hash
from io_managers.publish import sweep
from io_managers.schemas import TABLES, SchemaError, table
from io_managers.tables import DamagedPartition, MissingPartition, TableStore

ROOT = Path(__file__).resolve().parents[1]
KEY = ("pca", "a")


def embedding(version: float, n_spots: int = 50) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "method": ["pca"] * n_spots,
            "seed": [0] * n_spots,
            "section": ["a"] * n_spots,
            "barcode": [f"spot{i}" for i in range(n_spots)],
            "z": pl.Series([[version, float(i)] for i in range(n_spots)], dtype=pl.List(pl.Float32)),
            "encoder_artifact": ["e"] * n_spots,
            "gene_share": [1.0] * n_spots,
            "section_version": ["v"] * n_spots,
        }
    )


def publish(store: TableStore, frame: pl.DataFrame, run_id: str = "run"):
    return store.publish("embedding", KEY, frame, asset="spatial/embedding/pca", partition="a", run_id=run_id)


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    store = TableStore(tmp_path / "tables")
    store.ensure()
    return store


def test_a_partition_reads_back_as_published_and_names_its_run(store):
    frame = embedding(1.0)
    published = publish(store, frame)
    found = store.partition("embedding", KEY)
    assert found == published
    assert found.frame().equals(frame)
    assert pl.read_parquet(found.address)["run_id"].unique().to_list() == ["run"]


def test_an_empty_frame_is_published_too(store):
    publish(store, embedding(1.0).head(0))
    assert store.partition("embedding", KEY).frame().height == 0


def test_the_data_version_is_the_content_and_not_the_run(store):
    first, second = publish(store, embedding(1.0), "one"), publish(store, embedding(1.0), "two")
    assert first.data_version == second.data_version
    assert publish(store, embedding(2.0)).data_version != first.data_version


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: f.drop("z"), "'z'"),
        (lambda f: f.with_columns(extra=1), "'extra'"),
        (lambda f: f.with_columns(seed=pl.lit("0")), "expected Int64"),
        (lambda f: f.with_columns(barcode=pl.lit(None, pl.String)), "nulls"),
        (lambda f: f.with_columns(gene_share=pl.lit(float("nan"))), "NaN"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_with_the_difference(store, change, named):
    publish(store, embedding(1.0))
    with pytest.raises(SchemaError, match=named):
        publish(store, change(embedding(2.0)))
    assert store.partition("embedding", KEY).frame().equals(embedding(1.0))


def test_a_hand_edited_partition_is_found_out(store):
    address = publish(store, embedding(1.0)).address
    metadata = pl.read_parquet_metadata(address)
    edited = pl.read_parquet(address).with_columns(gene_share=pl.lit(0.5))
    edited.write_parquet(address, metadata={k: v for k, v in metadata.items() if k.startswith("tracebed")})
    with pytest.raises(DamagedPartition, match="content hash"):
        store.partition("embedding", KEY).frame()


def test_a_file_of_another_tool_is_not_a_partition(store):
    address = store.address("embedding", KEY)
    address.parent.mkdir(parents=True)
    embedding(1.0).write_parquet(address)
    with pytest.raises(DamagedPartition, match="another tool"):
        store.partition("embedding", KEY)


def test_a_truncated_partition_is_named(store):
    address = publish(store, embedding(1.0)).address
    address.write_bytes(address.read_bytes()[:200])
    with pytest.raises(DamagedPartition, match="cannot be read"):
        store.partition("embedding", KEY)


def test_a_partition_that_was_never_published_says_so(store):
    with pytest.raises(MissingPartition, match="materialise it first"):
        store.partition("embedding", ("pca", "never"))


@pytest.mark.parametrize("key", [(), ("",), ("..",), ("a/b",), (".",)])
def test_a_key_that_leaves_the_table_is_refused(store, key):
    with pytest.raises(ValueError, match="partition key"):
        store.address("embedding", key)


def test_an_unknown_table_names_those_that_exist(store):
    with pytest.raises(ValueError, match="rm_ideal"):
        store.address("nonsense", ("a",))


def test_every_column_of_every_table_has_a_meaning():
    for schema in TABLES.values():
        assert schema.row
        assert all(column.meaning for column in schema.columns), schema.name
        assert table(schema.name).empty().width == len(schema.columns) + 2


_WRITER = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import files
from io_managers.tables import TableStore
from test_tables import embedding, publish

step = {step!r}
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
rename, flush = Path.replace, files._flush

def replace(self, target):
    if step == "before rename": die()
    result = rename(self, target)
    if step == "after rename": die()
    return result

def flushing(path):
    if step == "before flush" and path.is_file(): die()
    flush(path)

def half(draft):
    draft.write_bytes(b"PAR1 half a file")
    die()

Path.replace, files._flush = replace, flushing
if step == "in mid-write":
    import io_managers.tables as tables_module
    tables_module._write_parquet = lambda frame, draft, metadata: half(draft)
publish(TableStore(Path({tables!r})), embedding(2.0), "second")
"""


@pytest.mark.parametrize(
    ("step", "survivor"),
    [("in mid-write", 1.0), ("before flush", 1.0), ("before rename", 1.0), ("after rename", 2.0)],
)
def test_a_write_killed_at_any_step_leaves_old_rows_whole_or_new_rows_whole(store, step, survivor):
    publish(store, embedding(1.0), "first")
    code = _WRITER.format(root=str(ROOT), tests=str(ROOT / "tests"), step=step, tables=str(store.root))
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert store.partition("embedding", KEY).frame().equals(embedding(survivor))
    assert store.scan("embedding").height == 50
    drafts = sweep(store.root, older_than_s=-1)
    assert len(drafts) == (0 if step == "after rename" else 1)
    assert store.partition("embedding", KEY).frame().equals(embedding(survivor))


def test_a_writer_killed_at_random_moments_never_leaves_half_a_partition(store):
    code = textwrap.dedent(f"""
        import sys, itertools
        from pathlib import Path
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        from io_managers.tables import TableStore
        from test_tables import embedding, publish
        store = TableStore(Path({str(store.root)!r}))
        for version in itertools.count():
            publish(store, embedding(float(version % 2), 3000))
            if not version: print("started", flush=True)
    """)
    wholes = {content_hash(embedding(version, 3000)) for version in (0.0, 1.0)}
    moments = random.Random(0)
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None and writer.stdout.readline() == "started\n"
        time.sleep(moments.uniform(0, 0.15))
        writer.kill()
        writer.wait()
        assert content_hash(store.partition("embedding", KEY).frame()) in wholes


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is made by mounting a small tmpfs, which needs root")
def test_a_full_disk_keeps_the_old_partition_and_says_what_to_do(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        store = TableStore(disk / "tables")
        publish(store, embedding(1.0))
        noise = random.Random(0)
        big = embedding(2.0, 60_000).with_columns(barcode=pl.Series([str(noise.random()) for _ in range(60_000)]))
        with pytest.raises(OSError, match=r"data\.parquet.*unchanged"):
            publish(store, big)
        assert store.partition("embedding", KEY).frame().equals(embedding(1.0))
        assert not [path for path in store.root.rglob("*") if path.name.startswith(".draft")]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_artifacts_are_named_by_their_bytes_and_damage_is_found(tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    source = tmp_path / "figure.png"
    source.write_bytes(b"bytes")
    name = store.put(source)
    assert store.put(source) == name
    assert store.verified(name).read_bytes() == b"bytes"
    store.path(name).write_bytes(b"other")
    with pytest.raises(ArtifactError, match="other bytes"):
        store.verified(name)
    assert store.put(source) == name
    assert store.verified(name).read_bytes() == b"bytes"
    store.path(name).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        store.verified(name)
    assert store.take(source) == name
    assert not source.exists() and store.verified(name).read_bytes() == b"bytes"


cells = st.one_of(st.none(), st.text(max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.lists(cells, max_size=6), st.lists(cells, max_size=6))
def test_content_hashes_agree_exactly_when_string_columns_do(a, b):
    frames = [pl.DataFrame({"x": pl.Series(values, dtype=pl.String)}) for values in (a, b)]
    assert (content_hash(frames[0]) == content_hash(frames[1])) == (a == b)


@settings(max_examples=60, deadline=None)
@given(*[st.lists(st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=3)), max_size=5)] * 2)
def test_content_hashes_agree_exactly_when_list_columns_do(a, b):
    frames = [pl.DataFrame({"x": pl.Series(values, dtype=pl.List(pl.Int64))}) for values in (a, b)]
    assert (content_hash(frames[0]) == content_hash(frames[1])) == (a == b)


def test_content_hash_sees_names_types_and_order():
    base = pl.DataFrame({"x": [1, 2]})
    others = [
        base.rename({"x": "y"}),
        base.cast(pl.Int32),
        base.reverse(),
        base.head(1),
        base.with_columns(x=pl.lit(None)),
    ]
    assert len({content_hash(frame) for frame in [base, *others[:4]]}) == 5
    wide = base.with_columns(y=pl.lit("v"))
    assert content_hash(wide) == content_hash(wide.select("y", "x"))


def test_the_content_hash_of_known_rows_never_changes():
    """Data versions of a lab's home were made with it: another hash would make all of them look edited."""
    moments = [datetime(2026, 1, 1, tzinfo=UTC), None, datetime(2026, 1, 2, tzinfo=UTC)]
    frame = pl.DataFrame(
        {
            "whole": [1, None, -3],
            "number": [0.5, None, -0.0],
            "single": pl.Series([1.5, None, 2.5], dtype=pl.Float32),
            "flag": [True, None, False],
            "text": ["a", "", None],
            "moment": pl.Series(moments, dtype=pl.Datetime("us", "UTC")),
            "numbers": pl.Series([[1.0, None], [], None], dtype=pl.List(pl.Float32)),
            "texts": pl.Series([["x", "yz"], None, []], dtype=pl.List(pl.String)),
        }
    )
    known = "7274cc09a10262c638bbd69f080857530900e88d970760aa1735dc41c7758e84"
    assert content_hash(frame) == known
    assert content_hash(pl.concat([frame.head(1), frame.tail(2)], rechunk=False)) == known
    assert content_hash(pl.concat([frame.head(1), frame]).tail(3)) == known
    with pytest.raises(TypeError, match="'x' has type"):
        content_hash(pl.DataFrame({"x": [b"bytes"]}))
