"""Fingerprints of weights: one hash a leaf, taken so that the same weights have the same hash however they are stored.

A leaf is hashed as row-major little-endian bytes. Floating leaves are cast to bfloat16 first: frozen leaves of a
fine-tune are stored in it, the base that they come from often in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
import polars as pl

from provenance.weights.leaves import Weights, WeightsError, leaves

_PIECE_ELEMENTS = 1 << 22
ROW_SCHEMA: Mapping[str, pl.DataType] = {
    "leaf": pl.String(),
    "shape": pl.List(pl.Int64()),
    "dtype": pl.String(),
    "elements": pl.Int64(),
    "sha256_bf16": pl.String(),
    "constant": pl.Boolean(),
}


@dataclass(frozen=True)
class LeafFingerprint:
    """What one leaf holds. Two are equal where name, shape and hash are, whatever they are stored in.

    Attributes
    ----------
    leaf : its name in the checkpoint.
    shape : of the array; () for a scalar.
    dtype : as stored; not compared.
    elements : product of the shape.
    sha256_bf16 : hash of its values, floating ones as bfloat16; 64 hexadecimal characters.
    constant : all elements are the same (zeros, ones, a scalar): what every model may begin with proves nothing.
    """

    leaf: str
    shape: tuple[int, ...]
    dtype: str = field(compare=False)
    elements: int
    sha256_bf16: str
    constant: bool

    @property
    def floating(self) -> bool:
        """Whether its values were cast to bfloat16."""
        return "float" in self.dtype


@dataclass(frozen=True)
class Fingerprint(Mapping[str, LeafFingerprint]):
    """The fingerprints of all leaves of a checkpoint, by leaf name."""

    leaves: Mapping[str, LeafFingerprint]

    def __getitem__(self, leaf: str) -> LeafFingerprint:
        return self.leaves[leaf]

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)

    @cached_property
    def digest(self) -> str:
        """One hash of names, shapes and hashes of all leaves, whatever their order: equal for the same weights."""
        digest = hashlib.sha256()
        for name in sorted(self.leaves):
            leaf = self.leaves[name]
            digest.update(f"{name}\0{leaf.shape}\0{leaf.sha256_bf16}\n".encode())
        return digest.hexdigest()

    def frame(self) -> pl.DataFrame:
        """One row a leaf, by name: columns of `ROW_SCHEMA`."""
        rows = [
            (each.leaf, list(each.shape), each.dtype, each.elements, each.sha256_bf16, each.constant)
            for each in (self.leaves[name] for name in sorted(self.leaves))
        ]
        return pl.DataFrame(rows, schema=ROW_SCHEMA, orient="row")

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> Fingerprint:
        """The fingerprint that `frame` gave, or that rows of table `base_weights` hold.

        Raises
        ------
        WeightsError
            When the rows carry a digest (column `fingerprint`) that is not theirs.
        """
        rows = frame.select(list(ROW_SCHEMA)).iter_rows(named=True)
        found = cls.of_leaves(LeafFingerprint(**{**row, "shape": tuple(row["shape"])}) for row in rows)
        said = set(frame["fingerprint"]) if "fingerprint" in frame.columns else {found.digest}
        if said != {found.digest}:
            raise WeightsError(
                f"found leaves whose digest is {found.digest}, expected {sorted(said)}, as their rows say; fingerprint "
                "the checkpoint again"
            )
        return found

    @classmethod
    def of_leaves(cls, found: Iterable[LeafFingerprint]) -> Fingerprint:
        """The fingerprint of these leaves."""
        return cls({each.leaf: each for each in found})


def fingerprint(weights: Weights) -> Fingerprint:
    """Read all leaves of a checkpoint, one at a time, and hash them.

    Raises
    ------
    WeightsError
        When a leaf is damaged, cut or missing.
    """
    return Fingerprint.of_leaves(leaf_fingerprint(name, values) for name, values in leaves(weights))


def leaf_fingerprint(name: str, values: np.ndarray) -> LeafFingerprint:
    """Hash one leaf, any shape and type."""
    flat = np.ascontiguousarray(values).reshape(-1)
    digest, first, constant = hashlib.sha256(), None, True
    for start in range(0, flat.size, _PIECE_ELEMENTS):
        piece = _as_hashed(flat[start : start + _PIECE_ELEMENTS])
        digest.update(piece.view(np.uint8).data)
        first = piece[0] if first is None else first
        constant = constant and bool((piece == first).all())
    return LeafFingerprint(name, tuple(values.shape), values.dtype.name, flat.size, digest.hexdigest(), constant)


def as_float32(values: np.ndarray) -> np.ndarray:
    """Floating values in float32: of float64, what a checkpoint in float32 would hold."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite there, too
        return values.astype(np.float32, copy=False)


def _as_hashed(values: np.ndarray) -> np.ndarray:
    if is_floating(values.dtype):
        values = values if values.dtype == ml_dtypes.bfloat16 else as_float32(values).astype(ml_dtypes.bfloat16)
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a type is a floating one, those of ml_dtypes included."""
    return dtype.kind == "f" or "float" in dtype.name
