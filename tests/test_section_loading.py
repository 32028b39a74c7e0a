"""What a section is once it is loaded: from Space Ranger, from an h5ad, with labels, and back from its own file."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from section_files import (
    assert_equal_sections,
    edit_matrix,
    edit_positions,
    h5ad,
    matrix,
    small_section,
    space_ranger_folder,
    truncate,
)

from science.spatial.graph import neighbour_graph
from science.spatial.labels import parse_label_table, read_label_table
from science.spatial.load import load_section, source_files
from science.spatial.section import CORTEX_LAYERS, Section, SectionError, read_section, write_section
from science.spatial.simulate import simulate_cortex, write_space_ranger

ROOT = Path(__file__).resolve().parents[1]
# spots, genes, unlabelled spots
REAL = {"151673": (3639, 8513, 28), "151674": (3673, 5000, 38), "151676": (3460, 8595, 29)}


def real(dlpfc: Path, key: str, **options) -> Section:
    return load_section(dlpfc / f"{key}.h5ad", key, image=dlpfc / f"{key}_tissue_lowres_image.png", **options)


def by_offsets(section: Section) -> sparse.csr_matrix:
    """Neighbours at (0, +-2) and (+-1, +-1), looked up one by one."""
    at = {place: i for i, place in enumerate(zip(section.array_row, section.array_col, strict=True))}
    adjacency = sparse.lil_matrix((section.n_spots, section.n_spots), dtype=bool)
    for (row, col), i in at.items():
        for d_row, d_col in ((0, 2), (0, -2), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            if (j := at.get((row + d_row, col + d_col))) is not None:
                adjacency[i, j] = True
    return adjacency.tocsr()


@pytest.mark.parametrize("key", REAL)
def test_the_real_sections_load_with_their_published_numbers(dlpfc, key):
    section = real(dlpfc, key)
    assert (section.n_spots, section.n_genes, int((~section.labelled).sum())) == REAL[key]
    assert set(section.layer[section.labelled]) == set(CORTEX_LAYERS)
    assert section.counts.dtype == np.int32 and section.counts.has_canonical_format
    assert section.image is not None and section.image.shape == (600, 600, 3) and section.image.dtype == np.uint8
    assert not section.simulated
    share = np.asarray(section.counts.sum(axis=1)).ravel() / section.sum_umi
    assert section.sum_umi_from == "obs.sum_umi" and 0.27 < share.mean() < 0.36  # a subset of the genes


def test_the_real_sections_share_the_published_number_of_genes(dlpfc):
    genes = {key: set(real(dlpfc, key).genes) for key in REAL}
    assert len(genes["151673"] & genes["151676"]) == 7526
    assert len(genes["151673"] & genes["151676"] & genes["151674"]) == 3883


def test_the_hex_graph_is_the_six_offsets_of_the_visium_grid(dlpfc):
    import squidpy

    for key in REAL:
        section = real(dlpfc, key)
        assert (section.adjacency != by_offsets(section)).nnz == 0
        assert section.adjacency.dtype == bool and section.adjacency.sum(axis=1).max() == 6
        grid = squidpy.gr.spatial_neighbors_grid(anndata.AnnData(obsm={"spatial": section.pixel}), copy=True)
        assert (section.adjacency != grid.connectivities.astype(bool)).nnz == 0


def test_the_hex_graph_does_not_join_spots_two_places_apart_in_sparse_tissue():
    """squidpy's grid mode does, as it guesses the spacing from the median distance."""
    row = np.repeat(np.arange(0, 20, 2), 5)
    col = np.tile(np.arange(0, 20, 4), 10)
    row, col = np.append(row, 1), np.append(col, 1)  # the only spot with neighbours, at (0, 0) and (2, 0)
    adjacency = neighbour_graph(row, col, np.stack([col, row], axis=1))
    assert adjacency[50].nonzero()[1].tolist() == [0, 5] and adjacency.nnz == 4


@pytest.mark.parametrize("kind", ["knn", "delaunay"])
def test_other_graphs_are_symmetric_and_without_loops(kind):
    section = small_section()
    adjacency = neighbour_graph(section.array_row, section.array_col, section.pixel, kind)
    assert (adjacency != adjacency.T).nnz == 0 and adjacency.diagonal().sum() == 0 and adjacency.dtype == bool
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    assert degree.min() >= (6 if kind == "knn" else 2)


