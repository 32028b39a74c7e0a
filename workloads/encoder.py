"""Fits an encoder on its cohort, once for each seed, and validates every fit on every section of the cohort."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from io_managers.schemas import table
from science.spatial.encoders.base import save_encoder
from science.spatial.fitting import Attempt, EmbeddingCollapsed, fit_validated
from workloads.job import open_job
from workloads.spatial_inputs import section_of


def main() -> None:
    """Run the job."""
    with open_job() as job:
        params = job.params
        variant, seeds = params["variant"], params["seeds"]
        cohort = [section_of(job, each.frame()) for each in job.inputs("cohort").values()]
        rows, attempts = [], []
        for index, seed in enumerate(seeds):

            def progress(fraction: float, message: str, done: int = index, seed: int = seed) -> None:
                job.progress((done + fraction) / len(seeds), f"seed {seed}: {message}")

            try:
                encoder, tried = fit_validated(
                    params["method"],
                    cohort,
                    seed=seed,
                    params=params["method_params"],
                    max_refits=params["max_refits"],
                    progress=progress,
                )
            except EmbeddingCollapsed as collapsed:
                attempts += [_attempt_row(variant, seed, each) for each in collapsed.attempts]
                _write_attempts(job.directory, attempts)
                raise
            attempts += [_attempt_row(variant, seed, each) for each in tried]
            _write_attempts(job.directory, attempts)
            path = job.directory / f"encoder-{seed}.safetensors"
            save_encoder(encoder, params["method"], path)
            rows.append(
                {
                    "method": variant,
                    "seed": seed,
                    "fit_seed": encoder.seed,
                    "attempt": next(each.attempt for each in tried if each.seed == encoder.seed),
                    "attempts": 1 + max(each.attempt for each in tried),
                    "cohort": [section.key for section in cohort],
                    "n_genes": len(encoder.genes),
                    "dimension": encoder.embed(cohort[0]).shape[1],
                    "encoder_artifact": job.keep(path),
                    "variant_hash": params["variant_hash"],
                }
            )
        frame = pl.DataFrame(rows, schema={column.name: column.dtype for column in table("encoder").columns})
        lost = _invalid_at_the_published_fit(rows, attempts)
        job.publish(frame, {"fits": len(attempts) // len(cohort), "refits": sum(row["attempts"] - 1 for row in rows)})
        fitted_on = sorted(section.key for section in cohort)
        job.check("fitted_on_cohort", fitted_on == sorted(params["cohort"]), {"cohort": fitted_on}, blocking=False)
        job.check("cohort_embeds", not lost, {"without_valid_embedding": lost}, blocking=False)


def _attempt_row(variant: str, seed: int, attempt: Attempt) -> dict:
    return {
        "method": variant,
        "step": "encoder",
        "seed": seed,
        "attempt": attempt.attempt,
        "fit_seed": attempt.seed,
        "section": attempt.section,
        "valid": attempt.valid,
        "reason": attempt.reason,
        "measured": json.dumps(dict(attempt.values)),
        "recorded_at": datetime.now(UTC),
    }


def _write_attempts(directory: Path, attempts: list[dict]) -> None:
    schema = {column.name: column.dtype for column in table("embedding_attempts").columns}
    pl.DataFrame(attempts, schema=schema).write_parquet(directory / "attempts.parquet")


def _invalid_at_the_published_fit(rows: list[dict], attempts: list[dict]) -> list[str]:
    published = {(row["seed"], row["fit_seed"]) for row in rows}
    return sorted(
        {each["section"] for each in attempts if (each["seed"], each["fit_seed"]) in published and not each["valid"]}
    )


if __name__ == "__main__":
    main()
