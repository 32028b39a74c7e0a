"""Videos of real episodes: which OpenGL draws them, what is in the pictures, and what is in the file."""

import base64
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from science.robots.captions import AMBER, BAR_PX, GREEN, RED, contact_sheet
from science.robots.mp4 import VideoError, probe_mp4, write_mp4
from science.robots.rendering import DEBIAN_PACKAGES, GL_VARIABLE, RenderingError, SceneRenderer, choose_gl
from science.robots.tasks.base import Simulation
from science.robots.tasks.registry import find_task
from science.robots.video import key_step, poster_markdown, record_episode, render_episode, shown_steps

SEED, STEPS, FIRED, SIZE = 11, 16, 9, 192


@dataclass
class Recorded:
    """An episode of Lift: the arm comes down with open fingers, and the cube is shifted before step `FIRED`."""

    simulation: Simulation
    renderer: SceneRenderer
    states: np.ndarray
    milestones: np.ndarray

    def draw(self, **options) -> list[np.ndarray]:
        return list(render_episode(self.simulation, self.renderer, SEED, self.states, **options))

    def record(self, path: Path, **changed):
        given = {
            "seed": SEED,
            "arm": "shift",
            "states": self.states,
            "milestones": self.milestones,
            "fired_step": FIRED,
            "outcome": "failure",
            "stage": "no_grasp",
            "policy": "open_loop",
        }
        return record_episode(path, self.simulation, self.renderer, **(given | changed))


@pytest.fixture(scope="module")
def recorded(gl):
    simulation = find_task("open.Lift").make("robosuite")
    simulation.reset(SEED)
    states, milestones = [simulation.state()], [simulation.milestones()]
    for step in range(STEPS):
        if step == FIRED - 1:
            simulation.move_object(simulation.target(), np.array([0.06, 0.0, 0.0]))
        simulation.step(np.array([0, 0, -0.6, 0, 0, 0, -1.0]))
        states.append(simulation.state())
        milestones.append(simulation.milestones())
    with SceneRenderer(SIZE, SIZE, gl) as renderer:
        yield Recorded(simulation, renderer, np.array(states), np.array(milestones))
    simulation.close()


def pixel_of(simulation: Simulation, camera: str, position: np.ndarray) -> tuple[int, int]:
    """Row and column of a world position, by the pinhole model (row 0 on top)."""
    model, data = simulation.mujoco_model, simulation.mujoco_data
    index = model.camera(camera).id
    right, up, backward = data.cam_xmat[index].reshape(3, 3).T
    offset = position - data.cam_xpos[index]
    scale = SIZE / 2 / np.tan(np.radians(model.cam_fovy[index]) / 2) / -(offset @ backward)
    return round(SIZE / 2 - offset @ up * scale), round(SIZE / 2 + offset @ right * scale)


@pytest.mark.parametrize("camera", ["agentview", "frontview"])
def test_a_picture_is_the_right_way_up_and_not_mirrored(recorded, camera):
    simulation = recorded.simulation
    frames = recorded.draw(camera=camera)
    simulation.move_object("cube", np.array([0.0, 0.15, 0.0]))  # to where a mirror would show it elsewhere
    frame = recorded.renderer.frame(simulation.mujoco_data, camera).astype(int)
    row, column = pixel_of(simulation, camera, simulation.object_position("cube"))
    red, green, blue = frame[row, column]
    assert red > 1.5 * max(green, blue), "the cube is red and lies where the camera projects it"
    for mirrored in (frame[::-1], frame[:, ::-1]):
        red, green, blue = mirrored[row, column]
        assert red < 1.5 * max(green, blue)
    assert pixel_of(simulation, camera, simulation.gripper_position())[0] < row, "the hand is above the table"
    assert np.array_equal(frames[0], recorded.draw(camera=camera)[0]), "drawn again, it is the same picture"


