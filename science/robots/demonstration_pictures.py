"""Adds what cameras saw to demonstrations, drawn from their recorded states: they are recorded without pictures.

The states lead to the pictures, so one recording serves policies that read pictures of any size, or none.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from files import write_whole
from science.robots.cameras import Cameras
from science.robots.demonstration_checks import DemonstrationError
from science.robots.policies.batched import image_key
from science.robots.tasks.base import Simulation

if TYPE_CHECKING:
    import h5py

_SAME_STATE = 1e-6


def with_pictures(source: Path, simulation: Simulation, sizes: Mapping[str, tuple[int, int]], path: Path) -> None:
    """Copy demonstrations to ``path`` with ``obs/<camera>_image`` ``[T, height, width, 3]`` uint8 in each.

    Parameters
    ----------
    source : validated demonstrations of the simulation's task.
    sizes : camera -> (height, width).

    Raises
    ------
    DemonstrationError
        For demonstrations without seeds or states, or that do not begin as the task does here.
    RenderingError
        For a camera that the task has not, or where nothing can draw.
    OSError
        When the folder is full or not writable.
    """

    def write(draft: Path) -> None:
        import h5py

        shutil.copyfile(source, draft)
        with Cameras(simulation, sizes) as cameras, h5py.File(draft, "r+") as file:
            for name in sorted(file["data"], key=lambda each: int(each.removeprefix("demo_"))):
                _draw(file["data"][name], f"{name} of {source}", simulation, cameras)

    write_whole(path, write)


def _draw(demo: h5py.Group, where: str, simulation: Simulation, cameras: Cameras) -> None:
    missing = [*({"states"} - set(demo)), *({"seed"} - set(demo.attrs))]
    if missing:
        raise DemonstrationError(
            f"found no {' and no '.join(missing)} in {where}, expected both: pictures are drawn from the states of a "
            "seed's episode; record demonstrations here, or train without cameras"
        )
    states = demo["states"][()]
    simulation.reset(int(demo.attrs["seed"]))
    begins = simulation.state()
    if states.shape[1:] != begins.shape or np.abs(states[0] - begins).max() > _SAME_STATE:
        raise DemonstrationError(
            f"found {where} beginning otherwise than {simulation.task.key} does here: it was recorded in another "
            "environment; record the demonstrations again"
        )
    cameras.begin()
    pictures = {
        camera: np.empty((len(states), height, width, 3), np.uint8) for camera, (height, width) in cameras.sizes.items()
    }
    for step, state in enumerate(states):
        simulation.set_state(state)
        for camera, drawn in pictures.items():
            drawn[step] = cameras.picture(camera)
    for camera, drawn in pictures.items():
        chunks = (1, *drawn.shape[1:])
        key = f"obs/{image_key(camera)}"
        demo.create_dataset(key, data=drawn, chunks=chunks, compression="gzip", compression_opts=1, track_times=False)
