"""A section that cannot be used is refused, and the message names the file, the finding and what to do."""

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from section_files import edit_matrix, edit_positions, h5ad, matrix, small_section, space_ranger_folder, truncate

from science.spatial.graph import neighbour_graph
from science.spatial.labels import read_label_table
from science.spatial.load import load_section
from science.spatial.section import CORTEX_LAYERS, SectionError
from science.spatial.space_ranger import COUNTS

KEY = "151673"
POSITIONS = "tissue_positions_list.csv"


def refused(path: Path, named: str, *phrases: str, **options) -> str:
    """Load, expect a SectionError that starts with the path of the file `named` and holds each phrase."""
    with pytest.raises(SectionError) as caught:
        load_section(path, KEY, **options)
    message = str(caught.value)
    assert re.match(rf"\S*{re.escape(named)}: found ", message), message
    assert "; expected " in message and message.endswith("."), message
    for phrase in phrases:
        assert phrase in message, message
    return message


# Space Ranger folder: each breaks the folder; then the file that is named, and what the message says.


def nothing_there(folder):
    for file in [*folder.rglob("*.*")]:
        file.unlink()


def cell(column: str, value: str, rows=slice(0, 1)) -> Callable:
    def put(folder):
        def edit(table):
            table.loc[table.index[rows], column] = value

        edit_positions(folder, edit)

    return put


def first_spot_again(folder):
    edit_positions(folder, lambda table: table._append(table.iloc[0]))


def without_the_first_spots(folder):
    spots = set(small_section().barcodes[:2])
    edit_positions(folder, lambda table: table[~table["barcode"].isin(spots)])


def without_suffix(folder):
    edit_positions(folder, lambda table: table.assign(barcode=table["barcode"].str.removesuffix("-1")))


def shifted_tissue(folder):
    """Positions of another section: every barcode is known, but others are in tissue."""
    edit_positions(folder, lambda table: table.assign(in_tissue=np.roll(table["in_tissue"], 3)))


def no_spot_in_tissue(folder):
    edit_positions(folder, lambda table: table.assign(in_tissue="0"))


def one_spot_in_tissue(folder):
    spot = small_section().barcodes[0]
    edit_positions(folder, lambda table: table.assign(in_tissue=(table["barcode"] == spot).astype(int)))


def scattered_spots(folder):
    def keep_every_third_place(table):
        row, col = table["array_row"].astype(int), table["array_col"].astype(int)
        kept = (row % 4 == 0) & (col % 4 == 0) & (table["in_tissue"] == "1")
        return table.assign(in_tissue=kept.astype(int))

    edit_positions(folder, keep_every_third_place)


def two_spots_in_one_place(folder):
    spots = small_section().barcodes[:2]

    def move(table):
        at = [table.index[table["barcode"] == spot][0] for spot in spots]
        table.loc[at[1], ["array_row", "array_col"]] = table.loc[at[0], ["array_row", "array_col"]].to_numpy()

    edit_positions(folder, move)


def shifted_rows(folder):
    def move(table):
        row, col = table["array_row"].astype(int), table["array_col"].astype(int)
        table["array_col"] = col + (row > 4)

    edit_positions(folder, move)


def two_tables(folder):
    (folder / "spatial" / "tissue_positions.csv").write_text("x")


def other_header(folder):
    path = folder / "spatial" / POSITIONS
    path.write_text("barcode,row,col\n" + path.read_text())


def not_text(folder):
    (folder / "spatial" / POSITIONS).write_bytes(b"\xff\xfe\x00\x01" * 50)


def empty_positions(folder):
    (folder / "spatial" / POSITIONS).write_text("")


def visium_hd(folder):
    (folder / "spatial" / "tissue_positions.parquet").write_bytes(b"PAR1")


def counts_value(value) -> Callable:
    def put(folder):
        data = matrix(folder, "data").astype(type(value))
        data[5] = value
        edit_matrix(folder, data=data)

    return put


def repeated_barcode(folder):
    barcodes = matrix(folder, "barcodes")
    barcodes[1] = barcodes[0]
    edit_matrix(folder, barcodes=barcodes)


def repeated_gene(folder):
    genes = matrix(folder, "features/id")
    genes[1] = genes[0]
    edit_matrix(folder, features__id=genes)


def antibodies_only(folder):
    edit_matrix(folder, features__feature_type=np.full(60, b"Antibody Capture"))