@pytest.mark.parametrize("layout", ["list", "header"])
def test_a_space_ranger_folder_gives_back_what_was_written(tmp_path, layout):
    section = small_section()
    folder, labels = space_ranger_folder(tmp_path, layout)
    loaded = load_section(folder, section.key, labels=labels)
    order = np.argsort(section.barcodes)  # Space Ranger sorts barcodes
    reordered = dataclasses.replace(
        section,
        **{
            name: getattr(section, name)[order]
            for name in ("counts", "barcodes", "array_row", "array_col", "pixel", "layer", "sum_umi")
        },
        adjacency=section.adjacency[order][:, order].sorted_indices(),
    )
    assert_equal_sections(loaded, reordered)


def test_the_text_table_of_humanpilot_is_read_like_the_list(tmp_path):
    folder, _ = space_ranger_folder(tmp_path)
    listed = load_section(folder, "a")
    positions = folder / "spatial" / "tissue_positions_list.csv"
    positions.rename(positions.with_suffix(".txt"))
    assert_equal_sections(listed, load_section(folder, "a"))


def test_a_real_section_survives_the_way_through_a_space_ranger_folder(dlpfc, tmp_path):
    section = real(dlpfc, "151673")
    labels = write_space_ranger(section, tmp_path)
    loaded = load_section(tmp_path, "151673", labels=labels)
    where = {barcode: i for i, barcode in enumerate(loaded.barcodes)}
    order = np.array([where[barcode] for barcode in section.barcodes])
    assert (loaded.counts[order] != section.counts).nnz == 0
    assert (loaded.layer[order] == section.layer).all() and (loaded.pixel[order] == section.pixel).all()
    assert (loaded.adjacency[order][:, order] != section.adjacency).nnz == 0


def test_a_section_without_labels_loads_with_every_layer_empty(tmp_path):
    folder, _ = space_ranger_folder(tmp_path / "sr")
    assert not load_section(folder, "a").labelled.any()
    bare = h5ad(tmp_path / "a.h5ad", lambda adata: adata.obs.drop(columns="layer", inplace=True))
    section = load_section(bare, "a")
    assert not section.labelled.any()
    write_section(section, tmp_path / "canonical.h5ad")
    assert not read_section(tmp_path / "canonical.h5ad").labelled.any()


def test_a_table_of_labels_replaces_those_of_the_h5ad(tmp_path):
    path = h5ad(tmp_path / "a.h5ad")
    barcode = small_section().barcodes[7]
    (tmp_path / "labels.csv").write_text(f"Barcode,Graph-based\n{barcode},WM\n")
    section = load_section(path, "a", labels=tmp_path / "labels.csv")
    assert section.layer[7] == "WM" and section.labelled.sum() == 1


def test_labels_may_stand_in_another_column_under_other_names(tmp_path):
    def rename(adata):
        adata.obs["domain"] = ["upper" if row < 5 else "lower" for row in adata.obs["array_row"]]

    path = h5ad(tmp_path / "a.h5ad", rename)
    section = load_section(path, "a", label_column="domain", known_labels=("upper", "lower"))
    assert (section.layer[section.array_row < 5] == "upper").all() and section.labelled.all()


def test_gene_ids_stand_for_genes_where_there_are_any(tmp_path):
    folder, _ = space_ranger_folder(tmp_path)
    n = small_section().n_genes
    ids = np.array([f"ENSG{i:011d}" for i in range(n)], dtype="S")
    names = np.array(["TBCE"] * 2 + [f"G{i}" for i in range(n - 2)], dtype="S")  # TBCE is twice in GRCh38
    edit_matrix(folder, features__id=ids, features__name=names)
    assert load_section(folder, "a").genes.tolist() == ids.astype(str).tolist()


def test_repeated_symbols_without_ids_get_the_suffixes_of_scanpy(tmp_path):
    def repeat(adata):
        adata.var_names = ["TBCE", "TBCE", *adata.var_names[2:]]

    path = h5ad(tmp_path / "a.h5ad", repeat)
    assert load_section(path, "a").genes[:3].tolist() == ["TBCE", "TBCE-1", "SIM0003"]


def test_only_gene_expression_is_counted(tmp_path):
    folder, _ = space_ranger_folder(tmp_path)
    kinds = matrix(folder, "features/feature_type").astype("S20")
    kinds[:10] = b"Antibody Capture"
    edit_matrix(folder, features__feature_type=kinds)
    section = load_section(folder, "a")
    assert section.n_genes == small_section().n_genes - 10
    assert (section.sum_umi == np.asarray(section.counts.sum(axis=1)).ravel()).all()


