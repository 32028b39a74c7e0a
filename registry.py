"""The registry of sections: which source stands behind each partition key.

A registration is a partition of table `section_source`; the asset `spatial/section` reads it. Adding a section loads
and checks its files at once, so that bad input is refused before a partition exists.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from home import Home
from io_managers.catalog import ensure_catalog
from io_managers.content import file_hash
from io_managers.schemas import table
from io_managers.tables import TableStore
from partitions import SECTIONS, TARGET_SECTIONS, add_section_key, section_keys, valid_key

if TYPE_CHECKING:
    from science.spatial.graph import GraphKind

_RUN = "tracebed section add"


class RegistrationError(ValueError):
    """A section that cannot be registered."""


def register_section(
    home: Home,
    key: str,
    path: Path,
    *,
    labels: Path | None = None,
    image: Path | None = None,
    label_column: str = "layer",
    known_labels: tuple[str, ...] | None = None,
    graph: GraphKind = "hex",
    replace: bool = False,
) -> str:
    """Load and check a section, record its source, and add its partition keys; returns a sentence about it.

    Raises
    ------
    PartitionKeyError, SectionError
        For a key or files that cannot be used.
    RegistrationError
        When the key is registered with other content and ``replace`` is not set.
    """
    from science.spatial.load import load_section, source_files
    from science.spatial.section import CORTEX_LAYERS

    valid_key(key)
    ensure_catalog(home)
    store = TableStore(home.tables)
    path = _resolved(path)
    labels, image = labels and _resolved(labels), image and _resolved(image)
    files = {str(file): file_hash(file) for file in source_files(path, labels, image)}
    known = known_labels or CORTEX_LAYERS
    row: dict[str, Any] = {
        "section": key,
        "kind": "space_ranger" if path.is_dir() else "h5ad",
        "path": str(path),
        "labels": labels and str(labels),
        "image": image and str(image),
        "label_column": label_column,
        "known_labels": list(known),
        "graph": graph,
        "source_hash": hashlib.sha256("".join(files.values()).encode()).hexdigest(),
        "files": json.dumps(files),
    }
    _refuse_other_content(store, key, row, replace)
    section = load_section(
        path, key, labels=labels, image=image, label_column=label_column, known_labels=known, graph=graph
    )
    row |= {"simulated": section.simulated, "n_labelled": int(section.labelled.sum())}
    schema = {column.name: column.dtype for column in table("section_source").columns}
    store.publish(
        "section_source", (key,), pl.DataFrame([row], schema=schema), asset="section_source", partition=key, run_id=_RUN
    )
    with dg.DagsterInstance.get() as instance:
        add_section_key(instance, key)
    labelled = (
        f"{int(section.labelled.sum())} labelled" if section.labelled.any() else "no labels (RM-IDEAL needs them)"
    )
    simulated = ", simulated" if section.simulated else ""
    return f"{key}: {section.n_spots} spots ({labelled}), {section.n_genes} genes{simulated}, from {path}"


def _resolved(path: Path) -> Path:
    return path.expanduser().resolve()


def _refuse_other_content(store: TableStore, key: str, row: dict, replace: bool) -> None:
    if replace or key not in {each.partition for each in store.partitions("section_source")}:
        return
    known = store.partition("section_source", (key,)).frame().row(0, named=True)
    if differ := [name for name in row if known[name] != row[name]]:
        raise RegistrationError(
            f"section {key!r} is registered with another {', '.join(differ)} (its path is {known['path']}); choose "
            "another key, or give --replace and materialise it again"
        )


def list_sections(home: Home) -> pl.DataFrame:
    """One row a section: its source, and how much of it is materialised."""
    ensure_catalog(home)
    store = TableStore(home.tables)
    with dg.DagsterInstance.get() as instance:
        keys = section_keys(instance)
    sources = store.scan("section_source").select("section", "kind", "path")
    spots = (
        store.scan("section")
        .group_by("section")
        .agg(spots=pl.len(), labelled=pl.col("layer").count(), simulated=pl.col("simulated").first())
    )
    embedded = (
        store.scan("embedding").group_by("section").agg(embeddings=pl.col("method").unique().sort().str.join(" "))
    )
    listed = pl.DataFrame({"section": keys}, schema={"section": pl.String})
    for frame in (spots, embedded, sources):
        listed = listed.join(frame, on="section", how="left")
    return listed.sort("section")


def remove_section(home: Home, key: str) -> str:
    """Take a key out of both dimensions; nothing that was published is deleted.

    Raises
    ------
    RegistrationError
        When there is no such section.
    """
    with dg.DagsterInstance.get() as instance:
        if key not in section_keys(instance):
            raise RegistrationError(f"there is no section {key!r}; `tracebed section list` shows what there is")
        for definition in (SECTIONS, TARGET_SECTIONS):
            instance.delete_dynamic_partition(definition.name or "", key)
    return f"{key} is no longer a partition; what was published of it stays under {home.tables}"
