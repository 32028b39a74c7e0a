"""Reads what orbax wrote, without jax and without orbax.

`_METADATA` names the leaves; each is an array of zarr (or zarr3) in one ocdbt database or in a folder of its own, which
tensorstore reads. What orbax 0.11 and 0.12 write differs in two things: only 0.12 says in `_METADATA` which of the two
it is, and an uncommitted directory is called `*.orbax-checkpoint-tmp`, by 0.11 with a number after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from provenance.weights.leaves import WeightsError, by_name, without_shared_parts

_UNCOMMITTED = ".orbax-checkpoint-tmp"
_TREE, _STEP = "_METADATA", "_CHECKPOINT_METADATA"
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")


class OrbaxWeights:
    """A tree of arrays that orbax saved: a step directory (its `params`, or its only item), or one item of it.

    Leaf names are the keys joined by `/`, without `params` in front and `value` behind where all leaves have them.

    Raises
    ------
    WeightsError
        For a directory that was not committed, is cut, has no leaves, or is not orbax's.
    """

    format = "orbax"

    def __init__(self, path: Path):
        self.path = path
        _refuse_uncommitted_name(path)
        self._item = _item(path)
        _refuse_uncommitted(self._item)
        content = _json(self._item / _TREE)
        self._zarr3 = bool(content.get("use_zarr3"))
        self._ocdbt = bool(content.get("use_ocdbt", (self._item / "manifest.ocdbt").exists()))
        # Where every array is stored in full, an absent chunk is damage; tensorstore would read it as zeros.
        self._stored_in_full = bool(content.get("store_array_data_equal_to_fill_value"))
        paths = list(_array_paths(content, self._item))
        names = ["/".join(parts) for parts in without_shared_parts(paths, "params", "value")]
        self._stored_as = by_name(names, [".".join(parts) for parts in paths], self._item)

    def names(self) -> Sequence[str]:
        """Names of the leaves, as `_METADATA` has them."""
        return list(self._stored_as)

    def read(self, name: str) -> np.ndarray:
        """One leaf."""
        import tensorstore

        stored = self._stored_as[name]
        folder = f"{self._item.resolve()}/"
        store: dict[str, Any] = {"driver": "file", "path": f"{folder}{stored}/"}
        if self._ocdbt:
            store = {"driver": "ocdbt", "base": {"driver": "file", "path": folder}, "path": f"{stored}/"}
        spec = {
            "driver": "zarr3" if self._zarr3 else "zarr",
            "kvstore": store,
            "fill_missing_data_reads": not self._stored_in_full,
        }
        try:
            return np.asarray(tensorstore.open(spec, open=True, read=True).result().read().result())
        except (ValueError, OSError, IndexError, RuntimeError) as error:
            said = str(error).split(" [tensorstore_spec")[0].split(" [source locations")[0]
            raise WeightsError(
                f"found leaf {name!r} of {self._item} damaged, cut or missing ({said}), expected the array that "
                f"{_TREE} names; copy the checkpoint again, all of it"
            ) from error


def _item(path: Path) -> Path:
    """The directory that has the tree: the path itself, its `params`, or its only item."""
    if (path / _TREE).exists():
        return path
    items = sorted(each.parent for each in path.glob(f"*/{_TREE}"))
    chosen = [each for each in items if each.name == "params"] or items
    if len(chosen) == 1:
        return chosen[0]
    if drafts := sorted(each.name for each in path.glob(f"*{_UNCOMMITTED}*")):
        raise WeightsError(_not_committed(path / drafts[0]))
    if chosen:
        raise WeightsError(
            f"found items {[each.name for each in chosen]} in {path} and none named params, expected one; give the "
            "item's path"
        )
    found = sorted(each.name for each in path.iterdir())[:8]
    if steps := sorted(int(each.parent.name) for each in path.glob(f"*/{_STEP}") if each.parent.name.isdigit()):
        raise WeightsError(
            f"found a folder {path} of steps {steps}, expected one checkpoint; give one step's directory"
        )
    advice = "copy the checkpoint again, all of it" if "manifest.ocdbt" in found else "give the checkpoint's directory"
    raise WeightsError(
        f"found {found} in {path}, expected {_TREE} of orbax there or in its params/, or *.safetensors; {advice}"
    )


def _refuse_uncommitted_name(path: Path) -> None:
    for folder in (path, path.resolve(), path.resolve().parent):
        if _UNCOMMITTED in folder.name:
            raise WeightsError(_not_committed(folder))


def _refuse_uncommitted(item: Path) -> None:
    """By the metadata of the checkpoint; older orbax wrote none, and renamed only what was whole."""
    for folder in (item, item.resolve().parent):
        if (folder / _STEP).exists():
            if _json(folder / _STEP).get("commit_timestamp_nsecs") is None:
                raise WeightsError(_not_committed(folder))
            return


def _not_committed(folder: Path) -> str:
    return (
        f"found {folder}, which orbax never committed (saving ended before its end), expected a checkpoint that was "
        "saved whole; give an earlier step"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(
            f"found {path} damaged or cut ({error}), expected orbax's JSON; copy the checkpoint again"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"found {type(content).__name__} in {path}, expected orbax's JSON object")
    return content


def _array_paths(content: Mapping[str, Any], item: Path) -> Sequence[tuple[str, ...]]:
    try:
        return [
            tuple(str(part["key"]) for part in leaf["key_metadata"])
            for leaf in content["tree_metadata"].values()
            if leaf["value_metadata"]["value_type"] in _ARRAYS and not leaf["value_metadata"].get("skip_deserialize")
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"found a {_TREE} in {item} without {error}, expected the tree of orbax 0.11 or 0.12; save it anew with "
            "one of them"
        ) from error
