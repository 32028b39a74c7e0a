"""Bases that weights may come from: what `bases.toml` says, checked, and what was published of them."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from home import ROOT
from io_managers.tables import MissingPartition, TableStore
from provenance.weights.candidates import SCRATCH, Candidate
from provenance.weights.fingerprint import Fingerprint, fingerprint
from provenance.weights.readers import open_weights

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FIELDS = {"path", "description", "source"}
TABLE = "base_weights"


class BaseError(ValueError):
    """A `bases.toml` that cannot be used."""


@dataclass(frozen=True)
class Base:
    """One base.

    Attributes
    ----------
    name : part of the asset key.
    path : its checkpoint.
    description : what it is.
    source : where it was published; a path in a log or configuration is recognised by it, too.
    """

    name: str
    path: Path
    description: str | None = None
    source: str | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """Paths and addresses that it is known at."""
        found = (str(self.path), str(self.path.resolve()), *([self.source] if self.source else []))
        return tuple(dict.fromkeys(found))


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
    _expect(set(given) <= _FIELDS, path, f"{where} with {sorted(set(given) - _FIELDS)}", f"only {sorted(_FIELDS)}")
    for field in _FIELDS:
        value = given.get(field)
        needed = field == "path"
        right = isinstance(value, str) and bool(value) if needed or value is not None else True
        _expect(right, path, f"{where} {field} = {value!r}", "a path" if needed else "a text")
    local = "://" not in given["path"]
    _expect(local, path, f"{where} path = {given['path']!r}", "a path here; an address belongs into `source`")
    return Base(name, path.parent / Path(given["path"]).expanduser(), given.get("description"), given.get("source"))


def _expect(holds: bool, path: Path, found: str, expected: str) -> None:
    if not holds:
        raise BaseError(f"{path}: found {found}, expected {expected}")


def stored_fingerprint(base: Base, store: TableStore) -> Fingerprint | None:
    """The fingerprint that `policy/base_weights/<name>` published of the base at this path; None where it did not."""
    try:
        rows = store.partition(TABLE, (base.name, "all")).frame()
    except MissingPartition:
        return None
    return Fingerprint.from_frame(rows) if set(rows["path"]) == {str(base.path)} else None


def base_candidate(base: Base, store: TableStore) -> Candidate:
    """A base as a candidate: by what was published of it, else by reading it now.

    Raises
    ------
    WeightsError
        When it was not published and cannot be read.
    """
    return Candidate(base.name, stored_fingerprint(base, store) or fingerprint(open_weights(base.path)), base.places)
