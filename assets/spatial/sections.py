"""Sections of tissue: loaded, validated, and mirrored into the target role."""

import json
from dataclasses import replace

import dagster as dg

from assets.spatial.keys import SECTION, SECTION_AS_TARGET
from io_managers.addresses import partition_key
from io_managers.content import content_hash
from io_managers.table_io_manager import Rows, TableIOManager, materialised
from io_managers.tables import MissingPartition, TablePartition
from partitions import SECTIONS, TARGET_SECTIONS, valid_key
from provenance.lineage import Input
from resources.compute.compute import Compute

SECTION_CHECKS = {
    "schema": "counts are whole numbers, one row for each spot; every array has the section's length",
    "barcodes_unique": "no spot and no gene occurs twice",
    "grid_plausible": "spots lie on distinct grid positions and most have neighbours",
    "labels_known": "every label is one of the registered vocabulary; a section without labels passes with a note",
}


@dg.asset(
    key=SECTION,
    partitions_def=SECTIONS,
    io_manager_key="tables",
    group_name="spatial",
    kinds={"scanpy", "squidpy", "parquet"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(name, asset=SECTION, description=text, blocking=True) for name, text in SECTION_CHECKS.items()
    ],
)
def section(context: dg.AssetExecutionContext, compute: Compute, tables: dg.ResourceParam[TableIOManager]):
    """Counts, positions, labels, neighbour graph and image of one section, validated.

    The source is what `tracebed section add` registered; its files must still have the hashes recorded then.
    """
    key = valid_key(context.partition_key)
    try:
        source = tables.store.partition("section_source", (key,))
    except MissingPartition as error:
        raise dg.Failure(
            f"section {key!r} has no source; register one with `tracebed section add {key} PATH`", allow_retries=False
        ) from error
    result = yield from compute.run(context, "workloads.section", inputs={"source": source})
    files = json.loads(source.frame()["files"].item())
    inputs = [Input.of(source), *(Input("file", path, digest, None, path) for path, digest in files.items())]
    rows = replace(result.rows, files=inputs)
    yield materialised(rows, result.metadata, result.checks)


@dg.asset(
    key=SECTION_AS_TARGET,
    partitions_def=TARGET_SECTIONS,
    io_manager_key="tables",
    ins={"section": dg.AssetIn(SECTION, partition_mapping=dg.IdentityPartitionMapping())},
    backfill_policy=dg.BackfillPolicy.single_run(),
    output_required=False,
    group_name="spatial",
    kinds={"parquet"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec("mirrors_section", asset=SECTION_AS_TARGET, description="same content as the section itself")
    ],
)
def section_as_target(
    context: dg.AssetExecutionContext,
    tables: dg.ResourceParam[TableIOManager],
    section: dict[str, TablePartition],
):
    """The same section in the target role, so that a directed pair has an edge to each of its sections."""
    yield from mirror(context, tables, section, "mirrors_section")


def mirror(context: dg.AssetExecutionContext, tables: TableIOManager, originals: dict[str, TablePartition], check: str):
    """Publish the partitions of another asset unchanged, and check that what is on disk then is the same."""
    yield from tables.publish_each(context, {key: (Rows(each.frame()), each) for key, each in originals.items()})
    asset = context.asset_key.to_user_string()
    written = {key: content_hash(tables.store.partition(*partition_key(asset, key)).frame()) for key in originals}
    differ = sorted(key for key, each in originals.items() if written[key] != each.data_version)
    yield dg.AssetCheckResult(
        check_name=check, passed=not differ, metadata={"differ": differ, "partitions": len(written)}
    )
