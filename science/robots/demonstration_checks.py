"""Whether a file of demonstrations can be trained on, and what is in it.

The layout is robomimic's: https://robomimic.github.io/docs/datasets/overview.html. Files of other origin (robomimic's
and MimicGen's own) lack this project's attributes; they pass when everything that training reads fits the task, and
the report says that their suite is unknown. h5py is imported when a file is read.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from science.robots import seeds as seed_ranges
from science.robots.policies.base import ACTION_TOLERANCE
from science.robots.tasks.base import Task

if TYPE_CHECKING:
    import h5py

ATTRIBUTES = "tracebed"
"""Attribute of the group ``data`` that holds what robomimic has no place for, as JSON."""

TRAIN, VALID = "train", "valid"


class DemonstrationError(ValueError):
    """Demonstrations that no policy may be trained on, or that could not be recorded."""


@dataclass(frozen=True)
class DemonstrationReport:
    """What a valid file holds.

    Attributes
    ----------
    names : the demonstrations (`demo_0`, ...) by number.
    lengths : control steps of each.
    seeds : episode seed of each, or None where the file does not say.
    observation : keys and lengths of what was observed, those of the task and any more.
    masks : demonstrations of each filter key.
    env_args : robomimic's description of the environment.
    attributes : this project's attributes; empty for a file of other origin.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...] | None
    observation: Mapping[str, int]
    masks: Mapping[str, tuple[str, ...]]
    env_args: Mapping[str, Any]
    attributes: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Number of demonstrations."""
        return len(self.names)

    @property
    def n_samples(self) -> int:
        """Control steps in all."""
        return sum(self.lengths)

    @property
    def task(self) -> str | None:
        """Key of the task that the file says it is of; None for a file of other origin."""
        return self.attributes.get("task")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file, its faults turned into `DemonstrationError`.

    HDF5 itself can crash the process on a damaged file: read files of unknown origin in a process that may die.
    """
    import h5py

    if not path.is_file():
        raise DemonstrationError(f"found no file {path}, expected robomimic HDF5 demonstrations; record or import them")
    if path.stat().st_size == 0:
        raise DemonstrationError(f"found an empty file {path}, expected robomimic HDF5; write or download it again")
    if not h5py.is_hdf5(path):
        raise DemonstrationError(f"found {path}, which is not HDF5, expected robomimic's HDF5 layout; convert it first")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DemonstrationError:
        raise
    except (OSError, KeyError, RuntimeError) as error:
        raise DemonstrationError(
            f"found {path} damaged or truncated ({error}), expected readable HDF5; write or download it again"
        ) from error


def validate_demonstrations(path: Path, task: Task) -> DemonstrationReport:
    """Read a whole file and hold it against a task.

    Raises
    ------
    DemonstrationError
        For a file that is no HDF5, truncated or empty; missing groups or observation keys; lengths or shapes that do
        not fit; actions or observations that are not finite; actions outside [-1, 1]; counts that are wrong; another
        environment, controller or task; masks that name what is not there or overlap; seeds that are repeated or are
        not reserved for demonstrations.
    """
    with reading(path) as file:
        data = _group(file, "data", path)
        attributes = _attributes(data, path)
        if attributes and attributes.get("task") != task.key:
            raise DemonstrationError(
                f"found demonstrations of task {attributes.get('task')!r} in {path}, expected {task.key!r}; "
                "give the task that they were recorded on"
            )
        if attributes and attributes.get("task_version") != task.version:
            raise DemonstrationError(
                f"found demonstrations of version {attributes.get('task_version')!r} of {task.key} in {path}, expected "
                f"version {task.version!r}; record them again"
            )
        env_args = _env_args(data, task, path)
        names = _names(data, path)
        observations = [_checked_demonstration(data[name], f"{path}: {name}", task) for name in names]
        lengths = [int(data[name].attrs["num_samples"]) for name in names]
        _check_alike(names, observations, path)
        total = data.attrs.get("total")
        if total is None or int(total) != sum(lengths):
            raise DemonstrationError(
                f"found total {total} in {path}, expected the sum of the demonstrations' lengths, {sum(lengths)}; "
                "the file was cut or edited: import it again from its source"
            )
        return DemonstrationReport(
            names=tuple(names),
            lengths=tuple(lengths),
            seeds=_seeds(data, names, path),
            observation=observations[0],
            masks=_masks(file, names, path),
            env_args=env_args,
            attributes=attributes,
        )


