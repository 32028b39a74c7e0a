"""Perturbed arms on Lift in MuJoCo: they fire once, from the seed, and separate policies that are equal when clean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rollout_probe_policies import OpenLoop

from science.robots import perturbations
from science.robots.perturbations import ARMS, CONTROL, PerturbationError, find_perturbation, version
from science.robots.policies.base import Policy
from science.robots.policies.registry import find_policy
from science.robots.policies.scripted import make_expert
from science.robots.rollouts.episode import Episode, run_episode
from science.robots.tasks.base import Simulation
from science.robots.tasks.registry import find_task

SEEDS = (0, 1)
LIFT = find_task("open.Lift")


@pytest.fixture(scope="module")
def lift() -> Simulation:
    return LIFT.make("robosuite")


@pytest.fixture(scope="module")
def expert() -> Policy:
    return make_expert(LIFT)


@pytest.fixture(scope="module")
def episodes(lift, expert) -> dict[tuple[str, int], Episode]:
    """The scripted expert's episodes of all arms and `SEEDS`."""
    return {(arm, seed): run_episode(lift, expert, seed, arm=arm) for arm in (CONTROL, *ARMS) for seed in SEEDS}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_the_control_episode_until_it_fires_and_another_one_from_then_on(episodes, arm):
    for seed in SEEDS:
        control, perturbed = episodes[CONTROL, seed], episodes[arm, seed]
        fired = perturbed.fired_step
        assert fired is not None and perturbed.error is None
        assert np.array_equal(perturbed.states[:fired], control.states[:fired])
        assert not np.array_equal(perturbed.states[fired], control.states[fired])


@pytest.mark.parametrize("arm", ARMS)
def test_an_expert_that_looks_recovers_and_the_steps_that_it_took_are_counted(episodes, arm):
    for seed in SEEDS:
        perturbed = episodes[arm, seed]
        assert perturbed.outcome == "success"
        assert perturbed.recovery_steps == perturbed.steps - perturbed.fired_step
        assert perturbed.steps > episodes[CONTROL, seed].steps


@pytest.mark.parametrize("engine", [engine for engine in LIFT.engines if engine != "robosuite"])
def test_every_arm_is_the_same_to_the_bit_under_every_engine(episodes, expert, engine):
    simulation = LIFT.make(engine)
    for arm in (CONTROL, *ARMS):
        episode = run_episode(simulation, expert, 0, arm=arm)
        assert (episode.engine, episode.fired_step) == (engine, episodes[arm, 0].fired_step)
        assert episode.trajectory_hash == episodes[arm, 0].trajectory_hash
    simulation.close()


def test_a_perturbation_fires_at_most_once(lift, expert, monkeypatch):
    moved = []
    monkeypatch.setattr(lift, "move_object", lambda name, offset: moved.append(offset))  # so near stays true for long
    episode = run_episode(lift, expert, 0, arm="shift")
    assert len(moved) == 1 and episode.fired_step is not None


def test_success_is_not_judged_while_the_effect_is_at_work(episodes):
    for seed in SEEDS:
        dropped = episodes["drop", seed]
        lifted = dropped.milestones[:, -1]
        # Thrown up by the arm, the cube is above the height of success while the gripper opens: that is no recovery.
        assert lifted[dropped.fired_step : dropped.fired_step + ARMS["drop"].duration_steps - 1].any()
        assert dropped.success_step >= dropped.fired_step + ARMS["drop"].duration_steps - 1
        assert not lifted[dropped.fired_step + ARMS["drop"].duration_steps]


def test_a_policy_that_does_not_look_is_equal_when_clean_and_never_recovers_from_a_drop(lift, episodes):
    for seed in SEEDS:
        blind = OpenLoop(episodes[CONTROL, seed].actions)
        clean = run_episode(lift, blind, seed)
        dropped = run_episode(lift, blind, seed, arm="drop", horizon_steps=60)
        assert clean.trajectory_hash == episodes[CONTROL, seed].trajectory_hash
        assert (dropped.outcome, dropped.stage, dropped.fired) == ("failure", "dropped", True)


def test_a_perturbation_whose_trigger_never_held_is_recorded_as_not_fired(lift):
    still = OpenLoop(np.zeros((1, 7)))
    episode = run_episode(lift, still, 0, arm="drop", horizon_steps=5)
    assert (episode.outcome, episode.fired, episode.fired_step, episode.recovery_steps) == (
        "failure",
        False,
        None,
        None,
    )


def test_success_before_the_trigger_is_not_a_recovery(lift, expert):
    too_late = replace(ARMS["drop"], trigger=lambda simulation, rest_z: False)
    episode = run_episode(lift, expert, 0, arm="drop", perturbation=too_late)
    assert (episode.outcome, episode.fired, episode.recovery_steps) == ("success", False, None)


def test_a_shift_is_of_its_magnitude_horizontal_and_in_the_direction_of_its_seed(lift, expert, episodes, monkeypatch):
    offsets, move = [], lift.move_object
    monkeypatch.setattr(lift, "move_object", lambda name, offset: (offsets.append(offset), move(name, offset)))
    for seed in SEEDS:
        again = run_episode(lift, expert, seed, arm="shift")
        assert again.trajectory_hash == episodes["shift", seed].trajectory_hash
    for offset in offsets:
        assert np.linalg.norm(offset) == pytest.approx(0.05) and offset[2] == 0.0
    assert np.linalg.norm(offsets[0] - offsets[1]) > 0.01


def test_an_object_is_never_shifted_off_the_table_nor_where_there_is_no_room(lift):
    lift.reset(0)
    x = lift.object_position("cube")[0]
    lift.move_object("cube", np.array([0.38 - x, 0.0, -0.01]))
    for angle in np.linspace(0, 2 * np.pi, 7):
        offset = perturbations._offset_with_room(lift, "cube", 0.05, angle)
        assert 0.38 + offset[0] <= 0.4
    assert perturbations._offset_with_room(lift, "cube", 5.0, 0.0) is None


def test_an_object_is_never_shifted_into_the_gripper(lift):
    lift.reset(0)
    beside = lift.gripper_position() + np.array([0.05, 0.0, 0.0])
    lift.move_object("cube", beside - lift.object_position("cube"))
    offset = perturbations._offset_with_room(lift, "cube", 0.05, np.pi)
    assert offset is not None and not np.allclose(offset, [-0.05, 0.0, 0.0], atol=1e-6)


def test_random_actions_and_the_expert_get_the_same_shift_for_the_same_seed():
    first, second = (ARMS["shift"].begin(3)._rng.uniform() for _ in range(2))
    assert first == second != ARMS["shift"].begin(4)._rng.uniform()
    assert first != ARMS["push"].begin(3)._rng.uniform()


def test_an_arm_that_does_not_exist_is_named_with_those_that_do(lift):
    with pytest.raises(PerturbationError, match=r"'tickle'.*control.*drop.*shift.*push.*freeze"):
        run_episode(lift, find_policy("random").make(LIFT), 0, arm="tickle")
    assert find_perturbation(CONTROL) is None


def test_the_version_changes_with_every_number_of_an_arm(monkeypatch):
    before = version()
    monkeypatch.setattr(perturbations, "ARMS", {**ARMS, "push": replace(ARMS["push"], magnitude=81.0)})
    assert version() != before
