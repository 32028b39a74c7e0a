"""Loads and validates one section, and writes its canonical file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from io_managers.content import file_hash
from science.spatial.load import load_section
from science.spatial.section import Section, write_section
from science.spatial.section_checks import SectionError
from workloads.job import Job, open_job


def main() -> None:
    """Run the job."""
    with open_job() as job:
        source = job.input("source").frame().row(0, named=True)
        _unchanged(json.loads(source["files"]))
        job.progress(0.1, "source files have the hashes recorded when the section was added")
        section = load_section(
            Path(source["path"]),
            source["section"],
            labels=source["labels"] and Path(source["labels"]),
            image=source["image"] and Path(source["image"]),
            label_column=source["label_column"],
            known_labels=tuple(source["known_labels"]),
            graph=source["graph"],
        )
        job.progress(0.7, f"{section.n_spots} spots x {section.n_genes} genes")
        _check(job, section, source["known_labels"])
        canonical = job.directory / f"{section.key}.h5ad"
        write_section(section, canonical)
        job.publish(_spots(section, job.keep(canonical)), _describe(section))


def _unchanged(files: dict[str, str]) -> None:
    for path, recorded in files.items():
        if not Path(path).is_file():
            raise SectionError(f"{path}: no such file, though it was there when the section was added; restore it")
        found = file_hash(Path(path))
        if found != recorded:
            raise SectionError(
                f"{path}: found sha256 {found}, expected {recorded}, recorded when the section was added; restore the "
                "file, or register what is there now with `tracebed section add --replace`"
            )


def _spots(section: Section, artifact: str) -> pl.DataFrame:
    n = section.n_spots
    return pl.DataFrame(
        {
            "section": [section.key] * n,
            "barcode": section.barcodes.tolist(),
            "array_row": section.array_row.astype(np.int64),
            "array_col": section.array_col.astype(np.int64),
            "pixel_x": section.pixel[:, 0].astype(np.float64),
            "pixel_y": section.pixel[:, 1].astype(np.float64),
            "layer": pl.Series([layer or None for layer in section.layer.tolist()], dtype=pl.String),
            "sum_umi": section.sum_umi.astype(np.float64),
            "n_neighbours": _degrees(section),
            "simulated": [section.simulated] * n,
            "section_artifact": [artifact] * n,
        }
    )


def _degrees(section: Section) -> np.ndarray:
    return np.diff(section.adjacency.indptr).astype(np.int64)


def _describe(section: Section) -> dict[str, Any]:
    return {
        "spots": section.n_spots,
        "genes": section.n_genes,
        "labelled_spots": int(section.labelled.sum()),
        "layers": ", ".join(sorted(set(section.layer[section.labelled].tolist()))) or "none",
        "median_umi": float(np.median(section.sum_umi)),
        "image": "none" if section.image is None else " x ".join(map(str, section.image.shape[:2])),
        "simulated": section.simulated,
    }


def _check(job: Job, section: Section, known_labels: list[str]) -> None:
    """Hold the section against each rule once more, show the figures, and let nothing that breaks one be published."""
    arrays = (section.array_row, section.array_col, section.pixel, section.layer, section.sum_umi)
    shaped = section.counts.shape == (section.n_spots, section.n_genes) and all(
        len(array) == section.n_spots for array in arrays
    )
    whole = bool((section.counts.data >= 0).all()) and np.issubdtype(section.counts.dtype, np.integer)
    repeated = section.n_spots - len(set(section.barcodes.tolist())), section.n_genes - len(set(section.genes.tolist()))
    positions = set(zip(section.array_row.tolist(), section.array_col.tolist(), strict=True))
    degree = _degrees(section)
    with_neighbours = float((degree > 0).mean())
    found = set(section.layer[section.labelled].tolist())
    results: dict[str, tuple[bool, dict[str, Any]]] = {
        "schema": (bool(shaped and whole), {"spots": section.n_spots, "genes": section.n_genes}),
        "barcodes_unique": (
            repeated == (0, 0),
            {"repeated_barcodes": repeated[0], "repeated_genes": repeated[1]},
        ),
        "grid_plausible": (
            len(positions) == section.n_spots and with_neighbours > 0.5,
            {"spots_with_neighbours": with_neighbours, "mean_degree": float(degree.mean())},
        ),
        "labels_known": (
            found <= set(known_labels),
            {"unlabelled_spots": int((~section.labelled).sum()), "labels": sorted(found), "known": list(known_labels)},
        ),
    }
    for name, (passed, figures) in results.items():
        job.check(name, passed, figures)
    if failed := {name: figures for name, (passed, figures) in results.items() if not passed}:
        raise SectionError(f"section {section.key} fails {failed}; nothing was published. Correct its source files")


if __name__ == "__main__":
    main()
