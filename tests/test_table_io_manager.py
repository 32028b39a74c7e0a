"""What assets publish and load: data versions are content, and lineage is what was really read."""

import dagster as dg
import polars as pl
import pytest

from home import Home
from io_managers.catalog import ensure_catalog
from io_managers.content import content_hash
from io_managers.table_io_manager import SKIP_MISSING, Rows, TableIOManager, materialised, table_of
from io_managers.tables import TablePartition
from partitions import PAIRS, SECTIONS, TARGET_SECTIONS, add_section_key, pair

SECTION = dg.AssetKey(["spatial", "section"])
MIRROR = dg.AssetKey(["spatial", "section_as_target"])


def spot(section: str, umi: float = 1.0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "section": [section],
            "barcode": ["b"],
            "array_row": [0],
            "array_col": [0],
            "pixel_x": [0.0],
            "pixel_y": [0.0],
            "layer": ["WM"],
            "sum_umi": [umi],
            "n_neighbours": [1],
            "simulated": [True],
            "section_artifact": ["none"],
        }
    )


class SectionConfig(dg.Config):
    umi: float = 1.0


@dg.asset(key=SECTION, partitions_def=SECTIONS, io_manager_key="tables", code_version="7")
def section(context: dg.AssetExecutionContext, config: SectionConfig):
    return materialised(Rows(spot(context.partition_key, config.umi)))


@dg.asset(
    key=MIRROR,
    partitions_def=TARGET_SECTIONS,
    io_manager_key="tables",
    ins={"section": dg.AssetIn(SECTION, partition_mapping=dg.IdentityPartitionMapping())},
    backfill_policy=dg.BackfillPolicy.single_run(),
    output_required=False,
    code_version="1",
)
def mirror(
    context: dg.AssetExecutionContext,
    tables: dg.ResourceParam[TableIOManager],
    section: dict[str, TablePartition],
):
    yield from tables.publish_each(context, {key: (Rows(each.frame()), each) for key, each in section.items()})


@dg.asset(
    key=["spatial", "rm_ideal"],
    partitions_def=PAIRS,
    io_manager_key="tables",
    code_version="1",
    ins={"section": dg.AssetIn(SECTION), "section_as_target": dg.AssetIn(MIRROR)},
)
def rm_ideal(section: TablePartition, section_as_target: TablePartition):
    row = {
        "source": section.partition,
        "target": section_as_target.partition,
        "side": "source",
        "barcode": "b",
        "layer": "WM",
        "niche": 0,
        "similarity_artifact": "none",
        "hops": 3,
        "iterations": 3,
        "cache_key": "none",
        "source_version": section.data_version,
        "target_version": section_as_target.data_version,
    }
    return materialised(Rows(pl.DataFrame([row])))


@dg.asset(
    key=["benchmark", "spatial"],
    io_manager_key="tables",
    code_version="1",
    ins={"pairs": dg.AssetIn(["spatial", "rm_ideal"], metadata=SKIP_MISSING)},
)
def benchmark(pairs):
    row = {
        "method": ",".join(sorted(pairs)),
        "control": False,
        "simulated": True,
        "layer": "all",
        "metric": "A",
        "hops": 3,
        "iterations": 3,
        "mean": None,
        "lowest": None,
        "highest": None,
        "n_pairs": len(pairs),
        "n_seeds": 1,
        "n_queries": 0,
    }
    types = {"mean": pl.Float64, "lowest": pl.Float64, "highest": pl.Float64}
    return materialised(Rows(pl.DataFrame([row], schema_overrides=types)))


ASSETS = [section, mirror, rm_ideal, benchmark]


class Platform:
    def __init__(self, home: Home, instance: dg.DagsterInstance):
        ensure_catalog(home)
        self.tables = TableIOManager(home=str(home.root))
        self.store, self.instance = self.tables.store, instance

    def run(self, asset, partition=None, config=None, **tags):
        return dg.materialize(
            ASSETS,
            selection=[asset],
            partition_key=partition,
            instance=self.instance,
            resources={"tables": self.tables},
            tags=tags or None,
            run_config={"ops": {"spatial__section": {"config": config}}} if config else None,
        )

    def run_range(self, asset, first, last):
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return self.run(asset, **tags)

    def event(self, key, partition=None):
        wanted = dg.AssetRecordsFilter(key, asset_partitions=partition and [partition])
        return self.instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization


@pytest.fixture
def platform(tmp_path):
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        for key in ("a", "b", "c"):
            add_section_key(instance, key)
        yield Platform(Home(tmp_path / "home"), instance)


def test_keys_name_tables_and_folders():
    assert table_of(dg.AssetKey(["spatial", "embedding", "pca"])) == ("embedding", ("pca",))
    assert table_of(dg.AssetKey(["benchmark", "spatial"])) == ("benchmark_spatial", ())


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
