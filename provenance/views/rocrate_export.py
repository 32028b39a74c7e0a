"""A trace as an RO-Crate of the profile Process Run Crate 0.5: a folder or zip that repositories and other tools read.

Each hop that a record tells of is a CreateAction: its instrument is the step's code, its objects what was read, its
results what was made; the number is a PropertyValue, a result of the first hop. Data are named by their content, or are
copied in. The trace itself lies beside, as `trace.html` and `trace.json`. See https://www.researchobject.org/ro-crate/.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.model.entity import Entity
from rocrate.model.person import Person
from rocrate.rocrate import ROCrate

from io_managers.artifacts import ArtifactStore
from io_managers.content import file_hash
from provenance.facts import Fact
from provenance.lineage import FILE, Record
from provenance.tree import Node, Trace
from provenance.views.as_json import as_json
from provenance.views.explained import kind_of
from provenance.views.html import as_html
from provenance.views.levels import in_reading_order
from provenance.views.names import bytes_name, data_name, producer
from provenance.views.story import story, title
from provenance.views.values import numbers

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
METADATA = "ro-crate-metadata.json"
_SHA256 = re.compile("[0-9a-f]{64}")
_DONE = "http://schema.org/CompletedActionStatus"


def write_rocrate(
    trace: Trace,
    destination: Path,
    *,
    artifacts: ArtifactStore | None = None,
    author: str | None = None,
    replace: bool = False,
) -> None:
    """Write the crate: a zip where ``destination`` ends so, else a folder. It appears whole or not at all.

    Parameters
    ----------
    artifacts : where artifacts lie, to copy them and the tables' files in; None to name them only. Source files from
        outside are never copied.
    author : who answers for the crate and started its actions; None claims nobody.
    replace : whether a crate (or a file, for a zip) that is there may go; any other folder never does.

    Raises
    ------
    FileExistsError
        When there is something at ``destination`` that is not to be replaced.
    ArtifactError
        When an artifact that is to be copied is gone or damaged.
    """
    _refuse_to_replace(destination, replace)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as draft:
        crate = _Crate(trace, artifacts, author, Path(draft)).made
        written = Path(draft) / "crate"
        if destination.suffix == ".zip":
            crate.write_zip(written)
        else:
            crate.write(written)
        if destination.is_dir():
            destination.rename(Path(draft) / "replaced")
        written.replace(destination)


def _refuse_to_replace(destination: Path, replace: bool) -> None:
    if not destination.exists():
        return
    if not replace:
        raise FileExistsError(f"{destination} exists already")
    if destination.is_dir() and (destination.suffix == ".zip" or not (destination / METADATA).is_file()):
        raise FileExistsError(f"{destination} is a folder and no RO-Crate: it is not replaced; name another place")
    if destination.is_file() and destination.suffix != ".zip":
        raise FileExistsError(f"{destination} is a file; an RO-Crate that is no zip is a folder: name another place")


class _Crate:
    def __init__(self, trace: Trace, artifacts: ArtifactStore | None, author: str | None, draft: Path):
        self._trace, self._artifacts, self._draft = trace, artifacts, draft
        self.made = ROCrate(version="1.1")
        self.made.metadata.extra_terms["sha256"] = "http://schema.org/sha256"
        self._author = self._person(author) if author else None
        self._makers = _makers(trace)
        self._data = {node.id: self._node(number, node) for number, node in enumerate(trace.nodes.values(), 1)}
        self._describe()
        values = [self._number(number) for number in range(len(numbers(trace)))]
        if values:
            self._data[trace.root]["variableMeasured"] = _one_or_many(values)
        for number, node in enumerate(trace.nodes.values(), 1):
            if node.record is not None:
                self._action(number, node, node.record, values if node.id == trace.root else [])

    def _describe(self) -> None:
        root = self.made.root_dataset
        root["name"] = f"Where it comes from: {title(self._trace)}"
        root["description"] = " ".join(story(self._trace))
        root["conformsTo"] = self._entity(PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")
        root["license"] = "Not stated: ask whoever gave you this crate."
        root["mainEntity"] = self._data[self._trace.root]
        if self._author is not None:
            root["author"] = self._author
        for name, text, kind in (
            ("trace.html", as_html(self._trace), "text/html"),
            ("trace.json", as_json(self._trace), "application/json"),
        ):
            path = self._draft / name
            path.write_text(text, encoding="utf-8")
            self._copied(path, name, name=name, description="The whole trace", encodingFormat=kind)

    def _person(self, name: str) -> Person:
        return self.made.add(Person(self.made, f"#person-{_short(name)}", properties={"name": name}))

    def _entity(self, uri: str, kind: str, /, **properties: Any) -> Entity:
        if (known := self.made.get(uri)) is not None:
            return known
        return self.made.add(ContextEntity(self.made, uri, properties={"@type": kind, **properties}))

    def _copied(self, path: Path, place: str, /, **properties: Any) -> Entity:
        if (known := self.made.get(place)) is not None:
            return known
        properties |= {"sha256": file_hash(path), "contentSize": str(path.stat().st_size)}
        return self.made.add_file(path, place, properties=properties)

    def _named(self, uri: str, /, **properties: Any) -> Entity:
        if (known := self.made.get(uri)) is not None:
            return known
        return self.made.add_file(uri, properties=properties)

    def _node(self, number: int, node: Node) -> Entity:
        kind = kind_of(node)
        facts = "; ".join(f"{each.label}: {each.text}" for each in node.facts if node.asset != FILE)
        properties = {
            "name": Path(node.address).name if node.asset == FILE else node.title,
            "description": " ".join(each for each in (kind.meaning, facts) if each),
            "identifier": data_name(node),
        }
        if node.superseded:
            properties["creativeWorkStatus"] = f"Superseded: {node.superseded}"
        if node.asset == FILE:
            properties |= {
                "sha256": node.content_hash,
                "alternateName": node.address,
                "encodingFormat": _encoding(node.address),
            }
            return self._named(data_name(node), **properties)
        properties |= {"encodingFormat": "application/vnd.apache.parquet", "version": node.content_hash}
        if self._artifacts is not None and Path(node.address).is_file():
            return self._copied(
                Path(node.address), f"tables/{number:03}-{node.asset.replace('/', '-')}.parquet", **properties
            )
        return self._named(data_name(node), **properties)

    def _artifact(self, fact: Fact) -> Entity | None:
        name = fact.artifact or ""
        digest = name.partition(".")[0]
        if not _SHA256.fullmatch(digest):
            return None
        properties = {"name": f"{fact.label} ({name})", "encodingFormat": _encoding(name), "sha256": digest}
        if self._artifacts is not None:
            return self._copied(self._artifacts.verified(name), f"artifacts/{name}", **properties)
        return self._named(bytes_name(digest), **properties)

    def _number(self, index: int) -> Entity:
        number = numbers(self._trace)[index]
        properties: dict[str, Any] = {
            "name": number.name,
            "value": "none" if number.exact is None else number.exact,
            "description": number.told + (f" ({number.meaning})" if number.meaning else ""),
        }
        if number.low is not None and number.high is not None:
            properties |= {"minValue": number.low, "maxValue": number.high}
        return self._entity(f"#number-{index + 1}", "PropertyValue", **properties)

    def _action(self, number: int, node: Node, record: Record, values: list[Entity]) -> None:
        mentioned = [(fact, each) for fact in node.facts if (each := self._artifact(fact)) is not None]
        made = [each for fact, each in mentioned if self._makers[fact.artifact or ""] == node.id]
        read = [each for fact, each in mentioned if self._makers[fact.artifact or ""] != node.id]
        job = node.job or {}
        properties: dict[str, Any] = {
            "name": f"Made {node.title}",
            "description": _told(record, job),
            "instrument": self._instrument(record),
            "object": _one_or_many([*(self._data[edge.node] for edge in node.inputs), *read]),
            "result": _one_or_many([self._data[node.id], *made, *values]),
            "endTime": _seconds(job.get("ended_at") or record.recorded_at),
            "actionStatus": _DONE,
        }
        if job.get("started_at"):
            properties["startTime"] = _seconds(job["started_at"])
        if self._author is not None:
            properties["agent"] = self._author
        action = self._entity(f"#action-{number}", "CreateAction", identifier=record.run_id)
        for name, value in properties.items():
            action[name] = value
        self.made.root_dataset.append_to("mentions", action)

    def _instrument(self, record: Record) -> Entity:
        code = (
            f"{record.asset}:{record.code_version}:{record.git_commit or 'unknown'}:{sorted(record.versions.items())}"
        )
        return self._entity(
            f"{producer()}:code:{_short(code)}",
            "SoftwareApplication",
            name=f"tracebed, step {record.asset}",
            softwareVersion=f"{record.code_version}, git commit {record.git_commit or 'not known'}",
            softwareRequirements=[f"{name} {found}" for name, found in record.versions.items()],
        )


def _makers(trace: Trace) -> dict[str, str]:
    """Which node made each artifact: of those that mention it, the one furthest from the number."""
    return {
        fact.artifact: node.id for node in in_reading_order(trace) for fact in node.facts if fact.artifact is not None
    }


def _one_or_many(entities: list[Entity]) -> Entity | list[Entity]:
    """RO-Crate wants a single value bare."""
    return entities[0] if len(entities) == 1 else entities


def _told(record: Record, job: Any) -> str:
    where = f"job {job['key']}, site {job.get('site', 'not known')}, " if job else ""
    return f"Run {record.run_id}, {where}node {record.node}, content hash of the result {record.content_hash}"


def _seconds(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _encoding(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
