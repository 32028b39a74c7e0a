"""Reads what torch saved: state dicts, training checkpoints around one, and robomimic's. Nothing in the file is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from provenance.weights.leaves import WeightsError, by_name, without_shared_parts

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model_state_dict", "model", "nets")
"""Keys under which training checkpoints hold the weights, outermost first; robomimic's are in `model`, then `nets`."""

_GLOBAL = re.compile(r"Unsupported global: GLOBAL (\S+) was not")


class TorchWeights:
    """The tensors of a torch file; of a training checkpoint, those of the model and not those of its optimizer.

    The file is mapped into memory where it is a zip archive (torch 1.6 and later). Leaf names are those of the state
    dict, without `module` in front where all leaves have it (a model that was wrapped for data parallelism).

    Raises
    ------
    WeightsError
        For a file that is damaged or cut, asks to run code, or has no tensors.
    """

    format = "torch"

    def __init__(self, path: Path):
        self.path = path
        content = _load(path)
        for key in _WRAPPERS:
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping) and any(_tensors(content[key])):
                content = content[key]
        found = list(_tensors(content))
        names = [".".join(parts) for parts in without_shared_parts([parts for parts, _ in found], "module")]
        self._tensors: Mapping[str, torch.Tensor] = by_name(names, [tensor for _, tensor in found], path)

    def names(self) -> Sequence[str]:
        """Names of the leaves, in the file's order."""
        return list(self._tensors)

    def read(self, name: str) -> np.ndarray:
        """One leaf."""
        import torch

        tensor = self._tensors[name].detach()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise WeightsError(
                f"found leaf {name!r} of {self.path} sparse, quantised or without data ({tensor.layout}, "
                f"{tensor.dtype}), expected a dense tensor; save it as one"
            )
        as_numpy = str(tensor.dtype).removeprefix("torch.")
        if hasattr(np, as_numpy):
            return tensor.numpy()
        if not hasattr(ml_dtypes, as_numpy):
            raise WeightsError(
                f"found leaf {name!r} of {self.path} in {tensor.dtype}, expected a type that NumPy or ml_dtypes has; "
                "save it in another"
            )
        bits = {1: torch.uint8, 2: torch.int16}[tensor.element_size()]
        return tensor.contiguous().view(bits).numpy().view(getattr(ml_dtypes, as_numpy))


def _load(path: Path) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(_numpy_types()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, error)) from error
    except (RuntimeError, EOFError, OSError, KeyError, IndexError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"found {path} damaged or cut ({reason}), expected a torch file; write or download it again"
        ) from error


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    import torch

    try:
        wanted = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError):
        wanted = sorted(set(_GLOBAL.findall(str(error))))  # it lists none for files of before torch 1.6
    if not wanted:
        return (
            f"found {path} damaged, cut, or no file of torch ({str(error).splitlines()[0]}), expected tensors; write "
            "or download it again"
        )
    return (
        f"found {path} asking to run {wanted[:5]} while it is loaded, expected tensors and plain data only; save its "
        "state_dict with torch.save"
    )


def _numpy_types() -> list[Any]:
    """What robomimic writes beside tensors: NumPy arrays and scalars, which are data."""
    multiarray = import_module("numpy._core.multiarray")
    named = [
        (getattr(multiarray, what), f"numpy.{core}.multiarray.{what}")
        for what in ("_reconstruct", "scalar")
        for core in ("_core", "core")
    ]
    return [*named, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1"))]


def _tensors(content: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    import torch

    if isinstance(content, torch.Tensor):
        yield parts, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, (*parts, *str(key).split(".")))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _tensors(value, (*parts, str(index)))
