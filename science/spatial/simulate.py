"""Simulated cortex sections: a layered piece of tissue without the tissue, for tests and the demo.

Every section says ``simulated=True``. Sections of different seeds share gene names and layer programmes, so encoders
fitted on some apply to others; anatomy, batch effect and noise differ. The numbers are invented: a benchmark on them
shows that the platform works, not how good a method is. Writing them as user files: `simulated_files.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from science.spatial.graph import neighbour_graph
from science.spatial.section import CORTEX_LAYERS, Section
from science.spatial.section_checks import check_section
from science.spatial.simulated_files import grid_barcode, write_annotated, write_space_ranger

__all__ = ["Programmes", "layer_programmes", "simulate_cortex", "write_annotated", "write_space_ranger"]

# Share of the cortical depth of Layer1..6 and WM, as in the DLPFC sections (roughly).
THICKNESS = np.array([0.09, 0.08, 0.26, 0.08, 0.18, 0.17, 0.14])
PROGRAMME_SEED = 20210208  # one set of genes for all sections, whatever their seed
SPOT_SPACING_PX = 137.0  # full-resolution pixels between the centres of neighbouring spots (100 um)
IMAGE_SCALE = 0.08
MEAN_UMI = 1500.0
DISPERSION = 3.0  # size parameter of the negative binomial: variance = mean + mean^2 / DISPERSION
UNLABELLED_SHARE = 0.01


@dataclass(frozen=True)
class Programmes:
    """What the genes do, in every section alike; each row a gene.

    ``base`` is log expression; ``layer`` ``[n_genes, 7]`` is the log fold change at the centre of each layer, between
    which it runs smoothly; ``nuisance`` ``[n_genes, 3]`` loads on fields that have nothing to do with layers.
    """

    base: np.ndarray
    layer: np.ndarray
    nuisance: np.ndarray


def layer_programmes(n_genes: int) -> Programmes:
    """Genes SIM0001 to SIM<n_genes>: 40 % follow one layer, 10 % a gradient, 15 % nuisance, the rest nothing."""
    rng = np.random.default_rng([PROGRAMME_SEED, n_genes])
    base = rng.normal(0.0, 1.1, n_genes)
    layer = np.zeros((n_genes, len(CORTEX_LAYERS)))
    nuisance = np.zeros((n_genes, 3))
    kind = rng.random(n_genes)
    for gene in np.flatnonzero(kind < 0.4):
        own = rng.integers(len(CORTEX_LAYERS))
        spill = np.exp(-np.abs(np.arange(len(CORTEX_LAYERS)) - own) / 0.7)
        layer[gene] = rng.normal(0.0, 0.85) * spill
    for gene in np.flatnonzero((kind >= 0.4) & (kind < 0.5)):
        layer[gene] = rng.normal(0.0, 0.5) * np.linspace(-1, 1, len(CORTEX_LAYERS))
    affected = (kind >= 0.5) & (kind < 0.65)
    nuisance[affected] = rng.normal(0.0, 0.3, (affected.sum(), 3))
    return Programmes(base, layer, nuisance)


def simulate_cortex(key: str, *, seed: int, n_rows: int = 40, n_cols: int = 32, n_genes: int = 600) -> Section:
    """Simulate a section of cortex: Layer1 to WM as curved bands on a Visium grid.

    Parameters
    ----------
    key : name of the section.
    seed : anatomy, batch effect and noise; the same arguments give the same section.
    n_rows, n_cols : rows of the grid and spots in a row; about 94 % of the places are tissue.
    n_genes : named SIM0001, SIM0002, ...; sections of one `n_genes` share their programmes.

    Returns
    -------
    Section with ``simulated=True``, negative-binomial counts, an image, and about 1 % of the spots without a label.
    """
    if n_rows < 12 or n_cols < 6 or n_genes < 50:
        raise ValueError(
            f"found n_rows={n_rows}, n_cols={n_cols}, n_genes={n_genes}; expected at least 12, 6 and 50, so that every "
            "layer has spots and genes. Simulate a larger section."
        )
    rng = np.random.default_rng(seed)
    array_row, array_col, depth = _tissue(n_rows, n_cols, rng)
    pixel = np.round(SPOT_SPACING_PX * (2.0 + np.stack([array_col / 2, array_row * np.sqrt(3) / 2], axis=1)))
    bounds = np.cumsum(THICKNESS * rng.uniform(0.85, 1.15, len(THICKNESS)))
    bounds /= bounds[-1]
    layer_index = np.minimum(np.searchsorted(bounds, depth, side="right"), len(CORTEX_LAYERS) - 1)
    counts = _counts(depth, bounds, pixel, layer_programmes(n_genes), rng)
    image = _image(pixel, layer_index, rng)
    layer = np.array(CORTEX_LAYERS)[layer_index]
    layer[rng.random(len(layer)) < UNLABELLED_SHARE] = ""
    section = Section(
        key=key,
        counts=counts,
        genes=np.array([f"SIM{gene:04d}" for gene in range(1, n_genes + 1)]),
        barcodes=np.array([grid_barcode(row, col) for row, col in zip(array_row, array_col, strict=True)]),
        array_row=array_row,
        array_col=array_col,
        pixel=pixel,
        layer=layer,
        sum_umi=np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel().astype(float),
        adjacency=neighbour_graph(array_row, array_col, pixel),
        image=image,
        image_scale=IMAGE_SCALE,
        simulated=True,
    )
    check_section(section, f"simulated section {key!r}")
    return section


def _tissue(n_rows: int, n_cols: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and cortical depth (0 at the pia, 1 at the lower edge) of the places that are tissue."""
    row, place = (grid.ravel() for grid in np.mgrid[:n_rows, :n_cols])
    col = 2 * place + row % 2
    x, y = col / (2 * n_cols), row / n_rows
    wave, phase, tilt = rng.uniform(0.05, 0.09), rng.uniform(0, 2 * np.pi), rng.uniform(-0.15, 0.15)
    top = wave * (1 + np.sin(2 * np.pi * x * rng.uniform(0.6, 1.0) + phase)) + tilt * (x - 0.5) - 0.04
    bend, centre = rng.uniform(-0.5, 0.5), rng.uniform(0.3, 0.7)
    depth = (y - top) / (1.04 + bend * (x - centre) ** 2 - top)
    ragged = 0.01 + 0.02 * rng.random(len(row))
    corner = np.hypot(np.maximum(np.abs(x - 0.5) - 0.36, 0), np.maximum(np.abs(y - 0.5) - 0.36, 0))
    inside = (depth > ragged) & (corner < 0.155 - ragged)
    return row[inside].astype(np.int32), col[inside].astype(np.int32), np.clip(depth[inside], 0, 1)


