"""What each table holds: names, types, nullability, units and meaning of its columns.

A frame that does not fit is refused with the difference. `tracebed tables NAME` prints these texts, and the catalog
carries them as DuckDB comments. Policy tables join this registry with the policy stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl


class SchemaError(ValueError):
    """A frame that does not fit its table; the message lists every difference."""


class UnknownTable(ValueError):
    """A table that does not exist."""


@dataclass(frozen=True)
class Column:
    """One column: its type, meaning, unit ('' where there is none) and whether it may be null."""

    name: str
    dtype: pl.DataType
    meaning: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class TableSchema:
    """One table: what a row is, and its columns in order."""

    name: str
    row: str
    columns: tuple[Column, ...]

    def empty(self) -> pl.DataFrame:
        """A frame without rows in this schema, system columns included."""
        return pl.DataFrame(schema={column.name: column.dtype for column in (*self.columns, *SYSTEM_COLUMNS)})

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with its columns in the schema's order.

        Raises
        ------
        SchemaError
            Naming missing, unknown and wrongly typed columns, nulls where none may be, and NaN.
        """
        problems = list(self._differences(frame))
        if problems:
            raise SchemaError(
                f"this frame does not fit table {self.name!r}:\n  - "
                + "\n  - ".join(problems)
                + f"\nNothing was written. `tracebed tables {self.name}` prints the schema."
            )
        return frame.select([column.name for column in self.columns])

    def _differences(self, frame: pl.DataFrame) -> Iterable[str]:
        expected = {column.name: column for column in self.columns}
        for name in frame.columns:
            if name not in expected:
                yield f"column {name!r} ({frame.schema[name]}) is not in the schema"
        for name, column in expected.items():
            if name not in frame.columns:
                yield f"column {name!r} ({column.dtype}) is missing"
                continue
            found = frame.get_column(name)
            if found.dtype != column.dtype:
                yield f"column {name!r} is {found.dtype}, expected {column.dtype}"
                continue
            if not column.nullable and found.null_count():
                yield f"column {name!r} has {found.null_count()} nulls, expected none"
            if found.dtype.is_float() and (bad := int((~found.drop_nulls().is_finite()).sum())):
                yield f"column {name!r} has {bad} values that are NaN or infinite, expected finite numbers"


def _text(name: str, meaning: str, nullable: bool = False) -> Column:
    return Column(name, pl.String(), meaning, nullable=nullable)


def _integer(name: str, meaning: str, unit: str = "") -> Column:
    return Column(name, pl.Int64(), meaning, unit)


def _number(name: str, meaning: str, unit: str = "", nullable: bool = False) -> Column:
    return Column(name, pl.Float64(), meaning, unit, nullable)


def _flag(name: str, meaning: str) -> Column:
    return Column(name, pl.Boolean(), meaning)


def _time(name: str, meaning: str) -> Column:
    return Column(name, pl.Datetime("us", "UTC"), meaning, "UTC")


SYSTEM_COLUMNS = (
    _text("run_id", "Dagster run that published this row"),
    _text("data_version", "content hash of the partition that this row belongs to (these two columns left out)"),
)

_SECTION = (
    _text("section", "partition key of the section"),
    _text("barcode", "spot barcode, unique within a section"),
    _integer("array_row", "row on the Visium grid"),
    _integer("array_col", "column on the Visium grid; neighbours in a row are 2 apart"),
    _number("pixel_x", "x position", "full-resolution pixels"),
    _number("pixel_y", "y position", "full-resolution pixels"),
    _text("layer", "annotated layer; null where the spot has none", nullable=True),
    _number("sum_umi", "UMIs over all genes of the spot", "UMI"),
    _integer("n_neighbours", "neighbours in the section's graph", "spots"),
    _flag("simulated", "true where no tissue stands behind the numbers"),
    _text("section_artifact", "canonical h5ad: counts, graph and image of the whole section"),
)

