"""Every known fault of settings is found from the facts, and none where the facts agree or are unknown."""

import copy
from dataclasses import replace

import pytest

from science.robots.diagnosis import Facts, Severity, config_faults
from science.robots.diagnosis.environment_faults import arm_controller
from science.robots.diagnosis.reasons import Piece

ARM = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping_ratio": 1,
    "input_type": "delta",
    "input_ref_frame": "base",
    "gripper": {"type": "GRIP"},
}
ENV_ARGS = {
    "env_name": "Stack",
    "env_version": "1.5.2",
    "suite": "open",
    "type": 1,
    "env_kwargs": {
        "robots": "Panda",
        "control_freq": 20,
        "controller_configs": {"type": "BASIC", "body_parts": {"right": ARM}},
        "use_camera_obs": False,
        "half_range_m": 0.08,
    },
}
OBSERVATION = {"robot0_eef_pos": 3, "object": 23}
SOUND = Facts(
    rnn=True,
    seq_length=10,
    rnn_horizon=10,
    normalised=True,
    evaluation_normalises=True,
    checkpoint_observation=OBSERVATION,
    evaluation_observation=OBSERVATION | {"robot0_eef_quat": 4},
    checkpoint_observation_order=tuple(OBSERVATION),
    evaluation_observation_order=tuple(OBSERVATION),
    checkpoint_frame_stack=1,
    evaluation_frame_stack=1,
    checkpoint_action_dim=7,
    evaluation_action_dim=7,
    actions_normalised=False,
    evaluation_unnormalises_actions=False,
    demonstration_action_limit=1.0,
    checkpoint_task="open.Stack_D0",
    evaluation_task="open.Stack_D0",
    horizon_steps=400,
    demonstration_steps=(90, 120),
    demonstration_env_args=ENV_ARGS,
    evaluation_env_args=copy.deepcopy(ENV_ARGS),
    demonstration_versions={"mujoco": "3.9.0", "robosuite": "1.5.2"},
    evaluation_versions={"mujoco": "3.9.0", "robosuite": "1.5.2"},
)


def found(**changed):
    return {fault.name: fault.severity for fault in config_faults(replace(SOUND, **changed))}


def env_args(kwargs=None, **changed):
    """Environment arguments with changes to themselves and to their `env_kwargs`."""
    return ENV_ARGS | changed | {"env_kwargs": ENV_ARGS["env_kwargs"] | (kwargs or {})}


def controller(**changed):
    return env_args({"controller_configs": {"type": "BASIC", "body_parts": {"right": ARM | changed}}})


def test_settings_that_agree_have_no_fault_and_unknown_ones_neither():
    assert found() == {} and config_faults(Facts()) == []


