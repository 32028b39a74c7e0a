"""What files held when they were read last, so that a file whose stat has not changed is not read again.

A memory is one Parquet file: path, size, mtime, ctime, inode, device, and a text (a hash, or what was read). It is a
convenience and no evidence: it is rebuilt by reading everything, which `full` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from files import write_whole

SETTLED_NS = 100_000_000
"""A file that was changed so shortly before it was read may change again within one tick of the file system's clock,
without a change of its stat: it is read again next time."""

Stat = tuple[int, int, int, int, int]
"""Size, mtime [ns], ctime [ns], inode, device."""

_STAT = ("size", "mtime_ns", "ctime_ns", "inode", "device")
_SCHEMA: dict[str, pl.DataType] = {
    "path": pl.String(),
    **{name: pl.Int64() for name in _STAT[:3]},
    **{name: pl.UInt64() for name in _STAT[3:]},
    "said": pl.String(),
}


def stat_of(status: os.stat_result) -> Stat:
    """The part of a stat that changes with the bytes."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


class Memory:
    """What each file said when it was read last.

    Parameters
    ----------
    path : the file that holds it; it need not exist. One that cannot be read counts as empty.
    full : read every file again.

    Attributes
    ----------
    bytes_hashed, bytes_unchanged : sizes of what was read, and of what was not read again.
    """

    def __init__(self, path: Path, *, full: bool = False):
        self._path, self._full = path, full
        self._known = {} if full else _load(path)
        self._seen: dict[str, tuple[Stat, str]] = {}
        self._by_stat: dict[Stat, str] = {}
        self._unsettled: set[str] = set()
        self._changed = False
        self.bytes_hashed = self.bytes_unchanged = 0

    def recall(self, path: str, read: Callable[[str], str], status: os.stat_result | None = None) -> str:
        """What ``read(path)`` says of the file: remembered where its stat is unchanged, else read now.

        Two names of one file are read once.

        Raises
        ------
        FileNotFoundError
            When it is not there.
        """
        stat = stat_of(status or os.stat(path))  # noqa: PTH116 - a Path for each of 100,000 files costs more than this
        known = self._known.get(path)
        if known is not None and known[0] == stat:
            self.bytes_unchanged += 0 if stat in self._by_stat else stat[0]
            self._by_stat[stat] = known[1]
            self._seen[path] = known
            return known[1]
        asked_ns = time.time_ns()
        if stat not in self._by_stat:
            self._by_stat[stat] = read(path)
            self.bytes_hashed += stat[0]
        said = self._by_stat[stat]
        if max(stat[1], stat[2]) + SETTLED_NS > asked_ns or stat_of(os.stat(path)) != stat:  # noqa: PTH116
            self._unsettled.add(path)
        else:
            self._seen[path] = (stat, said)
            self._changed = True
        return said

    def save(self) -> None:
        """Write what is known now, and what another audit has written meanwhile; files that are gone are forgotten."""
        unseen = self._known.keys() - self._seen.keys()
        if not self._changed and not unseen & self._unsettled and all(os.path.lexists(path) for path in unseen):
            return
        read_now = self._seen.keys() | self._unsettled
        others = {path: known for path, known in _load(self._path).items() if path not in read_now}
        kept = {path: known for path, known in others.items() if os.path.lexists(path)}
        write_whole(self._path, partial(_write, kept | self._seen))


def _load(path: Path) -> dict[str, tuple[Stat, str]]:
    try:
        frame = pl.read_parquet(path)
    except (FileNotFoundError, pl.exceptions.PolarsError):
        return {}
    if dict(frame.schema) != _SCHEMA:
        return {}
    stats = zip(*(frame[name].to_list() for name in _STAT), strict=True)
    return dict(zip(frame["path"].to_list(), zip(stats, frame["said"].to_list(), strict=True), strict=True))


def _write(known: dict[str, tuple[Stat, str]], path: Path) -> None:
    rows = [(name, *stat, said) for name, (stat, said) in known.items()]
    pl.DataFrame(rows, schema=_SCHEMA, orient="row").write_parquet(path)
