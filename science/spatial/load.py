"""From the files of a user to a validated `Section`.

Formats are read in `space_ranger.py` and `annotated.py`, labels in `labels.py`; here they are joined, by barcode, and
checked. Nothing is repaired: a section that breaks a rule is refused with the file, the finding and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from science.spatial import section_checks as checks
from science.spatial.annotated import DEFAULT_LABEL_COLUMN, read_annotated
from science.spatial.graph import GraphKind, grid_from_pixels, neighbour_graph
from science.spatial.histology import check_image_holds_spots, read_image
from science.spatial.labels import join_labels, read_label_table
from science.spatial.section import CORTEX_LAYERS, Section
from science.spatial.section_checks import section_error
from science.spatial.source import SourceSpots
from science.spatial.space_ranger import find_files, read_space_ranger


def load_section(
    path: Path,
    key: str,
    *,
    labels: Path | None = None,
    image: Path | None = None,
    label_column: str = DEFAULT_LABEL_COLUMN,
    known_labels: Sequence[str] = CORTEX_LAYERS,
    graph: GraphKind = "hex",
) -> Section:
    """Load one section and check it.

    Parameters
    ----------
    path : output folder of Space Ranger, or an h5ad with raw counts in X.
    key : name of the section; chooses its rows in a table of labels of several sections.
    labels : table of labels, see `labels.py`. It replaces the labels of an h5ad; without both, no spot has a label.
    image : low-resolution image; without it the one of the folder or the h5ad is taken, if there is one.
    label_column : column of the labels in ``obs`` or in the header of the table.
    known_labels : every label must be one of these, after L1 -> Layer1.
    graph : see `graph.neighbour_graph`. 'knn' and 'delaunay' need no array_row and array_col.

    Returns
    -------
    Section with the spots in tissue, in the order of the counts.

    Raises
    ------
    SectionError : anything that makes the section unusable; it names the file.
    """
    spots, in_tissue = _read(path, key, label_column, known_labels, graph)
    layer, label_file = spots.layer, path
    if labels is not None:
        table = read_label_table(labels, key, known_labels, label_column)
        layer, label_file = join_labels(table, spots.barcodes, labels), labels
    if layer is None:
        layer = np.full(len(spots.barcodes), "", dtype=str)
    spots, layer = spots.subset(in_tissue), layer[in_tissue]
    counts_file, positions_file = spots.files["counts"], spots.files["positions"]

    checks.check_spot_number(len(spots.barcodes), positions_file)
    checks.check_depth(spots.counts, spots.sum_umi, spots.barcodes, counts_file)
    checks.check_labels(layer, known_labels, label_file)
    if spots.array_row is None or spots.array_col is None:
        checks.check_distinct(spots.pixel, positions_file)
        array_row, array_col = grid_from_pixels(spots.pixel)
    else:
        array_row, array_col = spots.array_row, spots.array_col
    if graph == "hex":  # neighbour_graph checks it too, but cannot name barcodes
        checks.check_grid(array_row, array_col, spots.barcodes, positions_file)
    adjacency = neighbour_graph(array_row, array_col, spots.pixel, graph, source=positions_file)
    checks.check_graph(adjacency, positions_file)
    picture, scale = _image(spots, image)

    section = Section(
        key=key,
        counts=spots.counts,
        genes=spots.genes,
        barcodes=spots.barcodes,
        array_row=array_row,
        array_col=array_col,
        pixel=spots.pixel,
        layer=layer.astype(str),
        sum_umi=spots.sum_umi,
        adjacency=adjacency,
        image=picture,
        image_scale=scale,
        simulated=spots.simulated,
        sum_umi_from=spots.sum_umi_from,
    )
    checks.check_section(section, path)
    return section


def source_files(path: Path, labels: Path | None = None, image: Path | None = None) -> list[Path]:
    """Every file that decides the section, in a fixed order; their hashes together stand for the source.

    Raises
    ------
    SectionError : one of them is missing.
    """
    if path.is_dir():
        found = find_files(path)
        files = [file for file in found.all() if image is None or file != found.image]
    else:
        files = [path]
    files += [file for file in (labels, image) if file is not None]
    for file in files:
        if not file.is_file():
            raise section_error(file, "no such file", "a file of the section", "correct the path")
    return files


def _read(
    path: Path, key: str, label_column: str, known_labels: Sequence[str], graph: GraphKind
) -> tuple[SourceSpots, np.ndarray]:
    if path.is_dir():
        return read_space_ranger(path)
    if not path.exists():
        raise section_error(path, "no such file or folder", "a Space Ranger folder or an h5ad", "correct the path")
    if path.suffix != ".h5ad":
        raise section_error(
            path, f"a file of type '{path.suffix}'", "a Space Ranger folder or an h5ad", "give the folder that holds it"
        )
    return read_annotated(path, key, label_column=label_column, known_labels=known_labels, needs_grid=graph == "hex")


def _image(spots: SourceSpots, given: Path | None) -> tuple[np.ndarray | None, float]:
    """Image and its scale; 1.0 stands for the scale where there is no image."""
    picture = spots.image if given is None else read_image(given)
    if picture is None:
        return None, spots.image_scale or 1.0
    if spots.image_scale is None:
        raise section_error(
            spots.files["scale"],
            "no tissue_lowres_scalef",
            "the scale of the low-resolution image",
            "add scalefactors_json.json (folder) or uns['scalefactors'] (h5ad)",
        )
    check_image_holds_spots(picture, spots.image_scale, spots.pixel, given or spots.files["image"])
    return picture, spots.image_scale
