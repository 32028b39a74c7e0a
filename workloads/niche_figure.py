"""Draws the figures of one directed pair."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import polars as pl

from science.spatial.figures import choose_query_spots, layer_bars, niche_maps
from science.spatial.metrics import Score, query_values
from workloads.job import Job, open_job
from workloads.spatial_inputs import embedding_of, reference_of, section_of, vectors_of

_MIN_PNG_BYTES = 10_000
_CONTROLS_SHOWN = ("random", "layer_one_hot", "layer_composition")


def main() -> None:
    """Run the job."""
    with open_job() as job:
        seed = job.params["seed"]
        scores = job.input("niche_query").frame().filter(pl.col("seed") == seed)
        if scores.is_empty():
            raise ValueError(
                f"niche_query has no rows of seed {seed}; choose one of the variant's seeds in encoders.toml"
            )
        method = scores["method"][0]
        shown = f"{method} (SUPERSEDED: {job.params['superseded']})" if job.params["superseded"] else method
        figures = {"maps": _maps(job, shown, seed), "layers": _bars(job, scores, shown)}
        rows: list[dict[str, Any]] = []
        metadata: dict[str, Any] = {"seed": seed}
        for kind, png in figures.items():
            path = job.directory / f"{kind}.png"
            path.write_bytes(png)
            rows.append(
                {
                    "source": scores["source"][0],
                    "target": scores["target"][0],
                    "method": method,
                    "seed": seed,
                    "kind": kind,
                    "figure_artifact": job.keep(path),
                    "size_bytes": len(png),
                }
            )
            image = f"![{kind}](data:image/png;base64,{base64.b64encode(png).decode()})"
            metadata[kind] = {"raw_value": image, "type": "md"}
        job.publish(pl.DataFrame(rows), metadata)
        sizes = {kind: len(png) for kind, png in figures.items()}
        job.check("not_blank", min(sizes.values()) >= _MIN_PNG_BYTES, {"bytes": sizes}, blocking=False)


def _maps(job: Job, method: str, seed: int) -> bytes:
    reference = reference_of(job)
    source = section_of(job, job.input("section").frame())
    target = section_of(job, job.input("section_as_target").frame())
    z_source = vectors_of(embedding_of(job, "embedding", "section"), seed, reference.source)
    z_target = vectors_of(embedding_of(job, "embedding_as_target", "section_as_target"), seed, reference.target)
    source_layer, target_layer = (side["layer"].to_numpy().astype(str) for side in (reference.source, reference.target))
    correlation = query_values(z_source, z_target, reference.similarity, source_layer, target_layer)["A"]
    medians = choose_query_spots(source_layer, correlation)
    wanted = [layer for layer in job.params["layers"] if layer in medians]
    if not wanted:
        raise ValueError(
            f"none of the layers {job.params['layers']} has a query in {source.key}; it has {sorted(medians)}: name "
            "some of these in the config of niche_figure"
        )
    queries = np.array([medians[layer] for layer in wanted])
    return niche_maps(
        source,
        target,
        _spots_of(source.barcodes, reference.source)[queries],
        _spots_of(target.barcodes, reference.target),
        reference.similarity.rows(queries),
        _cosine(z_source[queries], z_target),
        method=method,
        hops=reference.hops,
        note="Each query is the spot whose A is the median of its layer: neither the best case nor the worst.",
    )


def _spots_of(barcodes: np.ndarray, side: pl.DataFrame) -> np.ndarray:
    position = {barcode: index for index, barcode in enumerate(barcodes.tolist())}
    return np.array([position[barcode] for barcode in side["barcode"]])


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a.astype(np.float64), b.astype(np.float64))]
    return unit[0] @ unit[1].T


def _bars(job: Job, scores: pl.DataFrame, method: str) -> bytes:
    controls = job.input("controls").frame()
    ranked = next(name for name in scores["metric"].unique().sort() if name.startswith("precision_at_"))
    return layer_bars(
        _as_scores(scores),
        {name: _as_scores(controls.filter(pl.col("method") == name)) for name in _CONTROLS_SHOWN},
        method=method,
        source=scores["source"][0],
        target=scores["target"][0],
        simulated=bool(scores["simulated"][0]),
        metrics=("A", ranked),
    )


def _as_scores(rows: pl.DataFrame) -> list[Score]:
    return [Score(*row) for row in rows.select("layer", "metric", "value", "n", "ci_low", "ci_high").iter_rows()]


if __name__ == "__main__":
    main()
