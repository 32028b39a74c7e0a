"""What a policy's cameras see, drawn when it looks: a policy that acts in chunks looks at few of the control steps.

A picture is a function of the physics state alone, so one that is drawn again from a recorded state equals the one that
the policy saw, on the same OpenGL. Importing this module is light; mujoco and OpenGL are imported where cameras open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from science.robots.policies.batched import image_key
from science.robots.rendering import GlChoice, RenderingError, SceneRenderer, choose_gl

if TYPE_CHECKING:
    from science.robots.tasks.base import Observation, Simulation


class Cameras:
    """Draws what cameras of a simulation see; use it in a `with`, or close it.

    Attributes
    ----------
    sizes : camera -> (height, width), pixels.
    gl : the OpenGL that draws; None without cameras.
    """

    def __init__(self, simulation: Simulation, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Find an OpenGL for pictures of these sizes; without cameras, nothing is opened.

        Raises
        ------
        RenderingError
            For a camera that the task does not name, or where nothing can draw.
        """
        task = simulation.task
        if unknown := sorted(set(sizes) - set(task.cameras)):
            raise RenderingError(f"found cameras {unknown}, expected some of {list(task.cameras)} of {task.key}")
        self._simulation = simulation
        self.sizes = dict(sizes)
        self.gl: GlChoice | None = choose_gl() if sizes else None
        self._renderers: dict[tuple[int, int], SceneRenderer] = {}
        self._data: Any = None

    def begin(self) -> None:
        """Look at the model of the simulation's present episode from now on."""
        if self.gl is None:
            return
        import mujoco

        model = self._simulation.mujoco_model
        self._data = mujoco.MjData(model)
        for height, width in set(self.sizes.values()):
            if (height, width) not in self._renderers:
                self._renderers[height, width] = SceneRenderer(width, height, self.gl)
            self._renderers[height, width].show(model)

    def see(self, observation: Observation) -> Observation:
        """The observation with a picture ``<camera>_image`` of the present state for each camera, drawn when read."""
        return _Seen(observation, self) if self.sizes else observation

    def picture(self, camera: str) -> np.ndarray:
        """What a camera sees now, ``[height, width, 3]`` uint8 RGB, the first row on top.

        Raises
        ------
        RenderingError
            Before `begin`, or for another camera.
        """
        if self._data is None or camera not in self.sizes:
            raise RenderingError(
                f"found no view of camera {camera!r}, expected one of {list(self.sizes)} after begin()"
            )
        import mujoco

        model, now, drawn = self._simulation.mujoco_model, self._simulation.mujoco_data, self._data
        drawn.qpos[:], drawn.mocap_pos[:], drawn.mocap_quat[:] = now.qpos, now.mocap_pos, now.mocap_quat
        mujoco.mj_kinematics(model, drawn)
        mujoco.mj_comPos(model, drawn)
        mujoco.mj_camlight(model, drawn)
        return self._renderers[self.sizes[camera]].frame(drawn, camera)

    def close(self) -> None:
        """Free the OpenGL contexts; a second time does nothing."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        self._data = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Seen(Mapping[str, np.ndarray]):
    """An observation whose pictures are drawn the first time that they are read, before the next control step."""

    def __init__(self, observation: Observation, cameras: Cameras) -> None:
        self._observation, self._cameras = observation, cameras
        self._names = {image_key(camera): camera for camera in cameras.sizes}
        self._drawn: dict[str, np.ndarray] = {}

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._names:
            return self._observation[key]
        if key not in self._drawn:
            self._drawn[key] = self._cameras.picture(self._names[key])
        return self._drawn[key]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._observation, *self._names])

    def __len__(self) -> int:
        return len(self._observation) + len(self._names)
