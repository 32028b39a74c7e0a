"""The `mimicgen` suite where MimicGen is not installed: it is named, it refuses clearly, and its own code holds.

What MimicGen itself does is tested by `make test-mimicgen`.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from science.robots.tasks import mimicgen_install
from science.robots.tasks.base import ROBOSUITE, TaskError
from science.robots.tasks.mimicgen_install import content_hash, git_commit, unavailable
from science.robots.tasks.mimicgen_suite import SUITE
from science.robots.tasks.mimicgen_tasks import FAMILIES, family, observable_length
from science.robots.tasks.registry import environment_hash, find_suite, find_task, require_available

ROOT = Path(__file__).resolve().parents[1]
NINE = {
    *("Stack_D0", "Stack_D1", "StackThree_D0", "StackThree_D1", "Coffee_D0", "Threading_D0", "Threading_D1"),
    *("ThreePieceAssembly_D0", "ThreePieceAssembly_D1"),
}


@pytest.fixture
def without_mimicgen(monkeypatch):
    found = mimicgen_install.find_spec
    monkeypatch.setattr(
        mimicgen_install, "find_spec", lambda name: None if name == "mimicgen" else found(name), raising=True
    )


def test_the_suite_is_found_with_all_its_tasks_and_needs_an_interpreter_of_its_own():
    suite = find_suite("mimicgen")
    assert suite.tasks.keys() >= NINE
    assert len(suite.tasks) == 28
    assert suite.environment == "mimicgen"
    for task in suite.tasks.values():
        assert task.milestones[:3] == ("reach", "grasp", "lift")
        assert len(set(task.milestones)) == len(task.milestones)
        assert (task.engines, task.expert) == ((ROBOSUITE,), None)
    assert find_task("mimicgen.ThreePieceAssembly_D1").horizon_steps == 500


def test_naming_the_tasks_imports_no_simulator():
    program = (
        "import sys; from science.robots.tasks.registry import suites; suites()['mimicgen'].unavailable()\n"
        "print(*[name for name in ('mimicgen', 'robosuite', 'mujoco', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_object_observation_is_as_long_as_its_parts():
    assert {name: of.object_length() for name, of in FAMILIES.items()} == {
        **{"Stack": 23, "StackThree": 39, "Coffee": 57, "CoffeePreparation": 86, "Threading": 28},
        **{"ThreePieceAssembly": 42, "Square_D0": 14, "Square": 17, "NutAssembly": 28, "PickPlace": 56},
        **{"MugCleanup": 29, "HammerCleanup": 28, "Kitchen_D0": 56, "Kitchen": 70},
    }
    assert family("Square_D0") is not family("Square_D1") is family("Square_D2")


def test_without_mimicgen_the_refusal_names_the_licence_and_the_remedy(without_mimicgen):
    task = find_task("mimicgen.Coffee_D0")
    for refuse in (require_available, environment_hash):
        with pytest.raises(TaskError, match=r"mimicgen\.Coffee_D0 cannot run") as raised:
            refuse(task)
        for words in (
            *("non-commercial", "git clone https://github.com/NVlabs/mimicgen", "--no-deps"),
            *("TRACEBED_PYTHON_MIMICGEN", sys.executable, "robosuite 1.4.1", "1.5.2"),
        ):
            assert words in str(raised.value)
    with pytest.raises(FileNotFoundError, match="git clone"):
        SUITE.provenance()


def test_another_robosuite_is_refused_by_its_version(monkeypatch, tmp_path):
    monkeypatch.setattr(mimicgen_install, "package_folder", lambda name="mimicgen": tmp_path)
    monkeypatch.setattr(mimicgen_install, "version", lambda name: "1.5.1")
    assert "robosuite 1.5.1" in unavailable()
    assert "1.4.1 (faithful) or robosuite 1.5.2 (shim-1.5)" in unavailable()


def git(folder, *arguments):
    subprocess.run(
        ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True
    )


def test_the_commit_is_the_checkouts_and_never_of_a_repository_around_it(tmp_path):
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '1'\n")
    assert git_commit("package", package) == "unknown"
    git(tmp_path / "checkout", "init", "--quiet")
    assert git_commit("package", package) == "unknown", "a repository around it that does not track it"
    (tmp_path / "checkout" / "readme").write_text("1")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "--quiet", "-m", "first")
    commit = git_commit("package", package)
    assert len(commit) == 40
    (tmp_path / "checkout" / "readme").write_text("2")
    assert git_commit("package", package) == commit, "what lies beside the package decides nothing"
    known = content_hash(package)
    (package / "__init__.py").write_text("__version__ = '2'\n")
    assert git_commit("package", package) == f"{commit}+dirty"
    assert content_hash(package) != known


def test_what_pip_installed_from_git_has_the_commit_that_pip_noted(tmp_path, monkeypatch):
    package, noted = tmp_path / "from_git", tmp_path / "from_git-1.0.dist-info"
    package.mkdir()
    noted.mkdir()
    (package / "__init__.py").touch()
    (noted / "METADATA").write_text("Metadata-Version: 2.1\nName: from_git\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert git_commit("from_git", package) == "unknown"
    (noted / "direct_url.json").write_text(json.dumps({"vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}))
    assert git_commit("from_git", package) == "c0ffee"


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """The suite with a package of our own in MimicGen's place; everything is as before afterwards."""
    from robosuite.environments.base import REGISTERED_ENVS
    from robosuite.robots.fixed_base_robot import FixedBaseRobot

    from science.robots.tasks import mimicgen_shim, mimicgen_simulation

    folder = tmp_path_factory.mktemp("stand_in")
    (folder / "mimicgen").mkdir()
    (folder / "mimicgen" / "__init__.py").write_text(
        "__version__ = '0'\nprint('WARNING: one part was not imported')\nfrom mimicgen_stand_in import *\n"
    )
    kept = dict(REGISTERED_ENVS)
    assert mimicgen_shim.MODULE not in sys.modules, "the shim is there before any task was made"
    mimicgen_simulation.import_mimicgen.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield SUITE
    mimicgen_simulation.import_mimicgen.cache_clear()
    REGISTERED_ENVS.clear()
    REGISTERED_ENVS.update(kept)
    del FixedBaseRobot.controller
    for name in ("mimicgen", "mimicgen_stand_in", mimicgen_shim.MODULE):
        del sys.modules[name]


