"""One encoder variant as three assets: fitted on its cohort, applied to every section, mirrored into the target role.

A fit that collapses is refitted with another seed where it is fitted, never per section: two sections compare only in
the space of one encoder. What stays invalid is never published; every attempt is kept in `embedding_attempts`.
"""

from pathlib import Path

import dagster as dg
import polars as pl

from assets.spatial.keys import SECTION, variant_key
from assets.spatial.sections import mirror
from assets.spatial.variants import EncoderVariant
from io_managers.table_io_manager import TableIOManager, materialised
from io_managers.tables import TablePartition
from partitions import SECTIONS, TARGET_SECTIONS
from resources.compute.compute import Compute
from science.spatial.validation import CHECKS

ATTEMPTS = "attempts.parquet"


def build_encoder_assets(variant: EncoderVariant) -> list[dg.AssetsDefinition]:
    """The assets `encoder/<variant>`, `embedding/<variant>` and `embedding_as_target/<variant>`."""
    return [_encoder(variant), _embedding(variant), _embedding_as_target(variant)]


def _encoder(variant: EncoderVariant) -> dg.AssetsDefinition:
    key = variant_key("encoder", variant.name)

    @dg.asset(
        key=key,
        ins={
            "cohort": dg.AssetIn(SECTION, partition_mapping=dg.SpecificPartitionsPartitionMapping(list(variant.cohort)))
        },
        io_manager_key="tables",
        group_name=variant.group,
        kinds={"python", "scikitlearn"},
        code_version=f"1-{variant.hash}",
        description=(
            f"Encoder `{variant.method}` fitted jointly on cohort {variant.cohort_name} ({', '.join(variant.cohort)}), "
            f"seeds {', '.join(map(str, variant.seeds))}. A collapsed fit is tried again with up to "
            f"{variant.max_refits} other seeds; a new section never refits it."
        ),
        check_specs=[
            dg.AssetCheckSpec(
                "fitted_on_cohort", asset=key, description="fitted on exactly the sections of its cohort"
            ),
            dg.AssetCheckSpec(
                "cohort_embeds",
                asset=key,
                description="every section of the cohort embeds; one that does not gets no embedding",
            ),
        ],
    )
    def encoder(
        context: dg.AssetExecutionContext,
        compute: Compute,
        tables: dg.ResourceParam[TableIOManager],
        cohort: dict[str, TablePartition],
    ):
        params = {
            "variant": variant.name,
            "method": variant.method,
            "seeds": list(variant.seeds),
            "max_refits": variant.max_refits,
            "cohort": list(variant.cohort),
            "variant_hash": variant.hash,
            "method_params": dict(variant.params),
        }
        result = yield from compute.run(
            context,
            "workloads.encoder",
            inputs={"cohort": {section: cohort[section] for section in variant.cohort}},
            params=params,
            needs=variant.needs,
            on_end=lambda directory, _: _keep_attempts(context, tables, variant, directory),
        )
        yield materialised(result.rows, result.metadata, result.checks)

    return encoder


def _embedding(variant: EncoderVariant) -> dg.AssetsDefinition:
    key = variant_key("embedding", variant.name)

    @dg.asset(
        key=key,
        partitions_def=SECTIONS,
        ins={"section": dg.AssetIn(SECTION), "encoder": dg.AssetIn(variant_key("encoder", variant.name))},
        io_manager_key="tables",
        group_name=variant.group,
        kinds={"python", "parquet"},
        code_version=f"1-{variant.hash}",
        description=(
            f"Encoder variant `{variant.name}` applied to one section, validated for every seed. An embedding that "
            "collapsed is not published: its attempts are in the table embedding_attempts."
        ),
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, description=text, blocking=True)
            for name, text in (*CHECKS.items(), ("order", "rows are the section's spots, in its order"))
        ],
    )
    def embedding(
        context: dg.AssetExecutionContext,
        compute: Compute,
        tables: dg.ResourceParam[TableIOManager],
        section: TablePartition,
        encoder: TablePartition,
    ):
        result = yield from compute.run(
            context,
            "workloads.embedding",
            inputs={"section": section, "encoder": encoder},
            params={"variant": variant.name, "variant_hash": variant.hash},
            needs=variant.needs,
            on_end=lambda directory, _: _keep_attempts(context, tables, variant, directory),
        )
        yield materialised(result.rows, result.metadata, result.checks)

    return embedding


def _embedding_as_target(variant: EncoderVariant) -> dg.AssetsDefinition:
    key = variant_key("embedding_as_target", variant.name)

    @dg.asset(
        key=key,
        partitions_def=TARGET_SECTIONS,
        ins={
            "embedding": dg.AssetIn(
                variant_key("embedding", variant.name), partition_mapping=dg.IdentityPartitionMapping()
            )
        },
        io_manager_key="tables",
        backfill_policy=dg.BackfillPolicy.single_run(),
        output_required=False,
        group_name=variant.group,
        kinds={"parquet"},
        code_version="1",
        description=f"The embedding `{variant.name}` in the target role: the edge of a pair to its target's embedding.",
        check_specs=[dg.AssetCheckSpec("mirrors_embedding", asset=key, description="same content as the embedding")],
    )
    def embedding_as_target(
        context: dg.AssetExecutionContext,
        tables: dg.ResourceParam[TableIOManager],
        embedding: dict[str, TablePartition],
    ):
        yield from mirror(context, tables, embedding, "mirrors_embedding")

    return embedding_as_target


def _keep_attempts(
    context: dg.AssetExecutionContext, tables: TableIOManager, variant: EncoderVariant, directory: Path
) -> None:
    """Publish what the job recorded of its attempts, whether it succeeded or not."""
    path = directory / ATTEMPTS
    if not path.exists():
        return
    partition = context.partition_key if context.has_partition_key else ""
    tables.store.publish(
        "embedding_attempts",
        (variant.name, context.run_id, partition or "cohort"),
        pl.read_parquet(path),
        asset=context.asset_key.to_user_string(),
        partition=partition,
        run_id=context.run_id,
    )
