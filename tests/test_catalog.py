"""The DuckDB catalog: always there, never in anybody's way, and it carries the meaning of columns."""

import subprocess
import sys

import duckdb
import pytest
from test_tables import KEY, embedding, publish

from home import Home
from io_managers.catalog import connect, ensure_catalog, snapshot
from io_managers.schemas import TABLES
from io_managers.tables import TableStore


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "it's home")
    ensure_catalog(home)
    return home


def count(home: Home) -> int:
    with duckdb.connect(str(home.catalog), read_only=True) as connection:
        return connection.execute("SELECT count(*) FROM embedding").fetchone()[0]


def test_every_table_can_be_asked_before_anything_was_written(home):
    with connect(home) as connection:
        for name in TABLES:
            assert connection.execute(f'SELECT count(*) FROM "{name}"').fetchone() == (0,)


def test_a_new_partition_is_seen_without_building_the_catalog_again(home):
    before = home.catalog.stat()
    publish(TableStore(home.tables), embedding(1.0))
    assert count(home) == 50
    assert home.catalog.stat().st_ino == before.st_ino


def test_somebody_with_the_catalog_open_for_writing_blocks_neither_writer_nor_sql(home):
    holder = subprocess.Popen(
        [sys.executable, "-c", "import duckdb,sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); input()",
         str(home.catalog)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "open\n"
        publish(TableStore(home.tables), embedding(1.0))
        with connect(home) as connection:
            assert connection.execute("SELECT count(*) FROM embedding").fetchone() == (50,)
        home.root.joinpath(".catalog-signature").unlink()
        ensure_catalog(home)  # swapped under the one who has it open
        assert count(home) == 50
    finally:
        holder.communicate("\n", timeout=20)


def test_columns_carry_unit_and_meaning(home):
    with duckdb.connect(str(home.catalog), read_only=True) as connection:
        comments = dict(
            connection.execute(
                "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'section'"
            ).fetchall()
        )
    assert comments["pixel_x"] == "x position [full-resolution pixels]"
    assert all(comments.values())


def test_a_snapshot_stands_alone_and_is_never_overwritten(home, tmp_path):
    publish(TableStore(home.tables), embedding(1.0))
    destination = tmp_path / "carry.duckdb"
    snapshot(home, destination)
    home.tables.rename(tmp_path / "gone")
    with duckdb.connect(str(destination), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM embedding").fetchone() == (50,)
    with pytest.raises(FileExistsError, match="never overwritten"):
        snapshot(home, destination)


def test_a_table_whose_older_partitions_lack_a_column_still_reads(home):
    address = publish(TableStore(home.tables), embedding(1.0)).address
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT * EXCLUDE gene_share FROM '{str(address).replace(chr(39), chr(39) * 2)}') "
                           f"TO '{str(address).replace(chr(39), chr(39) * 2)}.new' (FORMAT parquet)")  # fmt: skip
    address.with_name(address.name + ".new").replace(address)
    with connect(home) as connection:
        assert connection.execute("SELECT count(*) FROM embedding WHERE gene_share IS NULL").fetchone() == (50,)


def test_old_versions_stay_queryable_and_the_newest_is_marked(home):
    store = TableStore(home.tables)
    publish(store, embedding(1.0), "first")
    publish(store, embedding(2.0), "second")
    publish(store, embedding(1.0), "third")
    with connect(home) as connection:
        counted = connection.execute(
            "SELECT run_id, newest, count(*) FROM embedding_versions GROUP BY ALL ORDER BY run_id"
        ).fetchall()
        assert counted == [("first", False, 50), ("second", False, 50), ("third", True, 50)]
        assert connection.execute("SELECT count(*) FROM embedding").fetchone() == (50,)


def test_what_was_published_before_versions_were_kept_is_kept_when_it_is_replaced(home):
    store = TableStore(home.tables)
    published = publish(store, embedding(1.0), "first")
    for version in home.tables.rglob("versions/*.parquet"):
        version.unlink()
    publish(store, embedding(2.0), "second")
    kept = store.version("embedding", KEY, published.data_version, "first")
    assert kept.frame().equals(embedding(1.0))
