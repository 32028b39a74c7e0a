"""One error for every way in which an HDF5 file can be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from science.spatial.section_checks import SectionError, section_error


@contextmanager
def reading_hdf5(path: Path, expected: str, to_do: str) -> Iterator[None]:
    """Turn whatever h5py, anndata or scanpy raises on a truncated or altered file into a SectionError that names it.

    The classes are those seen with truncated files (OSError) and with files in which random bytes were changed.
    """
    from anndata._io.specs.registry import IORegistryError  # what read_h5ad raises; it has no public name

    try:
        yield
    except SectionError:
        raise
    except (
        OSError,
        RuntimeError,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
        IORegistryError,
    ) as error:
        raise section_error(path, f"a file that cannot be read ({error})", expected, to_do) from error
