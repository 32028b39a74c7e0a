"""Pictures of a simulation without a display: which OpenGL draws them, and the renderer itself.

EGL is the first choice. OSMesa is the second one and is used only where it is asked for: `TRACEBED_GL=osmesa`, or
`TRACEBED_GL=egl,osmesa` for "EGL, and OSMesa where EGL fails". What was chosen and why is a `GlChoice`, which belongs
into the result. A process draws with one OpenGL for its whole life. Importing this module is light; mujoco and OpenGL
are imported when a renderer is made.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import mujoco

GL_VARIABLE = "TRACEBED_GL"
BACKENDS = ("egl", "osmesa")
CAMERAS = ("agentview", "frontview")
"""What is shown where no camera is named: both are robosuite's names for a view of the whole table."""
DEBIAN_PACKAGES = "libegl1 libgl1 libosmesa6 libgles2"

_PROBE_S = 120.0
_PROBE = """
import importlib, json, os
import mujoco
from OpenGL import GL
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="box" size=".1 .1 .1" rgba="1 0 0 1"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    contrast = float(renderer.render().std())
    name = GL.glGetString(GL.GL_RENDERER).decode()
assert contrast > 1, f"the probe's frame is blank (standard deviation {contrast})"
print(json.dumps(name))
"""
_MAX_GEOMS = 10_000
_UPLOADED = (
    *("tex_type", "tex_width", "tex_height", "tex_data", "hfield_size", "hfield_data", "skin_vert", "skin_face"),
    *("mesh_vertadr", "mesh_faceadr", "mesh_vert", "mesh_normal", "mesh_texcoord", "mesh_face"),
)
_ERROR_LINE = re.compile(r"^[\w.]*(Error|Exception|Warning)\b.*", re.MULTILINE)


class RenderingError(RuntimeError):
    """Nothing here can draw, or not what was asked for."""


@dataclass(frozen=True)
class GlChoice:
    """The OpenGL that draws.

    Attributes
    ----------
    backend : `egl` or `osmesa`.
    renderer : OpenGL's own name of it (GL_RENDERER), such as a GPU's or llvmpipe with its vector width.
    why : why it was chosen, including the error of what was preferred.
    """

    backend: str
    renderer: str
    why: str


def choose_gl(preferred: str | None = None) -> GlChoice:
    """The first OpenGL of ``preferred`` that draws a frame, tried in a process of its own each (about 0.5 CPU-s).

    Parameters
    ----------
    preferred
        `egl`, `osmesa`, or both with a comma, in the order in which they are tried; default: ``$TRACEBED_GL``, or
        `egl`. What is not named is never used.

    Raises
    ------
    RenderingError
        For another name, or when nothing that was named can draw: with the error of each, and what to install.
    """
    asked = preferred or os.environ.get(GL_VARIABLE) or "egl"
    by = "the caller" if preferred else f"${GL_VARIABLE}" if os.environ.get(GL_VARIABLE) else "default"
    order = [name.strip() for name in asked.lower().split(",")]
    if not set(order) <= set(BACKENDS):
        raise RenderingError(f"found OpenGL {asked!r} (from {by}), expected egl, osmesa, or egl,osmesa")
    failed: list[str] = []
    for backend in order:
        renderer, error = _probe(backend)
        if renderer is not None:
            why = "; ".join([f"{asked} by {by}", *failed])
            return GlChoice(backend, renderer, why)
        failed.append(f"{backend} failed: {error}")
    for backend in BACKENDS:
        if backend not in order:
            renderer, error = _probe(backend)
            failed.append(
                f"{backend} was not asked for and fails: {error}"
                if renderer is None
                else f"{backend} was not asked for but works: {GL_VARIABLE}={backend} chooses it"
            )
    raise RenderingError(
        f"no OpenGL can draw here (asked for: {asked} by {by}). {'; '.join(failed)}. "
        f"On Debian and Ubuntu: apt-get install {DEBIAN_PACKAGES}"
    )


def _probe(backend: str) -> tuple[str | None, str]:
    """GL_RENDERER of a backend that draws, or None and its error."""
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no frame within {_PROBE_S:.0f} s"
    if ended.returncode == 0:
        return str(json.loads(ended.stdout.splitlines()[-1])), ""
    said = _ERROR_LINE.search(ended.stderr)
    return None, said.group().strip() if said else f"exit status {ended.returncode}: {ended.stderr[-300:].strip()}"


