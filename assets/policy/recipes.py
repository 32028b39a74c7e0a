"""Recipes: what `recipes.toml` says that a task is demonstrated and trained with. The launchpad overrides it."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from home import ROOT
from science.robots.policies.registry import policy_specs


class RecipeError(ValueError):
    """A `recipes.toml` that cannot be used."""


def recipes_file() -> Path:
    """`$TRACEBED_RECIPES`, or `recipes.toml` beside `defs.py`."""
    return Path(os.environ.get("TRACEBED_RECIPES") or ROOT / "recipes.toml")


def recipe(kind: str, task: str) -> dict[str, Any]:
    """Parameters of a kind (`demonstrations`, or a policy) for a task: `[<kind>.default]`, and the task's over them.

    Raises
    ------
    RecipeError
        Naming the file and what was found there.
    """
    path = recipes_file()
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as TOML: {error}") from error
    kinds = {"demonstrations", *policy_specs()}
    if unknown := sorted(set(content) - kinds):
        raise RecipeError(f"{path}: found {unknown}, expected kinds {sorted(kinds)}")
    names = sorted(name for tasks in content.values() for name in tasks if name != "default" and "." not in name)
    if names:
        raise RecipeError(f'{path}: found tables {names}, expected "default" or "<suite>.<task>"')
    chosen: dict[str, Any] = {}
    for name in ("default", task):
        entry = content.get(kind, {}).get(name, {})
        if not isinstance(entry, Mapping):
            raise RecipeError(f'{path}: found [{kind}] {name} = {entry!r}, expected a table [{kind}."{name}"]')
        chosen |= entry
    return chosen


_DEMONSTRATIONS: dict[str, type | tuple[type, ...]] = {
    "n": int,
    "noise": (int, float),
    "tail_steps": int,
    "action_label": str,
}


def demonstrations_recipe(task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a task's demonstrations are recorded with, ``given`` over the recipe.

    Raises
    ------
    RecipeError
        For names that are missing or unknown, or values of another type.
    """
    chosen = recipe("demonstrations", task) | dict(given)
    differ = sorted(set(chosen) ^ set(_DEMONSTRATIONS))
    wrong = [name for name, value in chosen.items() if not isinstance(value, _DEMONSTRATIONS.get(name, object))]
    if differ or wrong:
        raise RecipeError(
            f"{recipes_file()}, demonstrations of {task}: found {chosen}, expected exactly {sorted(_DEMONSTRATIONS)} "
            f"(missing or unknown: {differ}; of another type: {wrong})"
        )
    return chosen
