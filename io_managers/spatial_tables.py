"""Tables of the spatial stream."""

from __future__ import annotations

import polars as pl

from io_managers.columns import Column, TableSchema, flag, integer, number, text, time

_SECTION = (
    text("section", "partition key of the section"),
    text("barcode", "spot barcode, unique within a section"),
    integer("array_row", "row on the Visium grid"),
    integer("array_col", "column on the Visium grid; neighbours in a row are 2 apart"),
    number("pixel_x", "x position", "full-resolution pixels"),
    number("pixel_y", "y position", "full-resolution pixels"),
    text("layer", "annotated layer; null where the spot has none", nullable=True),
    number("sum_umi", "UMIs over all genes of the spot", "UMI"),
    integer("n_neighbours", "neighbours in the section's graph", "spots"),
    flag("simulated", "true where no tissue stands behind the numbers"),
    text("section_artifact", "canonical h5ad: counts, graph and image of the whole section"),
)

_EMBEDDING = (
    text("method", "encoder variant of encoders.toml"),
    integer("seed", "seed that the variant names"),
    text("section", "partition key of the section"),
    text("barcode", "spot barcode"),
    Column("z", pl.List(pl.Float32()), "embedding of the spot"),
    text("encoder_artifact", "the fitted encoder that made it; two embeddings compare only if these agree"),
    number("gene_share", "share of the encoder's genes that the section has", "0..1"),
    text("section_version", "data version of the section that was embedded"),
)

_ATTEMPT = (
    text("method", "encoder variant"),
    text("step", "encoder (a fit on the cohort) or embedding (applied to one section)"),
    integer("seed", "seed that the variant names"),
    integer("attempt", "0 is the first fit; refits follow with other seeds"),
    integer("fit_seed", "seed that this attempt was fitted with"),
    text("section", "section that was embedded to validate the attempt"),
    flag("valid", "every validation check passed"),
    text("reason", "the checks that failed, with value and limit; empty where valid"),
    text("measured", "JSON: what each validation check measured"),
    time("recorded_at", "when the attempt was recorded"),
)

