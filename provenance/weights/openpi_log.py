"""What openpi says of where a training began: lines of its log, and the weight loader of its resolved configuration.

A fresh training logs `Restoring checkpoint from <base>/params.`, a resumed one `... from <run directory>/<step>.` Lines
are found behind any prefix, colour or progress bar, and before the process and line number that openpi adds.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance.weights.leaves import WeightsError

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LINE_ENDS = re.compile(r"[\r\n]+")
_RESTORING = re.compile(
    r"\bRestoring checkpoint from (?P<place>\S.*?)\.?[\x22'}\]]*(?:\s+\([^()]*:\d+\)|\s+\S+\.py:\d+)?\s*$"
)
_ABORTED = re.compile(r"does not contain any checkpoints\. Aborting resume")
_NO_WEIGHTS = re.compile(r"No weights loaded, training from scratch")
_STEP = re.compile(r"\bStep (\d+): \w+=")
_CALL = re.compile(r"(?P<loader>\w+)\((?:\w+=)?(?P<quote>['\"])(?P<place>.+?)(?P=quote).*\)|(?P<bare>\w+)\(\)")
_PLACE_KEYS = ("params_path", "path", "checkpoint", "pytorch_weight_path")
_NO_LOADERS = {"", "none", "null", "noopweightloader"}
MISSING = object()


@dataclass(frozen=True)
class LogFacts:
    """What the log of one attempt says of its start.

    Attributes
    ----------
    restored : places that weights were restored from, in order.
    resume_aborted : it was told to resume, found no checkpoint, and began afresh.
    scratch : it says that no weights were loaded.
    first_step : number of its first progress line; None without one.
    """

    restored: tuple[str, ...] = ()
    resume_aborted: bool = False
    scratch: bool = False
    first_step: int | None = None


@dataclass(frozen=True)
class LoaderSetting:
    """The weight loader of a resolved configuration.

    Attributes
    ----------
    place : what it loads; None for no loader at all, which is training from scratch.
    config_name : how the configuration is called; a name, and never evidence.
    resume : whether it asked to resume; None where it does not say.
    """

    place: str | None
    config_name: str | None = None
    resume: bool | None = None


def parse_log(text: str) -> LogFacts:
    """What a log says of the start of its attempt."""
    lines = [_COLOUR.sub("", line).rstrip() for line in _LINE_ENDS.split(text)]
    steps = (int(match[1]) for line in lines if (match := _STEP.search(line)))
    return LogFacts(
        tuple(match["place"] for line in lines if (match := _RESTORING.search(line))),
        any(_ABORTED.search(line) for line in lines),
        any(_NO_WEIGHTS.search(line) for line in lines),
        next(steps, None),
    )


def loader_setting(config: Mapping[str, Any]) -> LoaderSetting:
    """The weight loader of a resolved configuration.

    Parameters
    ----------
    config : with key `weight_loader`: a path; a table with `params_path` or `path`; openpi's own way to write it,
        `CheckpointWeightLoader(params_path='...')`; or null, `none`, `NoOpWeightLoader()` for no loader at all.
        `name`, and `resume` (a flag) or `intent` (fresh, resume) are read where they are there.

    Raises
    ------
    WeightsError
        When there is no such key (a configuration that is not resolved says nothing), or its value is of no such kind.
    """
    value = config.get("weight_loader", MISSING)
    if value is MISSING:
        value = next((config[key] for name in _PLACE_KEYS if (key := f"weight_loader.{name}") in config), MISSING)
    if value is MISSING:
        raise WeightsError(
            f"found a configuration with {sorted(map(str, config))[:12]} and no weight_loader, expected the resolved "
            "one: a path, or null for none; write down what training was started with"
        )
    resume = {"fresh": False, "resume": True}.get(str(config.get("intent")), config.get("resume"))
    name = config.get("name")
    return LoaderSetting(
        _place(value), str(name) if name is not None else None, resume if isinstance(resume, bool) else None
    )


def _place(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        if not value:
            return None
        for key in _PLACE_KEYS:
            if key in value:
                return _place(value[key])
        names = {str(each).rpartition(".")[2].lower() for each in value.values()}
        if names & _NO_LOADERS:
            return None
    if isinstance(value, str):
        call = _CALL.fullmatch(value.strip())
        text = (call["place"] or call["bare"]) if call else value.strip()
        return None if text.lower() in _NO_LOADERS else text
    raise WeightsError(
        f"found weight_loader = {value!r}, expected a path, a table with one of {list(_PLACE_KEYS)}, or null for none"
    )


def read_config(path: Path) -> LoaderSetting:
    """The weight loader of a JSON or TOML file.

    Raises
    ------
    WeightsError
        As `loader_setting`, and for a file that is neither.
    """
    try:
        text = path.read_text()
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(f"{path} cannot be read as JSON or TOML: {error}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"found {type(content).__name__} in {path}, expected an object with key weight_loader")
    try:
        return loader_setting(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def read_log(path: Path) -> LogFacts:
    """What a log file says; bytes that are no UTF-8 are passed over.

    Raises
    ------
    WeightsError
        When there is no such file.
    """
    try:
        return parse_log(path.read_text(errors="replace"))
    except OSError as error:
        raise WeightsError(f"found no log {path} ({error}), expected the log of a training attempt") from error