def _smooth_field(pixel: np.ndarray, length_px: float, rng: np.random.Generator, n_waves: int = 40) -> np.ndarray:
    """Random field of mean 0 and variance 1 at `pixel`, by random Fourier features."""
    frequency = rng.normal(0.0, 1.0 / length_px, (n_waves, 2))
    phase = rng.uniform(0, 2 * np.pi, n_waves)
    return np.cos(pixel @ frequency.T + phase).sum(axis=1) * np.sqrt(2.0 / n_waves)


def _counts(
    depth: np.ndarray, bounds: np.ndarray, pixel: np.ndarray, programmes: Programmes, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Negative-binomial counts ``[n_spots, n_genes]``."""
    n_genes = len(programmes.base)
    centres = bounds - np.diff(bounds, prepend=0.0) / 2
    by_layer = np.stack([np.interp(depth, centres, programmes.layer[gene]) for gene in range(n_genes)], axis=1)
    fields = np.stack([_smooth_field(pixel, 6 * SPOT_SPACING_PX, rng) for _ in range(3)], axis=1)
    batch = rng.normal(0.0, 0.25, n_genes)
    share = np.exp(programmes.base + by_layer + fields @ programmes.nuisance.T + batch)
    share /= share.sum(axis=1, keepdims=True)
    log_depth = 0.3 * _smooth_field(pixel, 10 * SPOT_SPACING_PX, rng) + rng.normal(0.0, 0.35, len(depth))
    mean = share * (MEAN_UMI * np.exp(log_depth))[:, None]
    counts = rng.poisson(rng.gamma(DISPERSION, mean / DISPERSION)).astype(np.int32)
    return sparse.csr_matrix(counts)


def _image(pixel: np.ndarray, layer_index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image that looks like H&E from afar: pink tissue, denser nuclei in the grey matter, on a pale slide."""
    width, height = np.ceil((pixel.max(axis=0) + 2 * SPOT_SPACING_PX) * IMAGE_SCALE).astype(int)
    y, x = np.mgrid[:height, :width]
    distance, nearest = cKDTree(pixel * IMAGE_SCALE).query(np.stack([x.ravel(), y.ravel()], axis=1))
    near = (distance < 0.9 * SPOT_SPACING_PX * IMAGE_SCALE).reshape(height, width)
    inside = ndimage.gaussian_filter(near.astype(float), 4.0) > 0.5
    band = layer_index[nearest].reshape(height, width)
    eosin = np.array([0.45, 0.55, 0.62, 0.68, 0.60, 0.66, 0.85])[band]
    nuclei_share = np.array([0.04, 0.12, 0.10, 0.16, 0.10, 0.10, 0.06])[band]
    nuclei = ndimage.gaussian_filter((rng.random((height, width)) < nuclei_share).astype(float), 0.8) * 2.0
    texture = ndimage.gaussian_filter(rng.normal(0.0, 1.0, (height, width)), 2.0)
    stain = ndimage.gaussian_filter(np.where(inside, eosin, 0.0), 1.2) * (1 + 0.25 * texture)
    nuclei = np.where(inside, nuclei, 0.0)
    absorbed = stain[..., None] * np.array([0.10, 0.55, 0.22]) + nuclei[..., None] * np.array([0.65, 0.70, 0.30])
    return np.round(255 * 0.95 * np.exp(-np.clip(absorbed, 0, 3))).astype(np.uint8)
