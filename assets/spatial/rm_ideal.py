"""RM-IDEAL: the reference niche similarity of a directed pair, in closed form."""

import hashlib
import json

import dagster as dg
from pydantic import Field

from assets.spatial.keys import RM_IDEAL, SECTION, SECTION_AS_TARGET
from io_managers.artifacts import ArtifactError
from io_managers.table_io_manager import Rows, TableIOManager, materialised
from io_managers.tables import DamagedPartition, MissingPartition, TablePartition
from partitions import PAIRS
from resources.compute.compute import Compute
from resources.compute.interface import Needs

CODE_VERSION = "1"


class RmIdealConfig(dg.Config):
    """Parameters of the reference."""

    hops: int = Field(3, ge=0, description="radius of a niche, in hops")
    iterations: int = Field(3, ge=0, description="Weisfeiler-Lehman iterations")
    max_similarity_gb: float = Field(8.0, gt=0, description="largest matrix of distinct niches that is kept, GB")
    oracle_pairs: int = Field(60, ge=1, description="pairs that are held against optimal transport (POT)")


@dg.asset(
    key=RM_IDEAL,
    partitions_def=PAIRS,
    ins={"section": dg.AssetIn(SECTION), "section_as_target": dg.AssetIn(SECTION_AS_TARGET)},
    io_manager_key="tables",
    group_name="spatial",
    kinds={"numba", "parquet"},
    code_version=CODE_VERSION,
    check_specs=[
        dg.AssetCheckSpec(
            "agrees_with_pot",
            asset=RM_IDEAL,
            blocking=True,
            description="a sample of pairs equals 1 - W1 by ot.emd2 within 1e-6 (float32 storage)",
        ),
        dg.AssetCheckSpec(
            "in_unit_interval", asset=RM_IDEAL, blocking=True, description="every similarity is in [0, 1]"
        ),
    ],
)
def rm_ideal(
    context: dg.AssetExecutionContext,
    config: RmIdealConfig,
    compute: Compute,
    tables: dg.ResourceParam[TableIOManager],
    section: TablePartition,
    section_as_target: TablePartition,
):
    """Similarity of every labelled source niche to every labelled target niche (1 - Wasserstein distance of their
    Weisfeiler-Lehman labels). Kept factored over distinct niches; reused where nothing that decides it has changed.
    """
    cache_key = _cache_key(config, section, section_as_target)
    cached = _cached(context, tables, section, section_as_target, cache_key)
    if cached is not None:
        checks = [dg.AssetCheckResult(check_name=name, passed=True, metadata=_CACHED) for name in _CHECKED]
        yield materialised(cached, _CACHED | {"cache_key": cache_key}, checks)
        return
    result = yield from compute.run(
        context,
        "workloads.rm_ideal",
        inputs={"section": section, "section_as_target": section_as_target},
        params=config.model_dump() | {"cache_key": cache_key},
        needs=Needs(cpus=1, memory_gb=4),
    )
    yield materialised(result.rows, result.metadata, result.checks)


_CHECKED = ("agrees_with_pot", "in_unit_interval")
_CACHED = {
    "cached": "the same sections, parameters and code: the published similarity was kept, and its bytes verified"
}


def _cache_key(config: RmIdealConfig, source: TablePartition, target: TablePartition) -> str:
    """Everything that decides the similarity: both sections by content (labels and graph included), and the method."""
    decides = {
        "source": source.data_version,
        "target": target.data_version,
        "hops": config.hops,
        "iterations": config.iterations,
        "labels": "niche-local, labelled spots only",
        "code_version": CODE_VERSION,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _cached(
    context: dg.AssetExecutionContext,
    tables: TableIOManager,
    source: TablePartition,
    target: TablePartition,
    cache_key: str,
) -> Rows | None:
    """The published rows where nothing that decides them has changed; what fails a check is never published."""
    try:
        rows = tables.store.partition("rm_ideal", (source.partition, target.partition)).frame()
        if rows["cache_key"][0] != cache_key:
            return None
        tables.artifacts.verified(rows["similarity_artifact"][0])
    except MissingPartition:
        return None
    except (DamagedPartition, ArtifactError) as damage:
        context.log.warning(f"computed again, because what was published cannot be used: {damage}")
        return None
    return Rows(rows)
