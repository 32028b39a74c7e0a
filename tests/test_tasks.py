"""The open suite on real robosuite: an episode is its seed, predicates mean what they say, experts solve the tasks."""

import dataclasses
import hashlib
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from science.robots import entries
from science.robots.policies.base import PolicyError
from science.robots.policies.registry import find_policy, policy_specs
from science.robots.policies.scripted import make_expert
from science.robots.seeds import EVALUATION, take
from science.robots.tasks import registry
from science.robots.tasks.base import ROBOSUITE, TaskError
from science.robots.tasks.registry import environment_hash, find_task, require_available, suites

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def simulation():
    """Gives the one simulation of a task that all tests of this module share, whatever happened in it before."""
    running = {}

    def get(key):
        if key not in running:
            running[key] = find_task(key).make(ROBOSUITE)
        return running[key]

    yield get
    for one in running.values():
        one.close()


def trajectory(one, seed, n_steps=25, watch=False):
    """Every observation and state of an episode under random actions, as bytes."""
    actions = np.random.default_rng(7).uniform(-1, 1, (n_steps, 7))
    seen = [*one.reset(seed).values(), one.state()]
    for action in actions:
        seen += [*one.step(action).values(), one.state()]
        if watch:
            one.observe(), one.success(), one.milestones(), one.holding(), one.target()
    return b"".join(array.tobytes() for array in seen)


def solve(one, seed, until=None):
    """Let the expert act from the seed on until success (or a milestone); returns the last observation."""
    expert = make_expert(one.task)
    observation = one.reset(seed)
    expert.start(seed)
    names = one.task.milestones
    for _ in range(one.task.horizon_steps):
        observation = one.step(expert.act(observation))
        if one.success() if until is None else one.milestones()[names.index(until)]:
            return observation
    raise AssertionError(f"{one.task.key}: the expert never came to {until or 'success'} on seed {seed}")


def put(one, name, position):
    """Put an object there, at rest, and let contacts be found from the state alone."""
    one.move_object(name, np.asarray(position) - one.object_position(name))
    one.set_state(one.state())


KEYS = ["open.Lift", "open.Stack_D0", "open.Stack_D1", "open.StackThree_D0", "open.StackThree_D1"]


@pytest.mark.parametrize("key", ["open.Lift", "open.Stack_D0", "open.StackThree_D0"])
def test_an_episode_is_the_same_whatever_happened_before(simulation, key):
    one = simulation(key)
    first = trajectory(one, 3)
    start = one.state()
    assert trajectory(one, 4) != first
    one.push_object(one.target(), np.array([5.0, 0.0, 0.0]))
    one.step(np.ones(7))
    one.move_object(one.target(), np.array([0.05, 0.0, 0.0]))
    one.set_state(start)
    one.push_object(one.target(), np.array([0.0, 5.0, 0.0]))
    assert trajectory(one, 3) == first


@pytest.mark.parametrize("key", ["open.Lift", "open.Stack_D0"])
def test_an_episode_is_the_same_in_another_instance_and_watching_changes_nothing(simulation, key):
    expected = trajectory(simulation(key), 5)
    other = find_task(key).make(ROBOSUITE)
    assert trajectory(other, 5, watch=True) == expected
    other.close()


