"""Reads a checkpoint folder that was packed into one tar, as if it lay there unpacked."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from provenance.weights.leaves import WeightsError
from provenance.weights.orbax_reader import OrbaxWeights

MAGIC, MAGIC_AT = b"ustar", 257


class TarWeights:
    """The orbax folder in an uncompressed tar; it is unpacked into a temporary folder that goes with this object.

    Raises
    ------
    WeightsError
        For a tar that is cut or has members that are no plain files, and as `OrbaxWeights`.
    """

    def __init__(self, path: Path):
        self.path = path
        self._folder = tempfile.TemporaryDirectory(prefix="weights-")
        try:
            with tarfile.open(path, "r:") as archive:
                archive.extractall(self._folder.name, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise WeightsError(
                f"found {path} cut, or with members that are no plain files ({error}), expected a checkpoint folder "
                "in a tar; copy it again"
            ) from error
        try:
            self._weights = OrbaxWeights(Path(self._folder.name))
        except WeightsError as error:
            raise self._named(error) from error
        self.format = self._weights.format

    def names(self) -> Sequence[str]:
        """Names of the leaves, as orbax has them."""
        return self._weights.names()

    def read(self, name: str) -> np.ndarray:
        """One leaf."""
        try:
            return self._weights.read(name)
        except WeightsError as error:
            raise self._named(error) from error

    def _named(self, error: WeightsError) -> WeightsError:
        """The error with the tar's path in place of the temporary folder's."""
        resolved = str(Path(self._folder.name).resolve())
        return WeightsError(str(error).replace(resolved, str(self.path)).replace(self._folder.name, str(self.path)))