def empty_spot(folder):
    data, start, end = matrix(folder, "data"), *matrix(folder, "indptr")[:2]
    data[start:end] = 0
    edit_matrix(folder, data=data)


def index_out_of_range(folder):
    indices = matrix(folder, "indices")
    indices[3] = 10**6
    edit_matrix(folder, indices=indices)


def fewer_barcodes(folder):
    edit_matrix(folder, barcodes=matrix(folder, "barcodes")[:-1])


def another_hdf5(folder):
    with h5py.File(folder / COUNTS, "w") as file:
        file["molecule_info"] = 1


def no_hdf5(folder):
    (folder / COUNTS).write_text("<html>404 not found</html>")


def other_scale(value: str) -> Callable:
    return lambda folder: (folder / "spatial" / "scalefactors_json.json").write_text(value)


SPACE_RANGER = [
    (nothing_there, COUNTS, ["no such file", "'outs' folder"]),
    (lambda folder: (folder / "spatial" / POSITIONS).unlink(), "tissue_positions.csv", [POSITIONS, "'spatial'"]),
    (two_tables, "spatial", ["two tables of positions", "tissue_positions.csv"]),
    (visium_hd, "tissue_positions.parquet", ["Visium HD", "not supported"]),
    (other_header, POSITIONS, ["(barcode, row, col)", "pxl_row_in_fullres"]),
    (not_text, POSITIONS, ["no readable table"]),
    (empty_positions, POSITIONS, ["no readable table"]),
    (first_spot_again, POSITIONS, ["1 repeated barcode ("]),
    (without_the_first_spots, POSITIONS, ["no position for 2 of", small_section().barcodes[0]]),
    (without_suffix, POSITIONS, ["suffixes agree"]),
    (shifted_tissue, POSITIONS, ["outside the tissue", "without counts", "same section"]),
    (no_spot_in_tissue, POSITIONS, ["0 spots in tissue"]),
    (one_spot_in_tissue, POSITIONS, ["1 spot in tissue", "at least 2"]),
    (scattered_spots, POSITIONS, ["no two are neighbours"]),
    (two_spots_in_one_place, POSITIONS, ["several spots at 1 grid position", *small_section().barcodes[:2]]),
    (shifted_rows, POSITIONS, ["between the positions of a hex grid", "graph='knn'"]),
    (cell("in_tissue", "2"), POSITIONS, ["in_tissue values 0, 1, 2"]),
    (cell("array_row", "1.5"), POSITIONS, ["array_row", "'1.5'", "whole numbers"]),
    (cell("array_col", "99999999999"), POSITIONS, ["int32"]),
    (cell("pxl_row_in_fullres", ""), POSITIONS, ["1 bad value of pxl_row_in_fullres", "nan"]),
    (cell("barcode", ""), POSITIONS, ["1 empty barcode"]),
    (counts_value(-3), COUNTS, ["1 negative count ", "-3"]),
    (counts_value(0.5), COUNTS, ["1 fractional count ", "0.5", "raw UMI counts"]),
    (counts_value(float("nan")), COUNTS, ["1 NaN or infinite count "]),
    (repeated_barcode, COUNTS, ["1 repeated barcode ("]),
    (repeated_gene, COUNTS, ["1 repeated gene identifier (SIM0001)"]),
    (antibodies_only, COUNTS, ["no genes", "Gene Expression"]),
    (empty_spot, COUNTS, ["1 spot without a single UMI", "in_tissue to 0"]),
    (index_out_of_range, COUNTS, ["a broken count matrix"]),
    (fewer_barcodes, COUNTS, ["cannot be read"]),
    (another_hdf5, COUNTS, ["found an HDF5 file without matrix/barcodes", "molecule_info"]),
    (no_hdf5, COUNTS, ["cannot be read", "compare its size"]),
    (lambda folder: truncate(folder / COUNTS), COUNTS, ["cannot be read", "truncated"]),
    (
        lambda folder: truncate(folder / "spatial" / "tissue_lowres_image.png"),
        "tissue_lowres_image.png",
        ["no readable image"],
    ),
    (other_scale("{}"), "scalefactors_json.json", ["tissue_lowres_scalef"]),
    (other_scale("{"), "scalefactors_json.json", ["tissue_lowres_scalef"]),
    (other_scale('{"tissue_lowres_scalef": -1}'), "scalefactors_json.json", ["-1"]),
    (other_scale('{"tissue_lowres_scalef": 1.0}'), "tissue_lowres_image.png", ["spots outside the image"]),
    (
        lambda folder: (folder / "spatial" / "scalefactors_json.json").unlink(),
        "scalefactors_json.json",
        ["no tissue_lowres_scalef"],
    ),
]