def test_an_episode_is_the_same_in_another_process(simulation):
    program = (
        "import hashlib, sys; sys.path.insert(0, 'tests'); from test_tasks import trajectory, find_task\n"
        "for key in sys.argv[1:]: print(hashlib.sha256(trajectory(find_task(key).make('robosuite'), 6)).hexdigest())"
    )
    keys = ["open.Lift", "open.StackThree_D0"]
    expected = [hashlib.sha256(trajectory(simulation(key), 6)).hexdigest() for key in keys]
    done = subprocess.run([sys.executable, "-c", program, *keys], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


@pytest.mark.parametrize("key", KEYS)
def test_an_observation_has_the_keys_and_lengths_that_the_task_names(simulation, key):
    one = simulation(key)
    observation = one.reset(0)
    assert {name: (value.shape, value.dtype) for name, value in observation.items()} == {
        name: ((length,), np.float64) for name, length in one.task.observation.items()
    }
    assert len(one.milestones()) == len(one.task.milestones)
    assert not one.success() and not any(one.milestones())


def test_an_observation_is_a_copy(simulation):
    one = simulation("open.Stack_D0")
    before = one.reset(0)
    kept = {name: value.copy() for name, value in before.items()}
    one.step(np.ones(7))
    assert all(np.array_equal(before[name], kept[name]) for name in kept)


def test_resets_fill_their_range_and_no_more(simulation):
    for key, half_range_m in (("open.Stack_D0", 0.08), ("open.Stack_D1", 0.20), ("open.StackThree_D0", 0.10)):
        one = simulation(key)
        placed = []
        for seed in range(60):
            one.reset(seed)
            placed += [one.object_position(name)[:2] for name in one.objects()]
        most = np.abs(placed).max()
        assert 0.9 * half_range_m < most <= half_range_m, key


def test_lift_draws_the_size_of_the_cube_from_the_seed(simulation):
    one = simulation("open.Lift")
    sizes = []
    for seed in (0, 1, 0):
        one.reset(seed)
        sizes.append(float(one.mujoco_model.geom("cube_g0").size[0]))
    assert sizes[0] == sizes[2] != sizes[1]
    assert all(0.020 <= size <= 0.022 for size in sizes)


def test_a_state_comes_back_and_observe_reads_it(simulation):
    one = simulation("open.Stack_D0")
    observation = solve(one, 0, until="lift")
    state, seen = one.state(), one.observe()
    for key in observation:  # one physics step later than what the step returned
        assert np.allclose(seen[key], observation[key], atol=5e-3)
    one.reset(1)
    one.set_state(state)
    assert np.array_equal(one.state(), state)
    assert all(np.array_equal(one.observe()[key], seen[key]) for key in seen)
    assert one.holding()
    with pytest.raises(ValueError, match="expected"):
        one.set_state(state[:-1])


def test_the_object_observation_is_laid_out_as_documented(simulation):
    one = simulation("open.StackThree_D0")
    one.reset(2)
    things = one.observe()["object"]
    for name, start in (("cubeA", 0), ("cubeB", 7), ("cubeC", 14)):
        position = one.object_position(name)
        assert np.array_equal(things[start : start + 3], position)
        assert np.isclose(np.linalg.norm(things[start + 3 : start + 7]), 1)
    a, b, c, gripper = (*(one.object_position(name) for name in one.objects()), one.gripper_position())
    assert np.allclose(things[21:], np.concatenate([b - a, a - c, a - gripper, b - gripper, c - gripper]))


def test_lift_succeeds_above_its_height_only(simulation):
    one = simulation("open.Lift")
    one.reset(0)
    put(one, "cube", [0, 0, 0.839])
    assert not one.success() and not one.milestones()[2]
    put(one, "cube", [0, 0, 0.841])
    assert one.success() and one.milestones()[2]


def test_stack_succeeds_only_touching_and_high(simulation):
    one = simulation("open.Stack_D0")
    one.reset(0)
    on_b = np.add(one.object_position("cubeB"), [0, 0, 0.0445])
    put(one, "cubeA", on_b)
    assert one.success()
    assert one.milestones() == (False, False, True, True, True)
    put(one, "cubeA", np.add(on_b, [0, 0, 0.01]))
    assert not one.success(), "not touching"
    assert one.milestones() == (False, False, True, True, False)
    one.reset(0)
    beside = np.add(one.object_position("cubeB"), [0.044, 0, -0.005])
    put(one, "cubeA", beside)
    assert one.milestones()[4] and not one.success(), "touching, yet on the table"


def test_a_held_cube_on_the_other_one_is_not_yet_stacked(simulation):
    one = simulation("open.Stack_D0")
    solve(one, 0, until="align")
    assert one.holding() and one.target() == "cubeA"
    assert not one.success()


def test_stack_three_succeeds_with_both_in_place_only(simulation):
    one = simulation("open.StackThree_D0")
    one.reset(0)
    assert one.target() == "cubeA"
    base = one.object_position("cubeB")
    put(one, "cubeA", np.add(base, [0, 0, 0.0445]))
    assert not one.success() and one.target() == "cubeC"
    put(one, "cubeC", np.add(base, [0, 0, 0.0840]))
    assert one.success()
    assert one.milestones()[7:] == (True, True, True)
    put(one, "cubeC", np.add(base, [0.03, 0, 0.0840]))
    assert one.success() and not one.milestones()[8], "stands, yet not aligned within 2 cm"
    put(one, "cubeA", np.add(base, [0.2, 0, 0]))
    assert not one.success() and one.target() == "cubeA"


def test_moving_stops_an_object_where_it_was_moved_to(simulation):
    one = simulation("open.Stack_D0")
    one.reset(0)
    before = one.object_position("cubeA")
    one.move_object("cubeA", np.array([0.03, -0.02, 0.05]))
    assert np.allclose(one.object_position("cubeA"), np.add(before, [0.03, -0.02, 0.05]))
    assert np.allclose(one.observe()["object"][:3], one.object_position("cubeA"))
    with pytest.raises(TaskError, match="cubeA"):
        one.move_object("cubeZ", np.zeros(3))


def test_a_push_lasts_one_control_step(simulation):
    one = simulation("open.Stack_D0")
    still = np.zeros(7)

    def speeds(force):
        one.reset(0)
        for _ in range(10):
            one.step(still)
        one.push_object("cubeA", np.array(force))
        positions = []
        for _ in range(12):
            one.step(still)
            positions.append(one.object_position("cubeA"))
        return np.linalg.norm(np.diff(positions, axis=0), axis=1)

    pushed, rest = speeds([2.0, 0.0, 0.0]), speeds([0.0, 0.0, 0.0])
    assert pushed[0] > 1e-3 > rest[0]
    assert pushed[-1] < 1e-4, "friction stops it once the push is over"


def test_the_experts_solve_their_tasks(simulation):
    for key, n in (("open.Lift", 3), ("open.Stack_D0", 2), ("open.Stack_D1", 1), ("open.StackThree_D0", 1)):
        for seed in take(EVALUATION, n):
            solve(simulation(key), seed)


def test_an_expert_recovers_from_a_drop_since_it_remembers_nothing(simulation):
    one = simulation("open.Stack_D0")
    solve(one, 1, until="lift")
    one.move_object("cubeA", np.array([-0.05, 0.03, 0.0]))
    expert, observation = make_expert(one.task), one.observe()
    for _ in range(one.task.horizon_steps):
        observation = one.step(expert.act(observation))
        if one.success():
            return
    raise AssertionError("the expert did not recover")


def test_noise_comes_from_the_seed_and_spares_the_gripper(simulation):
    one = simulation("open.Stack_D0")
    observation = one.reset(0)
    noisy, clean = make_expert(one.task, noise=0.06), make_expert(one.task)
    actions = []
    for seed in (1, 2, 1):
        noisy.start(seed)
        actions.append([noisy.act(observation) for _ in range(3)])
    assert np.array_equal(actions[0], actions[2])
    assert not np.array_equal(actions[0], actions[1])
    assert all(action[6] == clean.act(observation)[6] for action in actions[0])


def test_random_actions_are_the_seeds(simulation):
    one = simulation("open.Lift")
    policy = find_policy("random").make(one.task)
    observation = one.reset(0)
    drawn = []
    for seed in (3, 4, 3):
        policy.start(seed)
        drawn.append(np.array([policy.act(observation) for _ in range(5)]))
    assert np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0]).max() <= 1


