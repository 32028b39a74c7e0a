"""The exact engine against unmodified robosuite in one process: states, observations, controllers, every bit."""

from __future__ import annotations

import logging
from importlib import import_module

import numpy as np
import pytest
import robosuite
from robosuite.utils.observables import Observable, sensor

from science.robots.engine import EngineError, arm, osc
from science.robots.engine.exact import ExactEngine
from science.robots.engine.observed import PROPRIOCEPTION
from science.robots.tasks import open_environments  # noqa: F401  registers OpenStackThree
from science.robots.tasks.open_suite import SUITE

PHYSICS = ("qpos", "qvel", "qacc", "ctrl", "qfrc_bias", "qacc_warmstart", "xpos", "sensordata")
STEPS = 40


def make(name, **changes):
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    arguments = {
        "robots": "Panda",
        "controller_configs": robosuite.load_composite_controller_config(controller="BASIC"),
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "ignore_done": True,
        "control_freq": 20,
    }
    return robosuite.make(name, **(arguments | changes))


def begin(env, seed):
    env.rng = env.placement_initializer.rng = np.random.default_rng(seed)
    return env.reset()


class Pair:
    """The same episode twice: `golden` is stepped by robosuite, `env` by the engine."""

    def __init__(self, name, **changes):
        self.golden, self.env = make(name, **changes), make(name, **changes)
        self.engine = ExactEngine(self.env)
        self.envs = (self.golden, self.env)

    def begin(self, seed):
        expected = begin(self.golden, seed)
        begin(self.env, seed)
        require_equal_bits(expected, self.engine.reset())
        return expected

    def step(self, action):
        expected = self.golden.step(action)[0]
        require_equal_bits(expected, self.engine.step(action))
        require_equal_bits(expected, self.env._get_observations())
        golden, found = (env.sim.data._data for env in self.envs)
        for name in PHYSICS:
            assert getattr(golden, name).tobytes() == getattr(found, name).tobytes(), name
        assert golden.time == found.time
        for name in ("timestep", "cur_time", "done"):
            assert getattr(self.golden, name) == getattr(self.env, name), name
        return expected

    def require_equal_controllers(self):
        golden, found = (env.robots[0] for env in self.envs)
        for part, controller in golden.part_controllers.items():
            other = vars(found.part_controllers[part])
            for name, value in vars(controller).items():
                if isinstance(value, np.ndarray):
                    assert value.tobytes() == other[name].tobytes(), (part, name)
                elif isinstance(value, (bool, int, float, str)):
                    assert value == other[name], (part, name)
        command, other = (robot.gripper["right"].current_action for robot in (golden, found))
        assert command.tobytes() == other.tobytes()


def require_equal_bits(expected, found):
    """All that was found is as expected, but for the concatenation of what is switched off under the engine."""
    for name, value in found.items():
        if name == "robot0_proprio-state":
            continue
        assert value.dtype == expected[name].dtype
        assert value.tobytes() == expected[name].tobytes(), name


def random_actions(seed):
    return np.random.default_rng(seed).uniform(-1, 1, (STEPS, 7))


@pytest.fixture(scope="module")
def stack():
    """Stack whose resets keep the loaded model."""
    return Pair("Stack", hard_reset=False)


def test_lift_equals_robosuite_after_resets_that_load_a_new_model():
    pair = Pair("Lift", hard_reset=True)
    for seed in (0, 1):
        pair.begin(seed)
        for action in random_actions(seed):
            pair.step(action)
        pair.require_equal_controllers()


def test_stack_equals_robosuite_after_resets_that_keep_the_model(stack):
    for seed in (2, 3, 2):
        stack.begin(seed)
        for action in random_actions(seed):
            stack.step(action)
        stack.require_equal_controllers()


@pytest.mark.parametrize("name", ["Stack", "OpenStackThree"])
def test_an_experts_whole_episode_equals_robosuites(name):
    task = SUITE.tasks["Stack_D0" if name == "Stack" else "StackThree_D0"]
    pair = Pair(name, hard_reset=False, **({"half_range_m": 0.1} if name == "OpenStackThree" else {}))
    module, _, expert = task.expert.partition(":")
    policy = getattr(import_module(module), expert)(task)
    policy.start(0)
    seen = pair.begin(5)
    for _ in range(task.horizon_steps):
        seen = pair.step(policy.act({**seen, "object": seen["object-state"]}))
        if pair.golden._check_success():
            break
    assert pair.env._check_success()
    pair.require_equal_controllers()


def test_pushed_and_displaced_objects_act_as_under_robosuite(stack):
    stack.begin(7)
    for step, action in enumerate(random_actions(7)):
        for env in stack.envs:
            data = env.sim.data
            data.xfrc_applied[env.cubeA_body_id, :3] = (2.0, -1.0, 3.0) if 5 <= step < 9 else 0.0
            if step == 20:
                data.set_joint_qpos(env.cubeB.joints[0], [0.1, 0.1, 0.85, 1.0, 0.0, 0.0, 0.0])
                env.sim.forward()
        stack.step(action)
    stack.require_equal_controllers()


