"""Every task of the `mimicgen` suite on a real MimicGen: `make test-mimicgen CHECKOUT=/path/to/mimicgen`.

Not part of `make test`: MimicGen's licence allows non-commercial use only, so it is never fetched here.
"""

import hashlib
import os
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco
import numpy as np
import pytest
from conftest import RESULTS

from science.robots.experts import StackExpert, StackThreeExpert
from science.robots.tasks.base import ROBOSUITE, TaskError
from science.robots.tasks.mimicgen_install import FAITHFUL, SHIM, package_folder, provenance, unavailable
from science.robots.tasks.mimicgen_suite import SUITE
from science.robots.tasks.mimicgen_tasks import NAMES, family
from science.robots.tasks.registry import environment_hash, require_available

ROOT = Path(__file__).resolve().parents[1]
STEPS = 20


def trajectory(one, seed, other=None):
    """SHA-256 of every observation and state of an episode under random actions; ``other`` moves between the steps."""
    digest = hashlib.sha256()
    actions = np.random.default_rng(7).uniform(-1, 1, (STEPS, 7))
    for array in (*one.reset(seed).values(), one.state()):
        digest.update(array.tobytes())
    for action in actions:
        observation = one.step(action)
        for array in (*observation.values(), one.state()):
            digest.update(array.tobytes())
        if other is not None:
            other.step(-action)
            one.observe(), one.success(), one.milestones(), one.holding(), one.target(), one.model_xml()
    return digest.hexdigest()


def make(name):
    """The task's simulation; a task that this interpreter cannot run is skipped with the suite's own words."""
    try:
        one = SUITE.tasks[name].make(ROBOSUITE)
    except TaskError as error:
        assert family(name).task_zoo, f"only tasks on robosuite_task_zoo may be missing: {error}"
        RESULTS[name] = f"not here: {error}"
        pytest.skip("see the table")
    return one


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """Two instances of one task."""
    first = make(request.param)
    second = SUITE.tasks[request.param].make(ROBOSUITE)
    yield first, second
    RESULTS[request.param] = f"ok: object {first.task.observation['object']}, {', '.join(first.task.milestones)}"
    first.close()
    second.close()


def test_the_suite_is_available_and_says_what_it_runs():
    assert unavailable() is None
    require_available(SUITE.tasks["Stack_D0"])
    checkout = Path(os.environ["CHECKOUT"]).resolve()
    assert package_folder().resolve() == checkout / "mimicgen"
    head = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = provenance()
    assert found["mimicgen_git"].removesuffix("+dirty") == head
    assert found["mode"] == {"1.4.1": FAITHFUL, "1.5.2": SHIM}[found["robosuite"]]
    assert len(found["mimicgen_files"]) == 64
    hashes = {environment_hash(task) for task in SUITE.tasks.values()}
    assert len(hashes) == len(NAMES)


def test_the_suite_names_every_task_that_mimicgen_registers():
    make("Stack_D0").close()
    from robosuite.environments.base import REGISTERED_ENVS

    variants = {
        name
        for name, environment in REGISTERED_ENVS.items()
        if environment.__module__.startswith("mimicgen.") and name.partition("_")[2][:1] in ("D", "O")
    }
    assert variants <= set(NAMES)
    assert {name for name in set(NAMES) - variants if not family(name).task_zoo} == set()


def test_an_episode_begins_unsolved_with_the_observation_that_the_task_names(pair):
    one, _ = pair
    for seed in (0, 1):
        observation = one.reset(seed)
        assert {name: (value.shape, value.dtype) for name, value in observation.items()} == {
            name: ((length,), np.float64) for name, length in one.task.observation.items()
        }
        assert len(one.milestones()) == len(one.task.milestones)
        assert not one.success() and not any(one.milestones()) and not one.holding()
        assert one.target() in one.objects()
        for _ in range(3):
            one.step(np.zeros(7))


def test_an_episode_is_its_seed_in_any_instance_after_any_history(pair):
    one, other = pair
    first = trajectory(one, 3)
    assert trajectory(one, 4) != first
    one.push_object(one.target(), np.array([5.0, 0.0, 0.0]))
    one.step(np.ones(7))
    one.move_object(one.target(), np.array([0.0, 0.0, 0.1]))
    np.random.seed(11)
    random.seed(11)
    before = np.random.get_state()[1].tobytes(), random.getstate()
    assert trajectory(one, 3) == first
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == before
    one.reset(9)
    assert trajectory(other, 3, other=one) == first


def test_a_reset_shows_the_present_state_and_a_step_one_that_is_a_physics_step_older(pair):
    one, _ = pair
    observation = one.reset(2)
    named = dict(zip(one._observables, np.split(observation["object"], np.cumsum(_lengths(one)))[:-1], strict=True))
    assert not [name for name, value in named.items() if "_to_" in name and not value.any()]
    for _ in range(10):
        observation = one.step(np.array([0.3, 0.1, -0.2, 0, 0, 0, -1]))
    seen = one.observe()
    for key in observation:
        assert np.allclose(_positions(one, seen, key), _positions(one, observation, key), atol=0.01)


