"""What the figures show, read back from the pixels where a pixel can say it."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from section_files import small_section

from science.spatial import figures
from science.spatial.figures import choose_query_spots, layer_bars, niche_maps
from science.spatial.metrics import Score
from science.spatial.tissue_raster import UNLABELLED, layer_picture, tissue_raster, value_picture


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """Every text that a figure carries."""
    found: list[str] = []
    draw = figures._png

    def spy(figure: Figure) -> bytes:
        found.extend(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))
        return draw(figure)

    monkeypatch.setattr(figures, "_png", spy)
    return found


def map_arguments(n_queries: int = 2, simulated: bool = False) -> dict:
    source, target = (
        replace(small_section(key, seed), simulated=simulated) for key, seed in (("151673", 1), ("151676", 2))
    )
    generator = np.random.default_rng(0)
    target_spots = np.flatnonzero(target.labelled)
    return {
        "source": source,
        "target": target,
        "query_spots": np.flatnonzero(source.labelled)[:n_queries],
        "target_spots": target_spots,
        "reference_rows": generator.random((n_queries, len(target_spots))),
        "cosine_rows": generator.uniform(-1, 1, (n_queries, len(target_spots))),
        "method": "pca_smooth",
    }


def scores(value: float | None = 0.5) -> list[Score]:
    interval = (None, None) if value is None else (value - 0.1, value + 0.1)
    n = 0 if value is None else 7
    return [Score(layer, m, value, n, *interval) for layer in ("Layer1", "all") for m in ("A", "precision_at_50")]


def picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_maps_are_a_png_of_1080_pixels_without_metadata_and_equal_bytes_each_time():
    arguments = map_arguments()
    png = niche_maps(**arguments)
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert image.width == 1080
        assert not image.info.keys() - {"dpi"}
    assert png == niche_maps(**arguments)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_titles_name_layer_sections_direction_method_and_the_querys_a(texts):
    arguments = map_arguments(1)
    arguments["cosine_rows"] = arguments["reference_rows"] ** 3 - 0.5
    niche_maps(**arguments, note="The median query.")
    layer = arguments["source"].layer[arguments["query_spots"][0]]
    joined = "\n".join(texts)
    for expected in ("pca_smooth: 151673 → 151676", f"{layer} query", "source 151673", "target 151676", "A = 1.00"):
        assert expected in joined
    assert "rescaled" in joined
    assert "The median query." in joined


@pytest.mark.parametrize("simulated", [True, False])
def test_the_word_simulated_stands_on_figures_of_simulated_sections_only(texts, simulated):
    niche_maps(**map_arguments(1, simulated))
    layer_bars(scores(), {"random": scores(0.0)}, method="pca", source="a", target="b", simulated=simulated)
    assert texts.count("SIMULATED DATA") == (2 if simulated else 0)
    assert any("151673 (SIMULATED)" in text for text in texts) == simulated


def test_a_map_is_drawn_as_on_the_image_y_down_and_to_scale():
    section = small_section()
    raster = tissue_raster(section, 300, 300)
    assert raster.y[0] < raster.y[-1]
    assert np.diff(raster.x)[0] == pytest.approx(np.diff(raster.y)[0])
    for spot in range(0, section.n_spots, 7):
        x, y = section.pixel[spot]
        assert raster.spot[np.argmin(np.abs(raster.y - y)), np.argmin(np.abs(raster.x - x))] == spot
    left, right, bottom, top = raster.extent
    assert left < section.pixel[:, 0].min() < section.pixel[:, 0].max() < right
    assert top < section.pixel[:, 1].min() < section.pixel[:, 1].max() < bottom


def test_a_cell_is_as_large_as_the_spots_hexagon():
    section = small_section()
    raster = tissue_raster(section, 600, 600)
    inner = np.flatnonzero(np.diff(section.adjacency.indptr) == 6)
    edges = section.adjacency.tocoo()
    distance = np.median(np.linalg.norm(section.pixel[edges.row] - section.pixel[edges.col], axis=1))
    area = np.bincount(raster.spot[raster.spot >= 0])[inner] * np.diff(raster.x)[0] ** 2
    np.testing.assert_allclose(area, distance**2 * np.sqrt(3) / 2, rtol=0.12)


def test_values_have_their_colour_unlabelled_spots_are_grey_and_the_slide_is_white():
    section = small_section()
    raster = tissue_raster(section, 300, 300)
    spots = np.arange(1, section.n_spots)
    seen = value_picture(section.n_spots, raster, spots, np.linspace(0, 1, len(spots)))
    np.testing.assert_allclose(seen[raster.spot == section.n_spots - 1][0], colormaps["viridis"](1.0)[:3])
    np.testing.assert_allclose(seen[raster.spot == 0][0], to_rgb(UNLABELLED))
    assert np.all(seen[raster.spot == -1] == 1.0)


def test_histology_darkens_the_tint_and_a_section_without_image_has_the_tint_alone():
    section = small_section()
    raster = tissue_raster(section, 300, 300)
    colours = {str(layer): "#88CCEE" for layer in np.unique(section.layer[section.labelled])}
    with_image, without = (layer_picture(s, raster, colours) for s in (section, replace(section, image=None)))
    inside = np.isin(raster.spot, np.flatnonzero(section.labelled))
    assert np.allclose(without[inside], to_rgb("#88CCEE"))
    assert np.all(with_image <= without + 1e-12)
    assert np.ptp(with_image[inside][:, 0]) > 0.1


def test_the_outlined_niche_is_the_ball_over_labelled_spots():
    section = small_section()
    labelled = section.labelled
    spot = int(np.flatnonzero(labelled & (np.diff(section.adjacency.indptr) == 6))[20])
    expected = {spot}
    for _ in range(3):
        expected |= {int(j) for u in expected for j in section.adjacency[u].indices if labelled[j]}
    assert set(figures._niche(section, spot, 3).tolist()) == expected


def test_a_constant_similarity_is_drawn_and_said_to_have_no_a(texts):
    arguments = map_arguments(1)
    arguments["cosine_rows"] = np.ones_like(arguments["cosine_rows"])
    niche_maps(**arguments)
    assert any("no A (constant)" in text for text in texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_spots": np.array([], int), "reference_rows": np.empty((0, 3))}, "no query spot"),
        ({"reference_rows": np.ones((2, 3))}, "reference_rows has shape"),
        ({"cosine_rows": np.full((2, 1), np.nan)}, "cosine_rows has shape"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        niche_maps(**{**map_arguments(), **change})


def test_an_unlabelled_query_and_similarities_beyond_one_are_refused():
    arguments = map_arguments()
    source = arguments["source"]
    with pytest.raises(ValueError, match="have no layer"):
        niche_maps(**{**arguments, "source": replace(source, layer=np.full(source.n_spots, ""))})
    with pytest.raises(ValueError, match="expected RM-IDEAL, 0 to 1"):
        niche_maps(**{**arguments, "reference_rows": 2 + arguments["reference_rows"]})


def test_bars_show_every_control_n_and_values(texts):
    png = layer_bars(
        scores(), {"random": scores(0.0), "layer_one_hot": scores(0.7)}, method="pca", source="a", target="b"
    )
    assert picture(png).shape[1] == 1080
    for expected in ("pca: a → b, by layer of the query", "random", "layer_one_hot (oracle)", "Layer1\nn = 7", "0.50"):
        assert expected in texts


def test_a_layer_without_a_value_says_none_instead_of_a_bar_of_zero(texts):
    layer_bars(scores(None), {"random": scores(0.0)}, method="pca", source="a", target="b")
    assert "none" in texts
    assert "Layer1\nn = 0" in texts


def test_an_interval_is_drawn_where_it_lies(monkeypatch):
    lines: list[list[float]] = []
    plot = Axes.plot

    def spy(axes, x, y, **style):
        lines.append(list(y))
        return plot(axes, x, y, **style)

    monkeypatch.setattr(Axes, "plot", spy)
    layer_bars(scores(), {}, method="pca", source="a", target="b")
    assert lines == [[0.4, 0.6]] * 4


def test_a_missing_score_is_named():
    with pytest.raises(ValueError, match=r"random has no score for .*precision_at_50"):
        layer_bars(scores(), {"random": scores()[:1]}, method="pca", source="a", target="b")


def test_the_chosen_query_is_the_layers_median_and_the_first_among_equals():
    layer = np.array(["b", "a", "a", "a", "a", "b", "c"])
    correlation = np.array([0.3, 0.9, 0.2, 0.5, 0.5, np.nan, np.nan])
    assert choose_query_spots(layer, correlation) == {"a": 3, "b": 0}
    with pytest.raises(ValueError, match="one of each per spot"):
        choose_query_spots(layer, correlation[:3])
