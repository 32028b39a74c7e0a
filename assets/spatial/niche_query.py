"""Niche queries: how well an embedding's similarity agrees with RM-IDEAL, per layer and direction.

Controls (random, and oracles made from the labels) are a variant of their own in the same table, so that every method
stands beside them.
"""

import dagster as dg
from pydantic import Field

from assets.spatial.keys import CONTROLS, RM_IDEAL, SECTION, SECTION_AS_TARGET, variant_key
from assets.spatial.variants import EncoderVariant
from io_managers.table_io_manager import materialised
from io_managers.tables import TablePartition
from partitions import PAIRS
from resources.compute.compute import Compute

_REFERENCE = {
    "rm_ideal": dg.AssetIn(RM_IDEAL),
    "section": dg.AssetIn(SECTION),
    "section_as_target": dg.AssetIn(SECTION_AS_TARGET),
}


class NicheQueryConfig(dg.Config):
    """Parameters of the metrics."""

    k: int = Field(50, ge=1, description="K of Precision@K, same-label@K and concentration")
    n_bootstrap: int = Field(1000, ge=100, description="resamples behind an interval")


def build_niche_query(variant: EncoderVariant) -> dg.AssetsDefinition:
    """The asset `niche_query/<variant>`."""
    key = variant_key("niche_query", variant.name)

    @dg.asset(
        key=key,
        partitions_def=PAIRS,
        ins={
            **_REFERENCE,
            "embedding": dg.AssetIn(variant_key("embedding", variant.name)),
            "embedding_as_target": dg.AssetIn(variant_key("embedding_as_target", variant.name)),
        },
        io_manager_key="tables",
        group_name=variant.group,
        kinds={"numba", "parquet"},
        code_version="1",
        description=(
            f"Metrics of embedding `{variant.name}` against RM-IDEAL for one directed pair: A, A on S > 0, B, "
            "Precision@K, same-label@K and concentration, per layer, with n and intervals."
        ),
        check_specs=[
            dg.AssetCheckSpec(
                "same_encoder", asset=key, blocking=True, description="one fitted encoder embedded both sections"
            ),
            dg.AssetCheckSpec(
                "enough_queries", asset=key, description="every layer's value stands on at least 30 query spots"
            ),
        ],
    )
    def niche_query(
        context: dg.AssetExecutionContext,
        config: NicheQueryConfig,
        compute: Compute,
        rm_ideal: TablePartition,
        section: TablePartition,
        section_as_target: TablePartition,
        embedding: TablePartition,
        embedding_as_target: TablePartition,
    ):
        result = yield from compute.run(
            context,
            "workloads.niche_query",
            inputs={
                "rm_ideal": rm_ideal,
                "section": section,
                "section_as_target": section_as_target,
                "embedding": embedding,
                "embedding_as_target": embedding_as_target,
            },
            params=config.model_dump(),
        )
        yield materialised(result.rows, result.metadata, result.checks)

    return niche_query


@dg.asset(
    key=CONTROLS,
    partitions_def=PAIRS,
    ins=_REFERENCE,
    io_manager_key="tables",
    group_name="spatial",
    kinds={"numba", "parquet"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec("random_is_zero", asset=CONTROLS, description="a random embedding's A is within 0.05 of 0"),
        dg.AssetCheckSpec("oracle_is_high", asset=CONTROLS, description="the 3-hop layer composition's A is above 0.9"),
    ],
)
def niche_query_controls(
    context: dg.AssetExecutionContext,
    config: NicheQueryConfig,
    compute: Compute,
    rm_ideal: TablePartition,
    section: TablePartition,
    section_as_target: TablePartition,
):
    """The same metrics for embeddings that need no encoder: random, one-hot layer, and 3-hop layer composition without
    and with a little noise. They bound what any method can reach.
    """
    result = yield from compute.run(
        context,
        "workloads.niche_query_controls",
        inputs={"rm_ideal": rm_ideal, "section": section, "section_as_target": section_as_target},
        params=config.model_dump(),
    )
    yield materialised(result.rows, result.metadata, result.checks)
