"""Tables of weights: what bases hold, leaf by leaf."""

from __future__ import annotations

import polars as pl

from io_managers.columns import Column, TableSchema, flag, integer, text

WEIGHTS_TABLES = (
    TableSchema(
        "base_weights",
        "one leaf (array) of a base's weights",
        (
            text("base", "base, as in bases.toml and the asset key"),
            text("leaf", "name of the leaf in the checkpoint"),
            Column("shape", pl.List(pl.Int64()), "shape of the array, empty for a scalar", "elements"),
            text("dtype", "type that it is stored in"),
            integer("elements", "product of the shape", "elements"),
            text("sha256_bf16", "SHA-256 of the row-major little-endian values, floating ones cast to bfloat16"),
            flag("constant", "all elements are the same: it tells nothing"),
            text("path", "the checkpoint that was read: a path, or an artifact of policy/base_checkpoint"),
            text("fingerprint", "one hash of names, shapes and hashes of all leaves of the base"),
        ),
    ),
)
