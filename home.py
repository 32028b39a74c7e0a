"""Where everything lives: `$TRACEBED_HOME`, by default `.tracebed/` beside this file.

One folder holds tables, artifacts, jobs, Dagster's own storage and the DuckDB catalog. This module knows the layout
and nothing else; what is inside each folder belongs to `io_managers/` and `resources/`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Home:
    """The folders of one installation of the platform."""

    root: Path

    @classmethod
    def from_env(cls) -> Home:
        """`$TRACEBED_HOME`, or `.tracebed/` beside the code."""
        return cls(Path(os.environ.get("TRACEBED_HOME") or ROOT / ".tracebed").expanduser().resolve())

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    def site(self, name: str) -> Path:
        """What is known of a site: what it last said, its places, its excluded nodes."""
        folder = self.root / "sites" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def downloads(self) -> Path:
        return self.root / "downloads"

    @property
    def training(self) -> Path:
        return self.root / "training"

    @property
    def episodes(self) -> Path:
        return self.root / "episodes"

    @property
    def catalog(self) -> Path:
        return self.root / "platform.duckdb"

    def ensure(self) -> Home:
        """Create the folders, and give Dagster its configuration. Safe to call from many processes at once."""
        folders = (self.tables, self.artifacts, self.jobs, self.dagster, self.downloads, self.training, self.episodes)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        config = self.dagster / "dagster.yaml"
        if not config.exists():
            draft = config.with_name(f".dagster.yaml.{os.getpid()}")
            shutil.copyfile(ROOT / "dagster.yaml", draft)
            draft.replace(config)
        return self

    def environment(self) -> dict[str, str]:
        """The environment in which Dagster's own commands find this home."""
        return {**os.environ, "TRACEBED_HOME": str(self.root), "DAGSTER_HOME": str(self.dagster)}
