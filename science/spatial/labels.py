"""Tables of layer labels: which spot a histologist put into which layer.

A table is tab- or comma-separated, with or without a header: (barcode, label), as Loupe exports it, or (barcode,
section, label), as HumanPilot's `barcode_level_layer_map.tsv`. Labels are joined to spots BY BARCODE, never by order.
Which labels are allowed is the caller's choice (`known_labels`).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from science.spatial.section_checks import number, section_error, some

# The first cell of a header line, in lower case; a pandas index without a name has an empty one.
BARCODE_HEADERS = ("barcode", "barcodes", "bc", "spot", "spot_id", "")
SECTION_HEADERS = ("section", "sample", "sample_id", "sample_name", "library_id")
NO_LABEL = ("", "na", "nan", "none", "<na>", "unlabelled", "unlabeled")
SHORT_LAYER = re.compile(r"L(\d)")


def standard_label(raw: str, known_labels: Sequence[str]) -> str:
    """Label in the spelling of `known_labels`: L1 -> Layer1 (HumanPilot), NA and the like -> '' (no label)."""
    label = raw.strip()
    if label in known_labels:
        return label
    if label.lower() in NO_LABEL:
        return ""
    if (short := SHORT_LAYER.fullmatch(label)) and f"Layer{short[1]}" in known_labels:
        return f"Layer{short[1]}"
    return label


def parse_label_table(
    text: str, file: Path | str, key: str, known_labels: Sequence[str], label_column: str = "layer"
) -> dict[str, str]:
    """Read the labels of one section from the text of a table.

    Parameters
    ----------
    text : the table; the separator is a tab if the first line has one, else a comma.
    file : named in errors.
    key : the section; rows of other sections in a three-column table are left out.
    known_labels : labels in their standard spelling, see `standard_label`. Unknown labels are returned, not refused.
    label_column : which column of a header with more than two columns holds the label.

    Returns
    -------
    label by barcode; the empty string where the table says that a spot has none.

    Raises
    ------
    SectionError : empty, ragged, a header that names no label, no row of the section, or a barcode twice.
    """
    rows = _rows(text, file)
    barcode_at, section_at, label_at, has_header = _columns(rows[0][1], file, label_column)
    width = len(rows[0][1])
    labels: dict[str, str] = {}
    line_of: dict[str, int] = {}
    sections: set[str] = set()
    for line, row in rows[has_header:]:
        if len(row) != width:
            found = f"{number(len(row), 'column')} in line {line}"
            raise section_error(file, found, f"{width}, as in the first line", "repair that line")
        if section_at is not None:
            sections.add(row[section_at])
            if row[section_at] != key:
                continue
        barcode = row[barcode_at]
        if barcode in labels:
            found = f"barcode {barcode} in lines {line_of[barcode]} and {line}"
            raise section_error(
                file,
                found,
                "each barcode once a section",
                "drop one of the lines; a table of several sections needs a column that names the section",
            )
        labels[barcode] = standard_label(row[label_at], known_labels)
        line_of[barcode] = line
    if not labels:
        found = f"no row of section {key!r}" + (f" (sections: {some(sorted(sections))})" if sections else "")
        raise section_error(
            file, found, "labels of this section", "correct the section's key, or give a table of (barcode, label)"
        )
    return labels


def read_label_table(path: Path, key: str, known_labels: Sequence[str], label_column: str = "layer") -> dict[str, str]:
    """Read the labels of section `key` from a file; see `parse_label_table`."""
    if not path.is_file():
        raise section_error(path, "no such file", "a table of labels (TSV or CSV)", "correct the path of the labels")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise section_error(
            path, f"bytes that are not text ({error})", "a TSV or CSV in UTF-8", "export the table as CSV"
        ) from error
    return parse_label_table(text, path, key, known_labels, label_column)


def join_labels(labels: Mapping[str, str], barcodes: np.ndarray, file: Path | str) -> np.ndarray:
    """Labels in the order of `barcodes`, str ``[n_spots]``; '' for a barcode that the table leaves out.

    Raises
    ------
    SectionError : the table labels barcodes that the section does not have.
    """
    spots = set(barcodes.tolist())
    if absent := [barcode for barcode in labels if barcode not in spots]:
        raise section_error(
            file,
            f"{len(absent)} of {len(labels)} labelled barcodes that the counts lack ({some(absent)})",
            f"barcodes like {some(barcodes[:2])}",
            mismatch_advice(absent[0], spots),
        )
    return np.array([labels.get(barcode, "") for barcode in barcodes.tolist()], dtype=str)


def mismatch_advice(absent: str, known: Set[str]) -> str:
    """What to do about a barcode that is not among `known`: the '-1' that some tools cut off, or another file."""
    if f"{absent}-1" in known or absent.rpartition("-")[0] in known:
        return "make the suffixes agree: one file has barcodes that end in '-1', the other has not"
    return "check that both files are of the same section; a header's first column must be named barcode"


def _rows(text: str, file: Path | str) -> list[tuple[int, list[str]]]:
    """Lines as (line number, stripped cells); blank lines are left out."""
    first_line = text.lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first_line else ",")
    try:
        rows = [
            (reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise section_error(
            file, f"line {reader.line_num} that is no CSV ({error})", "a TSV or CSV", "export the table again"
        ) from error
    if not rows:
        raise section_error(file, "an empty table", "one line for each labelled spot", "export the labels again")
    return rows


def _columns(first: list[str], file: Path | str, label_column: str) -> tuple[int, int | None, int, bool]:
    """Where barcode, section (or None) and label stand, and whether the first line is a header."""
    layouts = "(barcode, label) or (barcode, section, label)"
    if first[0].lower() not in BARCODE_HEADERS:
        if len(first) == 2:
            return 0, None, 1, False
        if len(first) == 3:
            return 0, 1, 2, False
        found = f"{number(len(first), 'column')} and no header that starts with 'barcode'"
        raise section_error(file, found, layouts, "cut the other columns, or add a header")
    names = [name.lower() for name in first]
    section_at = next((names.index(name) for name in SECTION_HEADERS if name in names), None)
    others = [i for i in range(1, len(names)) if i != section_at]
    if label_column.lower() in names:
        return 0, section_at, names.index(label_column.lower()), True
    if len(others) == 1:
        return 0, section_at, others[0], True
    raise section_error(
        file,
        f"a header without the column {label_column!r} ({', '.join(first)})",
        layouts,
        "name the column that holds the labels with label_column",
    )
