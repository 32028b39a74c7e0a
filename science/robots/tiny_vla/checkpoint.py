"""A checkpoint: one tar of what orbax wrote, in openpi's layout, and what is known of the training.

    _CHECKPOINT_METADATA                       orbax's: it was committed
    params/                                    all weights, under `params`
    train_state/                               the optimiser's state and the step
    assets/tracebed/training.json              step, settings, tasks, data, versions
    assets/tracebed/norm_stats.json            what observations and actions are normalised with, by task

Equal content gives equal bytes: each array has a folder of its own (orbax's other format, ocdbt, names its files at
random), the dates in orbax's metadata are set to 1970, and the tar has neither dates nor owners. Reading the metadata
imports no jax.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from files import write_whole
from science.robots.tiny_vla.inputs import TaskInputs

_METADATA, _COMMITTED = "_CHECKPOINT_METADATA", "commit_success.txt"
_TRAINING, _STATISTICS = "assets/tracebed/training.json", "assets/tracebed/norm_stats.json"
_UNCOMMITTED = ".orbax-checkpoint-tmp"
_DATES = ("init_timestamp_nsecs", "commit_timestamp_nsecs")
_DATE = 1  # orbax and openpi take a checkpoint without a commit date for one that was not committed
_EXPECTED = "a tiny_vla checkpoint (step-000500.tar)"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or not be used for what was asked."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    Attributes
    ----------
    step : gradient steps.
    settings : of the training.
    tasks : task key -> what the network is told of it.
    action_dim : length of its actions.
    data_hashes : task key -> SHA-256 of the demonstrations.
    versions : of the packages that trained it.
    """

    step: int
    settings: Mapping[str, Any]
    tasks: Mapping[str, TaskInputs]
    action_dim: int
    data_hashes: Mapping[str, str]
    versions: Mapping[str, str]


