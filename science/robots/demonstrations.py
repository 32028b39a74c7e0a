"""Recording demonstrations of a scripted expert and writing them as robomimic HDF5.

Recording may disturb the expert: the action that is executed is the expert's plus noise, and the action that is
recorded is the expert's own for the state in which the disturbance left it (DART: Laskey et al., Noise Injection for
Robust Imitation Learning, CoRL 2017). A policy cloned from undisturbed demonstrations never sees a way back.

It is what robomimic's `SequenceDataset` reads: `data/demo_i/{actions, states, rewards, dones, obs/*, next_obs/*}`,
where labels are not what was executed also (ours) executed_actions, with the attributes num_samples, model_file
and (ours) seed; on `data` total, env_args and (ours, JSON) tracebed; `mask/train`, `mask/valid`. The same content gives
the same bytes, so a file's SHA-256 is its data version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from files import write_whole
from science.robots.demonstration_checks import (
    ATTRIBUTES,
    TRAIN,
    VALID,
    DemonstrationError,
    check_reserved,
    reading,
)
from science.robots.policies.base import Policy, checked_action
from science.robots.tasks.base import Observation, Simulation

ARM_DIMS = 6
"""Elements of an action that move the arm; the last opens or closes the gripper and is never disturbed."""

CLEAN, EXECUTED = "clean", "executed"

_NOISE_STREAM = 0x6E6F697365


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of ``T`` control steps.

    Attributes
    ----------
    seed : of the episode.
    states : ``[T, n_state]`` full physics state before each action.
    actions : ``[T, action_dim]`` in [-1, 1], the labels to be cloned.
    executed_actions : ``[T, action_dim]``, what led from state to state; equal to ``actions`` without noise.
    observations, next_observations : key -> ``[T, k]``, before and after each action.
    rewards : ``[T]`` 1 where the task is solved after the action, else 0.
    dones : ``[T]`` 1 at the last step, else 0.
    model_xml : MJCF of the episode's model.
    """

    seed: int
    states: np.ndarray
    actions: np.ndarray
    executed_actions: np.ndarray
    observations: Mapping[str, np.ndarray]
    next_observations: Mapping[str, np.ndarray]
    rewards: np.ndarray
    dones: np.ndarray
    model_xml: str


@dataclass(frozen=True)
class Attempt:
    """One episode that was tried: its seed, whether it was kept, and its control steps."""

    seed: int
    kept: bool
    n_steps: int


@dataclass
class Recording:
    """Demonstrations and how they came about.

    Attributes
    ----------
    demonstrations : the kept episodes, in the order of their seeds' attempts.
    attempts : every episode that was tried, kept or not.
    settings : what decided the recording, JSON types only.
    """

    settings: Mapping[str, Any]
    demonstrations: list[Demonstration] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def n_attempted(self) -> int:
        """Episodes tried."""
        return len(self.attempts)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the file says of its origin: the settings, every seed tried, and the disturbed expert's success rate."""
        kept = [attempt.seed for attempt in self.attempts if attempt.kept]
        return {
            **self.settings,
            "attempted_seeds": [attempt.seed for attempt in self.attempts],
            "kept_seeds": kept,
            "expert_success_rate": len(kept) / len(self.attempts) if self.attempts else None,
        }


