"""Scores an embedding against RM-IDEAL for one directed pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from io_managers.schemas import table
from science.spatial.bootstrap import spatial_blocks
from science.spatial.metrics import Score, niche_query
from workloads.job import Job, open_job
from workloads.spatial_inputs import Reference, embedding_of, reference_of, vectors_of

MIN_QUERIES = 30


class MixedEncoders(ValueError):
    """Two embeddings that were not made by one fitted encoder: their cosine means nothing."""


def main() -> None:
    """Run the job."""
    with open_job() as job:
        reference = reference_of(job)
        source = embedding_of(job, "embedding", "section")
        target = embedding_of(job, "embedding_as_target", "section_as_target")
        encoders = _one_encoder_a_seed(job, source, target)
        rows: list[dict[str, Any]] = []
        for index, (seed, encoder) in enumerate(encoders.items()):
            job.progress(index / len(encoders), f"seed {seed}")
            z_source = vectors_of(source, seed, reference.source)
            z_target = vectors_of(target, seed, reference.target)
            scores = score(job, reference, z_source, z_target, seed)
            columns = {
                "method": source["method"][0],
                "control": False,
                "seed": seed,
                "gene_share_source": gene_share(source, seed),
                "gene_share_target": gene_share(target, seed),
                "encoder_artifact": encoder,
            }
            rows += [asdict(each) | columns for each in scores]
        frame = score_frame(job, reference, rows)
        job.publish(
            frame,
            {
                "table": {"raw_value": scores_markdown(frame), "type": "md"},
                "gene_share_source": min(row["gene_share_source"] for row in rows),
                "gene_share_target": min(row["gene_share_target"] for row in rows),
            },
        )
        few = frame.filter((pl.col("metric") == "A") & (pl.col("n") < MIN_QUERIES)).select("layer", "n").unique()
        job.check("enough_queries", few.is_empty(), {"few": few.to_dicts()}, blocking=False)


def _one_encoder_a_seed(job: Job, source: pl.DataFrame, target: pl.DataFrame) -> dict[int, str]:
    encoders = [dict(side.select("seed", "encoder_artifact").unique().iter_rows()) for side in (source, target)]
    job.check("same_encoder", encoders[0] == encoders[1], {"source": str(encoders[0]), "target": str(encoders[1])})
    if encoders[0] != encoders[1]:
        raise MixedEncoders(
            f"the embeddings of {source['section'][0]} and {target['section'][0]} come from different fitted encoders "
            f"({encoders[0]} and {encoders[1]}); a cosine between spaces that were not fitted together means nothing: "
            "materialise both embeddings again from the encoder that is there now"
        )
    return dict(sorted(encoders[0].items()))


def gene_share(embedding: pl.DataFrame, seed: int) -> float:
    """Share of the encoder's genes that the embedded section has."""
    return float(embedding.filter(pl.col("seed") == seed)["gene_share"][0])


def score(job: Job, reference: Reference, z_source, z_target, seed: int) -> list[Score]:
    """Metrics of one embedding, with intervals over spatial blocks of the source."""
    spots = reference.source.join(
        job.input("section").frame().select("barcode", "array_row", "array_col"),
        on="barcode",
        how="left",
        maintain_order="left",
    )
    return niche_query(
        z_source,
        z_target,
        reference.similarity,
        reference.source["layer"].to_numpy().astype(str),
        reference.target["layer"].to_numpy().astype(str),
        spatial_blocks(spots["array_row"].to_numpy(), spots["array_col"].to_numpy()),
        k=job.params["k"],
        n_bootstrap=job.params["n_bootstrap"],
        seed=seed,
    )


def score_frame(job: Job, reference: Reference, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of table `niche_query`, with what all of them share."""
    simulated = [bool(job.input(name).frame()["simulated"][0]) for name in ("section", "section_as_target")]
    constants = {
        "source": reference.source["source"][0],
        "target": reference.source["target"][0],
        "hops": reference.hops,
        "iterations": reference.iterations,
        "simulated": any(simulated),
    }
    schema = {column.name: column.dtype for column in table("niche_query").columns}
    return pl.DataFrame([{**row, **constants} for row in rows], schema=schema)


def scores_markdown(frame: pl.DataFrame) -> str:
    """Scores as a Markdown table: a row a layer and method, a column a metric; means over seeds, with A's interval."""
    metrics = frame["metric"].unique(maintain_order=True).to_list()
    lines = ["| method | layer | n | " + " | ".join(metrics) + " |", "|---|---|---:|" + "---:|" * len(metrics)]
    for (method, layer), group in frame.group_by("method", "layer", maintain_order=True):
        n = group.filter(pl.col("metric") == "A")["n"][0]
        cells = [_cell(group.filter(pl.col("metric") == metric)) for metric in metrics]
        lines.append(f"| {method} | {layer} | {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(scores: pl.DataFrame) -> str:
    means = scores.select(pl.col("value", "ci_low", "ci_high").mean()).row(0)
    if means[0] is None:
        return ""
    interval = "" if means[1] is None else f" ({means[1]:.2f} to {means[2]:.2f})"
    return f"{means[0]:.3f}{interval}"


if __name__ == "__main__":
    main()
