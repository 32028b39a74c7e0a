"""Content-addressed files: what is too big or too binary for a table row.

`artifacts/<first two>/<sha256><suffix>`; rows of tables hold the hash. A file is never changed after it was published,
so any process can read it at any time, and its name proves its bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from io_managers.content import file_hash
from io_managers.publish import publish_file


class ArtifactError(RuntimeError):
    """An artifact that is missing or whose bytes are not those that its name promises."""


@dataclass(frozen=True)
class ArtifactStore:
    """The artifacts under one folder."""

    root: Path

    def path(self, name: str) -> Path:
        """Where the artifact ``<sha256><suffix>`` lies (whether or not it is there)."""
        return self.root / name[:2] / name

    def put(self, source: Path) -> str:
        """Keep a copy of ``source``; returns its name ``<sha256><suffix>``. Keeping the same bytes twice is free."""
        return self._publish(source, lambda draft: shutil.copyfile(source, draft))

    def take(self, source: Path) -> str:
        """Keep ``source`` itself, which is gone from its place afterwards; returns its name."""
        name = self._publish(source, lambda draft: shutil.move(source, draft))
        source.unlink(missing_ok=True)
        return name

    def _publish(self, source: Path, write: Callable[[Path], object]) -> str:
        name = file_hash(source) + source.suffix
        destination = self.path(name)
        # One that was damaged is replaced: its name promises these bytes.
        if not destination.exists() or file_hash(destination) != Path(name).stem:
            publish_file(destination, write)
        return name

    def verified(self, name: str) -> Path:
        """The path of an artifact after its bytes were held against its name.

        Raises
        ------
        ArtifactError
            When the file is missing, or was changed since it was published.
        """
        path = self.path(name)
        if not path.is_file():
            raise ArtifactError(f"artifact {name} is missing: expected at {path}; materialise the asset that made it")
        found = file_hash(path)
        if found != Path(name).stem:
            raise ArtifactError(
                f"artifact {path} holds other bytes than its name says: found sha256 {found}; "
                "it was changed or damaged after publication: delete it and materialise the asset that made it"
            )
        return path
