"""Videos of episodes, drawn afterwards from the stored states: rollouts themselves run without cameras.

`record_episode` makes all of it: the captioned mp4 of a whole episode, and its poster, a still of three moments for
places that show no video. Importing this module is light; mujoco, pillow and ffmpeg are used in worker processes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from science.robots.captions import BAR_PX, Caption, captioned, contact_sheet, episode_captions
from science.robots.mp4 import Mp4Info, VideoError, probe_mp4, write_mp4

if TYPE_CHECKING:
    from science.robots.rendering import GlChoice, SceneRenderer
    from science.robots.tasks.base import Simulation

SIZE_PX = 384
HOLD_S = 0.5
"""How long the last frame stands, so that the outcome can be read."""

_SAME_STATE = 1e-6
_URL = re.compile(r"https?://[^\s()<>\"'\\]+")


@dataclass(frozen=True)
class EpisodeVideo:
    """A video that was written, decoded again, and its poster.

    Attributes
    ----------
    info : what decoding it showed.
    poster : PNG of the first state, the key state and the last one.
    key_step : step of the key state: of the perturbation, else where the last milestone was first reached.
    gl : the OpenGL that drew it, and why it was chosen.
    """

    info: Mp4Info
    poster: bytes
    key_step: int
    gl: GlChoice


def shown_steps(n_states: int, every: int) -> list[int]:
    """Steps of which a video shows the state: every ``every``-th from the first on, and always the last."""
    steps = list(range(0, n_states, every))
    return steps if steps[-1] == n_states - 1 else [*steps, n_states - 1]


def render_episode(
    simulation: Simulation,
    renderer: SceneRenderer,
    seed: int,
    states: np.ndarray,
    *,
    camera: str | None = None,
    every: int = 1,
    caption: Callable[[int], Caption] | None = None,
) -> Iterator[np.ndarray]:
    """Draw the states ``[T+1, n_state]`` of a seed's episode, in the order of `shown_steps`.

    Yields ``[height, width, 3]`` uint8 RGB, 94 pixels higher where there are captions.

    Raises
    ------
    VideoError
        When the episode of the seed does not begin with the first state: it was recorded in another environment.
    """
    simulation.reset(seed)
    states = np.asarray(states, dtype=np.float64)
    begins = simulation.state()
    if states.ndim != 2 or states.shape[1] != begins.size or not states.size:
        raise VideoError(
            f"found states of shape {states.shape}, expected [T+1, {begins.size}] of {simulation.task.key}"
        )
    if np.abs(states[0] - begins).max() > _SAME_STATE:
        raise VideoError(
            f"the recorded episode of seed {seed} does not begin as {simulation.task.key} does here (states differ by "
            f"{np.abs(states[0] - begins).max():.3g}): it was recorded in another environment; roll it out again"
        )
    renderer.show(simulation.mujoco_model)
    for step in shown_steps(len(states), every):
        simulation.set_state(states[step])
        frame = renderer.frame(simulation.mujoco_data, camera)
        yield frame if caption is None else captioned(frame, caption(step))


def key_step(milestones: np.ndarray, fired_step: int | None) -> int:
    """The step that a poster shows between the first and the last: see `EpisodeVideo`; the middle if there is none."""
    if fired_step is not None:
        return fired_step
    held = np.asarray(milestones, dtype=bool)
    first = held.argmax(axis=0)[held.any(axis=0)]
    return int(first.max()) if first.size and first.max() > 0 else (len(held) - 1) // 2


def record_episode(
    path: Path,
    simulation: Simulation,
    renderer: SceneRenderer,
    *,
    seed: int,
    arm: str,
    states: np.ndarray,
    milestones: np.ndarray,
    fired_step: int | None,
    outcome: str,
    stage: str,
    policy: str,
    camera: str | None = None,
    every: int = 1,
) -> EpisodeVideo:
    """Write the captioned video of a whole episode at the speed of life, and read it back.

    Parameters
    ----------
    path
        The mp4, which appears whole or not at all.
    states, milestones
        ``[T+1, n_state]`` and ``[T+1, n_milestones]``, of the same steps.
    fired_step
        First step whose state shows the perturbation; None where there is none or it never fired.

    Raises
    ------
    VideoError
        When the episode is not of this environment, the arrays do not fit each other, or the video that was written
        cannot be played or does not show every frame.
    """
    if len(states) != len(milestones) or not 0 <= (fired_step or 0) < len(states):
        raise VideoError(
            f"found {len(states)} states, {len(milestones)} rows of milestones and fired_step {fired_step}, expected "
            "as many rows as states and a step among them"
        )
    task = simulation.task
    caption = episode_captions(
        title=f"{task.key}   {policy}",
        seed=seed,
        arm=arm,
        control_hz=task.control_hz,
        milestone_names=task.milestones,
        milestones=milestones,
        fired_step=fired_step,
        outcome=outcome,
        stage=stage,
    )
    steps = shown_steps(len(states), every)
    key = key_step(milestones, fired_step)
    stills = {0: None, _nearest(steps, key): None, steps[-1]: None}
    fps = task.control_hz / every
    n_held = round(HOLD_S * fps)
    kept: dict[int, np.ndarray] = {}

    def frames() -> Iterator[np.ndarray]:
        drawn = render_episode(simulation, renderer, seed, states, camera=camera, every=every, caption=caption)
        for step, frame in zip(steps, drawn, strict=True):
            if step in stills:
                kept[step] = frame
            yield frame
        for _ in range(n_held):
            yield frame

    write_mp4(path, frames(), fps)
    info = probe_mp4(path, BAR_PX)
    if info.frames != len(steps) + n_held or not info.plays_in_browsers:
        raise VideoError(f"{path} is not the whole episode of {len(steps)} + {n_held} frames in H.264: found {info}")
    return EpisodeVideo(info, contact_sheet([kept[step] for step in stills]), key, renderer.gl)


def _nearest(steps: Sequence[int], step: int) -> int:
    """The first shown step that is not before ``step``."""
    return next(shown for shown in steps if shown >= step)


def poster_markdown(poster_png: bytes, url: str, caption: str) -> str:
    """Markdown that shows a poster and leads to the video: Dagster's UI drops `<video>` and links to files.

    Raises
    ------
    ValueError
        For an address that is not plain http(s).
    """
    if not _URL.fullmatch(url):
        raise ValueError(f"found {url!r}, expected an http(s) address without spaces, quotes or brackets")
    plain = re.sub(r"[^\w .,:;/%+=-]+", " ", caption).strip()
    image = f"![{plain}](data:image/png;base64,{base64.b64encode(poster_png).decode()})"
    return f"[{image}]({url})\n\n[Play: {plain}]({url})"
