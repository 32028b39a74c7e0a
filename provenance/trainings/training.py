"""What is known of one training, wherever it ran: an attempt of the platform, or a folder that somebody else left.

A training is named by its attempt, by the beginning of a checkpoint's hash or of a run's id, or by a path: a folder
with `config.json` (or .toml) and the log that openpi wrote, or a BC-RNN checkpoint of robomimic.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from home import Home
from io_managers.tables import TableStore

_PROGRESS = re.compile(r"\bStep (\d+): (.*)$", re.MULTILINE)
_LOSS = re.compile(r"\bloss=([-+0-9.einfa]+)")


class UnknownTraining(ValueError):
    """A training that cannot be found, or that a name does not tell from others."""


@dataclass(frozen=True)
class Training:
    """What is known of one training; an empty value is not known.

    Attributes
    ----------
    name, policy, task : which it is.
    settings : its resolved configuration.
    began : `fresh`, or what it went on from.
    ending : how it ended, to which step.
    demonstrations_hash : SHA-256 of its dataset.
    git_commit, versions : the code that trained it.
    curve : step -> training loss.
    checkpoints : columns of table `checkpoint`.
    rates : columns of table `success_rate`, of these checkpoints.
    """

    name: str
    policy: str = ""
    task: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    began: str = ""
    ending: str = ""
    demonstrations_hash: str = ""
    git_commit: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)
    checkpoints: pl.DataFrame = field(default_factory=pl.DataFrame)
    rates: pl.DataFrame = field(default_factory=pl.DataFrame)


def find_training(home: Home, name: str) -> Training:
    """The training that a name stands for.

    Raises
    ------
    UnknownTraining
        When nothing or more than one fits; lists what there is.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_file(path)
    store = TableStore(home.tables)
    attempts, checkpoints = store.scan("train_attempts"), store.scan("checkpoint")
    known = {*attempts["attempt"], *checkpoints["attempt"]}
    found = {name} & known
    if not found and len(name) >= 6:
        found = {
            *checkpoints.filter(pl.col("checkpoint_hash").str.starts_with(name))["attempt"],
            *attempts.filter(pl.col("run_id").str.starts_with(name))["attempt"],
        }
    if len(found) != 1:
        listed = "\n".join(f"  - {each}" for each in sorted(found or known)) or "  - nothing was trained or imported"
        raise UnknownTraining(
            f"found {len(found)} trainings for {name!r}, expected one: an attempt, the beginning of a checkpoint's "
            f"hash or of a run's id (6 characters at least), or a path. There are:\n{listed}"
        )
    return _of_platform(home, store, found.pop(), attempts, checkpoints)


def _of_platform(
    home: Home, store: TableStore, name: str, attempts: pl.DataFrame, checkpoints: pl.DataFrame
) -> Training:
    mine = checkpoints.filter(pl.col("attempt") == name).sort("step", nulls_last=True)
    row = attempts.filter(pl.col("attempt") == name).to_dicts()
    attempt = row[0] if row else {}
    one = mine.row(0, named=True) if mine.height else {}
    described = Path(attempt.get("directory", "")) / "attempt.json"
    settings = json.loads(one.get("settings") or "{}")
    if not settings and attempt and described.exists():
        settings = json.loads(described.read_text())["settings"]
    curve = store.scan("train_curve").filter((pl.col("attempt") == name) & pl.col("loss").is_not_null())
    rates = store.scan("success_rate")
    which = attempt or one
    resumed = f"resumed from {attempt['resumed_from']} at step {attempt['first_step']}" if attempt else ""
    return Training(
        name,
        which.get("policy", ""),
        f"{which['suite']}.{which['task']}" if which else "",
        settings,
        "fresh" if attempt.get("intent") == "fresh" else resumed or f"imported from {one.get('source')}",
        f"{attempt['ending']} at step {attempt['last_step']}" if attempt else "",
        attempt.get("demonstrations_hash") or one.get("demonstrations_hash") or "",
        one.get("git_commit") or "",
        json.loads(one.get("versions") or "{}"),
        dict(curve.sort("step").select("step", "loss").iter_rows()),
        mine,
        rates.filter(pl.col("checkpoint_hash").is_in(mine["checkpoint_hash"].to_list())),
    )


def _of_folder(folder: Path) -> Training:
    configs = [path for path in (folder / "config.json", folder / "config.toml") if path.exists()]
    logs = sorted(folder.glob("*.log"))
    if not configs and not logs:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise UnknownTraining(
            f"found {found} in {folder}, expected config.json or config.toml (the resolved configuration) and *.log "
            "(what the training printed), one of them at least"
        )
    try:
        settings = _config(configs[0]) if configs else {}
    except (OSError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise UnknownTraining(f"{configs[0]} cannot be read: {error}") from error
    text = "\n".join(path.read_text(errors="replace") for path in logs)
    restored = re.findall(r"Restoring checkpoint from (\S+?)\.?\s", text + "\n")
    return Training(
        str(folder),
        settings=settings,
        began=f"restored {restored[0]}" if restored else "",
        curve=_losses(text),
    )


def _config(path: Path) -> Mapping[str, Any]:
    text = path.read_text()
    return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)


def _losses(text: str) -> dict[int, float]:
    found = {}
    for step, rest in _PROGRESS.findall(text):
        if match := _LOSS.search(rest):
            found[int(step)] = float(match[1])
    return found


def _of_file(path: Path) -> Training:
    from science.robots.bc_rnn.checkpoint import inspect_checkpoint

    info = inspect_checkpoint(path)
    settings = dict(info.settings) or {
        "seq_length": info.seq_length,
        "rnn_horizon": info.rnn_horizon,
        "normalise": info.normalised,
        "observation": sorted(info.observation),
    }
    return Training(
        str(path),
        "bc_rnn",
        info.task or info.env_name,
        settings,
        ending=f"step {info.step}" if info.step is not None else "",
        demonstrations_hash=info.data_sha256 or "",
        versions=dict(info.versions),
    )