@pytest.mark.parametrize(("damage", "named", "phrases"), SPACE_RANGER)
def test_a_damaged_space_ranger_folder_is_refused_by_the_name_of_the_file(tmp_path, damage, named, phrases):
    folder, _ = space_ranger_folder(tmp_path)
    damage(folder)
    refused(folder, named, *phrases)


def test_the_folder_above_outs_is_told_to_go_one_down(tmp_path):
    space_ranger_folder(tmp_path / "outs")
    refused(tmp_path, COUNTS, f"ive the folder {tmp_path / 'outs'}")


# h5ad


def put_counts(value) -> Callable:
    def put(adata):
        dense = adata.X.toarray().astype(float)
        dense[3, 2] = value
        adata.X = dense

    return put


def normalised(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())


def put_obs(column: str, value) -> Callable:
    def put(adata):
        values = adata.obs[column].astype(object)
        values.iloc[0] = value
        adata.obs[column] = values.astype(float)

    return put


def repeat_name(adata):
    adata.obs_names = [adata.obs_names[1], *adata.obs_names[1:]]


def nan_pixel(adata):
    adata.obsm["spatial"][2, 0] = np.nan


def several_libraries(adata):
    adata.uns["spatial"] = {"a": {}, "b": {}}


def unknown_layers(adata):
    adata.obs["layer"] = ["L7" if i < 4 else "Meninges" for i in range(adata.n_obs)]


def no_umis(adata):
    adata.X = adata.X * 0
    adata.obs["sum_umi"] = 0


H5AD = [
    (put_counts(-1), ["1 negative count ", "row 3, column 2"]),
    (put_counts(np.nan), ["1 NaN or infinite count "]),
    (put_counts(3e9), ["1 too large count ", "2147483647"]),
    (normalised, ["fractional counts", "adata.layers has counts"]),
    (repeat_name, ["1 repeated barcode ("]),
    (lambda adata: adata[:1].copy(), ["1 spot in tissue"]),
    (lambda adata: adata[:, :0].copy(), ["no genes"]),
    (lambda adata: adata[adata.obs["array_row"] == 2][::2].copy(), ["no two are neighbours"]),
    (lambda adata: adata.obs.drop(columns="array_row", inplace=True), ["no obs column array_row", "graph='knn'"]),
    (put_obs("array_col", np.nan), ["1 bad value of array_col"]),
    (put_obs("array_col", 0.25), ["whole numbers"]),
    (put_obs("sum_umi", 1.0), ["sum_umi is below the sum of their counts", "sum_umi 1"]),
    (put_obs("sum_umi", np.nan), ["bad value of sum_umi"]),
    (put_obs("in_tissue", 7), ["in_tissue values 1, 7"]),
    (no_umis, ["without a single UMI"]),
    (nan_pixel, ["1 spot whose pixel position is NaN"]),
    (lambda adata: adata.obsm.clear(), ["no obsm['spatial']"]),
    (several_libraries, ["2 libraries", "one h5ad for each section"]),
    (unknown_layers, ["2 unknown labels", "'L7' (4 spots)", "'Meninges'", "Layer1, Layer2", "--known-labels"]),
]


@pytest.mark.parametrize(("damage", "phrases"), H5AD)
def test_a_damaged_h5ad_is_refused_by_its_name(tmp_path, damage, phrases):
    refused(h5ad(tmp_path / "section.h5ad", damage), "section.h5ad", *phrases)


def test_a_truncated_h5ad_names_the_file(tmp_path):
    for share in (0.1, 0.5, 0.95):
        refused(truncate(h5ad(tmp_path / "section.h5ad"), share), "section.h5ad", "cannot be read")


def test_a_10x_matrix_under_the_name_of_an_h5ad_is_recognised(tmp_path):
    folder, _ = space_ranger_folder(tmp_path)
    (folder / COUNTS).rename(tmp_path / "section.h5ad")
    refused(tmp_path / "section.h5ad", "section.h5ad", "without X, obs, var", "matrix", "Space Ranger folder")