def record_demonstrations(
    simulation: Simulation,
    expert: Policy,
    seeds: Iterable[int],
    n_wanted: int,
    *,
    tail_steps: int = 10,
    noise: float = 0.0,
    action_label: str = CLEAN,
    on_attempt: Callable[[Attempt], object] | None = None,
) -> Recording:
    """Run the expert on one seed after another until ``n_wanted`` episodes have succeeded; only those are kept.

    Parameters
    ----------
    tail_steps : control steps recorded after success first holds, so that a policy sees the release and the retreat.
        Success must hold at the end, else the episode is rejected.
    noise : standard deviation of the Gaussian added to the arm's part of each executed action, in action units.
    action_label : ``clean`` records the expert's action, ``executed`` what was executed.
    on_attempt : called after each episode, for progress and budgets.

    Raises
    ------
    DemonstrationError
        For a seed that is not reserved for demonstrations, settings out of range, or seeds that run out first.
    """
    if n_wanted < 1 or tail_steps < 0 or not 0 <= noise < 1 or action_label not in (CLEAN, EXECUTED):
        raise DemonstrationError(
            f"found n_wanted={n_wanted}, tail_steps={tail_steps}, noise={noise}, action_label={action_label!r}, "
            f"expected at least 1, at least 0, in [0, 1), and one of {(CLEAN, EXECUTED)}"
        )
    task = simulation.task
    recording = Recording(
        settings={
            "task": task.key,
            "task_version": task.version,
            "engine": simulation.engine,
            "expert": task.expert,
            "noise": noise,
            "action_label": action_label,
            "tail_steps": tail_steps,
        }
    )
    for seed in seeds:
        check_reserved([seed])
        steps = _episode(simulation, expert, seed, tail_steps, noise, action_label)
        kept = steps is not None
        if steps is not None:
            recording.demonstrations.append(steps)
        length = len(steps.actions) if steps is not None else task.horizon_steps
        recording.attempts.append(Attempt(seed, kept, length))
        if on_attempt is not None:
            on_attempt(recording.attempts[-1])
        if len(recording.demonstrations) == n_wanted:
            return recording
    raise DemonstrationError(
        f"found {len(recording.demonstrations)} successes in {recording.n_attempted} episodes of {task.key}, expected "
        f"{n_wanted}; give more seeds, or less noise than {noise}"
    )


def _episode(
    simulation: Simulation, expert: Policy, seed: int, tail_steps: int, noise: float, action_label: str
) -> Demonstration | None:
    """One episode, or None where it did not end in success."""
    task = simulation.task
    rng = np.random.default_rng((seed, _NOISE_STREAM))
    observation = simulation.reset(seed)
    expert.start(seed)
    model_xml = simulation.model_xml()
    states: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    executed_actions: list[np.ndarray] = []
    seen: list[dict[str, np.ndarray]] = [_copied(observation, task.observation)]
    rewards: list[float] = []
    left = None
    for _ in range(task.horizon_steps):
        clean = checked_action(expert.act(observation), task.action_dim)
        executed = clean.copy()
        executed[:ARM_DIMS] += noise * rng.standard_normal(ARM_DIMS)
        executed = np.clip(executed, -1.0, 1.0)
        states.append(np.array(simulation.state(), dtype=np.float64))
        actions.append(clean if action_label == CLEAN else executed)
        executed_actions.append(executed)
        observation = simulation.step(executed)
        seen.append(_copied(observation, task.observation))
        rewards.append(float(simulation.success()))
        if left is None and rewards[-1]:
            left = tail_steps
        elif left is not None:
            left -= 1
        if left == 0:
            break
    if not rewards or not rewards[-1]:
        return None
    dones = np.zeros(len(actions))
    dones[-1] = 1
    return Demonstration(
        seed=seed,
        states=np.stack(states),
        actions=np.stack(actions),
        executed_actions=np.stack(executed_actions),
        observations={key: np.stack([step[key] for step in seen[:-1]]) for key in task.observation},
        next_observations={key: np.stack([step[key] for step in seen[1:]]) for key in task.observation},
        rewards=np.array(rewards),
        dones=dones,
        model_xml=model_xml,
    )


def _copied(observation: Observation, keys: Iterable[str]) -> dict[str, np.ndarray]:
    return {key: np.atleast_1d(np.array(observation[key], dtype=np.float64)) for key in keys}


def write_demonstrations(
    path: Path,
    demonstrations: list[Demonstration],
    env_args: Mapping[str, object],
    *,
    seed: int,
    valid_share: float = 0.1,
    attributes: Mapping[str, Any],
) -> None:
    """Write demonstrations as robomimic HDF5, whole or not at all.

    Parameters
    ----------
    seed : decides which demonstrations are kept for validation.
    valid_share : their share, rounded, at least one where there are two demonstrations or more.
    attributes : stored as JSON; `Recording.attributes`, at least ``task`` and ``task_version``.

    Raises
    ------
    DemonstrationError
        For no demonstration, or a share outside [0, 0.5].
    OSError
        When the folder is full or not writable; the old file stays.
    """
    if not demonstrations or not 0 <= valid_share <= 0.5:
        raise DemonstrationError(
            f"found {len(demonstrations)} demonstrations and a validation share of {valid_share}, expected at least "
            "one and a share in [0, 0.5]"
        )
    masks = split(len(demonstrations), valid_share, seed)
    stored = {**attributes, "valid_share": valid_share, "split_seed": seed}

    def write(draft: Path) -> None:
        import h5py

        with h5py.File(draft, "w", track_order=False) as file:
            data = file.create_group("data")
            for number, demonstration in enumerate(demonstrations):
                _write_one(data.create_group(f"demo_{number}"), demonstration)
            data.attrs["total"] = sum(len(demonstration.actions) for demonstration in demonstrations)
            data.attrs["env_args"] = json.dumps(env_args, sort_keys=True)
            data.attrs[ATTRIBUTES] = json.dumps(stored, sort_keys=True)
            write_masks(file, masks)

    write_whole(path, write)