def test_drawing_changes_neither_the_model_nor_what_an_episode_is(recorded):
    model = recorded.simulation.mujoco_model
    before = (model.vis.quality.offsamples, model.vis.global_.offwidth, model.mat_reflectance.copy())
    recorded.draw(every=8)
    assert (model.vis.quality.offsamples, model.vis.global_.offwidth) == before[:2] and before[0] > 0
    assert np.array_equal(model.mat_reflectance, before[2]) and before[2].any()
    assert np.array_equal(recorded.simulation.state(), recorded.states[-1])


def test_a_renderer_draws_the_next_model_without_uploading_the_same_meshes_again(recorded):
    renderer, model = recorded.renderer, recorded.simulation.mujoco_model
    renderer.show(model)
    uploaded = renderer._buffers
    renderer.show(model)
    assert renderer._buffers is uploaded
    import mujoco

    other = mujoco.MjModel.from_xml_string(SCENE)
    renderer.show(other)
    assert renderer._buffers is not uploaded
    data = mujoco.MjData(other)
    mujoco.mj_forward(other, data)
    with pytest.raises(RenderingError, match=r"found camera 'agentview or frontview', expected one of \['side'\]"):
        renderer.frame(data)
    assert renderer.frame(data, "side").std() > 10


def test_the_video_is_the_whole_episode_at_the_speed_of_life(recorded, tmp_path):
    path = tmp_path / "episode.mp4"
    video = recorded.record(path)
    info = video.info
    assert info.frames == STEPS + 1 + 10 and info.fps == 20 and info.duration_s == pytest.approx(1.35)
    assert (info.codec, info.pixel_format, info.faststart, info.not_blank) == ("h264", "yuv420p", True, True)
    assert (info.width_px, info.height_px) == (SIZE, SIZE + BAR_PX) and info.plays_in_browsers
    assert [file.name for file in tmp_path.iterdir()] == ["episode.mp4"]
    bytes_before = path.read_bytes()
    recorded.record(path)
    assert path.read_bytes() == bytes_before, "the same states give the same file"
    assert video.gl is recorded.renderer.gl and video.gl.renderer


def test_fewer_frames_still_show_the_end_at_the_same_speed(recorded, tmp_path):
    assert shown_steps(17, 5) == [0, 5, 10, 15, 16] and shown_steps(17, 4) == [0, 4, 8, 12, 16] == shown_steps(17, 4)
    assert shown_steps(1, 3) == [0]
    info = recorded.record(tmp_path / "short.mp4", every=5).info
    assert info.frames == 5 + 2 and info.fps == 4


def has(frame: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(frame[:BAR_PX].astype(int) - colour).max(axis=2) < 8).sum() > 100)


def test_captions_say_when_it_fired_and_how_it_ended_and_cover_nothing(recorded, tmp_path, monkeypatch):
    import science.robots.video as video

    frames = []
    monkeypatch.setattr(
        video, "write_mp4", lambda path, given, fps: (frames.extend(given), write_mp4(path, frames, fps))
    )
    recorded.record(tmp_path / "failed.mp4")
    assert [has(frame, AMBER) for frame in frames] == [step >= FIRED for step in range(len(frames))]
    assert [has(frame, RED) for frame in frames] == [step >= STEPS for step in range(len(frames))]
    assert not any(has(frame, GREEN) for frame in frames)
    for frame, plain in zip(frames, recorded.draw(), strict=False):
        assert np.array_equal(frame[BAR_PX:], plain)
        assert plain.shape == (SIZE, SIZE, 3) and frame[:BAR_PX].std() > 10
    frames.clear()
    recorded.record(tmp_path / "solved.mp4", outcome="success", stage="success", fired_step=None)
    assert has(frames[-1], GREEN) and not has(frames[-2 - 10], GREEN)
    assert not any(has(frame, AMBER) or has(frame, RED) for frame in frames)