_EMBEDDING = (
    _text("method", "encoder variant of encoders.toml"),
    _integer("seed", "seed that the variant names"),
    _text("section", "partition key of the section"),
    _text("barcode", "spot barcode"),
    Column("z", pl.List(pl.Float32()), "embedding of the spot"),
    _text("encoder_artifact", "the fitted encoder that made it; two embeddings compare only if these agree"),
    _number("gene_share", "share of the encoder's genes that the section has", "0..1"),
    _text("section_version", "data version of the section that was embedded"),
)

_ATTEMPT = (
    _text("method", "encoder variant"),
    _text("step", "encoder (a fit on the cohort) or embedding (applied to one section)"),
    _integer("seed", "seed that the variant names"),
    _integer("attempt", "0 is the first fit; refits follow with other seeds"),
    _integer("fit_seed", "seed that this attempt was fitted with"),
    _text("section", "section that was embedded to validate the attempt"),
    _flag("valid", "every validation check passed"),
    _text("reason", "the checks that failed, with value and limit; empty where valid"),
    _text("measured", "JSON: what each validation check measured"),
    _time("recorded_at", "when the attempt was recorded"),
)

TABLES: dict[str, TableSchema] = {
    schema.name: schema
    for schema in (
        TableSchema(
            "section_source",
            "one registered section: where its bytes come from",
            (
                _text("section", "partition key"),
                _text("kind", "space_ranger or h5ad"),
                _text("path", "the Space Ranger folder or the h5ad"),
                _text("labels", "table of labels, if given", nullable=True),
                _text("image", "histology image beside an h5ad, if given", nullable=True),
                _text("label_column", "obs column of an h5ad that holds the labels"),
                Column("known_labels", pl.List(pl.String()), "the labels that may occur"),
                _text("graph", "hex, knn or delaunay"),
                _text("source_hash", "SHA-256 over every file that decides the section"),
                _text("files", "JSON: file -> SHA-256"),
                _flag("simulated", "true where no tissue stands behind the numbers"),
                _integer("n_labelled", "labelled spots; a section without any takes part in no pair", "spots"),
            ),
        ),
        TableSchema("section", "one spot of a section", _SECTION),
        TableSchema("section_as_target", "one spot of a section in the target role (a mirror)", _SECTION),
        TableSchema(
            "encoder",
            "one fitted encoder: a variant at one seed",
            (
                _text("method", "encoder variant of encoders.toml"),
                _integer("seed", "seed that the variant names"),
                _integer("fit_seed", "seed that the published fit used; another than `seed` after a refit"),
                _integer("attempt", "the attempt that was published; 0 is the first fit"),
                _integer("attempts", "fits that were made"),
                Column("cohort", pl.List(pl.String()), "sections that it was fitted on"),
                _integer("n_genes", "genes that the encoder reads", "genes"),
                _integer("dimension", "length of an embedding"),
                _text("encoder_artifact", "the fitted encoder (safetensors)"),
                _text(
                    "variant_hash", "hash of the variant's entry in encoders.toml: method, cohort, seeds, parameters"
                ),
            ),
        ),
        TableSchema("embedding", "one spot embedded by one encoder", _EMBEDDING),
        TableSchema("embedding_as_target", "one embedded spot in the target role (a mirror)", _EMBEDDING),
        TableSchema("embedding_attempts", "one validation of one fit on one section", _ATTEMPT),
        TableSchema(
            "rm_ideal",
            "one labelled spot of a pair and the distinct niche it has",
            (
                _text("source", "source section"),
                _text("target", "target section"),
                _text("side", "source or target"),
                _text("barcode", "spot barcode"),
                _text("layer", "annotated layer"),
                _integer("niche", "row (source) or column (target) of the similarity matrix"),
                _text("similarity_artifact", "safetensors: similarity [source niches, target niches], 0..1"),
                _integer("hops", "radius of a niche", "hops"),
                _integer("iterations", "Weisfeiler-Lehman iterations"),
                _text("cache_key", "hash of all that decides the similarity"),
                _text("source_version", "data version of the source section it was computed on"),
                _text("target_version", "data version of the target section it was computed on"),
            ),
        ),
        TableSchema(
            "niche_query",
            "one metric of one layer, for one direction, method and seed",
            (
                _text("source", "section whose spots are the queries"),
                _text("target", "section that is searched"),
                _text("method", "encoder variant or control"),
                _flag("control", "true for random and oracle controls"),
                _integer("seed", "seed of the encoder or control"),
                _text("layer", "layer of the query spots; `all` for all"),
                _text("metric", "A, A_positive, B, precision_at_50, same_label_at_50, concentration"),
                _number("value", "the metric; null where no query spot counts", nullable=True),
                _integer("n", "query spots behind the value", "spots"),
                _number("ci_low", "95 % interval, spatial block bootstrap", nullable=True),
                _number("ci_high", "95 % interval, spatial block bootstrap", nullable=True),
                _number("gene_share_source", "share of the encoder's genes in the source", "0..1", nullable=True),
                _number("gene_share_target", "share of the encoder's genes in the target", "0..1", nullable=True),
                _text("encoder_artifact", "the encoder on both sides; null for a control", nullable=True),
                _integer("hops", "niche radius of the RM-IDEAL reference", "hops"),
                _integer("iterations", "Weisfeiler-Lehman iterations of the reference"),
                _flag("simulated", "true where a section is simulated"),
            ),
        ),
        TableSchema(
            "niche_figure",
            "one figure of one direction",
            (
                _text("source", "source section"),
                _text("target", "target section"),
                _text("method", "encoder variant"),
                _integer("seed", "seed that is shown"),
                _text("kind", "maps or layers"),
                _text("figure_artifact", "the PNG"),
                _integer("size_bytes", "size of the PNG", "bytes"),
            ),
        ),
        TableSchema(
            "benchmark_spatial",
            "one method on all its pairs: the leaderboard",
            (
                _text("method", "encoder variant or control"),
                _flag("control", "true for random and oracle controls"),
                _flag("simulated", "true where the sections are simulated"),
                _text("layer", "layer of the query spots; `all` for all"),
                _text("metric", "as in niche_query"),
                _integer("hops", "niche radius of the RM-IDEAL reference", "hops"),
                _integer("iterations", "Weisfeiler-Lehman iterations of the reference"),
                _number("mean", "mean over directed pairs and seeds", nullable=True),
                _number("lowest", "lowest of them", nullable=True),
                _number("highest", "highest of them", nullable=True),
                _integer("n_pairs", "directed pairs of different sections", "pairs"),
                _integer("n_seeds", "seeds"),
                _integer("n_queries", "query spots over all pairs of one seed", "spots"),
            ),
        ),
        TableSchema(
            "lineage",
            "one input of one materialisation (one row with null inputs where there was none)",
            (
                _text("asset", "asset that was materialised"),
                _text("partition", "its partition; empty for none"),
                _text("content_hash", "its data version"),
                _text("code_version", "code version of the asset"),
                _text("address", "file that holds it"),
                _text("input_asset", "asset, or `file` for a source file", nullable=True),
                _text("input_partition", "partition that was read; empty for none", nullable=True),
                _text("input_hash", "content hash of what was read", nullable=True),
                _text("input_run_id", "run that had published it", nullable=True),
                _text("input_address", "file that was read", nullable=True),
                _text("job_key", "job that computed it; null where the run itself did", nullable=True),
                _text("node", "host that computed it"),
                _text(
                    "git_commit", "commit of the code, `+dirty` where files differed; null outside git", nullable=True
                ),
                _text("versions", "JSON: versions of the libraries that decide the numbers"),
                _time("recorded_at", "when the record was written, just before publication"),
            ),
        ),
    )
}


def table(name: str) -> TableSchema:
    """The schema of a table.

    Raises
    ------
    UnknownTable
        Naming the tables that exist.
    """
    if name not in TABLES:
        raise UnknownTable(f"there is no table {name!r}; the tables are {', '.join(sorted(TABLES))}")
    return TABLES[name]