def test_spots_set_out_of_tissue_are_left_out(tmp_path):
    folder, labels = space_ranger_folder(tmp_path / "sr")
    gone = small_section().barcodes[:3]

    def out(table):
        table.loc[table["barcode"].isin(gone), "in_tissue"] = "0"

    edit_positions(folder, out)
    section = load_section(folder, small_section().key, labels=labels)
    assert section.n_spots == small_section().n_spots - 3 and not set(gone) & set(section.barcodes)

    def out_of_h5ad(adata):
        adata.obs.loc[list(gone), "in_tissue"] = 0

    assert set(load_section(h5ad(tmp_path / "a.h5ad", out_of_h5ad), "a").barcodes) == set(section.barcodes)


def test_without_sum_umi_the_counts_are_summed_and_the_section_says_so(tmp_path):
    path = h5ad(tmp_path / "a.h5ad", lambda adata: adata.obs.drop(columns="sum_umi", inplace=True))
    section = load_section(path, "a")
    assert section.sum_umi_from == "counts" and (section.sum_umi == small_section().sum_umi).all()


def test_a_platform_without_a_grid_loads_with_knn(tmp_path):
    def no_grid(adata):
        adata.obs.drop(columns=["array_row", "array_col"], inplace=True)

    section = load_section(h5ad(tmp_path / "a.h5ad", no_grid), "a", graph="knn")
    n = section.n_spots
    assert section.array_row.dtype == np.int32 and section.adjacency.shape == (n, n)
    assert section.array_row.max() == round(np.ptp(section.pixel[:, 1]) / 137)


def test_dense_and_csc_counts_load_as_sorted_int32_csr(tmp_path):
    whole = load_section(h5ad(tmp_path / "csr.h5ad"), "a")
    for name, convert in (("dense", lambda x: x.toarray().astype(np.float32)), ("csc", sparse.csc_matrix)):

        def store(adata, convert=convert):
            adata.X = convert(adata.X)

        assert_equal_sections(load_section(h5ad(tmp_path / f"{name}.h5ad", store), "a"), whole)


def test_an_image_inside_the_h5ad_is_used_and_may_be_floats(tmp_path):
    picture = np.asarray(small_section().image) / 255.0

    def embed(adata):
        scalefactors = adata.uns.pop("scalefactors")
        adata.uns["spatial"] = {"V1_lib": {"images": {"lowres": picture}, "scalefactors": scalefactors}}

    section = load_section(h5ad(tmp_path / "a.h5ad", embed), "a")
    np.testing.assert_array_equal(section.image, small_section().image)
    assert section.image_scale == small_section().image_scale


def test_source_files_are_all_that_decide_the_section(tmp_path):
    folder, labels = space_ranger_folder(tmp_path)
    names = [file.relative_to(tmp_path).as_posix() for file in source_files(folder, labels, None)]
    assert names == [
        "filtered_feature_bc_matrix.h5",
        "spatial/tissue_positions_list.csv",
        "spatial/scalefactors_json.json",
        "spatial/tissue_lowres_image.png",
        "SIMULATED.txt",
        "barcode_level_layer_map.tsv",
    ]
    other = tmp_path / "other.png"
    other.write_bytes((folder / "spatial" / "tissue_lowres_image.png").read_bytes())
    replaced = source_files(folder, labels, other)
    assert other in replaced and folder / "spatial" / "tissue_lowres_image.png" not in replaced
    with pytest.raises(SectionError, match=r"absent\.tsv"):
        source_files(folder, tmp_path / "absent.tsv", None)


def test_the_canonical_file_gives_back_equal_arrays(dlpfc, tmp_path):
    for section in (real(dlpfc, "151676"), dataclasses.replace(small_section(), image=None)):
        write_section(section, tmp_path / "a.h5ad")
        assert_equal_sections(read_section(tmp_path / "a.h5ad"), section)


def test_any_tool_of_the_field_opens_the_canonical_file(tmp_path):
    write_section(small_section(), tmp_path / "a.h5ad")
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    key = small_section().key
    assert adata.uns["spatial"][key]["images"]["lowres"].shape[2] == 3
    assert adata.obsm["spatial"].shape == (adata.n_obs, 2) and "spatial_connectivities" in adata.obsp
    assert_equal_sections(
        load_section(tmp_path / "a.h5ad", key), dataclasses.replace(small_section(), sum_umi_from="obs.sum_umi")
    )