def test_a_poster_is_small_and_shows_three_moments(recorded, tmp_path):
    poster = recorded.record(tmp_path / "episode.mp4").poster
    assert len(poster) < 200_000
    image = Image.open(io.BytesIO(poster))
    assert image.format == "PNG" and image.size == (3 * SIZE + 2 * 6, SIZE + BAR_PX)
    pixels = np.asarray(image.convert("RGB"))
    panels = [pixels[:, left : left + SIZE] for left in (0, SIZE + 6, 2 * (SIZE + 6))]
    assert [has(panel, AMBER) for panel in panels] == [False, True, True]
    assert [has(panel, RED) for panel in panels] == [False, False, True]
    wide = contact_sheet([np.full((600, 600, 3), 200, dtype=np.uint8)] * 3)
    assert Image.open(io.BytesIO(wide)).width <= 1080


def test_the_key_moment_is_the_perturbation_or_the_last_milestone():
    milestones = np.zeros((9, 3), dtype=bool)
    assert key_step(milestones, None) == 4
    milestones[2:, 0] = milestones[6:, 1] = True
    assert key_step(milestones, None) == 6 and key_step(milestones, 3) == 3


def test_an_episode_of_another_environment_is_refused_by_its_first_state(recorded, tmp_path):
    with pytest.raises(VideoError, match=f"seed {SEED + 1} does not begin as open.Lift does here"):
        recorded.record(tmp_path / "other.mp4", seed=SEED + 1)
    with pytest.raises(VideoError, match=r"found states of shape \(17, 5\), expected \[T\+1, 32\] of open.Lift"):
        recorded.record(tmp_path / "other.mp4", states=recorded.states[:, :5])
    with pytest.raises(VideoError, match="found 17 states, 16 rows of milestones"):
        recorded.record(tmp_path / "other.mp4", milestones=recorded.milestones[1:])
    assert not list(tmp_path.iterdir())


def noise(n: int = 6) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (n, 64, 64, 3), dtype=np.uint8))


def test_a_video_that_fails_half_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "video.mp4"
    write_mp4(path, noise(), 10)
    before = path.read_bytes()

    def breaks_off():
        yield from noise(3)
        raise RenderingError("lost")

    with pytest.raises(RenderingError, match="lost"):
        write_mp4(path, breaks_off(), 10)
    with pytest.raises(VideoError, match=r"found frame 1 \(32, 64, 3\)"):
        write_mp4(path, [noise()[0], noise()[0][:32]], 10)
    with pytest.raises(VideoError, match="found no frames"):
        write_mp4(path, [], 10)
    with pytest.raises(VideoError, match="even sizes"):
        write_mp4(path, [noise()[0][:63]], 10)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_when_ffmpeg_fails_its_last_words_are_passed_on(tmp_path, monkeypatch):
    with pytest.raises(VideoError, match=r"ffmpeg ended with status \d+ .*No such file or directory"):
        write_mp4(tmp_path / "missing" / "video.mp4", noise(), 10)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "absent"))
    with pytest.raises(VideoError, match=r"cannot run ffmpeg: .*absent.*imageio-ffmpeg"):
        write_mp4(tmp_path / "video.mp4", noise(), 10)


def test_a_blank_or_broken_video_is_found_out(tmp_path):
    path = tmp_path / "video.mp4"
    grey = [np.full((64, 64, 3), 120, dtype=np.uint8)]
    write_mp4(path, noise(5) + grey, 10)
    assert not probe_mp4(path).not_blank
    write_mp4(path, noise(5), 10)
    assert probe_mp4(path).not_blank and probe_mp4(path).frames == 5
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VideoError, match=r"video\.mp4 cannot be decoded"):
        probe_mp4(path)


def test_a_poster_leads_to_its_video_whatever_the_caption_holds():
    png = contact_sheet(noise(3))
    text = poster_markdown(png, "http://127.0.0.1:3001/artifacts/ab.mp4", 'a](x) ![b] "c" <d>\n# e')
    picture, target = re.match(r"\[!\[[\w .,:]*\]\(data:image/png;base64,([\w+/=]+)\)\]\((\S+)\)\n\n\[", text).groups()
    assert base64.b64decode(picture) == png and target == "http://127.0.0.1:3001/artifacts/ab.mp4"
    for url in ("javascript:alert(1)", "http://x/a)b", "http://x/a b"):
        with pytest.raises(ValueError, match="expected an http"):
            poster_markdown(png, url, "caption")


