"""Demonstrations of other origin, brought into the form that this project trains on. Their file is never touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from files import write_whole
from science.robots.demonstration_checks import (
    ATTRIBUTES,
    TRAIN,
    VALID,
    DemonstrationError,
    DemonstrationReport,
    check_environment,
    reading,
    validate_demonstrations,
)
from science.robots.demonstrations import split, write_masks
from science.robots.tasks.base import Task

ROBOSUITE_NAMES = {"object-state": "object"}
"""robosuite's observation names that robomimic renames."""

_ARRAYS = ("actions", "executed_actions", "dones", "rewards", "states")
_OBSERVATIONS = ("obs", "next_obs")


def import_demonstrations(
    source: Path,
    destination: Path,
    task: Task,
    *,
    rename: Mapping[str, str] = ROBOSUITE_NAMES,
    valid_share: float = 0.1,
    seed: int = 0,
) -> DemonstrationReport:
    """Copy a robomimic or MimicGen file, converted to what training reads, and validate the copy.

    Observation keys are renamed, numbers become float64, observations that the task has not are left out, counts that
    are missing are added, and masks are drawn where there are none. The attributes of the copy name the source's file,
    its SHA-256 and everything that was converted. Stating the task is stating that the file fits it: the environment's
    name, controller and frequency are checked, but a suite cannot be seen in a file of other origin.

    Parameters
    ----------
    rename : from the source's observation key to the task's.
    valid_share, seed : of the masks, where they are drawn.

    Raises
    ------
    DemonstrationError
        For a source that cannot be read, or whose converted copy would not be valid; nothing is then written.
    """
    converted: list[str] = []

    def write(draft: Path) -> None:
        import h5py

        with reading(source) as old, h5py.File(draft, "w", track_order=False) as new:
            _copy(old, new, source, task, rename, converted)
            if "mask" in old:
                write_masks(new, {key: [item.decode() for item in old["mask"][key][()]] for key in old["mask"]})
            else:
                names = sorted(new["data"], key=lambda name: int(name.removeprefix("demo_")))
                drawn = split(len(names), valid_share, seed)
                write_masks(new, {key: [names[int(name[5:])] for name in drawn[key]] for key in (TRAIN, VALID)})
                converted.append(f"masks drawn: {valid_share:g} of the demonstrations for validation, seed {seed}")
            new["data"].attrs[ATTRIBUTES] = json.dumps(
                {
                    "task": task.key,
                    "task_version": task.version,
                    "imported_from": source.name,
                    "imported_sha256": _sha256(source),
                    "converted": sorted(set(converted)),
                },
                sort_keys=True,
            )
        validate_demonstrations(draft, task)

    write_whole(destination, write)
    return validate_demonstrations(destination, task)


def _copy(old: Any, new: Any, source: Path, task: Task, rename: Mapping[str, str], converted: list[str]) -> None:
    if "data" not in old or "env_args" not in old["data"].attrs:
        raise DemonstrationError(
            f"found {sorted(old)} in {source}, expected a group 'data' with the attribute env_args, as robomimic "
            "writes it"
        )
    env_args = old["data"].attrs["env_args"]
    try:
        check_environment(json.loads(env_args), task, str(source))
    except json.JSONDecodeError as error:
        raise DemonstrationError(f"found env_args of {source} that is not JSON ({error})") from error
    data = new.create_group("data")
    data.attrs["env_args"] = env_args
    total = 0
    for name in sorted(old["data"]):
        demo = old["data"][name]
        if "actions" not in demo or "obs" not in demo:
            raise DemonstrationError(f"found {sorted(demo)} in {name} of {source}, expected actions and obs among them")
        group = data.create_group(name)
        for key in _ARRAYS:
            if key in demo:
                _write(group, key, demo[key], converted)
        for section in _OBSERVATIONS:
            if section in demo:
                _copy_observations(demo[section], group.create_group(section), task, rename, converted)
        length = len(demo["actions"])
        if "num_samples" not in demo.attrs:
            converted.append("num_samples added")
        group.attrs["num_samples"] = int(demo.attrs.get("num_samples", length))
        for attribute in ("model_file", "seed"):
            if attribute in demo.attrs:
                group.attrs[attribute] = demo.attrs[attribute]
        total += length
    if "total" not in old["data"].attrs:
        converted.append("total added")
    data.attrs["total"] = int(old["data"].attrs.get("total", total))


def _copy_observations(section: Any, group: Any, task: Task, rename: Mapping[str, str], converted: list[str]) -> None:
    for key in sorted(section):
        name = rename.get(key, key)
        if name not in task.observation:
            converted.append(f"observation {key} left out")
            continue
        if name != key:
            if name in section:
                raise DemonstrationError(
                    f"found both {key!r} and {name!r} among the observations, expected one; give rename={{}} or another"
                )
            converted.append(f"observation {key} renamed {name}")
        _write(group, name, section[key], converted)


def _write(group: Any, key: str, dataset: Any, converted: list[str]) -> None:
    if dataset.dtype != np.float64:
        converted.append(f"{key} from {dataset.dtype} to float64")
    try:
        values = np.asarray(dataset[()], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DemonstrationError(f"found {dataset.dtype} in {dataset.name}, expected numbers") from error
    group.create_dataset(key, data=values, track_times=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
