"""Nodes that are left out for some hours because they failed, with why, shared by all jobs of a site."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from resources.compute.places import locked


@dataclass(frozen=True)
class Exclusion:
    """A node, from when until when it is left out, why, and the job that met the failure."""

    node: str
    since: datetime
    until: datetime
    reason: str
    job: str


class ExcludedNodes:
    """The exclusions of a site; ``folder`` is the site's own. Nothing is ever removed: it is evidence."""

    def __init__(self, folder: Path):
        self._path = folder / "excluded.jsonl"

    def exclude(self, node: str, hours: float, reason: str, job: str) -> None:
        """Leave a node out from now on, for some hours."""
        now = datetime.now(UTC)
        row = {
            "node": node,
            "since": now.isoformat(),
            "until": (now + timedelta(hours=hours)).isoformat(),
            "reason": reason,
            "job": job,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.with_suffix(".lock")), self._path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def history(self) -> list[Exclusion]:
        """Every exclusion, oldest first."""
        if not self._path.exists():
            return []
        rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [
            Exclusion(
                **row | {"since": datetime.fromisoformat(row["since"]), "until": datetime.fromisoformat(row["until"])}
            )
            for row in rows
        ]

    def current(self) -> dict[str, Exclusion]:
        """Nodes that are left out now."""
        now = datetime.now(UTC)
        return {each.node: each for each in self.history() if each.until > now}
