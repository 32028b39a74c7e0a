"""The spatial leaderboard: every method and control over all pairs that exist."""

from collections.abc import Collection

import dagster as dg
import polars as pl

from assets.spatial.keys import CONTROLS, variant_key
from assets.spatial.variants import EncoderVariant
from home import Home
from io_managers.catalog import superseded
from io_managers.table_io_manager import SKIP_MISSING, Rows, TableIOManager, materialised
from io_managers.tables import TablePartition

BENCHMARK = dg.AssetKey(["benchmark", "spatial"])
_GROUP = ["method", "control", "simulated", "layer", "metric", "hops", "iterations"]


def build_benchmark(variants: tuple[EncoderVariant, ...]) -> dg.AssetsDefinition:
    """The asset `benchmark/spatial` over all variants and the controls."""
    keys = {variant.name: variant_key("niche_query", variant.name) for variant in variants}
    keys["controls"] = CONTROLS

    @dg.asset(
        key=BENCHMARK,
        ins={name: dg.AssetIn(key, metadata=SKIP_MISSING) for name, key in keys.items()},
        io_manager_key="tables",
        group_name="benchmark",
        kinds={"polars", "parquet"},
        code_version="1",
        description=(
            "Leaderboard of all embeddings and controls: mean, lowest and highest of each metric over directed pairs "
            "of different sections and seeds. Pairs that were not materialised are named, not filled in."
        ),
        check_specs=[
            dg.AssetCheckSpec(
                "controls_present", asset=BENCHMARK, description="every pair of a method has its controls"
            ),
            dg.AssetCheckSpec(
                "none_superseded",
                asset=BENCHMARK,
                description="every score is of the encoder that is fitted now; methods refitted since are named",
            ),
        ],
    )
    def benchmark_spatial(
        context: dg.AssetExecutionContext,
        tables: dg.ResourceParam[TableIOManager],
        **queries: dict[str, TablePartition],
    ):
        rows = [each.frame() for partitions in queries.values() for each in partitions.values()]
        if not rows:
            raise dg.Failure("no niche query exists yet; materialise niche_query/* first", allow_retries=False)
        every = pl.concat(rows).filter(pl.col("source") != pl.col("target"))
        board = leaderboard(every)
        pairs = {
            name: {key for key in partitions if len(set(key.split("|"))) == 2} for name, partitions in queries.items()
        }
        without = sorted(set().union(*pairs.values()) - pairs["controls"])
        missing = _missing(pairs)
        old = superseded_methods(tables.home_folders(), every)
        return materialised(
            Rows(board),
            {
                "table": dg.MetadataValue.md(board_markdown(board, old)),
                "pairs": len(set().union(*pairs.values())),
                "pairs_missing": dg.MetadataValue.json(missing),
            },
            [
                dg.AssetCheckResult(check_name="controls_present", passed=not without, metadata={"without": without}),
                dg.AssetCheckResult(check_name="none_superseded", passed=not old, metadata={"superseded": sorted(old)}),
            ],
        )

    return benchmark_spatial


def leaderboard(queries: pl.DataFrame) -> pl.DataFrame:
    """Mean, lowest and highest value of each metric over directed pairs and seeds, best methods first."""
    one_seed = pl.col("seed") == pl.col("seed").min()
    board = queries.group_by(_GROUP).agg(
        mean=pl.col("value").mean(),
        lowest=pl.col("value").min(),
        highest=pl.col("value").max(),
        n_pairs=pl.struct("source", "target").n_unique().cast(pl.Int64),
        n_seeds=pl.col("seed").n_unique().cast(pl.Int64),
        n_queries=pl.col("n").filter(one_seed).sum(),
    )
    return board.sort("simulated", "metric", "layer", "mean", "method", descending=[False, False, False, True, False])


def superseded_methods(home: Home, queries: pl.DataFrame) -> set[str]:
    """Methods of which some score is of an encoder that was fitted again since."""
    reasons = superseded(home, "niche_query", queries)
    return {method for method, reason in zip(queries["method"], reasons, strict=True) if reason is not None}


def board_markdown(board: pl.DataFrame, old: Collection[str]) -> str:
    """The all-layer rows of a leaderboard as a Markdown table, one row a method; ``old`` ones are called superseded."""
    every = board.filter(pl.col("layer") == "all")
    metrics = sorted(every["metric"].unique())
    queries = every.group_by("method", "simulated", "hops", "iterations").agg(n=pl.col("n_queries").max())
    index = ["method", "control", "simulated", "hops", "iterations", "n_pairs"]
    wide = every.pivot(on="metric", index=index, values="mean")
    wide = wide.join(queries, on=["method", "simulated", "hops", "iterations"])
    wide = wide.sort(
        "simulated", "hops", "iterations", "control", "A", "method", descending=[False] * 4 + [True, False]
    )
    head = "| method | k, H | pairs | queries | "
    lines = [head + " | ".join(metrics) + " |", "|---|---|---:|---:|" + "---:|" * len(metrics)]
    for row in wide.iter_rows(named=True):
        note = (" (control)" if row["control"] else "") + (" (simulated)" if row["simulated"] else "")
        note += " (SUPERSEDED)" if row["method"] in old else ""
        cells = ["" if row[metric] is None else f"{row[metric]:.3f}" for metric in metrics]
        reference = f"{row['hops']}, {row['iterations']}"
        lines.append(
            f"| {row['method']}{note} | {reference} | {row['n_pairs']} | {row['n']} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _missing(pairs: dict[str, set[str]]) -> dict[str, list[str]]:
    """Pairs whose controls exist but whose niche query does not, by method (methods without any pair left out)."""
    return {name: sorted(pairs["controls"] - each) for name, each in pairs.items() if each and pairs["controls"] - each}