SPATIAL_TABLES = (
    TableSchema(
        "section_source",
        "one registered section: where its bytes come from",
        (
            text("section", "partition key"),
            text("kind", "space_ranger or h5ad"),
            text("path", "the Space Ranger folder or the h5ad"),
            text("labels", "table of labels, if given", nullable=True),
            text("image", "histology image beside an h5ad, if given", nullable=True),
            text("label_column", "obs column of an h5ad that holds the labels"),
            Column("known_labels", pl.List(pl.String()), "the labels that may occur"),
            text("graph", "hex, knn or delaunay"),
            text("source_hash", "SHA-256 over every file that decides the section"),
            text("files", "JSON: file -> SHA-256"),
            flag("simulated", "true where no tissue stands behind the numbers"),
            integer("n_labelled", "labelled spots; a section without any takes part in no pair", "spots"),
        ),
        identity=("section",),
    ),
    TableSchema("section", "one spot of a section", _SECTION, identity=("section", "barcode")),
    TableSchema(
        "section_as_target",
        "one spot of a section in the target role (a mirror)",
        _SECTION,
        identity=("section", "barcode"),
    ),
    TableSchema(
        "encoder",
        "one fitted encoder: a variant at one seed",
        (
            text("method", "encoder variant of encoders.toml"),
            integer("seed", "seed that the variant names"),
            integer("fit_seed", "seed that the published fit used; another than `seed` after a refit"),
            integer("attempt", "the attempt that was published; 0 is the first fit"),
            integer("attempts", "fits that were made"),
            Column("cohort", pl.List(pl.String()), "sections that it was fitted on"),
            integer("n_genes", "genes that the encoder reads", "genes"),
            integer("dimension", "length of an embedding"),
            text("encoder_artifact", "the fitted encoder (safetensors)"),
            text("variant_hash", "hash of the variant's entry in encoders.toml: method, cohort, seeds, parameters"),
        ),
        identity=("method", "seed"),
    ),
    TableSchema(
        "embedding", "one spot embedded by one encoder", _EMBEDDING, identity=("method", "seed", "section", "barcode")
    ),
    TableSchema(
        "embedding_as_target",
        "one embedded spot in the target role (a mirror)",
        _EMBEDDING,
        identity=("method", "seed", "section", "barcode"),
    ),
    TableSchema(
        "embedding_attempts",
        "one validation of one fit on one section",
        _ATTEMPT,
        identity=("method", "seed", "section", "step", "attempt"),
        versioned=False,
    ),
    TableSchema(
        "rm_ideal",
        "one labelled spot of a pair and the distinct niche it has",
        (
            text("source", "source section"),
            text("target", "target section"),
            text("side", "source or target"),
            text("barcode", "spot barcode"),
            text("layer", "annotated layer"),
            integer("niche", "row (source) or column (target) of the similarity matrix"),
            text("similarity_artifact", "safetensors: similarity [source niches, target niches], 0..1"),
            integer("hops", "radius of a niche", "hops"),
            integer("iterations", "Weisfeiler-Lehman iterations"),
            text("cache_key", "hash of all that decides the similarity"),
            text("source_version", "data version of the source section it was computed on"),
            text("target_version", "data version of the target section it was computed on"),
        ),
        identity=("source", "target", "side", "barcode"),
    ),
    TableSchema(
        "niche_query",
        "one metric of one layer, for one direction, method and seed",
        (
            text("source", "section whose spots are the queries"),
            text("target", "section that is searched"),
            text("method", "encoder variant or control"),
            flag("control", "true for random and oracle controls"),
            integer("seed", "seed of the encoder or control"),
            text("layer", "layer of the query spots; `all` for all"),
            text("metric", "A, A_positive, B, precision_at_50, same_label_at_50, concentration"),
            number("value", "the metric; null where no query spot counts", nullable=True),
            integer("n", "query spots behind the value", "spots"),
            number("ci_low", "95 % interval, spatial block bootstrap", nullable=True),
            number("ci_high", "95 % interval, spatial block bootstrap", nullable=True),
            number("gene_share_source", "share of the encoder's genes in the source", "0..1", nullable=True),
            number("gene_share_target", "share of the encoder's genes in the target", "0..1", nullable=True),
            text("encoder_artifact", "the encoder on both sides; null for a control", nullable=True),
            integer("hops", "niche radius of the RM-IDEAL reference", "hops"),
            integer("iterations", "Weisfeiler-Lehman iterations of the reference"),
            flag("simulated", "true where a section is simulated"),
        ),
        identity=("source", "target", "method", "seed", "layer", "metric", "simulated", "hops", "iterations"),
    ),
    TableSchema(
        "niche_figure",
        "one figure of one direction",
        (
            text("source", "source section"),
            text("target", "target section"),
            text("method", "encoder variant"),
            integer("seed", "seed that is shown"),
            text("kind", "maps or layers"),
            text("figure_artifact", "the PNG"),
            integer("size_bytes", "size of the PNG", "bytes"),
        ),
        identity=("source", "target", "method", "seed", "kind"),
    ),
    TableSchema(
        "benchmark_spatial",
        "one method on all its pairs: the leaderboard",
        (
            text("method", "encoder variant or control"),
            flag("control", "true for random and oracle controls"),
            flag("simulated", "true where the sections are simulated"),
            text("layer", "layer of the query spots; `all` for all"),
            text("metric", "as in niche_query"),
            integer("hops", "niche radius of the RM-IDEAL reference", "hops"),
            integer("iterations", "Weisfeiler-Lehman iterations of the reference"),
            number("mean", "mean over directed pairs and seeds", nullable=True),
            number("lowest", "lowest of them", nullable=True),
            number("highest", "highest of them", nullable=True),
            integer("n_pairs", "directed pairs of different sections", "pairs"),
            integer("n_seeds", "seeds"),
            integer("n_queries", "query spots over all pairs of one seed", "spots"),
        ),
        identity=("method", "layer", "metric", "simulated", "hops", "iterations"),
    ),
)
