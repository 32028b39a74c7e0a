"""Demonstrations made of arrays, for tests that need a file and no simulation: episodes of a task in numbers only."""

from pathlib import Path

import numpy as np

from science.robots.demonstrations import Demonstration, write_demonstrations
from science.robots.seeds import DEMONSTRATION, take
from science.robots.tasks.base import Task
from science.robots.tasks.open_suite import SUITE

LIFT = SUITE.tasks["Lift"]
STACK = SUITE.tasks["Stack_D0"]

ENV_ARGS = {
    "suite": "open",
    "task": "Lift",
    "env_name": "Lift",
    "env_version": "1.5.2",
    "type": 1,
    "env_kwargs": {
        "robots": "Panda",
        "control_freq": 20,
        "controller_configs": {"type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE"}}},
    },
}
ENV_NAMES = {"Lift": "Lift", "Stack_D0": "Stack"}
ATTRIBUTES = {"task": LIFT.key, "task_version": LIFT.version}


def demonstration(seed: int, length: int = 20, task: Task = LIFT) -> Demonstration:
    """Observations that drift, and actions that are a smooth function of them."""
    rng = np.random.default_rng(seed)
    walk = {
        key: np.cumsum(0.1 * rng.standard_normal((length + 1, k)), axis=0)
        for key, k in sorted(task.observation.items())
    }
    observations = {key: values[:-1] for key, values in walk.items()}
    actions = np.tanh(observations["object"][:, :7])
    actions[:, 6] = np.sign(actions[:, 6] + 1e-9)
    return Demonstration(
        seed=seed,
        states=rng.standard_normal((length, 32)),
        actions=actions,
        executed_actions=actions,
        observations=observations,
        next_observations={key: values[1:] for key, values in walk.items()},
        rewards=np.r_[np.zeros(length - 1), 1.0],
        dones=np.r_[np.zeros(length - 1), 1.0],
        model_xml='<mujoco><mesh file="/somewhere/site-packages/robosuite/models/assets/a.stl"/></mujoco>',
    )


def write_file(path: Path, n: int = 6, lengths: tuple[int, ...] = (20, 17, 23), task: Task = LIFT) -> Path:
    """A valid file of ``n`` demonstrations of several lengths."""
    seeds = enumerate(take(DEMONSTRATION, n))
    demonstrations = [demonstration(seed, lengths[i % len(lengths)], task) for i, seed in seeds]
    env_args = ENV_ARGS | {"task": task.name, "env_name": ENV_NAMES[task.name]}
    attributes = {"task": task.key, "task_version": task.version}
    write_demonstrations(path, demonstrations, env_args, seed=0, valid_share=0.2, attributes=attributes)
    return path
