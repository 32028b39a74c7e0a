"""The parts of robomimic that are used here, imported quietly (3 to 12 s). For worker processes only.

robomimic imports torchvision for its image encoders. The registry's torchvision is a CUDA build, whose compiled
operators do not load beside a CPU build of torch; its import then fails at the first operator that it looks up. Low-
dimensional policies call none of them, so the two that are looked up are declared without an implementation.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep robomimic's banners and progress bars off the standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _declare_missing_operators() -> list[torch.library.Library]:
    """Import torchvision, declaring ``nms`` and ``qnms`` where its own library could not; returns what must live on."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return []
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return [library]


_operators = _declare_missing_operators()

with quiet():
    import robomimic
    from robomimic.algo import algo_factory
    from robomimic.algo.bc import BC_RNN_GMM
    from robomimic.config import config_factory
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset
    from robomimic.utils.file_utils import get_env_metadata_from_dataset, get_shape_metadata_from_dataset

ROBOMIMIC_VERSION: str = robomimic.__version__

__all__ = [
    "BC_RNN_GMM",
    "ROBOMIMIC_VERSION",
    "SequenceDataset",
    "algo_factory",
    "config_factory",
    "get_env_metadata_from_dataset",
    "get_shape_metadata_from_dataset",
    "obs_utils",
    "quiet",
]
