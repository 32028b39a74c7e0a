"""Opens a checkpoint of any known format, told by its content: orbax (also in a tar), torch, safetensors.

Nothing that a file brings is run, and what is cut, empty or not committed is refused by name. The formats are in
`orbax_reader.py`, `tar_reader.py`, `torch_reader.py` and `safetensors_reader.py`; their libraries are imported when one
is opened.
"""

from __future__ import annotations

from pathlib import Path

from provenance.weights.leaves import Weights, WeightsError
from provenance.weights.tar_reader import MAGIC, MAGIC_AT, TarWeights

_EXPECTED = (
    "an orbax directory (or a tar of one), a torch file (.pt, .pth) or safetensors (a file, or a folder of shards)"
)
_ZIP, _PICKLE, _PICKLE_PROTOCOLS = b"PK\x03\x04", 0x80, range(2, 6)


def open_weights(path: Path) -> Weights:
    """The checkpoint at a path.

    Parameters
    ----------
    path : an orbax step directory, a tar of one, or its item (`params/`), a torch file, a safetensors file or folder.

    Raises
    ------
    WeightsError
        For what is missing, empty, cut, not committed, without leaves, of no known format, or asks to run code.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise WeightsError(f"found nothing at {path}, expected {_EXPECTED}; correct the path, or fetch the checkpoint")
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise WeightsError(f"found an empty file {path}, expected {_EXPECTED}; write or download it again")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        from provenance.weights.safetensors_reader import SafetensorsWeights

        return SafetensorsWeights.open(path)
    if head[MAGIC_AT:].startswith(MAGIC):
        return TarWeights(path)
    if head[:4] == _ZIP or (head[0] == _PICKLE and head[1:2] and head[1] in _PICKLE_PROTOCOLS):
        from provenance.weights.torch_reader import TorchWeights

        return TorchWeights(path)
    raise WeightsError(
        f"found a file {path} that begins with {head[:8]!r}, expected {_EXPECTED}; give the checkpoint that training "
        "wrote"
    )


def _open_folder(path: Path) -> Weights:
    if any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        from provenance.weights.safetensors_reader import SafetensorsWeights

        return SafetensorsWeights.open(path)
    if not any(path.iterdir()):
        raise WeightsError(f"found an empty folder {path}, expected {_EXPECTED}; write or download it again")
    from provenance.weights.orbax_reader import OrbaxWeights

    return OrbaxWeights(path)
