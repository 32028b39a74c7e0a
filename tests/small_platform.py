"""A platform of four small assets, with real runs: for tests of what is published, recorded and traced."""

import dagster as dg
import polars as pl

from home import Home
from io_managers.catalog import ensure_catalog
from io_managers.table_io_manager import SKIP_MISSING, Rows, TableIOManager, materialised
from io_managers.tables import TablePartition
from partitions import PAIRS, SECTIONS, TARGET_SECTIONS

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
        self.home = home
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