def write_checkpoint(path: Path, info: CheckpointInfo, weights: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Parameters
    ----------
    weights : name (``a/b/c``) -> array.
    state : of the optimiser: name -> array.

    Raises
    ------
    OSError
        When the folder is full or not writable.
    """
    import orbax.checkpoint as ocp

    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        folder = Path(scratch) / "checkpoint"
        handlers = {item: ocp.PyTreeCheckpointHandler(use_ocdbt=False) for item in ("params", "train_state")}
        with _quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as checkpointer:
            items = {"params": {"params": _nested(weights)}, "train_state": {"step": np.int32(info.step), **state}}
            saved = {item: ocp.args.PyTreeSave(tree) for item, tree in items.items()}
            checkpointer.save(folder, ocp.args.Composite(**saved))
        for marker in folder.rglob(_COMMITTED):
            marker.unlink()
        metadata = json.loads((folder / _METADATA).read_text())
        (folder / _METADATA).write_text(json.dumps(metadata | dict.fromkeys(_DATES, _DATE), sort_keys=True))
        (folder / _TRAINING).parent.mkdir(parents=True)
        statistics = {key: each.record() for key, each in info.tasks.items()}
        told = {
            "step": info.step,
            "settings": dict(info.settings),
            "action_dim": info.action_dim,
            "data_hashes": dict(info.data_hashes),
            "versions": dict(info.versions),
        }
        (folder / _TRAINING).write_text(json.dumps(told, sort_keys=True, indent=1))
        (folder / _STATISTICS).write_text(json.dumps({"norm_stats": statistics}, sort_keys=True, indent=1))
        write_whole(path, lambda draft: _pack(folder, draft))


def inspect_checkpoint(path: Path) -> CheckpointInfo:
    """What a checkpoint says of itself, without jax.

    Raises
    ------
    CheckpointError
        For a file that is missing, cut or no checkpoint of tiny_vla, or one that was never committed.
    """
    with _opened(path) as archive:
        committed = _json(archive, _METADATA, path)
        told, statistics = _json(archive, _TRAINING, path), _json(archive, _STATISTICS, path)
    if committed.get("commit_timestamp_nsecs") is None:
        raise CheckpointError(_not_committed(path, _METADATA))
    try:
        tasks = {key: TaskInputs.from_record(each) for key, each in statistics["norm_stats"].items()}
        return CheckpointInfo(tasks=tasks, **told)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"found {path} without {error}, expected {_EXPECTED}; train it again") from error


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """All weights of a checkpoint, name -> array.

    Raises
    ------
    CheckpointError
        As `inspect_checkpoint`, and for arrays that cannot be read.
    """
    return _restored(path, "params", lambda tree: _flat(tree["params"]))


def read_train_state(path: Path) -> dict[str, np.ndarray]:
    """The optimiser's state, name -> array.

    Raises
    ------
    CheckpointError
        As `read_weights`.
    """
    return _restored(path, "train_state", lambda tree: {key: each for key, each in tree.items() if key != "step"})


def _restored(path: Path, item: str, take: Callable[[dict[str, Any]], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_utils

    with unpacked(path) as folder:
        try:
            with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
                metadata = checkpointer.metadata(folder / item)
                as_numpy = checkpoint_utils.construct_restore_args(metadata.item_metadata.tree)
                arguments = _numpy_arguments(as_numpy)
                return take(checkpointer.restore(folder / item, restore_args=arguments))
        except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"found {item} of {path} damaged or missing ({said}), expected {_EXPECTED}; copy it again"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's warnings that this is not ocdbt, and that an item has no metadata of a whole step."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _numpy_arguments(tree: Any) -> Any:
    import jax
    import orbax.checkpoint as ocp

    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The checkpoint's folder, for as long as the context lasts.

    Raises
    ------
    CheckpointError
        As `inspect_checkpoint`.
    """
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        with _opened(path) as archive:
            try:
                archive.extractall(scratch, filter="data")
            except (tarfile.TarError, EOFError, OSError) as error:
                raise CheckpointError(
                    f"found {path} cut, or with members that are no plain files ({error}), expected {_EXPECTED}; copy "
                    "it again"
                ) from error
        yield Path(scratch)


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    if path.is_dir():
        draft = _UNCOMMITTED in path.name or any(_UNCOMMITTED in each.name for each in path.iterdir())
        raise CheckpointError(
            _not_committed(path, path.name) if draft else f"found a folder {path}, expected {_EXPECTED}"
        )
    if not path.is_file():
        raise CheckpointError(f"found no file {path}, expected {_EXPECTED}; train it or name another")
    try:
        with tarfile.open(path, "r:") as archive:
            drafts = [name for name in archive.getnames() if _UNCOMMITTED in name]
            if drafts:
                raise CheckpointError(_not_committed(path, drafts[0]))
            _require_end(archive, path.stat().st_size)
            yield archive
    except tarfile.TarError as error:
        raise CheckpointError(
            f"found {path}, which is no whole tar ({error}), expected {_EXPECTED}; copy it again"
        ) from error


def _require_end(archive: tarfile.TarFile, size: int) -> None:
    """Hold that an archive has its end, two blocks of zeros: tarfile takes a cut between two members for it."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    rest = archive.fileobj.read(size - archive.offset)
    if len(rest) < 2 * tarfile.BLOCKSIZE or any(rest):
        raise tarfile.ReadError("it has no end")


def _not_committed(path: Path, what: str) -> str:
    return (
        f"found {what} in {path}, which orbax never committed (saving ended before its end), expected {_EXPECTED}; use "
        "an earlier step"
    )


def _json(archive: tarfile.TarFile, name: str, path: Path) -> dict[str, Any]:
    try:
        member = archive.extractfile(name)
        content = json.loads(member.read()) if member else None
    except (KeyError, ValueError, EOFError, tarfile.TarError) as error:
        raise CheckpointError(
            f"found {path} without a whole {name} ({error}), expected {_EXPECTED}; copy it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"found {name} of {path} that is no JSON object, expected {_EXPECTED}")
    return content


def _pack(folder: Path, draft: Path) -> None:
    with draft.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for each in sorted(folder.rglob("*")):
            member = tarfile.TarInfo(each.relative_to(folder).as_posix())
            if each.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
            else:
                content = each.read_bytes()
                member.size, member.mode = len(content), 0o644
                archive.addfile(member, io.BytesIO(content))


def _nested(weights: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in weights.items():
        *folders, leaf = name.split("/")
        inner = tree
        for each in folders:
            inner = inner.setdefault(each, {})
        inner[leaf] = array
    return tree


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, each in tree.items():
        found |= _flat(each, f"{before}{name}/") if isinstance(each, Mapping) else {f"{before}{name}": np.asarray(each)}
    return found
