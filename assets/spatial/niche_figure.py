"""Figures of a directed pair: niches on the tissue, and metrics per layer, inline in the UI."""

import dagster as dg

from assets.spatial.keys import CONTROLS, RM_IDEAL, SECTION, SECTION_AS_TARGET, variant_key
from assets.spatial.variants import EncoderVariant
from io_managers.table_io_manager import materialised
from io_managers.tables import TablePartition
from partitions import PAIRS
from resources.compute.compute import Compute


class NicheFigureConfig(dg.Config):
    """What the maps show."""

    seed: int | None = None
    layers: list[str] = ["Layer1", "Layer3", "Layer5", "WM"]  # noqa: RUF012 - pydantic copies it


def build_niche_figure(variant: EncoderVariant) -> dg.AssetsDefinition:
    """The asset `niche_figure/<variant>`."""
    key = variant_key("niche_figure", variant.name)

    @dg.asset(
        key=key,
        partitions_def=PAIRS,
        ins={
            "rm_ideal": dg.AssetIn(RM_IDEAL),
            "section": dg.AssetIn(SECTION),
            "section_as_target": dg.AssetIn(SECTION_AS_TARGET),
            "encoder": dg.AssetIn(variant_key("encoder", variant.name)),
            "embedding": dg.AssetIn(variant_key("embedding", variant.name)),
            "embedding_as_target": dg.AssetIn(variant_key("embedding_as_target", variant.name)),
            "niche_query": dg.AssetIn(variant_key("niche_query", variant.name)),
            "controls": dg.AssetIn(CONTROLS),
        },
        io_manager_key="tables",
        group_name=variant.group,
        kinds={"matplotlib"},
        code_version="1",
        description=(
            f"For one directed pair: query niches, their RM-IDEAL and the similarity of `{variant.name}` side "
            "by side on the tissue, and every layer's metrics beside the controls."
        ),
        check_specs=[dg.AssetCheckSpec("not_blank", asset=key, description="each figure is an image with content")],
    )
    def niche_figure(
        context: dg.AssetExecutionContext,
        config: NicheFigureConfig,
        compute: Compute,
        rm_ideal: TablePartition,
        section: TablePartition,
        section_as_target: TablePartition,
        encoder: TablePartition,
        embedding: TablePartition,
        embedding_as_target: TablePartition,
        niche_query: TablePartition,
        controls: TablePartition,
    ):
        scored = set(niche_query.frame()["encoder_artifact"].drop_nulls())
        refitted = not scored <= set(encoder.frame()["encoder_artifact"])
        result = yield from compute.run(
            context,
            "workloads.niche_figure",
            inputs={
                "rm_ideal": rm_ideal,
                "section": section,
                "section_as_target": section_as_target,
                "embedding": embedding,
                "embedding_as_target": embedding_as_target,
                "niche_query": niche_query,
                "controls": controls,
            },
            params={
                "seed": variant.seeds[0] if config.seed is None else config.seed,
                "layers": config.layers,
                "superseded": "its encoder was fitted again" if refitted else "",
            },
        )
        yield materialised(result.rows, result.metadata, result.checks)

    return niche_figure