def test_the_canonical_file_has_the_same_bytes_from_every_process(tmp_path):
    program = (
        "import sys; from pathlib import Path; from science.spatial.section import read_section, write_section\n"
        "write_section(read_section(Path('here.h5ad')), Path(sys.argv[1]))"
    )
    write_section(small_section(), tmp_path / "here.h5ad")
    digests = {hashlib.sha256((tmp_path / "here.h5ad").read_bytes()).hexdigest()}
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        there = tmp_path / f"{hash_seed}.h5ad"
        subprocess.run([sys.executable, "-c", program, there.name], check=True, cwd=tmp_path, env=environment)
        digests.add(hashlib.sha256(there.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_a_truncated_canonical_file_names_itself(tmp_path, share):
    write_section(small_section(), tmp_path / "cut.h5ad")
    with pytest.raises(SectionError, match=r"cut\.h5ad: found .*aterialise the section again"):
        read_section(truncate(tmp_path / "cut.h5ad", share))


def test_a_file_that_is_not_canonical_is_refused_with_the_missing_part(tmp_path):
    with pytest.raises(SectionError, match=r"a\.h5ad: found an h5ad without .*load_section"):
        read_section(h5ad(tmp_path / "a.h5ad"))
    with pytest.raises(SectionError, match=r"absent\.h5ad: found no such file"):
        read_section(tmp_path / "absent.h5ad")


def test_an_unusable_section_is_not_written(tmp_path):
    broken = dataclasses.replace(small_section(), layer=np.array(["WM"]))
    with pytest.raises(SectionError, match="layer 1"):
        write_section(broken, tmp_path / "a.h5ad")
    assert not (tmp_path / "a.h5ad").exists()


# Labels --------------------------------------------------------------------------------------------------------------

barcode = st.text("ACGT", min_size=6, max_size=12).map(lambda bases: f"{bases}-1")
label = st.sampled_from([*CORTEX_LAYERS, ""])


@st.composite
def label_tables(draw):
    """Labels of one section, and a text that says so in one of the ways in which people write tables."""
    expected = draw(st.dictionaries(barcode, label, min_size=1, max_size=12))
    separator, end = draw(st.sampled_from("\t,")), draw(st.sampled_from(["\n", "\r\n"]))
    header, sections, short = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    rows = []
    for spot, name in expected.items():
        written = name.replace("Layer", "L") if short else name
        written = draw(st.sampled_from(["", "NA", "nan"])) if name == "" else written
        rows.append([spot, "151673", written] if sections else [spot, written])
    if sections:
        others = draw(st.dictionaries(barcode, st.sampled_from(["L1", "unknown"]), max_size=5))
        rows += [[spot, "151676", name] for spot, name in others.items()]
        rows = draw(st.permutations(rows))
    if header:
        rows = [["barcode", "section", "layer"] if sections else ["Barcode", "whatever"], *rows]
    blank = end if draw(st.booleans()) else ""
    return expected, end.join(separator.join(row) for row in rows) + end + blank


@given(label_tables())
def test_labels_are_read_from_every_way_of_writing_the_table(table):
    expected, text = table
    assert parse_label_table(text, "labels.tsv", "151673", CORTEX_LAYERS) == expected


@settings(max_examples=200)
@given(st.text(st.characters(codec="utf-8"), max_size=80) | st.text("barcode,section\tL1-\n\"'", max_size=80))
def test_no_text_whatever_breaks_the_label_parser(text):
    try:
        labels = parse_label_table(text, "labels.tsv", "151673", CORTEX_LAYERS)
    except SectionError as error:
        assert str(error).startswith("labels.tsv: found ")
    else:
        assert labels


def test_the_label_column_of_a_wide_table_is_chosen_by_name():
    text = "barcode,sample_name,imagerow,layer,domain\nAC-1,a,3,L1,x\nAG-1,b,3,L2,y\n"
    assert parse_label_table(text, "t", "a", CORTEX_LAYERS) == {"AC-1": "Layer1"}
    assert parse_label_table(text, "t", "b", ("x", "y"), "domain") == {"AG-1": "y"}
    with pytest.raises(SectionError, match="label_column"):
        parse_label_table(text, "t", "a", CORTEX_LAYERS, "cluster")


def test_a_table_saved_by_excel_is_read(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b'\xef\xbb\xbfbarcode,layer\r\n"AC-1","L3"\r\n')
    assert read_label_table(path, "a", CORTEX_LAYERS) == {"AC-1": "Layer3"}


def test_known_labels_win_over_the_short_spelling():
    assert parse_label_table("AC-1,L1\n", "t", "a", ("L1", "Layer1")) == {"AC-1": "L1"}


def test_two_sections_of_simulated_cortex_differ_in_bytes(tmp_path):
    digests = set()
    for seed in (1, 2):
        section = simulate_cortex("a", seed=seed, n_rows=14, n_cols=10, n_genes=60)
        write_section(section, tmp_path / f"{seed}.h5ad")
        digests.add(hashlib.sha256((tmp_path / f"{seed}.h5ad").read_bytes()).hexdigest())
    assert len(digests) == 2
