"""Two artifacts: the same bytes, or else the same content, leaf by leaf.

A file can hold the same in other bytes (a compressed stream, an order of keys), so files of other bytes are opened:
arrays of npz, HDF5, safetensors and pth, entries of JSON, pixels of a PNG, decoded frames of an mp4. A file of another
kind has one leaf: its bytes.
"""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from replay.refusals import ReplayFailed
from replay.values import differing_elements, largest_deviation
from science.robots.rollouts.episode import TIMES

VOLATILE_LEAVES: Mapping[str, frozenset[str]] = {
    # An episode's times, "the only fields that differ when it is run again" (science/robots/rollouts/episode.py).
    ".npz": frozenset(f"record.{name}" for name in TIMES),
}
"""Leaves that say when or how fast, by the file's suffix; not compared."""

Leaves = Iterator[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class LeafDifference:
    """The first element at which a leaf differs.

    Attributes
    ----------
    leaf, index : where; no index for a leaf that only one side has, or of another shape or type.
    recorded, replayed : the values there, or shapes and types.
    count, of : elements that differ, of how many.
    deviation : largest absolute difference within the leaf; None where they are no numbers.
    """

    leaf: str
    index: tuple[int, ...]
    recorded: Any
    replayed: Any
    count: int
    of: int
    deviation: float | None = None


def differing_leaves(recorded: Path, replayed: Path) -> list[LeafDifference]:
    """The first difference of each leaf that differs, in the order of the leaves.

    Raises
    ------
    ReplayFailed
        When a file cannot be read as what its suffix says.
    """
    ours, theirs = (dict(_kept_leaves(path)) for path in (recorded, replayed))
    found = [LeafDifference(leaf, (), "present", "missing", 1, 1) for leaf in ours if leaf not in theirs]
    found += [LeafDifference(leaf, (), "missing", "present", 1, 1) for leaf in theirs if leaf not in ours]
    both = (_leaf_difference(leaf, values, theirs[leaf]) for leaf, values in ours.items() if leaf in theirs)
    return found + [each for each in both if each is not None]


def _leaf_difference(leaf: str, a: np.ndarray, b: np.ndarray) -> LeafDifference | None:
    if a.shape != b.shape or a.dtype != b.dtype:
        if a.dtype.kind == b.dtype.kind == "U" and a.shape == b.shape == ():  # a text of another length
            return LeafDifference(leaf, (), str(a), str(b), 1, 1)
        return LeafDifference(leaf, (), f"{a.dtype} {list(a.shape)}", f"{b.dtype} {list(b.shape)}", 1, 1)
    differing = differing_elements(a, b)
    if not differing.size:
        return None
    index = tuple(int(each) for each in np.unravel_index(differing[0], a.shape))
    deviation = largest_deviation(a, b) if a.dtype.kind in "fiu" else None
    ours, theirs = (each[index] if each.dtype.hasobject else each[index].item() for each in (a, b))
    return LeafDifference(leaf, index, ours, theirs, differing.size, a.size, deviation)


def _kept_leaves(path: Path) -> Leaves:
    volatile = VOLATILE_LEAVES.get(path.suffix, frozenset())
    try:
        for name, values in _READERS.get(path.suffix, _bytes)(path):
            if name not in volatile:
                yield name, values
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, subprocess.CalledProcessError) as error:
        raise ReplayFailed(f"artifact {path} cannot be read as {path.suffix or 'a file'}: {error}") from error


def npz_leaves(path: Path) -> Leaves:
    """Arrays of an npz; a text that is JSON by its entries."""
    with np.load(path, allow_pickle=False) as content:
        for name in content.files:
            values = content[name]
            if values.dtype.kind == "U" and values.shape == () and str(values).startswith(("{", "[")):
                yield from _flat(name, json.loads(str(values)))
            else:
                yield name, values


def _hdf5(path: Path) -> Leaves:
    import h5py

    def attributes(name: str, item: Any) -> Leaves:
        for key, value in item.attrs.items():
            yield f"{name}@{key}", np.asarray(value)

    with h5py.File(path, "r") as file:
        names: list[str] = []
        file.visit(names.append)
        yield from attributes("", file)
        for name in names:
            item = file[name]
            if isinstance(item, h5py.Dataset):
                yield name, np.asarray(item[()])
            yield from attributes(name, item)


def _safetensors(path: Path) -> Leaves:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        for key, value in sorted((file.metadata() or {}).items()):
            yield f"@{key}", np.asarray(value)
        for name in sorted(file.keys()):
            yield name, file.get_tensor(name)


def _torch(path: Path) -> Leaves:
    from science.robots.bc_rnn.checkpoint import read_checkpoint

    yield from _flat("", read_checkpoint(path))


def _png(path: Path) -> Leaves:
    from PIL import Image

    with Image.open(path) as image:
        yield "pixels", np.asarray(image)


def _mp4(path: Path) -> Leaves:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-an", "-f", "framemd5", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    frames = [line.rsplit(",", 1)[-1].strip() for line in said.splitlines() if not line.startswith("#")]
    yield "frames (MD5 of the decoded picture)", np.array(frames, dtype="U32")


def _json(path: Path) -> Leaves:
    yield from _flat("", json.loads(path.read_text()))


def _bytes(path: Path) -> Leaves:
    yield "bytes", np.frombuffer(path.read_bytes(), dtype=np.uint8)


def _flat(name: str, value: Any) -> Leaves:
    """Entries of nested dictionaries and lists, and arrays of tensors, by dotted names."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _flat(f"{name}[{index}]", each)
    elif hasattr(value, "detach"):  # a tensor of torch
        yield name, value.detach().contiguous().numpy()
    else:
        yield name, value if isinstance(value, np.ndarray) else np.asarray("null" if value is None else value)


_READERS: Mapping[str, Callable[[Path], Leaves]] = {
    ".npz": npz_leaves,
    ".h5": _hdf5,
    ".h5ad": _hdf5,
    ".hdf5": _hdf5,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".png": _png,
    ".mp4": _mp4,
    ".json": _json,
}