def _lengths(one):
    from science.robots.tasks.mimicgen_tasks import observable_length

    return [observable_length(name) for name in one._observables]


def _positions(one, observation, key):
    """Without quaternions, whose sign is free."""
    if key == "robot0_eef_quat":
        return np.zeros(0)
    if key != "object":
        return observation[key]
    parts = np.split(observation[key], np.cumsum(_lengths(one)))[:-1]
    return np.concatenate([part for part in parts if part.size != 4])


def test_a_state_comes_back_and_the_model_is_written_as_it_stands(pair):
    one, _ = pair
    one.reset(5)
    for _ in range(5):
        one.step(np.array([0.5, -0.5, -0.5, 0, 0, 0.5, 1]))
    state = one.state()
    one.set_state(state)
    seen, bodies = one.observe(), np.array(one.mujoco_data.xpos)
    one.step(np.ones(7))
    one.set_state(state)
    assert np.array_equal(one.state(), state)
    assert all(np.array_equal(one.observe()[key], seen[key]) for key in seen)
    rebuilt = mujoco.MjModel.from_xml_string(one.model_xml())
    data = mujoco.MjData(rebuilt)
    data.qpos[:] = state[1 : 1 + rebuilt.nq]
    mujoco.mj_kinematics(rebuilt, data)
    assert np.allclose(data.xpos, bodies, atol=1e-9)
    assert ET.fromstring(one.model_xml()).tag == "mujoco"


def test_an_episode_is_the_same_in_another_process():
    name = "Coffee_D1"
    one = make(name)
    expected = trajectory(one, 6)
    one.close()
    program = (
        "import sys; sys.path[:0] = ['tests_mimicgen', '.']\n"
        "from test_mimicgen_checkout import trajectory, SUITE, ROBOSUITE\n"
        f"print(trajectory(SUITE.tasks[{name!r}].make(ROBOSUITE), 6))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == expected


class Rearranged:
    """The open suite's expert, which reads the three cubes' poses first."""

    def __init__(self, task):
        self._expert = (StackThreeExpert if task.name.startswith("StackThree") else StackExpert)(task)

    def act(self, observation):
        things = observation["object"]
        third = things[23:30] if things.size > 23 else things[:0]
        return self._expert.act({**observation, "object": np.concatenate([things[:14], third])})


@pytest.mark.parametrize("name", ["Stack_D0", "StackThree_D0"])
def test_the_open_suites_expert_solves_mimicgens_stack_by_its_milestones(name):
    one = make(name)
    observation, expert = one.reset(0), Rearranged(one.task)
    reached, targets = np.zeros(len(one.task.milestones), dtype=bool), []
    for _ in range(one.task.horizon_steps):
        observation = one.step(expert.act(observation))
        reached |= one.milestones()
        targets.append(one.target())
        if one.success():
            break
    assert one.success()
    assert reached.all(), dict(zip(one.task.milestones, reached, strict=True))
    assert list(dict.fromkeys(targets))[: len(family(name).goals)] == [goal.moved for goal in family(name).goals]
    one.close()


def test_a_nut_around_its_peg_is_released_there_and_solves_the_task():
    one = make("Square_D1")
    one.reset(1)
    peg = one.observe()["object"][14:17]
    rest = one.object_position("SquareNut")[2] - 0.06
    one.move_object("SquareNut", np.array([*peg[:2], rest]) - one.object_position("SquareNut"))
    assert one.milestones() == (False, False, False, True)
    assert one.success()
    one.move_object("SquareNut", np.array([0.0, 0.0, 0.2]))
    assert one.milestones() == (False, False, True, False)
    assert not one.success()
    one.close()


def test_the_second_piece_is_the_target_once_the_first_is_assembled():
    one = make("ThreePieceAssembly_D1")
    one.reset(1)
    assert one.target() == "piece_1"
    apart = one.object_position("base") - one.object_position("piece_1")
    one.move_object("piece_1", np.array([apart[0], apart[1], 0.05]))
    assert one.target() == "piece_2"
    assert one.milestones() == (False, False, True, True, False, False, False)
    one.close()


def test_a_pod_in_its_holder_is_released_there_yet_the_lid_is_open():
    one = make("Coffee_D0")
    holder = one.reset(1)["object"][28:31]
    one.move_object("coffee_pod", holder - one.object_position("coffee_pod"))
    assert one.milestones()[3] and not one.success()
    one.close()


def test_another_engine_is_refused():
    with pytest.raises(TaskError, match="engine"):
        SUITE.tasks["Stack_D0"].make("exact")