def split(n: int, valid_share: float, seed: int) -> dict[str, list[str]]:
    """Names of ``n`` demonstrations drawn into ``train`` and ``valid``."""
    n_valid = 0 if n < 2 or valid_share == 0 else max(1, round(valid_share * n))
    order = np.random.default_rng(seed).permutation(n)
    return {
        TRAIN: [f"demo_{number}" for number in sorted(order[n_valid:])],
        VALID: [f"demo_{number}" for number in sorted(order[:n_valid])],
    }


def write_masks(file: Any, masks: Mapping[str, list[str]]) -> None:
    """Write robomimic's filter keys into an open file: one array of names each."""
    mask = file.require_group("mask")
    for key in sorted(masks):
        mask.create_dataset(key, data=np.array(masks[key], dtype="S"), track_times=False)


def _write_one(group: Any, demonstration: Demonstration) -> None:
    arrays = {
        "actions": demonstration.actions,
        "dones": demonstration.dones,
        "rewards": demonstration.rewards,
        "states": demonstration.states,
        **{f"next_obs/{key}": values for key, values in demonstration.next_observations.items()},
        **{f"obs/{key}": values for key, values in demonstration.observations.items()},
    }
    if not np.array_equal(demonstration.actions, demonstration.executed_actions):
        arrays["executed_actions"] = demonstration.executed_actions
    for key in sorted(arrays):
        group.create_dataset(key, data=np.asarray(arrays[key], dtype=np.float64), track_times=False)
    group.attrs["num_samples"] = len(demonstration.actions)
    group.attrs["model_file"] = without_machine_paths(demonstration.model_xml)
    group.attrs["seed"] = demonstration.seed


def without_machine_paths(model_xml: str) -> str:
    """The model with its meshes and textures named from the package's folder on, as robosuite's `edit_model_xml` needs.

    Otherwise the same demonstrations would have other bytes on every machine.
    """
    return re.sub(r'file="[^"]*/((?:robosuite|mimicgen)/[^"]*)"', r'file="\1"', model_xml)


def read_demonstrations(path: Path, mask: str | None = None) -> Iterator[Demonstration]:
    """Read demonstrations one by one, those of a filter key or all, in the order of their numbers.

    Validate the file first: nothing is checked here. Where a file of other origin lacks seeds, rewards, states or next
    observations, the seed is -1 and the arrays are empty.

    Raises
    ------
    DemonstrationError
        For a file that cannot be read or a mask that it has not.
    """
    with reading(path) as file:
        if mask is not None and ("mask" not in file or mask not in file["mask"]):
            raise DemonstrationError(
                f"found no mask/{mask} in {path}, expected the demonstrations to use; import_demonstrations adds masks"
            )
        names = list(file["data"]) if mask is None else [name.decode() for name in file["mask"][mask][()]]
        for name in sorted(names, key=lambda name: int(name.removeprefix("demo_"))):
            demo = file["data"][name]
            empty = np.zeros(0)
            yield Demonstration(
                seed=int(demo.attrs.get("seed", -1)),
                states=demo["states"][()] if "states" in demo else empty,
                actions=demo["actions"][()],
                executed_actions=demo["executed_actions" if "executed_actions" in demo else "actions"][()],
                observations={key: demo["obs"][key][()] for key in demo["obs"]},
                next_observations={key: demo["next_obs"][key][()] for key in demo.get("next_obs", {})},
                rewards=demo["rewards"][()] if "rewards" in demo else empty,
                dones=demo["dones"][()] if "dones" in demo else empty,
                model_xml=str(demo.attrs.get("model_file", "")),
            )
