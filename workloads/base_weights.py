"""Fingerprints the weights of one base, leaf by leaf."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from io_managers.schemas import table
from provenance.weights.fingerprint import Fingerprint, leaf_fingerprint
from provenance.weights.readers import open_weights
from workloads.job import Job, open_job


def main() -> None:
    """Run the job."""
    with open_job() as job:
        path, where = _place(job)
        weights = open_weights(path)
        names = list(weights.names())
        job.progress(0.0, f"{len(names)} leaves of a checkpoint of {weights.format}")
        found = []
        for index, name in enumerate(names, 1):
            found.append(leaf_fingerprint(name, weights.read(name)))
            job.progress(index / len(names), name)
        fingerprint = Fingerprint.of_leaves(found)
        _check(job, fingerprint)
        rows = fingerprint.frame().with_columns(
            base=pl.lit(job.params["base"]), path=pl.lit(where), fingerprint=pl.lit(fingerprint.digest)
        )
        job.publish(
            rows.select([column.name for column in table("base_weights").columns]),
            {
                "format": weights.format,
                "leaves": len(fingerprint),
                "elements": sum(leaf.elements for leaf in fingerprint.values()),
                "fingerprint": fingerprint.digest,
            },
        )


def _place(job: Job) -> tuple[Path, str]:
    """The base's checkpoint, and what it is called: a path, or the artifact of one that was trained here."""
    if job.params["path"] is not None:
        return Path(job.params["path"]), job.params["path"]
    name = job.input("checkpoint").frame().filter("chosen")["checkpoint_artifact"][0]
    return job.artifact(name), name


def _check(job: Job, fingerprint: Fingerprint) -> None:
    constant = [name for name, leaf in fingerprint.items() if leaf.constant]
    job.check(
        "tells_apart",
        len(constant) < len(fingerprint),
        {"leaves": len(fingerprint), "constant_leaves": len(constant)},
    )


if __name__ == "__main__":
    main()
