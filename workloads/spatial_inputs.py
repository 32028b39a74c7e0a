"""What several spatial workloads read: sections, the reference of a pair, and embeddings in the reference's order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from science.spatial.rm_ideal import FactoredSimilarity
from science.spatial.section import Section, read_section
from science.spatial.validation import validate_embedding
from workloads.job import Job


def section_of(job: Job, rows: pl.DataFrame) -> Section:
    """The whole section that rows of `section` point to, after its bytes were verified."""
    return read_section(job.artifact(rows["section_artifact"][0]))


@dataclass(frozen=True)
class Reference:
    """RM-IDEAL of a pair, and the spots of each side in its order.

    Attributes
    ----------
    similarity : the factored matrix.
    source, target : rows of table `rm_ideal` of each side, in the order of the matrix's spots.
    """

    similarity: FactoredSimilarity
    source: pl.DataFrame
    target: pl.DataFrame

    @property
    def hops(self) -> int:
        return int(self.source["hops"][0])

    @property
    def iterations(self) -> int:
        return int(self.source["iterations"][0])


def reference_of(job: Job) -> Reference:
    """The input `rm_ideal`."""
    from safetensors.numpy import load_file

    rows = job.input("rm_ideal").frame()
    for name, version in (("section", "source_version"), ("section_as_target", "target_version")):
        _same_version(job, name, rows[version][0], "RM-IDEAL")
    source, target = (rows.filter(pl.col("side") == side) for side in ("source", "target"))
    similarity = load_file(job.artifact(rows["similarity_artifact"][0]))["similarity"]
    niches = [side["niche"].to_numpy().astype(np.int32) for side in (source, target)]
    return Reference(FactoredSimilarity(similarity, *niches), source, target)


class MixedVersions(ValueError):
    """Inputs that were made from different versions of a section."""


def _same_version(job: Job, section: str, used: str, what: str) -> None:
    current = job.input(section)
    if current.data_version != used:
        raise MixedVersions(
            f"{what} was made from version {used[:12]} of section {current.partition}, which is now "
            f"{current.data_version[:12]}; materialise it again"
        )


def embedding_of(job: Job, name: str, section: str) -> pl.DataFrame:
    """The rows of an embedding input, after it was held against the section that it must have been made from."""
    rows = job.input(name).frame()
    _same_version(job, section, rows["section_version"][0], f"embedding {rows['method'][0]}")
    return rows


def vectors_of(embedding: pl.DataFrame, seed: int, spots: pl.DataFrame) -> np.ndarray:
    """Embedding of given spots at one seed, joined by barcode, and validated again: whoever reads one checks it.

    Returns
    -------
    float32 ``[len(spots), d]``.

    Raises
    ------
    ValueError
        When a spot of the reference has no embedding, or the embedding has collapsed.
    """
    joined = spots.select("barcode").join(
        embedding.filter(pl.col("seed") == seed).select("barcode", "z"), on="barcode", how="left", maintain_order="left"
    )
    if missing := joined["z"].null_count():
        raise ValueError(
            f"{missing} of {len(spots)} labelled spots have no embedding at seed {seed}: the embedding and the "
            "RM-IDEAL reference belong to different versions of the section; materialise both again"
        )
    z = np.stack(joined["z"].to_list()).astype(np.float32)
    report = validate_embedding(z, len(spots))
    if not report.valid:
        raise ValueError(
            f"the embedding of section {embedding['section'][0]} at seed {seed} is not valid: {report.reason}. "
            "Materialise it again"
        )
    return z