@pytest.fixture(scope="module")
def simulation(stand_in):
    one = stand_in.tasks["Threading_D0"].make(ROBOSUITE)
    yield one
    one.close()


def trajectory(one, seed):
    seen = [*one.reset(seed).values(), one.state()]
    for action in np.random.default_rng(7).uniform(-1, 1, (10, 7)):
        seen += [*one.step(action).values(), one.state()]
    return b"".join(array.tobytes() for array in seen)


def test_the_shim_gives_an_environment_its_arm_its_base_and_its_controller(simulation):
    robot = simulation._env.robots[0]
    assert type(robot.robot_model.base).__name__ == "RethinkMount"
    assert simulation.mujoco_model.site(robot.controller.eef_name).id == simulation._grip_site
    assert robot.controller.kp[0] == 150
    before = np.array(simulation.reset(0)["robot0_eef_pos"])
    for _ in range(10):
        after = simulation.step(np.array([0, 0, 1.0, 0, 0, 0, -1]))["robot0_eef_pos"]
    assert after[2] - before[2] > 0.05


def test_the_shim_is_not_laid_over_another_one(simulation, monkeypatch):
    from science.robots.tasks import mimicgen_shim

    mimicgen_shim.install()
    monkeypatch.setitem(sys.modules, mimicgen_shim.MODULE, object())
    with pytest.raises(TaskError, match="another shim"):
        mimicgen_shim.install()


def test_an_episode_is_its_seed_whoever_draws_from_what(simulation, stand_in):
    first = trajectory(simulation, 3)
    np.random.seed(5)
    random.seed(5)
    states = np.random.get_state()[1].tobytes(), random.getstate()
    assert trajectory(simulation, 4) != first
    other = stand_in.tasks["Threading_D0"].make(ROBOSUITE)
    assert trajectory(other, 3) == first == trajectory(simulation, 3)
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == states, "the caller's generators are untouched"
    other.close()


def test_the_object_observation_is_in_the_datasets_order_and_never_late_at_a_reset(simulation):
    names = family("Threading_D0").object_observables
    observation = simulation.reset(1)
    ends = np.cumsum([observable_length(name) for name in names])
    shown = dict(zip(names, np.split(observation["object"], ends[:-1]), strict=True))
    assert [name for name in simulation._env._observables if name in names] != list(names)
    assert np.array_equal(shown["needle_pos"], simulation.object_position("needle_obj"))
    assert np.allclose(shown["needle_to_robot0_eef_pos"], shown["needle_pos"] - observation["robot0_eef_pos"])


def test_only_what_has_a_free_joint_can_be_moved(simulation):
    assert simulation.objects() == ("needle_obj",)
    with pytest.raises(TaskError, match="needle_obj"):
        simulation.move_object("tripod_obj", np.zeros(3))


def test_milestones_are_of_the_present_state(simulation):
    simulation.reset(2)
    assert simulation.milestones() == (False, False, False)
    simulation.move_object("needle_obj", simulation.gripper_position() - simulation.object_position("needle_obj"))
    assert simulation.milestones()[0] and simulation.milestones()[2] and not simulation.success()
    simulation.move_object("needle_obj", np.array([0.0, 0.0, 0.3]))
    assert simulation.milestones() == (False, False, True) and simulation.success()


def test_the_written_model_has_its_fixtures_where_the_reset_put_them(simulation):
    for seed in (0, 1):
        simulation.reset(seed)
        rebuilt = mujoco.MjModel.from_xml_string(simulation.model_xml())
        here = simulation.mujoco_model.body("tripod_obj_main").pos
        assert np.array_equal(rebuilt.body("tripod_obj_main").pos, here)
        assert not np.allclose(here, 0)


def test_an_observation_that_is_not_the_tasks_is_refused_by_name(stand_in):
    with pytest.raises(TaskError, match=r"Threading_D1: found observables .*needle_angle.*tripod_angle"):
        stand_in.tasks["Threading_D1"].make(ROBOSUITE)


def test_what_cannot_be_built_or_is_not_there_says_so(stand_in):
    with pytest.raises(TaskError, match=r"Threading_D2 cannot be built with robosuite .*'dict' object"):
        stand_in.tasks["Threading_D2"].make(ROBOSUITE)
    with pytest.raises(TaskError, match=r"no environment 'Coffee_D0'.*WARNING: one part was not imported"):
        stand_in.tasks["Coffee_D0"].make(ROBOSUITE)
    with pytest.raises(TaskError, match=r"Kitchen_D0 is built on robosuite_task_zoo.*1\.4\.1 only"):
        stand_in.tasks["Kitchen_D0"].make(ROBOSUITE)