def test_the_controls_are_found_and_take_no_checkpoint():
    specs = policy_specs()
    assert specs["random"].control and specs["scripted"].control
    task = find_task("open.Lift")
    for name in ("random", "scripted"):
        with pytest.raises(PolicyError, match="checkpoint"):
            specs[name].make(task, Path("weights.pth"))
    with pytest.raises(PolicyError, match=r"no scripted expert for task open\.Lift"):
        specs["scripted"].make(dataclasses.replace(task, expert=None))


def test_an_unknown_name_is_answered_with_those_that_there_are():
    with pytest.raises(TaskError, match=r"open\.Lift.*open\.Stack_D0"):
        find_task("open.Nothing")
    with pytest.raises(TaskError, match=r"open\.Lift"):
        find_task("nowhere.Lift")
    with pytest.raises(TaskError, match="expected one of"):
        registry.find_suite("nowhere")
    with pytest.raises(PolicyError, match="random"):
        find_policy("nothing")
    with pytest.raises(TaskError, match="robosuite"):
        find_task("open.Lift").make("warp")
    assert "open" in suites()


def test_two_packages_may_not_claim_one_name(monkeypatch):
    def two(group):
        return [EntryPoint("twice", "science.robots.tasks.open_suite:SUITE", group), EntryPoint("twice", "b:C", group)]

    monkeypatch.setattr(entries, "entry_points", two)
    with pytest.raises(TaskError, match="two suites of the name 'twice'"):
        suites()
    with pytest.raises(PolicyError, match="two policies of the name 'twice'"):
        policy_specs()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("open", "no_such_package:SUITE", "could not be loaded"),
        ("open", "science.robots.tasks.open_suite:NAME", "expected a Suite"),
        ("shut", "science.robots.tasks.open_suite:SUITE", "expected the entry point's name 'shut'"),
    ],
)
def test_a_broken_suite_is_named(monkeypatch, name, value, says):
    monkeypatch.setattr(entries, "entry_points", lambda group: [EntryPoint(name, value, group)])
    with pytest.raises(TaskError, match=says):
        registry.find_suite(name)


def test_a_suite_that_cannot_run_here_says_why_and_is_still_named(monkeypatch):
    suite = suites()["open"]
    away = dataclasses.replace(suite, unavailable=lambda: "its simulator is not here; install it with that")
    monkeypatch.setattr(registry, "_load", lambda entry: away)
    task = find_task("open.Lift")
    for refuse in (require_available, environment_hash):
        with pytest.raises(TaskError, match="not here; install it with that"):
            refuse(task)


def test_the_environment_hash_follows_what_decides_an_episode():
    task = find_task("open.Stack_D0")
    known = environment_hash(task)
    assert len(known) == 64 and environment_hash(find_task("open.Stack_D0")) == known
    changed = [
        find_task("open.Stack_D1"),
        dataclasses.replace(task, version=task.version + "1"),
        dataclasses.replace(task, horizon_steps=task.horizon_steps + 1),
    ]
    assert known not in {environment_hash(other) for other in changed}
    assert environment_hash(dataclasses.replace(task, engines=("exact", ROBOSUITE))) == known