def _gl_context(gl: GlChoice, width: int, height: int) -> Any:
    """An OpenGL context that belongs to this thread.

    mujoco's own renderer takes the backend that ``$MUJOCO_GL`` named when mujoco was first imported; naming the class
    instead makes the choice hold whoever imported mujoco before.
    """
    used = os.environ.get("PYOPENGL_PLATFORM")
    if used != gl.backend and "OpenGL.platform" in sys.modules:
        raise RenderingError(
            f"this process draws with {used or 'another OpenGL'} already and cannot change to {gl.backend}: choose one "
            "OpenGL for the whole process, or draw in another process"
        )
    os.environ["PYOPENGL_PLATFORM"] = os.environ["MUJOCO_GL"] = gl.backend
    context = import_module(f"mujoco.{gl.backend}").GLContext(width, height)
    context.make_current()
    return context


class SceneRenderer:
    """Draws what cameras of compiled models see; use it in a `with`, or close it.

    Fast on a CPU because it has no multisampling and no reflections. The model itself is not changed: a copy is drawn.
    """

    def __init__(self, width: int, height: int, gl: GlChoice) -> None:
        """Open an OpenGL context for pictures of ``width`` x ``height`` pixels; `show` gives it a model.

        Raises
        ------
        RenderingError
            When this process draws with another OpenGL already.
        """
        self.width, self.height, self.gl = width, height, gl
        self._context = _gl_context(gl, width, height)
        self._model: mujoco.MjModel | None = None
        self._buffers: mujoco.MjrContext | None = None

    def show(self, model: mujoco.MjModel) -> None:
        """Draw this model from now on.

        Meshes and textures (0.5 CPU-s for a robosuite arena) are uploaded only if they differ from the last model's.
        """
        import mujoco

        drawn = copy.copy(model)
        drawn.vis.quality.offsamples = 0
        drawn.vis.global_.offwidth, drawn.vis.global_.offheight = self.width, self.height
        drawn.mat_reflectance[:] = 0
        self._context.make_current()
        if self._model is None or not _same_uploads(self._model, drawn):
            self._free_buffers()
            self._buffers = mujoco.MjrContext(drawn, mujoco.mjtFontScale.mjFONTSCALE_100)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)
        self._model = drawn
        self._scene = mujoco.MjvScene(drawn, maxgeom=_MAX_GEOMS)

    def frame(self, data: mujoco.MjData, camera: str | None = None) -> np.ndarray:
        """What a camera of the model sees, ``[height, width, 3]`` uint8 RGB, the first row on top.

        Without a name, it is the first of `CAMERAS` that the model has.

        Raises
        ------
        RenderingError
            For a camera that the model has not, or before `show`.
        """
        import mujoco

        if self._model is None or self._buffers is None:
            raise RenderingError("found a renderer without a model; call show(model) first, and not after close()")
        cameras = [self._model.camera(index).name for index in range(self._model.ncam)]
        camera = camera or next((name for name in CAMERAS if name in cameras), None)
        if camera not in cameras:
            raise RenderingError(f"found camera {camera or ' or '.join(CAMERAS)!r}, expected one of {cameras}")
        view, option = mujoco.MjvCamera(), mujoco.MjvOption()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, cameras.index(camera)
        # robosuite's convention: what collides is in group 0, what is seen in group 1.
        option.geomgroup[0] = not (self._model.geom_group == 1).any()
        self._context.make_current()
        mujoco.mjv_updateScene(self._model, data, option, None, view, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        picture = mujoco.MjrRect(0, 0, self.width, self.height)
        mujoco.mjr_render(picture, self._scene, self._buffers)
        pixels = np.empty((self.height, self.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, picture, self._buffers)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's first row is the bottom one

    def close(self) -> None:
        """Free the OpenGL context; a second time does nothing."""
        if self._context is not None:
            self._context.make_current()
            self._free_buffers()
            self._context.free()
            self._context = self._model = None

    def _free_buffers(self) -> None:
        if self._buffers is not None:
            self._buffers.free()
            self._buffers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _same_uploads(one: mujoco.MjModel, other: mujoco.MjModel) -> bool:
    """Whether two models have the same meshes, height fields, skins and textures, which live in the OpenGL context."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in _UPLOADED)
