"""The low-resolution histology image of a section: reading it, and holding it against the spots.

The full-resolution image and features computed from it do not live here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from science.spatial.section_checks import section_error


def read_image(path: Path) -> np.ndarray:
    """Read an image file as RGB, uint8 ``[height, width, 3]``.

    Raises
    ------
    SectionError : missing, truncated, or no image.
    """
    from PIL import Image

    if not path.is_file():
        raise section_error(path, "no such file", "the low-resolution image (PNG)", "correct the path of the image")
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise section_error(
            path,
            f"no readable image ({error})",
            "a complete tissue_lowres_image.png",
            "copy the file again",
        ) from error


def rgb(image: np.ndarray, file: Path | str) -> np.ndarray:
    """Image as stored in an h5ad (uint8 or float in [0, 1]; grey, RGB or RGBA) as uint8 ``[height, width, 3]``."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise section_error(file, f"an image of shape {image.shape}", "[height, width, 3 or 4]", "store it as RGB")
    image = image[:, :, :3]
    if image.dtype.kind == "f":
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise section_error(file, "a float image outside [0, 1]", "values in [0, 1], or uint8", "rescale the image")
        image = np.round(image * 255).astype(np.uint8)
    if image.dtype != np.uint8:
        raise section_error(file, f"an image of type {image.dtype}", "uint8, or float in [0, 1]", "convert the image")
    return np.ascontiguousarray(image)


def check_image_holds_spots(image: np.ndarray, scale: float, pixel: np.ndarray, file: Path | str) -> None:
    """Refuse an image that does not reach as far as the spots: another section's, or another resolution's scale."""
    height, width = image.shape[:2]
    x, y = (pixel * scale).T
    if (outside := (x < -1) | (y < -1) | (x > width) | (y > height)).any():
        raise section_error(
            file,
            f"{outside.sum()} of {len(pixel)} spots outside the image of {width} x {height} pixels (scale {scale:g})",
            "every spot on the image",
            "check that image, positions and tissue_lowres_scalef are of the same section and resolution",
        )
