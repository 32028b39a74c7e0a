"""Reads safetensors: one file, or a folder of shards. Leaves are mapped from the file, bfloat16 and float8 included."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from provenance.weights.leaves import WeightsError, by_name

_DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "C64": np.complex64,
}
_INDEX = "*.safetensors.index.json"
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")


@dataclass(frozen=True)
class _Place:
    """Where a leaf lies: its file, type, shape and first byte."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class SafetensorsWeights:
    """The tensors of one file or of all shards of a folder. Leaf names are those of the files.

    Raises
    ------
    WeightsError
        For a file that is damaged or cut, a shard that is missing, or a folder of several models.
    """

    format = "safetensors"

    def __init__(self, path: Path, files: Sequence[Path]):
        self.path = path
        found = [each for file in files for each in _places(file)]
        self._places: Mapping[str, _Place] = by_name([name for name, _ in found], [place for _, place in found], path)

    @classmethod
    def open(cls, path: Path) -> SafetensorsWeights:
        """The checkpoint at a file or in a folder."""
        return cls(path, _shards(path) if path.is_dir() else [path])

    def names(self) -> Sequence[str]:
        """Names of the leaves, in the files' order."""
        return list(self._places)

    def read(self, name: str) -> np.ndarray:
        """One leaf, mapped from its file."""
        place = self._places[name]
        if place.dtype not in _DTYPES:
            raise WeightsError(
                f"found leaf {name!r} of {place.file} in {place.dtype}, expected one of {sorted(_DTYPES)}; save it in "
                "one of them"
            )
        count = int(np.prod(place.shape, dtype=np.int64))
        if count == 0:
            return np.empty(place.shape, _DTYPES[place.dtype])
        stored = np.memmap(place.file, np.dtype(_DTYPES[place.dtype]), "r", place.offset, (count,))
        return stored.reshape(place.shape)


def _places(file: Path) -> list[tuple[str, _Place]]:
    """Leaves of one file, by the order of their bytes."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file() or file.stat().st_size == 0:
        raise WeightsError(f"found no bytes at {file}, expected safetensors; write or download it again")
    try:
        with safe_open(file, framework="np"):  # it checks that the header and all bytes are there
            pass
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"found {file} damaged or cut ({error}), expected safetensors; write or download it again"
        ) from error
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    leaves = sorted(header.items(), key=lambda each: each[1]["data_offsets"])
    return [
        (name, _Place(file, leaf["dtype"], tuple(leaf["shape"]), 8 + length + leaf["data_offsets"][0]))
        for name, leaf in leaves
    ]


def _shards(folder: Path) -> list[Path]:
    """The files of the one model in a folder: as its index says, `model.safetensors`, or all of its shards."""
    if index := sorted(folder.glob(_INDEX)):
        try:
            names = sorted(set(json.loads(index[0].read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise WeightsError(
                f"found {index[0]} damaged or cut ({error}), expected the index of shards; download it again"
            ) from error
        return _all_there(folder, names, index[0].name)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1 and not _SHARD.fullmatch(files[0].name):
        return files
    if (whole := folder / "model.safetensors") in files:
        return [whole]
    shards = [match for file in files if (match := _SHARD.fullmatch(file.name))]
    if len(shards) == len(files) and len({(match[1], match[3]) for match in shards}) == 1:
        stem, digits, total = shards[0][1], len(shards[0][2]), shards[0][3]
        names = [f"{stem}-{number:0{digits}}-of-{total}.safetensors" for number in range(1, int(total) + 1)]
        return _all_there(folder, names, f"-of-{total}")
    raise WeightsError(
        f"found {[file.name for file in files][:8]} in {folder} without an index, expected model.safetensors or the "
        "shards of one model; give the file"
    )


def _all_there(folder: Path, names: Sequence[str], said_by: str) -> list[Path]:
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise WeightsError(
            f"found no {missing[:5]} in {folder}, expected all {len(names)} shards that {said_by} names; download them"
        )
    return [folder / name for name in names]
