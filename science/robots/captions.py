"""What stands above the pictures of an episode, and the still of three moments that is its poster.

The text is drawn with pillow's own font on a dark bar above the scene: nothing of the scene is covered, and a player's
controls, which lie at the bottom, do not cover the text. Importing this module is light.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

BAR_PX = 94
POSTER_WIDTH_PX = 1080
_MARGIN_PX = 8
_INSET_PX = 6
_LINE_PX = 22
_FONT_PX = 16
_GAP_PX = 6

_BAR = (24, 26, 31)
_TEXT = (236, 239, 244)
AMBER = (255, 176, 32)
GREEN = (64, 200, 110)
RED = (255, 96, 88)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Caption:
    """Up to three lines of text, and marks on a line below: words on a coloured ground, from left to right."""

    lines: tuple[str, ...]
    marks: tuple[tuple[str, Colour], ...] = ()


def episode_captions(
    *,
    title: str,
    seed: int,
    arm: str,
    control_hz: int,
    milestone_names: Sequence[str],
    milestones: np.ndarray,
    fired_step: int | None,
    outcome: str,
    stage: str,
) -> Callable[[int], Caption]:
    """The caption of each step of an episode of T steps.

    Parameters
    ----------
    title
        Task and policy.
    milestones
        ``[T+1, n_milestones]`` bool: which held in each state.
    fired_step
        First step whose state shows the perturbation, None for an episode without.
    outcome, stage
        Shown on the last step only.

    Raises
    ------
    ValueError
        When the milestones do not fit their names.
    """
    reached = np.maximum.accumulate(np.asarray(milestones, dtype=bool), axis=0)
    if reached.ndim != 2 or reached.shape[1] != len(milestone_names):
        raise ValueError(f"found milestones of shape {reached.shape}, expected [T+1, {len(milestone_names)}]")
    last = len(reached) - 1
    solved = outcome == "success"
    ending = outcome.upper() + ("" if solved or stage == outcome else f": {stage}")

    def at(step: int) -> Caption:
        in_order = int(np.cumprod(reached[step]).sum())
        stage_now = f"{milestone_names[in_order - 1]} ({in_order} of {reached.shape[1]})" if in_order else "none yet"
        marks = []
        if fired_step is not None and step >= fired_step:
            marks.append((f"FIRED at {fired_step}", AMBER))
        if step == last:
            marks.append((ending, GREEN if solved else RED))
        who = f"seed {seed}   {arm}   {step / control_hz:.2f} s"
        return Caption((title, who, f"step {step} of {last}   reached: {stage_now}"), tuple(marks))

    return at


def captioned(frame: np.ndarray, caption: Caption) -> np.ndarray:
    """The frame ``[height, width, 3]`` with a caption above it, ``[height + 94, width, 3]``."""
    from PIL import Image, ImageDraw

    height, width = frame.shape[:2]
    sheet = Image.new("RGB", (width, height + BAR_PX), _BAR)
    sheet.paste(Image.fromarray(frame), (0, BAR_PX))
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(caption.lines):
        font = _fitting(line, width - 2 * _MARGIN_PX)
        draw.text((_MARGIN_PX, 14 + index * _LINE_PX), line, fill=_TEXT, font=font, anchor="lm")
    _draw_marks(draw, caption.marks, 3 + len(caption.lines) * _LINE_PX, width)
    return np.asarray(sheet)


def _draw_marks(draw: ImageDraw.ImageDraw, marks: Sequence[tuple[str, Colour]], top: int, width: int) -> None:
    around = len(marks) * (2 * _INSET_PX + _MARGIN_PX) + _MARGIN_PX
    font = _fitting("".join(text for text, _ in marks), width - around)
    left = float(_MARGIN_PX)
    for text, ground in marks:
        right = left + font.getlength(text) + 2 * _INSET_PX
        draw.rounded_rectangle((left, top, right, top + _LINE_PX - 2), radius=4, fill=ground)
        draw.text((left + _INSET_PX, top + _LINE_PX / 2 - 1), text, fill=_BAR, font=font, anchor="lm")
        left = right + _MARGIN_PX


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size_px)


def _fitting(text: str, room_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font at its usual size, or smaller where the text would need more room than there is."""
    length = _font(_FONT_PX).getlength(text)
    return _font(_FONT_PX if length <= room_px else max(int(_FONT_PX * room_px / length), 6))


def contact_sheet(frames: Sequence[np.ndarray]) -> bytes:
    """A PNG with frames of one size side by side, at most 1080 pixels wide, in 256 colours (about 70 kB).

    Raises
    ------
    ValueError
        For no frames, or frames of differing sizes.
    """
    from PIL import Image

    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1:
        raise ValueError(f"found frames of shapes {sorted(shapes)} for a poster, expected one shape")
    height, width, _ = shapes.pop()
    columns = len(frames)
    fits = min(1.0, (POSTER_WIDTH_PX - (columns - 1) * _GAP_PX) / (columns * width))
    size = (int(width * fits), int(height * fits))
    sheet = Image.new("RGB", (columns * size[0] + (columns - 1) * _GAP_PX, size[1]), (255, 255, 255))
    for index, frame in enumerate(frames):
        panel = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(panel, (index * (size[0] + _GAP_PX), 0))
    stream = io.BytesIO()
    # Median cut, pillow's default, spends its colours on the table: a small red cube comes out brown.
    few = sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