def environment_names(task: Task) -> frozenset[str]:
    """Names that a task has outside this project: its own, and without `_D0`, robosuite's for its own reset range."""
    return frozenset({task.name, task.name.removesuffix("_D0")})


def check_environment(env_args: Mapping[str, Any], task: Task, where: str) -> None:
    """Hold robomimic's environment description against a task.

    Where it names this project's suite and task (`Simulation.env_args`) they decide, else the environment's name.

    Raises
    ------
    DemonstrationError
        For another environment, robot controller or control frequency.
    """
    name = env_args.get("env_name")
    if "suite" in env_args and "task" in env_args:
        stated = f"{env_args['suite']}.{env_args['task']}"
        if stated != task.key:
            raise DemonstrationError(f"found task {stated} in {where}, expected {task.key}; give the task that fits")
    elif name not in environment_names(task):
        raise DemonstrationError(
            f"found environment {name!r} in {where}, expected {sorted(environment_names(task))} of task {task.key}; "
            "give the task that fits"
        )
    found = env_args.get("env_kwargs")
    kwargs = found if isinstance(found, Mapping) else {}
    controllers = set(re.findall(r'"type": "(OSC_\w+|JOINT_\w+|IK_\w+)"', json.dumps(kwargs.get("controller_configs"))))
    if controllers and "OSC_POSE" not in controllers:
        raise DemonstrationError(
            f"found controller {sorted(controllers)} in {where}, expected OSC_POSE; its actions mean something else"
        )
    frequency = kwargs.get("control_freq")
    if frequency is not None and frequency != task.control_hz:
        raise DemonstrationError(
            f"found a control frequency of {frequency} Hz in {where}, expected {task.control_hz} Hz of task {task.key}"
        )


def _group(parent: Any, name: str, path: Path) -> Any:
    import h5py

    if name not in parent or not isinstance(parent[name], h5py.Group):
        raise DemonstrationError(
            f"found {sorted(parent)} in {path}, expected a group {name!r} as robomimic writes it; convert the file"
        )
    return parent[name]


def _attributes(data: Any, path: Path) -> Mapping[str, Any]:
    return _json(data.attrs[ATTRIBUTES], f"attribute {ATTRIBUTES}", path) if ATTRIBUTES in data.attrs else {}


def _json(text: Any, what: str, path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError) as error:
        raise DemonstrationError(
            f"found {what} of {path} that is not JSON ({error}), expected a JSON object"
        ) from error
    if not isinstance(value, dict):
        raise DemonstrationError(f"found {what} of {path} that is {type(value).__name__}, expected a JSON object")
    return value


def _env_args(data: Any, task: Task, path: Path) -> Mapping[str, Any]:
    if "env_args" not in data.attrs:
        raise DemonstrationError(
            f"found no attribute env_args in {path}, expected robomimic's JSON; without it nobody knows which "
            "environment and controller the actions are for"
        )
    env_args = _json(data.attrs["env_args"], "env_args", path)
    check_environment(env_args, task, str(path))
    return env_args


def _names(data: Any, path: Path) -> list[str]:
    strange = [name for name in data if not re.fullmatch(r"demo_\d+", name)]
    if strange:
        raise DemonstrationError(f"found {strange[:5]} under data in {path}, expected names demo_0, demo_1, ...")
    if not len(data):
        raise DemonstrationError(f"found no demonstration in {path}, expected at least one; record them again")
    return sorted(data, key=lambda name: int(name.removeprefix("demo_")))


def _checked_demonstration(demo: Any, where: str, task: Task) -> dict[str, int]:
    """Check one demonstration; returns its observation keys and lengths."""
    for key in ("actions", "obs"):
        if key not in demo:
            raise DemonstrationError(f"found {sorted(demo)} in {where}, expected {key!r} among them")
    actions = _finite(demo["actions"], f"{where}/actions")
    if actions.ndim != 2 or actions.shape[1] != task.action_dim or not len(actions):
        raise DemonstrationError(
            f"found actions of shape {actions.shape} in {where}, expected (steps, {task.action_dim}), at least one step"
        )
    if np.abs(actions).max() > 1 + ACTION_TOLERANCE:
        raise DemonstrationError(
            f"found actions up to {np.abs(actions).max():.4g} in {where}, expected [-1, 1]; they are not normalised "
            "controller inputs: convert them first"
        )
    samples = demo.attrs.get("num_samples")
    if samples is None or int(samples) != len(actions):
        raise DemonstrationError(
            f"found num_samples {samples} in {where}, expected its number of actions, {len(actions)}"
        )
    for key in ("rewards", "dones", "states", "executed_actions"):
        if key in demo and len(_finite(demo[key], f"{where}/{key}")) != len(actions):
            raise DemonstrationError(f"found {len(demo[key])} {key} in {where}, expected one an action, {len(actions)}")
    observed = _observation(demo["obs"], len(actions), f"{where}/obs", task)
    if "next_obs" in demo:
        _observation(demo["next_obs"], len(actions), f"{where}/next_obs", task)
    return observed


