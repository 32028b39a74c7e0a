"""Turns a checkpoint that only loads by running code into one that is plain data, once, on its owner's word."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from files import write_whole
from science.robots.bc_rnn.checkpoint import CheckpointError, read_checkpoint


def rewrite_as_plain_data(source: Path, destination: Path) -> None:
    """Load ``source`` with unrestricted pickle, which RUNS CODE IN THE FILE, and write its plain data.

    What is written loads without running anything: tensors, NumPy arrays, text, numbers and containers of these.

    Raises
    ------
    CheckpointError
        For a file that is no checkpoint, or that holds something else; the message says where.
    """
    content = _plain(read_checkpoint(source, trusted=True), str(source))

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            torch.save(content, file)

    write_whole(destination, write)
    read_checkpoint(destination)


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, f"{where}[{index}]") for index, each in enumerate(value)]
    if value is None or isinstance(value, str | int | float):
        return value
    raise CheckpointError(f"found {type(value).__name__} at {where}, expected tensors, arrays, text or numbers")