FATAL, SUSPICIOUS = Severity.FATAL, Severity.SUSPICIOUS


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"seq_length": 1}, {"seq_length": FATAL}),
        ({"seq_length": 1, "rnn_horizon": 400}, {"seq_length": FATAL}),
        ({"rnn_horizon": 400}, {"rnn_horizon": FATAL}),
        ({"rnn_horizon": 5}, {"rnn_horizon": SUSPICIOUS}),
        ({"rnn": False, "seq_length": 1}, {}),
        ({"normalised": False, "evaluation_normalises": False}, {"normalised": FATAL}),
        ({"normalised": False, "evaluation_normalises": None}, {"normalised": FATAL}),
        ({"evaluation_normalises": False}, {"normalisation": FATAL}),
        ({"normalised": False}, {"normalisation": FATAL}),
        ({"evaluation_observation": {"robot0_eef_pos": 3, "cube": 23}}, {"observation": FATAL}),
        ({"evaluation_observation": {"robot0_eef_pos": 3, "object": 10}}, {"observation": FATAL}),
        ({"evaluation_observation_order": ("object", "robot0_eef_pos")}, {"observation_order": FATAL}),
        ({"evaluation_frame_stack": 2}, {"frame_stack": FATAL}),
        ({"evaluation_action_dim": 8}, {"action_dim": FATAL}),
        ({"actions_normalised": True}, {"action_normalisation": FATAL}),
        ({"evaluation_unnormalises_actions": True}, {"action_normalisation": FATAL}),
        ({"demonstration_action_limit": 3.2}, {"action_limits": FATAL}),
        ({"checkpoint_task": "open.Lift"}, {"task": FATAL}),
        ({"checkpoint_task": "mimicgen.Stack_D0"}, {"task": FATAL}),
        ({"horizon_steps": 60}, {"horizon": FATAL}),
        ({"horizon_steps": 110}, {"horizon": SUSPICIOUS}),
        ({"evaluation_versions": {"mujoco": "3.3.7"}}, {"mujoco": SUSPICIOUS}),
        ({"evaluation_env_args": env_args(env_name="Lift")}, {"environment": FATAL}),
        ({"evaluation_env_args": env_args(env_name="Stack_D0")}, {}),
        ({"evaluation_env_args": env_args(env_name="Stack_D1")}, {"environment": FATAL}),
        ({"evaluation_env_args": env_args(suite="mimicgen")}, {"environment": FATAL}),
        ({"evaluation_env_args": env_args(env_version="1.4.1")}, {"robosuite": SUSPICIOUS}),
        ({"evaluation_env_args": env_args({"robots": ["Panda"]})}, {}),
        ({"evaluation_env_args": env_args({"robots": "Sawyer"})}, {"robots": FATAL}),
        ({"evaluation_env_args": env_args({"control_freq": 10})}, {"control_freq": FATAL}),
        ({"evaluation_env_args": env_args({"use_camera_obs": True})}, {}),
        ({"evaluation_env_args": env_args({"half_range_m": 0.2})}, {"half_range_m": SUSPICIOUS}),
        ({"evaluation_env_args": controller(type="JOINT_POSITION")}, {"controller.type": FATAL}),
        ({"evaluation_env_args": controller(input_type="absolute")}, {"controller.delta": FATAL}),
        ({"evaluation_env_args": controller(input_max=0.1)}, {"controller.input_max": FATAL}),
        ({"evaluation_env_args": controller(input_ref_frame="world")}, {"controller.input_ref_frame": FATAL}),
        ({"evaluation_env_args": controller(kp=300)}, {"controller.kp": SUSPICIOUS}),
        ({"evaluation_env_args": controller(output_max=[0.05, 0.05, 0.05, 0.5, 0.5, 0.5])}, {}),
    ],
)
def test_each_known_fault_is_found_alone(changed, expected):
    assert found(**changed) == expected


def test_a_controller_of_robosuite_1_4_is_compared_with_one_of_1_5():
    flat = {key: value for key, value in ARM.items() if key not in ("input_type", "gripper", "input_ref_frame")}
    old = {"controller_configs": flat | {"control_delta": True, "interpolation": None}}
    assert found(demonstration_env_args=ENV_ARGS | {"env_kwargs": old}) == {}
    absolute = {"controller_configs": flat | {"control_delta": False}}
    assert found(demonstration_env_args=ENV_ARGS | {"env_kwargs": absolute}) == {"controller.delta": FATAL}


def test_a_controller_is_found_however_robosuite_nests_it():
    flat = arm_controller({"controller_configs": ARM})
    assert flat["type"] == "OSC_POSE" and flat["delta"] is True and flat["input_max"] == [1] * 6
    for nested in (
        [ARM],
        {"type": "BASIC", "body_parts": {"right": ARM}},
        {"type": "BASIC", "body_parts": {"arms": {"right": ARM}}},
    ):
        assert arm_controller({"controller_configs": nested}) == flat
    assert arm_controller({}) == {}


def test_fatal_faults_come_first_and_say_what_to_do():
    faults = config_faults(
        replace(SOUND, rnn_horizon=5, demonstration_action_limit=2.0, evaluation_versions={"mujoco": "4"})
    )
    assert [fault.severity for fault in faults] == [FATAL, SUSPICIOUS, SUSPICIOUS]
    for fault in faults:
        assert fault.found and fault.expected and fault.do
        assert {Piece(piece) for piece in fault.explains | fault.refuted_by} <= set(Piece)


def test_the_open_suites_own_environment_arguments_have_no_fault_against_themselves():
    from science.robots.tasks.registry import find_task

    simulation = find_task("open.Lift").make("robosuite")
    try:
        real = dict(simulation.env_args())
    finally:
        simulation.close()
    assert arm_controller(real["env_kwargs"])["type"] == "OSC_POSE"
    assert config_faults(Facts(demonstration_env_args=real, evaluation_env_args=copy.deepcopy(real))) == []
