"""What a policy's cameras see: drawn when it looks, a function of the state, the same in demonstrations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

from science.robots.cameras import Cameras
from science.robots.demonstration_checks import DemonstrationError, validate_demonstrations
from science.robots.demonstration_pictures import with_pictures
from science.robots.demonstrations import record_demonstrations, write_demonstrations
from science.robots.policies.base import Policy
from science.robots.policies.scripted import make_expert
from science.robots.rendering import RenderingError
from science.robots.rollouts.episode import run_episode
from science.robots.seeds import DEMONSTRATION, take
from science.robots.tasks.base import Observation, Simulation
from science.robots.tasks.registry import find_task

LIFT = find_task("open.Lift")
SIZES = {"agentview": (24, 32), "robot0_eye_in_hand": (24, 32)}


class Looking(Policy):
    """Stands still and looks every fourth step."""

    observation: Mapping[str, int] = {"robot0_eef_pos": 3}
    cameras = SIZES
    action_dim = 7

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def start(self, seed: int) -> None:
        self.step = 0

    def act(self, observation: Observation) -> np.ndarray:
        if self.step % 4 == 0:
            self.seen.append(observation["agentview_image"])
            assert set(observation) >= {"robot0_eef_pos", "agentview_image", "robot0_eye_in_hand_image"}
        self.step += 1
        return np.array([0.3, 0, 0, 0, 0, 0, 0])


@pytest.fixture(scope="module")
def lift() -> Iterator[Simulation]:
    simulation = LIFT.make("robosuite")
    yield simulation
    simulation.close()


def test_a_policy_sees_what_its_states_show_and_only_when_it_looks(lift: Simulation, monkeypatch):
    drawn: list[str] = []
    with Cameras(lift, SIZES) as cameras:
        once = cameras.picture
        monkeypatch.setattr(cameras, "picture", lambda camera: drawn.append(camera) or once(camera))
        policy = Looking()
        episode = run_episode(lift, policy, 0, horizon_steps=9, cameras=cameras)
        assert episode.outcome == "failure", episode.error
        assert drawn == ["agentview"] * 3
        assert all(each.shape == (24, 32, 3) and each.dtype == np.uint8 and each.std() > 5 for each in policy.seen)
        assert not np.array_equal(policy.seen[0], policy.seen[2])
        lift.reset(0)
        cameras.begin()
        for step, seen in zip((0, 4, 8), policy.seen, strict=True):
            lift.set_state(episode.states[step])
            assert np.array_equal(once("agentview"), seen)


def test_drawing_changes_no_episode(lift: Simulation):
    with Cameras(lift, SIZES) as cameras:
        seen = run_episode(lift, Looking(), 1, horizon_steps=9, cameras=cameras)

    class Blind(Looking):
        cameras = {}

        def act(self, observation: Observation) -> np.ndarray:
            return np.array([0.3, 0, 0, 0, 0, 0, 0])

    assert run_episode(lift, Blind(), 1, horizon_steps=9).trajectory_hash == seen.trajectory_hash


def test_a_camera_that_the_task_has_not_is_refused_before_anything_opens(lift: Simulation):
    with pytest.raises(RenderingError, match="found cameras \\['roof'\\], expected some of \\['agentview'"):
        Cameras(lift, {"roof": (8, 8)})


def test_a_picture_before_an_episode_is_refused(lift: Simulation):
    with Cameras(lift, SIZES) as cameras, pytest.raises(RenderingError, match="after begin"):
        cameras.picture("agentview")


@pytest.fixture(scope="module")
def demonstrations(lift: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recorded = record_demonstrations(lift, make_expert(LIFT), take(DEMONSTRATION, 4), 2)
    path = tmp_path_factory.mktemp("demonstrations") / "lift.hdf5"
    write_demonstrations(path, recorded.demonstrations, lift.env_args(), seed=0, attributes=recorded.attributes)
    return path


def test_demonstrations_get_the_pictures_of_their_states(lift: Simulation, demonstrations: Path, tmp_path: Path):
    path = tmp_path / "pictured.hdf5"
    with_pictures(demonstrations, lift, SIZES, path)
    assert validate_demonstrations(path, LIFT).n == 2
    with h5py.File(path) as file, Cameras(lift, SIZES) as cameras:
        demo = file["data/demo_1"]
        pictures = demo["obs/agentview_image"][()]
        assert pictures.shape == (len(demo["actions"]), 24, 32, 3)
        lift.reset(int(demo.attrs["seed"]))
        cameras.begin()
        lift.set_state(demo["states"][7])
        assert np.array_equal(cameras.picture("agentview"), pictures[7])
    again = tmp_path / "again.hdf5"
    with_pictures(demonstrations, lift, SIZES, again)
    assert again.read_bytes() == path.read_bytes()


def test_demonstrations_of_another_world_get_no_pictures(lift: Simulation, demonstrations: Path, tmp_path: Path):
    moved = tmp_path / "moved.hdf5"
    moved.write_bytes(demonstrations.read_bytes())
    with h5py.File(moved, "r+") as file:
        file["data/demo_0/states"][0, 3] += 0.1
    with pytest.raises(DemonstrationError, match="recorded in another environment"):
        with_pictures(moved, lift, SIZES, tmp_path / "out.hdf5")
    with h5py.File(moved, "r+") as file:
        del file["data/demo_0/states"]
    with pytest.raises(DemonstrationError, match="found no states in demo_0"):
        with_pictures(moved, lift, SIZES, tmp_path / "out.hdf5")
    assert not (tmp_path / "out.hdf5").exists()
