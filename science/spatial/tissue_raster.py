"""A section cut into pixels for a figure: which spot each pixel shows, and colours over it. No matplotlib axes here.

Cells are the pixels nearest to a spot: hexagons on Visium, Voronoi cells on any other platform. They touch, so a map
reads as tissue and not as dots. Tissue stands as on the image, y down. Figures are composed in `figures.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from science.spatial.section import Section

COLORMAP = "viridis"  # perceptually uniform, safe for colour blindness
UNLABELLED = "#D9D9D9"
CELL_RADIUS = 0.62  # of the distance between spots; 0.577 reaches the corners of a hexagon
HISTOLOGY_CONTRAST = 0.6  # darkness of the darkest tissue
HISTOLOGY_SHADES = 8  # few shades keep a PNG small
VALUE_SHADES = 32


@dataclass(frozen=True)
class TissueRaster:
    """Pixels of a section, cropped to its spots.

    Attributes
    ----------
    spot : int ``[height, width]``, the spot that each pixel belongs to; -1 outside the tissue.
    x, y : float ``[width]``, ``[height]``, where the pixels lie on the full-resolution image.
    """

    spot: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top, as ``imshow`` takes them."""
        return float(self.x[0]), float(self.x[-1]), float(self.y[-1]), float(self.y[0])


def tissue_raster(section: Section, width: float, height: float) -> TissueRaster:
    """Cut a section into at most ``width`` x ``height`` pixels.

    Raises
    ------
    ValueError : a section without neighbouring spots: their distance is the size of a cell.
    """
    edges = section.adjacency.tocoo()
    if not edges.nnz:
        raise ValueError(f"section {section.key} has no neighbouring spots; expected a neighbour graph: load it again")
    distance = float(np.median(np.linalg.norm(section.pixel[edges.row] - section.pixel[edges.col], axis=1)))
    low, high = section.pixel.min(axis=0) - distance, section.pixel.max(axis=0) + distance
    step = float(max((high - low) / (width, height)))
    x, y = np.arange(low[0], high[0], step), np.arange(low[1], high[1], step)
    place = np.stack(np.meshgrid(x, y), axis=-1)
    spot = cKDTree(section.pixel).query(place, distance_upper_bound=CELL_RADIUS * distance)[1]
    return TissueRaster(np.where(spot < section.n_spots, spot, -1), x, y)


def layer_picture(section: Section, raster: TissueRaster, colours: Mapping[str, str]) -> np.ndarray:
    """Histology in grey under a tint for each layer: float ``[height, width, 3]``; the tint alone without an image."""
    tint = np.ones((section.n_spots + 1, 3))  # the last row, reached by -1, is the slide
    for name, colour in colours.items():
        tint[:-1][section.layer == name] = to_rgb(colour)
    return _histology(section, raster)[:, :, None] * tint[raster.spot]


def value_picture(n_spots: int, raster: TissueRaster, spots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of some ``spots`` in the colour map, other spots grey: float ``[height, width, 3]``."""
    colour = np.empty((n_spots + 1, 3))
    colour[:] = to_rgb(UNLABELLED)
    colour[spots] = colormaps[COLORMAP](np.round(values * VALUE_SHADES) / VALUE_SHADES)[:, :3]
    colour[-1] = 1.0
    return colour[raster.spot]


def _histology(section: Section, raster: TissueRaster) -> np.ndarray:
    """Brightness of the image at the raster's pixels, ``[height, width]`` in [0, 1]; all 1 without an image."""
    if section.image is None:
        return np.ones(raster.spot.shape)
    grey = section.image.astype(np.float64).mean(axis=2)
    place = np.stack(np.meshgrid(raster.y, raster.x, indexing="ij")) * section.image_scale - 0.5
    seen = map_coordinates(grey, place, order=1, mode="nearest")
    # The empty slide becomes white; the tissue's own range is stretched, and squared to keep most of it light, so that
    # the tints look as in the legend.
    darkest, slide = np.quantile(seen[raster.spot >= 0], 0.005), np.quantile(grey, 0.9)
    bright = np.clip((seen - darkest) / max(slide - darkest, 1.0), 0.0, 1.0)
    return 1.0 - HISTOLOGY_CONTRAST * np.round((1.0 - bright) ** 2 * HISTOLOGY_SHADES) / HISTOLOGY_SHADES
