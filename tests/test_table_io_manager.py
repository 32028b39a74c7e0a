"""What assets publish and load: data versions are content, and lineage is what was really read."""

import dagster as dg
import polars as pl
import pytest
from small_platform import MIRROR, SECTION, Platform, benchmark, mirror, rm_ideal, section, spot

from home import Home
from io_managers.addresses import table_of
from io_managers.content import content_hash
from io_managers.table_io_manager import Rows, materialised
from partitions import SECTIONS, add_section_key, pair


@pytest.fixture
def platform(tmp_path):
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        for key in ("a", "b", "c"):
            add_section_key(instance, key)
        yield Platform(Home(tmp_path / "home"), instance)


def test_keys_name_tables_and_folders():
    assert table_of("spatial/embedding/pca") == ("embedding", ("pca",))
    assert table_of("benchmark/spatial") == ("benchmark_spatial", ())


def test_the_data_version_is_the_content_hash_and_the_code_version_is_recorded(platform):
    platform.run(section, "a")
    tags = platform.event(SECTION, "a").tags
    assert tags["dagster/data_version"] == content_hash(spot("a"))
    assert tags["dagster/code_version"] == "7"


def test_in_one_run_over_a_range_every_partition_keeps_its_own_data_version_and_one_event(platform):
    for key in "abc":
        platform.run(section, key)
    platform.run_range(mirror, "a", "c")
    for key in "abc":
        tags = platform.event(MIRROR, key).tags
        assert tags["dagster/data_version"] == content_hash(spot(key))
    assert len(platform.instance.fetch_materializations(MIRROR, limit=10).records) == 3


def test_lineage_names_the_partition_that_was_read_and_not_the_latest(platform):
    for key in "abc":
        platform.run(section, key)
    platform.run_range(mirror, "a", "c")
    outcome = platform.run(rm_ideal, pair("a", "b"))
    platform.run(section, "a", config={"umi": 9.0})
    rows = platform.store.scan("lineage").filter(pl.col("run_id") == outcome.run_id).sort("input_asset")
    assert rows.select("input_asset", "input_partition", "input_hash").rows() == [
        ("spatial/section", "a", content_hash(spot("a"))),
        ("spatial/section_as_target", "b", content_hash(spot("b"))),
    ]
    assert rows["partition"].unique().to_list() == ["a|b"]
    assert rows["input_run_id"].null_count() == 0


def test_lineage_is_kept_of_every_materialisation_also_of_one_without_inputs(platform):
    platform.run(section, "a")
    platform.run(section, "a", config={"umi": 9.0})
    rows = platform.store.scan("lineage")
    assert rows["content_hash"].sort().to_list() == sorted([content_hash(spot("a")), content_hash(spot("a", 9.0))])
    assert rows["input_asset"].to_list() == [None, None]


def test_a_benchmark_takes_the_pairs_that_exist(platform):
    for key in "abc":
        platform.run(section, key)
    platform.run_range(mirror, "a", "c")
    platform.run(rm_ideal, pair("a", "b"))
    platform.run(rm_ideal, pair("b", "c"))
    platform.run(benchmark)
    assert platform.store.partition("benchmark_spatial", ("all",)).frame()["method"].to_list() == ["a|b,b|c"]


def test_an_input_that_was_never_published_says_what_to_do(platform):
    with pytest.raises(FileNotFoundError, match="materialise it first"):
        platform.run(rm_ideal, pair("a", "b"))


def test_rows_that_do_not_fit_fail_the_run_and_keep_the_old_partition(platform):
    platform.run(section, "a")

    @dg.asset(key=SECTION, partitions_def=SECTIONS, io_manager_key="tables", code_version="8")
    def broken():
        return materialised(Rows(spot("a").drop("layer")))

    with pytest.raises(ValueError, match="'layer'"):
        dg.materialize([broken], partition_key="a", instance=platform.instance, resources={"tables": platform.tables})
    assert platform.store.partition("section", ("a",)).frame().equals(spot("a"))
