"""Encoder variants: what `encoders.toml` says, checked."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partitions import valid_key
from resources.compute.interface import Needs

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FIELDS = {"method", "cohort", "seeds", "max_refits", "params", "needs"}
RESERVED = {"controls"}
_NEEDS = Needs(cpus=1, memory_gb=4, packages=("scanpy",))


class VariantError(ValueError):
    """An `encoders.toml` that cannot be used."""


@dataclass(frozen=True)
class EncoderVariant:
    """One encoder variant.

    Attributes
    ----------
    name : part of the asset keys.
    method : encoder method, a built-in name or `module:Class`.
    cohort_name, cohort : the sections that it is fitted on, by partition key.
    seeds : nominal seeds; each is a fit and a set of rows.
    max_refits : refits with other seeds that a collapsed fit may take.
    params : parameters of the method.
    needs : what its jobs need (GPUs, memory, environment, ...); it decides no number, so it is not in the hash.
    """

    name: str
    method: str
    cohort_name: str
    cohort: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    max_refits: int = 3
    params: Mapping[str, Any] = field(default_factory=dict)
    needs: Needs = _NEEDS

    @property
    def hash(self) -> str:
        """Hash of everything that decides the fit: an entry that was edited is another encoder."""
        decides = [self.method, sorted(self.cohort), list(self.seeds), self.max_refits, dict(self.params)]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def group(self) -> str:
        """The asset group, by cohort."""
        return f"spatial_{self.cohort_name}"


def load_variants(path: Path) -> tuple[EncoderVariant, ...]:
    """Read the variants of a TOML file.

    Raises
    ------
    VariantError
        Naming the file, the variant, what was found and what was expected.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise VariantError(f"{path} cannot be read as TOML: {error}") from error
    cohorts = content.get("cohort", {})
    for name, sections in cohorts.items():
        _expect(bool(_NAME.fullmatch(name)), path, f"cohort name {name!r}", "lower-case letters, digits and _")
        _expect(
            isinstance(sections, list) and bool(sections), path, f"cohort {name} = {sections!r}", "a list of sections"
        )
        for section in sections:
            valid_key(section)
    return tuple(_variant(path, name, each, cohorts) for name, each in content.get("encoder", {}).items())


def _variant(path: Path, name: str, given: Mapping[str, Any], cohorts: Mapping[str, list[str]]) -> EncoderVariant:
    where = f"[encoder.{name}]"
    _expect(bool(_NAME.fullmatch(name)), path, where, "a name of lower-case letters, digits and _")
    _expect(name not in RESERVED, path, where, f"another name ({', '.join(sorted(RESERVED))} are taken)")
    _expect(set(given) <= _FIELDS, path, f"{where} with {sorted(set(given) - _FIELDS)}", f"only {sorted(_FIELDS)}")
    _expect(isinstance(given.get("method"), str), path, f"{where} method = {given.get('method')!r}", "a method")
    cohort = str(given.get("cohort"))
    _expect(cohort in cohorts, path, f"{where} cohort = {cohort!r}", f"one of {sorted(cohorts)}")
    seeds = given.get("seeds", [0])
    whole = isinstance(seeds, list) and bool(seeds) and all(type(seed) is int and seed >= 0 for seed in seeds)
    _expect(whole and len(set(seeds)) == len(seeds), path, f"{where} seeds = {seeds!r}", "different whole numbers >= 0")
    refits = given.get("max_refits", 3)
    _expect(type(refits) is int and refits >= 0, path, f"{where} max_refits = {refits!r}", "a whole number >= 0")
    params = given.get("params", {})
    _expect(isinstance(params, dict), path, f"{where} params = {params!r}", "a table")
    try:
        needs = _NEEDS.with_(given.get("needs", {}))
    except ValueError as error:
        raise VariantError(f"{path}: {where}: {error}") from error
    return EncoderVariant(name, given["method"], cohort, tuple(cohorts[cohort]), tuple(seeds), refits, params, needs)


def _expect(holds: bool, path: Path, found: str, expected: str) -> None:
    if not holds:
        raise VariantError(f"{path}: found {found}, expected {expected}")