def test_a_path_that_is_not_there_or_of_another_kind_is_refused(tmp_path):
    refused(tmp_path / "absent", "absent", "no such file or folder")
    (tmp_path / "counts.loom").touch()
    refused(tmp_path / "counts.loom", "counts.loom", "'.loom'")


def test_a_label_column_that_is_not_there_is_refused(tmp_path):
    refused(h5ad(tmp_path / "section.h5ad"), "section.h5ad", "no obs column 'domain'", "layer", label_column="domain")


def test_an_image_of_another_section_or_none_is_refused(tmp_path):
    path = h5ad(tmp_path / "section.h5ad")
    refused(path, "absent.png", "no such file", image=tmp_path / "absent.png")
    from PIL import Image

    Image.new("RGB", (50, 50)).save(tmp_path / "small.png")
    refused(path, "small.png", "outside the image of 50 x 50", image=tmp_path / "small.png")


def test_a_key_with_a_slash_is_refused(tmp_path):
    with pytest.raises(SectionError, match="donor/1"):
        load_section(h5ad(tmp_path / "section.h5ad"), "donor/1")


# Tables of labels

BARCODES = small_section().barcodes
LABELS = [
    ("", ["an empty table"]),
    ("barcode,layer\n", [f"no row of section '{KEY}'"]),
    (f"{BARCODES[0]}\t151676\tL1\n", [f"no row of section '{KEY}'", "sections: 151676"]),
    (f"{BARCODES[0]},L1\n{BARCODES[1]},L2\n{BARCODES[0]},L1\n", [f"barcode {BARCODES[0]} in lines 1 and 3"]),
    (f"{BARCODES[0]},L1\n{BARCODES[1]}\n", ["1 column in line 2"]),
    (f"{BARCODES[0]},3,4,L1\n", ["4 columns and no header"]),
    (f"{BARCODES[0]}\n", ["1 column and no header"]),
    ("AAAA-1,L1\nCCCC-1,L2\n", ["2 of 2 labelled barcodes that the counts lack (AAAA-1, CCCC-1)", "same section"]),
    (f"{BARCODES[0][:-2]},L1\n", ["suffixes agree"]),
    (f"{BARCODES[0]},L9\n", ["'L9' (1 spot)", "--known-labels"]),
    ("spot barcode,layer\n" + f"{BARCODES[0]},L1\n", ["lack (spot barcode)", "named barcode"]),
]


@pytest.mark.parametrize(("text", "phrases"), LABELS)
def test_a_wrong_table_of_labels_is_refused_by_its_name(tmp_path, text, phrases):
    folder, _ = space_ranger_folder(tmp_path)
    (tmp_path / "labels.csv").write_text(text)
    refused(folder, "labels.csv", *phrases, labels=tmp_path / "labels.csv")


def test_a_table_of_labels_that_is_absent_or_no_text_is_refused(tmp_path):
    with pytest.raises(SectionError, match=r"absent\.tsv: found no such file"):
        read_label_table(tmp_path / "absent.tsv", KEY, CORTEX_LAYERS)
    (tmp_path / "labels.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(SectionError, match=r"labels\.xlsx: found bytes that are not text"):
        read_label_table(tmp_path / "labels.xlsx", KEY, CORTEX_LAYERS)


# Graphs


@pytest.mark.parametrize(
    ("kind", "pixel", "message"),
    [
        ("knn", np.arange(12.0).reshape(6, 2), "more spots than neighbours"),
        ("knn", np.zeros((9, 2)), "9 spots in 1 pixel positions"),
        ("delaunay", np.stack([np.arange(9.0), np.arange(9.0)], axis=1), "cannot be triangulated"),
        ("delaunay", np.array([[0.0, 0.0], [1.0, 0.0]]), "cannot be triangulated"),
        ("hex", np.zeros((0, 2)), "0 spot"),
    ],
)
def test_positions_that_give_no_graph_are_refused(kind, pixel, message):
    row = np.arange(len(pixel))
    with pytest.raises(SectionError, match=message):
        neighbour_graph(row, row, pixel, kind)


def test_an_unknown_graph_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="hex, knn, delaunay"):
        neighbour_graph(np.arange(3), np.arange(3), np.zeros((3, 2)), "square")  # type: ignore[arg-type]