def _observation(group: Any, length: int, where: str, task: Task) -> dict[str, int]:
    missing = sorted(set(task.observation) - set(group))
    if missing:
        raise DemonstrationError(
            f"found observations {sorted(group)} in {where}, expected {sorted(task.observation)}: {missing} missing; "
            "record them, or rename what is there with import_demonstrations"
        )
    observed = {}
    for key in sorted(group):
        if key not in task.observation:
            observed[key] = int(np.prod(group[key].shape[1:]))
            continue
        expected = (length, task.observation[key])
        if group[key].shape != expected:
            raise DemonstrationError(
                f"found {where}/{key} of shape {group[key].shape}, expected {expected} (steps, length in {task.key})"
            )
        _finite(group[key], f"{where}/{key}")
        observed[key] = expected[1]
    return observed


def _finite(dataset: Any, where: str) -> np.ndarray:
    values = np.asarray(dataset[()])
    if values.dtype.kind not in "fiub":
        raise DemonstrationError(f"found {values.dtype} in {where}, expected numbers")
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(values.astype(np.float32))  # training computes with float32
    if bad.any():
        step = int(np.argwhere(bad)[0][0]) if values.ndim else 0
        raise DemonstrationError(
            f"found {int(bad.sum())} values that are NaN or infinite in {where}, the first at step {step}, expected "
            "finite numbers; leave the demonstration out or record it again"
        )
    return values


def _check_alike(names: list[str], observations: list[dict[str, int]], path: Path) -> None:
    for name, observed in zip(names, observations, strict=True):
        if observed != observations[0]:
            raise DemonstrationError(
                f"found observations {observed} in {name} of {path}, expected those of {names[0]}: {observations[0]}; "
                "do not mix recordings"
            )


def _seeds(data: Any, names: list[str], path: Path) -> tuple[int, ...] | None:
    having = [name for name in names if "seed" in data[name].attrs]
    if not having:
        return None
    if len(having) != len(names):
        raise DemonstrationError(f"found seeds on {len(having)} of {len(names)} demonstrations of {path}, expected all")
    seeds = [int(data[name].attrs["seed"]) for name in names]
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise DemonstrationError(f"found seeds {repeated[:5]} more than once in {path}, expected each episode once")
    check_reserved(seeds)
    return tuple(seeds)


def check_reserved(seeds: list[int]) -> None:
    """Hold that seeds are reserved for demonstrations.

    Raises
    ------
    DemonstrationError
        For seeds on which policies are chosen or evaluated.
    """
    foreign = [seed for seed in seeds if seed not in seed_ranges.DEMONSTRATION]
    if foreign:
        raise DemonstrationError(
            f"found seeds {foreign[:5]}, expected seeds of {seed_ranges.DEMONSTRATION}: the others are kept for "
            "choosing and evaluating policies; take them with science.robots.seeds.take(DEMONSTRATION, n)"
        )


def _masks(file: Any, names: list[str], path: Path) -> dict[str, tuple[str, ...]]:
    if "mask" not in file:
        return {}
    masks = {}
    for key in sorted(_group(file, "mask", path)):
        members = [item.decode() if isinstance(item, bytes) else str(item) for item in file["mask"][key][()]]
        absent = sorted(set(members) - set(names))
        if absent:
            raise DemonstrationError(
                f"found {absent[:5]} in mask/{key} of {path}, which are not under data; write it again"
            )
        if len(set(members)) != len(members):
            raise DemonstrationError(
                f"found demonstrations more than once in mask/{key} of {path}; write the mask again"
            )
        masks[key] = tuple(members)
    if TRAIN in masks and not masks[TRAIN]:
        raise DemonstrationError(f"found an empty mask/{TRAIN} in {path}, expected demonstrations to train on")
    both = sorted(set(masks.get(TRAIN, ())) & set(masks.get(VALID, ())))
    if both:
        raise DemonstrationError(
            f"found {both[:5]} in both mask/{TRAIN} and mask/{VALID} of {path}, expected disjoint masks; "
            "write them again"
        )
    return masks