def test_physics_that_diverges_and_is_reset_by_mujoco_is_the_same(stack, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warnings in the working directory
    stack.begin(14)
    for step, action in enumerate(random_actions(14)[:20]):
        for env in stack.envs:
            env.sim.data.xfrc_applied[env.cubeA_body_id, :3] = 1e12 if step == 5 else 0.0
            if step == 12:
                env.sim.data.qpos[2] = np.nan
        stack.step(action)
    assert stack.env.sim.data._data.warning.number.sum() > 0
    stack.require_equal_controllers()


def test_after_resync_a_written_state_is_what_the_controller_reads(stack):
    stack.begin(8)
    for action in random_actions(8)[:10]:
        stack.step(action)
    recorded = stack.golden.sim.get_state()
    stack.begin(8)
    for env in stack.envs:
        env.sim.set_state(recorded)
        env.sim.forward()
    for controller in stack.golden.robots[0].part_controllers.values():
        controller.new_update = True
    stack.engine.resync()
    for action in random_actions(9)[:10]:
        stack.step(action)
    stack.require_equal_controllers()


def test_robosuite_and_the_engine_may_take_turns(stack):
    stack.begin(10)
    for step, action in enumerate(random_actions(10)):
        if step % 3:
            stack.step(action)
        else:
            require_equal_bits(stack.golden.step(action)[0], stack.env.step(action)[0])
    stack.require_equal_controllers()


def test_observables_that_no_step_returns_are_absent_and_not_out_of_date(stack):
    stack.begin(10)
    stack.engine.step(np.zeros(7))
    observed = set(stack.env._get_observations()) - {"robot0_proprio-state", "object-state"}
    assert {name for name in observed if name.startswith("robot0")} == set(PROPRIOCEPTION)


def test_an_observable_that_an_objects_is_computed_from_stays_on():
    env = make("Stack", hard_reset=False)

    @sensor(modality="object")
    def cube_in_hand(cache):
        return cache["robot0_eef_quat_site"] if "robot0_eef_quat_site" in cache else np.zeros(4)

    env.add_observable(Observable("cube_in_hand", cube_in_hand, sampling_rate=20))
    begin(env, 0)
    ExactEngine(env)
    assert env._observables["robot0_eef_quat_site"].is_enabled()
    assert not env._observables["robot0_joint_pos"].is_enabled()


def test_a_reset_that_the_engine_was_not_told_of_is_noticed(stack):
    stack.begin(11)
    begin(stack.golden, 12)
    begin(stack.env, 12)
    stack.step(random_actions(12)[0])


def test_forced_observations_shift_both_sampling_clocks_alike(stack):
    stack.begin(13)
    for action in random_actions(13)[:12]:
        for env in stack.envs:
            env._get_observations(force_update=True)
        stack.step(action)


def test_joint_position_control_is_refused():
    config = robosuite.load_composite_controller_config(robot="Panda")
    config["body_parts"]["right"] = robosuite.load_part_controller_config(default_controller="JOINT_POSITION") | {
        "gripper": {"type": "GRIP"}
    }
    with pytest.raises(EngineError, match="the arm's controller is a JointPositionController, expected Operational"):
        ExactEngine(make("Stack", controller_configs=config))


def test_another_robot_is_refused():
    with pytest.raises(EngineError, match=r"found robots = \['Sawyer'\], expected \['Panda'\]"):
        ExactEngine(make("Lift", robots="Sawyer"))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("control_freq", 10),
        ("model_timestep", 0.001),
        ("lite_physics", False),
        ("ignore_done", False),
        ("use_camera_obs", True),
        ("step", lambda action: None),
    ],
)
def test_a_setting_that_the_engine_relies_on_is_asked(stack, monkeypatch, attribute, value):
    monkeypatch.setattr(stack.env, attribute, value)
    with pytest.raises(EngineError, match=attribute):
        ExactEngine(stack.env)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("input_type", "absolute"),
        ("input_ref_frame", "world"),
        ("impedance_mode", "variable"),
        ("uncoupling", False),
        ("lite_physics", False),
    ],
)
def test_a_setting_of_the_controller_is_asked_at_every_reset(stack, monkeypatch, attribute, value):
    stack.begin(0)
    monkeypatch.setattr(stack.env.robots[0].part_controllers["right"], attribute, value)
    with pytest.raises(EngineError, match=f"the arm controller's {attribute}"):
        stack.engine.reset()


def test_a_deviation_in_the_last_bit_of_the_torques_is_refused(stack, monkeypatch):
    exact = osc.run_substeps

    def deviating(*arguments):
        exact(*arguments)
        arms = next(found for found in arguments if getattr(found, "dtype", None) == osc.ARM_RECORD)
        arms["torques"][0] = np.nextafter(arms["torques"][0], np.inf)

    monkeypatch.setattr(arm, "run_substeps", deviating)
    with pytest.raises(EngineError, match="its torques differ from robosuite's in 64 of 64 states"):
        ExactEngine(stack.env)


def test_observables_of_different_rates_are_refused(stack):
    stack.begin(0)
    observable = stack.env._observables["cubeA_pos"]
    rate = 1 / observable._sampling_timestep
    observable.set_sampling_rate(10)
    try:
        with pytest.raises(EngineError, match="2 sampling clocks"):
            stack.engine.step(np.zeros(7))
    finally:
        observable.set_sampling_rate(rate)


@pytest.mark.parametrize("action", [np.zeros(6), np.full(7, np.nan)])
def test_an_action_that_is_no_action_is_refused(stack, action):
    stack.begin(0)
    with pytest.raises(EngineError, match="expected 7 finite numbers"):
        stack.engine.step(action)
