"""A home that holds exactly what a record names, and that is gone afterwards.

`<home>/scratch/replay-.../` has the recorded versions of all inputs as the current partitions of its tables, the
artifacts that their rows point to, an instance of Dagster with the partition keys, and whatever the replay makes.
Nothing outside it is written. A file that is linked into it is never written either: tables, artifacts and checkpoints
are replaced by rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from home import Home
from io_managers.addresses import partition_folders, partition_key
from io_managers.artifacts import ArtifactError, ArtifactStore
from io_managers.content import file_hash
from io_managers.tables import DamagedPartition, MissingPartition, TablePartition, TableStore
from partitions import pair
from provenance.lineage import FILE, Input, Record
from replay.compare import ARTIFACT
from replay.refusals import ReplayRefused
from resources.compute.backends import backend_of
from resources.compute.job_directory import open_jobs
from resources.compute.running import end_submission
from resources.compute.sites import load_sites

SCRATCH = "scratch"
_REMOVALS = 25


@dataclass(frozen=True)
class Scratch:
    """The scratch home of one replay.

    Attributes
    ----------
    original : the home whose value is replayed.
    home : the scratch home.
    """

    original: Home
    home: Home

    def place(self, record: Record) -> list[TablePartition]:
        """Put every recorded input into place; returns the partitions.

        Raises
        ------
        ReplayRefused
            Naming an input whose bytes are not kept, were changed, or are not the recorded ones.
        """
        placed: dict[tuple[str, str], TablePartition] = {}
        for each in record.inputs:
            if each.asset == FILE:
                _require_file(each)
                continue
            which = each.asset, each.partition
            if which in placed and placed[which].data_version != each.content_hash:
                raise ReplayRefused(f"the record names two versions of {each.asset} [{each.partition}]; expected one")
            own = which == (record.asset, record.partition)
            placed[which] = self._place(each, artifacts_needed=not own)
        return list(placed.values())

    def _place(self, each: Input, *, artifacts_needed: bool) -> TablePartition:
        name, key = partition_key(each.asset, each.partition)
        what = f"input {each.asset} [{each.partition}] of run {each.run_id}"
        try:
            kept = TableStore(self.original.tables).version(name, key, each.content_hash, each.run_id)
            rows = kept.frame()
        except (MissingPartition, ValueError) as missing:
            raise ReplayRefused(f"{what} is not kept: {missing}") from missing
        except DamagedPartition as damaged:
            raise ReplayRefused(f"{what} is not what was read: {damaged}") from damaged
        address = TableStore(self.home.tables).address(name, key)
        address.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept.address, address)
        for column in rows.columns:
            if column.endswith(ARTIFACT):
                # What rows of an earlier version point to was copied on with them, not read.
                self._link_artifacts(rows[column].drop_nulls().unique(), what, needed=artifacts_needed)
        return kept

    def _link_artifacts(self, names: Iterable[str], what: str, *, needed: bool) -> None:
        source, destination = ArtifactStore(self.original.artifacts), ArtifactStore(self.home.artifacts)
        for name in names:
            try:
                link(source.verified(name), destination.path(name))
            except ArtifactError as error:
                if needed:
                    raise ReplayRefused(f"{what} points to an artifact that cannot be used: {error}") from error

    def add_keys(
        self, instance: dg.DagsterInstance, definitions: dg.Definitions, wanted: Iterable[tuple[str, str]]
    ) -> None:
        """Add the partition keys of assets and partitions, in the order in which the record has them."""
        graph = definitions.resolve_asset_graph()
        for asset, partition in wanted:
            key = dg.AssetKey.from_user_string(asset)
            definition = graph.get(key).partitions_def if graph.has(key) else None
            for dimension, name in zip(_dimensions(definition), partition_folders(partition), strict=False):
                instance.add_dynamic_partitions(dimension, [name])

    @contextlib.contextmanager
    def environment(self, files: Mapping[str, str]) -> Iterator[None]:
        """This process and its jobs find the scratch home as theirs, and the recorded files; restored afterwards.

        ``files`` maps a variable to the text of the file that it is to name.
        """
        changed = {"TRACEBED_HOME": str(self.home.root), "DAGSTER_HOME": str(self.home.dagster)}
        for variable, text in files.items():
            path = self.home.root / f"{variable.removeprefix('TRACEBED_').lower()}.toml"
            path.write_text(text)
            changed[variable] = str(path)
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def end_jobs(self) -> int:
        """End the jobs that an interrupt left behind, before their folder goes; returns how many there were."""
        left = open_jobs(self.home.jobs)
        for job in left:
            site = load_sites().site(job.recorded()["site"])
            for number in job.submissions():
                end_submission(backend_of(site, self.home.site(site.name)), job.submission(number))
        return len(left)


@contextlib.contextmanager
def scratch_home(original: Home, label: str, *, keep: bool = False) -> Iterator[Scratch]:
    """A scratch home, removed at the end, however that comes, unless it is to be kept."""
    folder = original.root / SCRATCH
    folder.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix=f"replay-{label}-", dir=folder))
    scratch = Scratch(original, Home(root).ensure())
    try:
        yield scratch
    finally:
        scratch.end_jobs()
        if not keep:
            _remove(root)
            with contextlib.suppress(OSError):
                folder.rmdir()  # others may replay at the same time


def _remove(root: Path) -> None:
    """Remove a folder in which a job that was ended may still write its last words."""
    for _ in range(_REMOVALS):
        shutil.rmtree(root, ignore_errors=True)
        if not root.exists():
            return
        time.sleep(0.2)
    shutil.rmtree(root)


def link(source: Path, destination: Path) -> None:
    """Give a file that will never change a second name, or copy it where the file system has no such links."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        destination.hardlink_to(source)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
            raise
        shutil.copyfile(source, destination)


def run_key(asset: dg.AssetsDefinition, partition: str) -> str | None:
    """The partition key that a run of a partition is given."""
    if not partition:
        return None
    if isinstance(asset.partitions_def, dg.MultiPartitionsDefinition):
        source, target = partition_folders(partition)
        return pair(source, target)
    return partition


def _dimensions(definition: dg.PartitionsDefinition | None) -> list[str]:
    """Names of the sets of partition keys that a partition's key consists of."""
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return [name for each in definition.partitions_defs for name in _dimensions(each.partitions_def)]
    if isinstance(definition, dg.DynamicPartitionsDefinition):
        return [definition.name or ""]
    return []


def _require_file(each: Input) -> None:
    path = Path(each.address)
    if not path.exists():
        raise ReplayRefused(f"the source file {path} is gone; it was read with SHA-256 {each.content_hash}: restore it")
    if path.is_file() and (found := file_hash(path)) != each.content_hash:
        raise ReplayRefused(
            f"the source file {path} has changed: found SHA-256 {found}, expected {each.content_hash}, as it was read; "
            "restore it"
        )
