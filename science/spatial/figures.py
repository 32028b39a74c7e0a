"""Figures of the niche benchmark as PNG bytes: maps of what a query finds, and bars of scores beside their controls.

Matplotlib's object interface only (no pyplot, no state), so figures may be made in any thread. Equal inputs give equal
bytes: no date, no software version. Scores come from `metrics.py`, pixels of tissue from `tissue_raster.py`; nothing is
computed here but the Spearman correlation in a panel's title and the niche that is outlined.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from science.spatial.controls import CONTROLS
from science.spatial.metrics import ALL_LAYERS, Score, spearman
from science.spatial.section import Section
from science.spatial.tissue_raster import (
    COLORMAP,
    UNLABELLED,
    TissueRaster,
    layer_picture,
    tissue_raster,
    value_picture,
)

DPI = 90  # 1080 pixels: what a dialog of the web UI shows without cutting
WIDTH_INCHES = 12.0
PANEL_WIDTH = 0.32  # of the figure
PANEL_INCHES = 3.3
# Paul Tol's "muted" scheme (personal.sron.nl/~pault), told apart with any colour blindness, in an order in which layers
# that touch in the cortex are at least 12 CIEDE2000 apart for each kind of it.
LAYER_COLOURS = ("#88CCEE", "#44AA99", "#DDCC77", "#882255", "#CC6677", "#332288", "#999933", "#117733", "#AA4499")
GREY = "#444444"
METHOD_COLOUR = "#0072B2"
CONTROL_COLOURS = ("#999999", "#E69F00", "#8C6D1F", "#F0D9A0")


def choose_query_spots(source_layer: np.ndarray, correlation: np.ndarray) -> dict[str, int]:
    """For each layer the spot whose A is the layer's (lower) median: neither the best nor the worst case.

    Parameters
    ----------
    source_layer : str ``[n_source]``.
    correlation : float ``[n_source]``, metric A of each spot (`metrics.query_values`), NaN where it has none.

    Returns
    -------
    Layer -> index into ``source_layer``, the lowest one among equals; a layer without any value is left out.
    """
    layer, correlation = np.asarray(source_layer), np.asarray(correlation, np.float64)
    if layer.shape != correlation.shape:
        raise ValueError(f"{layer.shape} layers and {correlation.shape} correlations; expected one of each per spot")
    chosen = {}
    for name in np.unique(layer):
        spots = np.flatnonzero((layer == name) & ~np.isnan(correlation))
        if len(spots):
            median = np.sort(correlation[spots])[(len(spots) - 1) // 2]
            chosen[str(name)] = int(spots[np.argmax(correlation[spots] == median)])
    return chosen


def niche_maps(
    source: Section,
    target: Section,
    query_spots: np.ndarray,
    target_spots: np.ndarray,
    reference_rows: np.ndarray,
    cosine_rows: np.ndarray,
    *,
    method: str,
    hops: int = 3,
    note: str = "",
) -> bytes:
    """Map what each query niche resembles on the target: by RM-IDEAL, and by the embedding.

    Parameters
    ----------
    source, target : the sections; a simulated one is called so in the figure.
    query_spots : int ``[n_queries]``, spots of ``source`` with a layer; one row of the figure each.
    target_spots : int ``[n_target]``, spots of ``target`` that the columns of the rows below stand for.
    reference_rows, cosine_rows : float ``[n_queries, n_target]``, RM-IDEAL in [0, 1] and cosine similarity.
    method : name of the embedding.
    hops : radius of the outlined niche.
    note : a sentence under the title, such as how the queries were chosen.

    Returns
    -------
    PNG, 1080 pixels wide.

    Raises
    ------
    ValueError : no query, a query without a layer, rows of another shape or with values that cannot be drawn.
    """
    query_spots, target_spots = np.asarray(query_spots), np.asarray(target_spots)
    reference_rows, cosine_rows = np.asarray(reference_rows), np.asarray(cosine_rows)
    _check_rows(source, query_spots, (len(query_spots), len(target_spots)), reference_rows, cosine_rows)
    head, row = 1.3, PANEL_INCHES + 0.6
    height = head + row * len(query_spots)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor="white")
    colours = _layer_colours(source.layer[source.labelled])
    panel_pixels = PANEL_WIDTH * WIDTH_INCHES * DPI, PANEL_INCHES * DPI
    source_raster, target_raster = (tissue_raster(section, *panel_pixels) for section in (source, target))
    for i, spot in enumerate(query_spots.tolist()):
        bottom = 1.0 - (head + row * (i + 1) - 0.05) / height
        panels = [figure.add_axes((x, bottom, PANEL_WIDTH, PANEL_INCHES / height)) for x in (0.005, 0.34, 0.675)]
        layer, niche = source.layer[spot], _niche(source, spot, hops)
        low, span = float(cosine_rows[i].min()), float(np.ptp(cosine_rows[i]))
        rescaled = (cosine_rows[i] - low) / (span or 1.0)
        _show(panels[0], source_raster, layer_picture(source, source_raster, colours))
        _outline(panels[0], source_raster, source.pixel[spot], niche)
        for panel, values in ((panels[1], reference_rows[i]), (panels[2], rescaled)):
            _show(panel, target_raster, value_picture(target.n_spots, target_raster, target_spots, values))
        a = spearman(cosine_rows[i], reference_rows[i])
        a_text = "no A (constant)" if a is None else f"A = {a:.2f}"
        titles = (
            f"source {_name(source)}\n{layer} query and its niche of {len(niche)} spots",
            f"target {_name(target)}\nRM-IDEAL to the {layer} query",
            f"target {_name(target)}\n{method}: {a_text}, cosine {low:.2f} to {low + span:.2f}",
        )
        for panel, title in zip(panels, titles, strict=True):
            panel.set_title(title, fontsize=10, pad=4)
    _title(figure, height, f"{method}: {source.key} → {target.key}", source.simulated or target.simulated)
    figure.text(0.012, 1.0 - 0.5 / height, note, fontsize=10, va="top", color=GREY)
    _map_keys(figure, height, colours)
    return _png(figure)


def layer_bars(
    scores: Sequence[Score],
    controls: Mapping[str, Sequence[Score]],
    *,
    method: str,
    source: str,
    target: str,
    simulated: bool = False,
    metrics: Sequence[str] = ("A", "precision_at_50"),
) -> bytes:
    """Bars of one or more metrics per layer, with 95 % intervals, beside the controls.

    Parameters
    ----------
    scores : of the method, from `metrics.niche_query`.
    controls : name -> scores of the control embeddings, drawn in this order beside the method.
    method, source, target : names for the title.
    simulated : whether a section of the pair is simulated: the figure then says so.
    metrics : one panel each.

    Returns
    -------
    PNG, 1080 pixels wide. Under each layer: n, the query spots that count in the method's value.

    Raises
    ------
    ValueError : a metric that the method or a control has no score for.
    """
    series = {method: scores, **controls}
    found = {name: {(score.layer, score.metric): score for score in rows} for name, rows in series.items()}
    layers = list(dict.fromkeys(score.layer for score in scores))
    for name, by_layer in found.items():
        if missing := [(layer, metric) for metric in metrics for layer in layers if (layer, metric) not in by_layer]:
            known = sorted({metric for _, metric in by_layer})
            raise ValueError(f"{name} has no score for {missing[:3]}; found {known}: pass scores of one pair and one k")
    height = 1.0 + 2.95 * len(metrics)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor="white")
    for i, metric in enumerate(metrics):
        axes = figure.add_axes((0.065, 1.0 - (0.75 + 2.95 * (i + 1) - 0.5) / height, 0.925, 2.35 / height))
        _bar_panel(axes, found, layers, metric)
    style: dict[str, Any] = {"ncol": len(found), "frameon": False, "fontsize": 10, "columnspacing": 1.6}
    place = (0.058, 1.0 - 0.42 / height)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=place, **style)
    note = "Black lines: 95 % intervals, spatial block bootstrap over the query spots of this section."
    figure.text(0.065, 0.1 / height, note, fontsize=9, color=GREY)
    _title(figure, height, f"{method}: {source} → {target}, by layer of the query", simulated)
    return _png(figure)


def _check_rows(source: Section, query_spots, expected: tuple[int, int], reference_rows, cosine_rows) -> None:
    if not len(query_spots):
        raise ValueError("no query spot to draw; expected at least one (see choose_query_spots)")
    for name, rows in (("reference_rows", reference_rows), ("cosine_rows", cosine_rows)):
        if rows.shape != expected or not np.isfinite(rows).all():
            raise ValueError(f"{name} has shape {rows.shape}; expected finite [n_queries, n_target] = {expected}")
    if reference_rows.min() < 0 or reference_rows.max() > 1 + 1e-6:
        raise ValueError(
            f"reference_rows run from {reference_rows.min():g} to {reference_rows.max():g}; expected RM-IDEAL, 0 to 1"
        )
    if unnamed := [int(spot) for spot in query_spots if not source.layer[spot]]:
        raise ValueError(f"query spots {unnamed} of {source.key} have no layer; expected labelled spots")


def _name(section: Section) -> str:
    return f"{section.key} (SIMULATED)" if section.simulated else section.key


def _layer_colours(layer: np.ndarray) -> dict[str, str]:
    names = np.unique(layer).tolist()
    if len(names) <= len(LAYER_COLOURS):
        return dict(zip(names, LAYER_COLOURS, strict=False))
    many = [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))]
    return dict(zip(names, many, strict=True))


def _niche(section: Section, spot: int, hops: int) -> np.ndarray:
    """Spots within ``hops`` steps of ``spot`` over labelled spots, itself included."""
    inside = np.zeros(section.n_spots, bool)
    inside[spot] = True
    for _ in range(hops):
        inside |= (section.adjacency.T @ inside) & section.labelled
    return np.flatnonzero(inside)


def _show(axes: Axes, raster: TissueRaster, picture: np.ndarray) -> None:
    axes.imshow(picture, extent=raster.extent, interpolation="nearest")
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)


def _outline(axes: Axes, raster: TissueRaster, query: np.ndarray, niche: np.ndarray) -> None:
    inside = np.isin(raster.spot, niche).astype(float)
    for colour, width in (("white", 4.0), ("black", 1.8)):
        axes.contour(raster.x, raster.y, inside, levels=[0.5], colors=colour, linewidths=width)
    axes.plot(*query, marker="o", markersize=5, color="black", markeredgecolor="white")


def _map_keys(figure: Figure, height: float, colours: Mapping[str, str]) -> None:
    """Legend of the layers, and the two colour bars that all rows share."""
    named = {**colours, "no layer": UNLABELLED}
    handles = [Line2D([], [], marker="h", linestyle="", color=colour, markersize=10) for colour in named.values()]
    style: dict[str, Any] = {"ncol": 4, "frameon": False, "handletextpad": 0.1, "columnspacing": 1.0, "fontsize": 9}
    place = (0.005, 1.0 - 0.72 / height)
    figure.legend(handles, list(named), loc="upper left", bbox_to_anchor=place, **style)
    bars = (
        (0.38, "RM-IDEAL similarity", ("0", "0.5", "1")),
        (0.715, "cosine similarity, rescaled in each panel", ("lowest", "", "highest")),
    )
    for x, label, ticks in bars:
        axes = figure.add_axes((x, 1.0 - 1.03 / height, 0.24, 0.14 / height))
        bar = figure.colorbar(ScalarMappable(Normalize(0.0, 1.0), COLORMAP), cax=axes, orientation="horizontal")
        bar.set_ticks([0.0, 0.5, 1.0], labels=list(ticks))
        axes.tick_params(labelsize=9)
        axes.set_title(label, fontsize=10, pad=4)


def _title(figure: Figure, height: float, title: str, simulated: bool) -> None:
    figure.text(0.012, 1.0 - 0.12 / height, title, fontsize=15, fontweight="bold", va="top")
    if simulated:
        style: dict[str, Any] = {"fontsize": 13, "fontweight": "bold", "va": "top", "ha": "right", "color": "white"}
        box = {"facecolor": "#B22222", "edgecolor": "none", "pad": 4}
        figure.text(0.988, 1.0 - 0.15 / height, "SIMULATED DATA", bbox=box, **style)


def _bar_panel(
    axes: Axes, found: Mapping[str, Mapping[tuple[str, str], Score]], layers: list[str], metric: str
) -> None:
    method = next(iter(found))
    width = 0.82 / len(found)
    # 'all' stands a little apart: it is no further layer but their summary.
    place = np.arange(len(layers)) + np.array([0.35 if layer == ALL_LAYERS else 0.0 for layer in layers])
    for i, (name, by_layer) in enumerate(found.items()):
        colour = METHOD_COLOUR if name == method else CONTROL_COLOURS[(i - 1) % len(CONTROL_COLOURS)]
        rows = [by_layer[layer, metric] for layer in layers]
        x = place + (i - (len(found) - 1) / 2) * width
        label = f"{name} (oracle)" if CONTROLS.get(name, "").startswith("oracle") else name
        # The edge keeps a bar of height 0 visible.
        axes.bar(x, [row.value or 0.0 for row in rows], 0.88 * width, color=colour, edgecolor=colour, label=label)
        for centre, row in zip(x, rows, strict=True):
            _bar_notes(axes, centre, row, colour if name == method else None)
    counts = [found[method][layer, metric].n for layer in layers]
    axes.set_xticks(place, [f"{layer}\nn = {n}" for layer, n in zip(layers, counts, strict=True)], fontsize=10)
    axes.axhline(0.0, color="#222222", linewidth=0.8, zorder=0.6)
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low), max(1.05, high))
    axes.set_ylabel(
        "A (mean Spearman r)" if metric == "A" else metric.replace("_at_", "@").replace("_", " "), fontsize=11
    )
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _bar_notes(axes: Axes, x: float, score: Score, colour: str | None) -> None:
    """The interval of a bar, the word none where it has no value, and in ``colour`` its value."""
    if score.value is None:
        axes.text(x, 0.02, "none", rotation=90, fontsize=8, ha="center", va="bottom", color=GREY)
        return
    if score.ci_low is not None and score.ci_high is not None:
        axes.plot([x, x], [score.ci_low, score.ci_high], color="#222222", linewidth=1.4)
    if colour:
        top = max(score.value, score.ci_high or 0.0, 0.0)
        axes.text(x, top + 0.015, f"{score.value:.2f}", fontsize=9, ha="center", va="bottom", color=colour)


def _png(figure: Figure) -> bytes:
    """Render with a palette of 256 colours, a third of the bytes of full colour; no metadata, so that bytes repeat."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    out = io.BytesIO()
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()