SCENE = """<mujoco><worldbody><light pos="0 -1 3"/><camera name="side" pos="0 -1 .3" xyaxes="1 0 0 0 .3 1"/>
<geom type="box" size=".1 .1 .2" pos=".1 0 .1" rgba="1 0 0 1"/></worldbody></mujoco>"""

DRAW = f"""
import sys, mujoco
from science.robots.rendering import GlChoice, RenderingError, SceneRenderer, choose_gl
model = mujoco.MjModel.from_xml_string('''{SCENE}''')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
gl = choose_gl()
with SceneRenderer(64, 64, gl) as renderer:
    renderer.show(model)
    renderer.frame(data, "side").tofile(sys.argv[1])
renderer.close()
try:
    SceneRenderer(64, 64, GlChoice("egl" if gl.backend == "osmesa" else "osmesa", "", ""))
except RenderingError as error:
    print(gl.backend, gl.why, error, sep="|")
"""


def test_osmesa_draws_the_same_where_it_is_asked_for_and_is_named(tmp_path, egl_and_osmesa):
    pictures = {}
    for backend, other in (("egl", "osmesa"), ("osmesa", "egl")):
        file = tmp_path / backend
        command = [sys.executable, "-c", DRAW, str(file)]
        environment = {**os.environ, GL_VARIABLE: backend}
        for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
            environment.pop(name, None)
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        found, why, error = ended.stdout.strip().split("|")
        assert (found, why) == (backend, f"{backend} by ${GL_VARIABLE}")
        assert f"draws with {backend} already and cannot change to {other}" in error
        pictures[backend] = np.fromfile(file, dtype=np.uint8).reshape(64, 64, 3).astype(int)
    assert pictures["egl"].std() > 10 and np.abs(pictures["egl"] - pictures["osmesa"]).mean() < 1


@pytest.fixture
def no_egl(monkeypatch):
    """No EGL driver is found, as where libegl1 has no vendor library."""
    monkeypatch.delenv(GL_VARIABLE, raising=False)
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent.json")


@pytest.fixture
def no_osmesa(monkeypatch, tmp_path):
    """The library under OSMesa's name is another one."""
    import _heapq

    (tmp_path / "libOSMesa.so").write_bytes(Path(_heapq.__file__).read_bytes())
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


def test_without_egl_osmesa_is_offered_but_not_taken(egl_and_osmesa, no_egl):
    with pytest.raises(RenderingError) as caught:
        choose_gl()
    text = str(caught.value)
    assert "asked for: egl by default" in text and "egl failed: ImportError: Cannot initialize a EGL device" in text
    assert f"osmesa was not asked for but works: {GL_VARIABLE}=osmesa chooses it" in text


def test_a_second_choice_that_was_allowed_is_taken_and_says_why(egl_and_osmesa, no_egl):
    gl = choose_gl("egl,osmesa")
    assert gl.backend == "osmesa" and gl.renderer
    assert gl.why.startswith("egl,osmesa by the caller; egl failed: ImportError: Cannot initialize a EGL")


def test_without_any_opengl_the_error_names_what_was_tried_and_what_to_install(no_egl, no_osmesa, monkeypatch):
    monkeypatch.setenv(GL_VARIABLE, "egl,osmesa")
    with pytest.raises(RenderingError) as caught:
        choose_gl()
    text = str(caught.value)
    assert f"egl,osmesa by ${GL_VARIABLE}" in text and "egl failed: ImportError" in text
    assert re.search(r"osmesa failed: \w[\w.]*Error", text) and f"apt-get install {DEBIAN_PACKAGES}" in text


def test_another_name_of_an_opengl_is_refused(monkeypatch):
    monkeypatch.setenv(GL_VARIABLE, "glfw")
    with pytest.raises(RenderingError, match=rf"found OpenGL 'glfw' \(from \${GL_VARIABLE}\), expected egl, osmesa"):
        choose_gl()
