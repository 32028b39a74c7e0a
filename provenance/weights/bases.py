"""Bases that weights may come from: what `bases.toml` says, checked, and what was published of them."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from home import ROOT
from io_managers.tables import MissingPartition, TableStore
from provenance.weights.candidates import SCRATCH, Candidate
from provenance.weights.fingerprint import Fingerprint, fingerprint
from provenance.weights.readers import open_weights

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PUBLISHED = {"path": str, "description": str, "source": str}
_TRAINED = {"policy": str, "tasks": list, "settings": dict, "description": str}
_KINDS = {str: "text", list: "list", dict: "table"}
TABLE = "base_weights"
CHECKPOINT_TABLE = "base_checkpoint"


class BaseError(ValueError):
    """A `bases.toml` that cannot be used."""


@dataclass(frozen=True)
class Base:
    """One base: a checkpoint that lies somewhere, or one that a policy is pre-trained to here.

    Attributes
    ----------
    name : part of the asset key.
    path : its checkpoint; None where it is pre-trained here.
    description : what it is.
    source : where it was published; a path in a log or configuration is recognised by it, too.
    policy : the policy that is pre-trained; None where it is not done here.
    tasks : the tasks whose demonstrations it is pre-trained on.
    settings : of that training.
    """

    name: str
    path: Path | None = None
    description: str | None = None
    source: str | None = None
    policy: str | None = None
    tasks: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> tuple[str, ...]:
        """Paths and addresses that it is known at; its name is known everywhere."""
        paths = (str(self.path), str(self.path.resolve())) if self.path else (self.name,)
        found = (*paths, *([self.source] if self.source else []))
        return tuple(dict.fromkeys(found))


def base_task(name: str) -> str:
    """What attempts at a base are filed under, where those at a task have the task's key."""
    return f"base.{name}"


def bases_file() -> Path:
    """`$TRACEBED_BASES`, or `bases.toml` beside `defs.py`."""
    return Path(os.environ.get("TRACEBED_BASES") or ROOT / "bases.toml")


def load_bases(path: Path) -> tuple[Base, ...]:
    """Read the bases of a TOML file; a relative path is relative to that file.

    Raises
    ------
    BaseError
        Naming the file, the base, what was found and what was expected.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BaseError(f"{path} cannot be read as TOML: {error}; $TRACEBED_BASES names another file") from error
    _expect(set(content) <= {"base"}, path, f"tables {sorted(set(content) - {'base'})}", "only [base.<name>]")
    bases = content.get("base", {})
    _expect(isinstance(bases, dict), path, f"base = {bases!r}", "tables [base.<name>]")
    return tuple(_base(path, name, given) for name, given in bases.items())


def _base(path: Path, name: str, given: Any) -> Base:
    where = f"[base.{name}]"
    _expect(bool(_NAME.fullmatch(name)), path, where, "a name of lower-case letters, digits and _")
    _expect(name != SCRATCH, path, where, f"another name ({SCRATCH} is no base at all)")
    _expect(isinstance(given, Mapping), path, f"base.{name} = {given!r}", f"a table {where}")
    trained = "policy" in given
    fields = _TRAINED if trained else _PUBLISHED
    both = sorted(set(given) & {"policy", "path"})
    _expect(len(both) == 1, path, f"{where} with {both or sorted(given)}", "either `path`, or `policy` and `tasks`")
    _expect(set(given) <= set(fields), path, f"{where} with {sorted(set(given) - set(fields))}", f"only {[*fields]}")
    for each, value in given.items():
        right = isinstance(value, fields[each]) and (bool(value) or each == "settings")
        _expect(right, path, f"{where} {each} = {value!r}", f"a {_KINDS[fields[each]]} that is not empty")
    if trained:
        tasks = given.get("tasks", [])
        keys = bool(tasks) and all(isinstance(each, str) for each in tasks) and len(set(tasks)) == len(tasks)
        _expect(keys, path, f"{where} tasks = {tasks!r}", "at least one task `<suite>.<task>`, and each once")
        return Base(
            name,
            description=given.get("description"),
            policy=given["policy"],
            tasks=tuple(tasks),
            settings=given.get("settings", {}),
        )
    local = "://" not in given["path"]
    _expect(local, path, f"{where} path = {given['path']!r}", "a path here; an address belongs into `source`")
    return Base(name, path.parent / Path(given["path"]).expanduser(), given.get("description"), given.get("source"))


def _expect(holds: bool, path: Path, found: str, expected: str) -> None:
    if not holds:
        raise BaseError(f"{path}: found {found}, expected {expected}")


def stored_fingerprint(base: Base, store: TableStore) -> Fingerprint | None:
    """The fingerprint that `policy/base_weights/<name>` published of the base; None where it did not.

    Of a base that lies at a path, only what was read at that path counts.
    """
    try:
        rows = store.partition(TABLE, (base.name, "all")).frame()
    except MissingPartition:
        return None
    if base.path is not None and set(rows["path"]) != {str(base.path)}:
        return None
    return Fingerprint.from_frame(rows)


def base_candidate(base: Base, store: TableStore) -> Candidate:
    """A base as a candidate: by what was published of it, else by reading it now.

    Raises
    ------
    BaseError
        When it is pre-trained here and its fingerprints were not published.
    WeightsError
        When it was not published and cannot be read.
    """
    stored = stored_fingerprint(base, store)
    if stored is None and base.path is None:
        raise BaseError(
            f"found no fingerprint of base {base.name!r}, expected policy/{TABLE}/{base.name} to be materialised "
            f"(after policy/{CHECKPOINT_TABLE}/{base.name}, its training)"
        )
    return Candidate(base.name, stored or fingerprint(open_weights(base.path or Path())), base.places)
