"""Whether the environment that runs is the one that the demonstrations are of: name, robot, controller, versions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from science.robots.diagnosis.facts import ACTIONS, OTHER_WORLD, Facts, Fault, Severity, fatal_fault

_ACTION_MEANING = ("type", "delta", "input_max", "input_min", "output_max", "output_min", "input_ref_frame")
"""Controller settings that change what an action means; the others (gains, limits) change how it is followed."""

_WITHOUT_PHYSICS = re.compile(
    r"camera|render|ignore_done|horizon|reward|control_freq|controller|robots|use_object_obs|seed"
)


def environment_faults(facts: Facts) -> list[Fault]:
    """Differences between the environments of demonstrations and evaluation, by robomimic's `env_args` and versions."""
    found = _versions(facts.demonstration_versions or {}, facts.evaluation_versions or {})
    if facts.demonstration_env_args is None or facts.evaluation_env_args is None:
        return found
    recorded, running = dict(facts.demonstration_env_args), dict(facts.evaluation_env_args)
    names = [re.sub(r"_D0$", "", str(each.get("env_name"))) for each in (recorded, running)]
    suites = [each.get("suite") for each in (recorded, running)]
    if names[0] != names[1] or (None not in suites and suites[0] != suites[1]):
        found.append(
            fatal_fault(
                "environment",
                f"environment {running.get('env_name')!r} of suite {suites[1]!r}",
                f"that of the demonstrations, {recorded.get('env_name')!r} of suite {suites[0]!r}",
                "evaluate in the environment of the demonstrations",
                explains=OTHER_WORLD,
            )
        )
    if "robosuite" not in {fault.name for fault in found}:
        versions = [{"robosuite": str(each["env_version"])} for each in (recorded, running) if each.get("env_version")]
        found += _versions(*versions) if len(versions) == 2 else []
    kwargs = [dict(each.get("env_kwargs") or {}) for each in (recorded, running)]
    return [*found, *_arguments(*kwargs), *_controller(arm_controller(kwargs[0]), arm_controller(kwargs[1]))]


def _versions(recorded: Mapping[str, str], running: Mapping[str, str]) -> list[Fault]:
    return [
        Fault(
            package,
            Severity.SUSPICIOUS,
            f"{package} {running[package]}",
            f"{recorded[package]}, with which the demonstrations were recorded: trajectories differ between versions",
            f"evaluate with {package} {recorded[package]}, or show that replayed demonstrations still succeed",
        )
        for package in sorted(set(recorded) & set(running))
        if str(recorded[package]) != str(running[package])
    ]


def _arguments(recorded: Mapping[str, Any], running: Mapping[str, Any]) -> list[Fault]:
    found = []
    for name in sorted(set(recorded) & set(running)):
        before, now = (_plain(each[name]) for each in (recorded, running))
        if before == now or (_WITHOUT_PHYSICS.search(name) and name not in ("robots", "control_freq")):
            continue
        fatal = name in ("robots", "control_freq")
        found.append(
            Fault(
                name,
                Severity.FATAL if fatal else Severity.SUSPICIOUS,
                f"{name} {now}",
                f"{before}, as in the demonstrations",
                f"set {name} as in the demonstrations' env_args",
                explains=ACTIONS,
                refuted_by=ACTIONS,
            )
        )
    return found


def _controller(recorded: Mapping[str, Any], running: Mapping[str, Any]) -> list[Fault]:
    differing = [key for key in recorded if key in running and recorded[key] != running[key]]
    return [
        Fault(
            f"controller.{key}",
            Severity.FATAL if key in _ACTION_MEANING else Severity.SUSPICIOUS,
            f"controller {key} {running[key]}",
            f"{recorded[key]}, as in the demonstrations"
            + (": the same action means another motion" if key in _ACTION_MEANING else ""),
            "evaluate with the controller in the demonstrations' env_args",
            explains=ACTIONS,
            refuted_by=ACTIONS,
        )
        for key in sorted(differing)
    ]


def arm_controller(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the arm's controller in `env_kwargs`, flat; empty where there is none.

    robosuite 1.5 nests one controller a body part, up to 1.4 it stands alone and calls delta control `control_delta`;
    both give the same names here, ``delta`` among them. Limits that are numbers become one for each of 6 elements.
    """
    config = env_kwargs.get("controller_configs") or {}
    if isinstance(config, Sequence):
        config = config[0] if config else {}
    parts = config.get("body_parts") or {}
    parts = parts.get("arms", parts)
    arm = dict(parts.get("right") or parts.get("left") or config)
    delta = arm.pop("control_delta", None)
    kind = arm.pop("input_type", None)
    if delta is None and kind is not None:
        delta = kind == "delta"
    if delta is not None:
        arm["delta"] = bool(delta)
    settings = {key: _plain(value) for key, value in arm.items() if not isinstance(value, Mapping)}
    for key in ("input_max", "input_min", "output_max", "output_min"):
        if isinstance(settings.get(key), int | float):
            settings[key] = [settings[key]] * 6
    return settings


def _plain(value: Any) -> Any:
    """The value with tuples and arrays as lists, and a list of one as its element, so that spellings compare equal."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return items[0] if len(items) == 1 else items
    return value
