"""Applies the encoders of a variant to one section, and validates what comes out."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import polars as pl

from io_managers.schemas import table
from science.spatial.encoders.base import load_encoder
from science.spatial.validation import CHECKS, EmbeddingReport, validate_embedding
from workloads.job import Job, open_job
from workloads.spatial_inputs import section_of


class InvalidEmbedding(ValueError):
    """An embedding that must not be published."""


class StaleEncoder(ValueError):
    """An encoder that is not the one that `encoders.toml` now describes."""


def main() -> None:
    """Run the job."""
    with open_job() as job:
        spots = job.input("section").frame()
        section = section_of(job, spots)
        fits = job.input("encoder").frame().sort("seed")
        if fits["variant_hash"][0] != job.params["variant_hash"]:
            raise StaleEncoder(
                f"encoder {job.params['variant']} was fitted before its entry in encoders.toml changed; materialise "
                f"encoder/{job.params['variant']} again, then the embeddings of every section"
            )
        frames, reports, attempts = [], {}, []
        for index, fit in enumerate(fits.iter_rows(named=True)):
            job.progress(index / len(fits), f"seed {fit['seed']}")
            encoder = load_encoder(job.artifact(fit["encoder_artifact"]))
            z = encoder.embed(section)
            report = validate_embedding(z, section.n_spots)
            reports[fit["seed"]] = report
            attempts.append(_attempt_row(fit, section.key, report))
            frames.append(
                pl.DataFrame(
                    {
                        "method": [fit["method"]] * section.n_spots,
                        "seed": [fit["seed"]] * section.n_spots,
                        "section": [section.key] * section.n_spots,
                        "barcode": section.barcodes.tolist(),
                        "z": pl.Series(z.tolist(), dtype=pl.List(pl.Float32)),
                        "encoder_artifact": [fit["encoder_artifact"]] * section.n_spots,
                        "gene_share": [encoder.gene_share(section)] * section.n_spots,
                        "section_version": [job.input("section").data_version] * section.n_spots,
                    }
                )
            )
        schema = {column.name: column.dtype for column in table("embedding_attempts").columns}
        pl.DataFrame(attempts, schema=schema).write_parquet(job.directory / "attempts.parquet")
        _report_checks(job, reports)
        _refuse_invalid(section.key, reports)
        frame = pl.concat(frames)
        in_order = frame["barcode"].to_list() == spots["barcode"].to_list() * len(fits)
        job.check("order", in_order, {"spots": len(spots), "seeds": len(fits)})
        if not in_order:
            raise InvalidEmbedding(
                f"the rows of the embedding are not the spots of section {section.key} in its order: its table and its "
                "canonical file differ; materialise the section again"
            )
        cohort = fits["cohort"][0].to_list()
        metadata = {
            "spots": section.n_spots,
            "seeds": [int(seed) for seed in fits["seed"]],
            "gene_share": min(frame["gene_share"].to_list()),
            "encoder_cohort": cohort,
            "projected": section.key not in cohort,
            "encoders": {str(fit["seed"]): fit["encoder_artifact"] for fit in fits.iter_rows(named=True)},
            "encoder_attempts": {str(fit["seed"]): fit["attempts"] for fit in fits.iter_rows(named=True)},
        }
        job.publish(frame, metadata)


def _attempt_row(fit: dict, section: str, report: EmbeddingReport) -> dict:
    return {
        "method": fit["method"],
        "step": "embedding",
        "seed": fit["seed"],
        "attempt": fit["attempt"],
        "fit_seed": fit["fit_seed"],
        "section": section,
        "valid": report.valid,
        "reason": report.reason,
        "measured": json.dumps(report.values),
        "recorded_at": datetime.now(UTC),
    }


def _report_checks(job: Job, reports: dict[int, EmbeddingReport]) -> None:
    for name in CHECKS:
        of_seed = {
            seed: next(check for check in report.checks if check.name == name) for seed, report in reports.items()
        }
        job.check(
            name,
            all(check.passed for check in of_seed.values()),
            {f"seed_{seed}": float(check.value) for seed, check in of_seed.items()}
            | {"limit": float(next(iter(of_seed.values())).limit)},
        )


def _refuse_invalid(section: str, reports: dict[int, EmbeddingReport]) -> None:
    failed = {seed: report.reason for seed, report in reports.items() if not report.valid}
    if failed:
        reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in failed.items())
        raise InvalidEmbedding(
            f"the embedding of section {section} is not valid ({reasons}). Nothing was published; the attempts are in "
            "the table embedding_attempts. Materialise the encoder again with more max_refits or other parameters"
        )


if __name__ == "__main__":
    main()
