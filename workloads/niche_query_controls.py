"""Scores the control embeddings against RM-IDEAL for one directed pair."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import polars as pl

from science.spatial.controls import control_embeddings
from workloads.job import open_job
from workloads.niche_query import score, score_frame, scores_markdown
from workloads.spatial_inputs import reference_of, section_of

_SEED = 0


def main() -> None:
    """Run the job."""
    with open_job() as job:
        reference = reference_of(job)
        source = section_of(job, job.input("section").frame())
        target = section_of(job, job.input("section_as_target").frame())
        controls = control_embeddings(source, target, seed=_SEED)
        rows: list[dict[str, Any]] = []
        for index, (name, (z_source, z_target)) in enumerate(controls.items()):
            job.progress(index / len(controls), name)
            columns = {"method": name, "control": True, "seed": _SEED}
            rows += [asdict(each) | columns for each in score(job, reference, z_source, z_target, _SEED)]
        frame = score_frame(job, reference, rows)
        job.publish(frame, {"table": {"raw_value": scores_markdown(frame), "type": "md"}})
        a = dict(
            frame.filter((pl.col("metric") == "A") & (pl.col("layer") == "all")).select("method", "value").iter_rows()
        )
        job.check("random_is_zero", abs(a["random"]) <= 0.05, {"A": a["random"]}, blocking=False)
        job.check("oracle_is_high", a["layer_composition"] >= 0.9, {"A": a["layer_composition"]}, blocking=False)


if __name__ == "__main__":
    main()
