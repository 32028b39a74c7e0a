"""Recipes: what `recipes.toml` says that a task is demonstrated and trained with. The launchpad overrides it."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from home import ROOT


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
    chosen: dict[str, Any] = {}
    for name in ("default", task):
        entry = content.get(kind, {}).get(name, {})
        if not isinstance(entry, Mapping):
            raise RecipeError(f'{path}: found [{kind}] {name} = {entry!r}, expected a table [{kind}."{name}"]')
        chosen |= entry
    return chosen
