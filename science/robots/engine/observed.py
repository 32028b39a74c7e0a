"""Which of an environment's observables a step needs: those that it returns and those that these are computed from.

Light import.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PROPRIOCEPTION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
OBJECT_MODALITY = "object"


class _Asked(dict[str, np.ndarray]):
    """An observation cache that remembers what a sensor looked up in it."""

    def __init__(self, cache: dict[str, np.ndarray]) -> None:
        super().__init__(cache)
        self.names: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def __getitem__(self, name: str) -> np.ndarray:
        self.names.add(name)
        return super().__getitem__(name)


def needed_observables(env: Any) -> set[str]:
    """Names of the enabled observables that `PROPRIOCEPTION` and the objects' rest on, themselves included."""
    asked: dict[str, set[str]] = {}
    cache: dict[str, np.ndarray] = {}
    for name, seen in env._observables.items():
        if seen.is_enabled():
            looking = _Asked(cache)
            cache[name] = np.array(seen._sensor(looking))
            asked[name] = looking.names
    wanted = [name for name in asked if name in PROPRIOCEPTION or env._observables[name].modality == OBJECT_MODALITY]
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed.add(name)
            wanted += [other for other in asked[name] if other in asked]
    return needed


def switch_off_others(env: Any) -> None:
    """Disable, by robosuite's own switch, every observable that no step needs: absent, rather than out of date."""
    needed = needed_observables(env)
    for name, seen in env._observables.items():
        if seen.is_enabled() and name not in needed:
            env.modify_observable(observable_name=name, attribute="enabled", modifier=False)
