"""Demonstrations: recorded from a real expert, written as robomimic reads them, and refused when they are not valid."""

import hashlib
import importlib
import json

import h5py
import numpy as np
import pytest
from demonstration_files import ATTRIBUTES, ENV_ARGS, LIFT, STACK, demonstration, write_file

from science.robots.demonstration_checks import DemonstrationError, validate_demonstrations
from science.robots.demonstration_import import import_demonstrations
from science.robots.demonstrations import (
    EXECUTED,
    read_demonstrations,
    record_demonstrations,
    without_machine_paths,
    write_demonstrations,
)
from science.robots.seeds import DEMONSTRATION, EVALUATION, take


@pytest.fixture
def valid(tmp_path):
    return write_file(tmp_path / "lift.hdf5")


@pytest.fixture(scope="module")
def lift():
    simulation = LIFT.make("robosuite")
    yield simulation
    simulation.close()


def expert():
    module, _, name = LIFT.expert.partition(":")
    return getattr(importlib.import_module(module), name)(LIFT)


# recording


def test_recorded_demonstrations_end_solved_and_replay_to_the_same_observations(lift, tmp_path):
    seen = []
    recording = record_demonstrations(
        lift,
        expert(),
        take(DEMONSTRATION, 4),
        2,
        tail_steps=3,
        noise=0.05,
        action_label=EXECUTED,
        on_attempt=seen.append,
    )
    assert len(recording.demonstrations) == 2 and recording.attempts == seen
    assert recording.attributes["attempted_seeds"] == [attempt.seed for attempt in seen]
    path = tmp_path / "lift.hdf5"
    write_demonstrations(path, recording.demonstrations, lift.env_args(), seed=0, attributes=recording.attributes)
    report = validate_demonstrations(path, LIFT)
    assert report.task == "open.Lift" and report.seeds == tuple(recording.attributes["kept_seeds"])
    assert report.attributes["action_label"] == "executed" and report.attributes["noise"] == 0.05
    for demo in read_demonstrations(path):
        assert demo.rewards[-1] == 1 and demo.dones.tolist() == [0] * (len(demo.actions) - 1) + [1]
        assert demo.rewards.argmax() == len(demo.actions) - 4, "success first holds 3 steps before the end"
        observation = lift.reset(demo.seed)
        for step, action in enumerate(demo.actions):
            assert np.array_equal(observation["object"], demo.observations["object"][step])
            assert np.array_equal(lift.state(), demo.states[step])
            observation = lift.step(action)
            assert np.array_equal(observation["object"], demo.next_observations["object"][step])


def test_clean_labels_are_the_experts_answers_to_the_disturbed_states(lift):
    recording = record_demonstrations(lift, expert(), take(DEMONSTRATION, 2), 1, noise=0.1)
    demo = recording.demonstrations[0]
    policy = expert()
    policy.start(demo.seed)
    for step in range(len(demo.actions)):
        answer = policy.act({key: values[step] for key, values in demo.observations.items()})
        assert np.allclose(answer, demo.actions[step])


def test_episodes_without_success_are_counted_and_left_out(lift):
    class Idle(type(expert())):
        """An expert that does nothing in its first episode."""

        episodes = 0

        def start(self, seed):
            super().start(seed)
            self.episodes += 1

        def act(self, observation):
            return super().act(observation) if self.episodes > 2 else np.zeros(7)

    idle = Idle(LIFT)  # its making is a start
    recording = record_demonstrations(lift, idle, take(DEMONSTRATION, 3), 1)
    assert [attempt.kept for attempt in recording.attempts] == [False, True]
    assert recording.attributes["expert_success_rate"] == 0.5
    with pytest.raises(DemonstrationError, match="found 0 successes in 1 episodes"):
        record_demonstrations(lift, Idle(LIFT), take(DEMONSTRATION, 1), 1)


def test_seeds_kept_for_evaluation_are_not_recorded(lift):
    with pytest.raises(DemonstrationError, match="kept for choosing and evaluating"):
        record_demonstrations(lift, expert(), take(EVALUATION, 3), 1)
    for wrong in ({"noise": -0.1}, {"tail_steps": -1}, {"action_label": "both"}):
        with pytest.raises(DemonstrationError, match="expected"):
            record_demonstrations(lift, expert(), take(DEMONSTRATION, 3), 1, **wrong)


# writing


def test_the_same_demonstrations_give_the_same_bytes(tmp_path):
    paths = [write_file(tmp_path / name) for name in ("a.hdf5", "b.hdf5")]
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert first == second


def test_a_failed_write_keeps_the_old_file(valid):
    before = valid.read_bytes()
    broken = demonstration(DEMONSTRATION[0])
    broken.observations["object"] = np.array(["no", "numbers"])
    with pytest.raises(ValueError, match="could not convert"):
        write_demonstrations(valid, [broken], ENV_ARGS, seed=0, attributes=ATTRIBUTES)
    assert valid.read_bytes() == before and len(list(valid.parent.iterdir())) == 1
    with pytest.raises(DemonstrationError, match="found 0 demonstrations"):
        write_demonstrations(valid, [], ENV_ARGS, seed=0, attributes=ATTRIBUTES)


def test_what_is_written_is_read_back_and_masks_are_disjoint(valid):
    report = validate_demonstrations(valid, LIFT)
    assert (report.n, report.lengths) == (6, (20, 17, 23, 20, 17, 23)) and report.n_samples == 120
    assert sorted(report.masks["train"] + report.masks["valid"]) == sorted(report.names)
    assert len(report.masks["valid"]) == 1
    for number, demo in enumerate(read_demonstrations(valid)):
        original = demonstration(DEMONSTRATION[number], report.lengths[number])
        assert np.array_equal(demo.actions, original.actions)
        assert all(np.array_equal(demo.observations[key], original.observations[key]) for key in LIFT.observation)
    assert [demo.seed for demo in read_demonstrations(valid, "valid")] != []
    with pytest.raises(DemonstrationError, match="no mask/fast"):
        list(read_demonstrations(valid, "fast"))


def test_no_machine_path_is_written(valid):
    assert (
        without_machine_paths('<a file="/x/y/robosuite/models/b.stl"/><c file="other.png"/>')
        == '<a file="robosuite/models/b.stl"/><c file="other.png"/>'
    )
    assert b"site-packages" not in valid.read_bytes()


# checking


def damage(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(file, key, values):
    del file[key]
    file[key] = values


def _nan(file):
    file["data/demo_1/actions"][3, 2] = np.nan


def _infinite(file):
    file["data/demo_2/obs/object"][0, 0] = np.inf


def _too_large(file):
    file["data/demo_1/actions"][3, 2] = 1.5


def _short_observation(file):
    replace(file, "data/demo_0/obs/object", np.zeros((19, 10)))


def _narrow_observation(file):
    for number in range(6):
        length = len(file[f"data/demo_{number}/actions"])
        replace(file, f"data/demo_{number}/obs/object", np.zeros((length, 9)))


def _missing_observation(file):
    file.move("data/demo_3/obs/object", "data/demo_3/obs/object-state")


def _wide_actions(file):
    replace(file, "data/demo_0/actions", np.zeros((20, 8)))


def _no_step(file):
    replace(file, "data/demo_0/actions", np.zeros((0, 7)))


def _wrong_count(file):
    file["data/demo_0"].attrs["num_samples"] = 19


def _wrong_total(file):
    file["data"].attrs["total"] = 119


def _no_json(file):
    file["data"].attrs["env_args"] = "{'env_name': 'Lift'}"


def _other_environment(file):
    args = {key: value for key, value in ENV_ARGS.items() if key not in ("suite", "task")}
    file["data"].attrs["env_args"] = json.dumps({**args, "env_name": "Stack"})


def _other_suite(file):
    file["data"].attrs["env_args"] = json.dumps({**ENV_ARGS, "suite": "mimicgen"})


def _other_controller(file):
    kwargs = {"controller_configs": {"type": "JOINT_POSITION"}}
    file["data"].attrs["env_args"] = json.dumps({**ENV_ARGS, "env_kwargs": kwargs})


def _other_frequency(file):
    file["data"].attrs["env_args"] = json.dumps({**ENV_ARGS, "env_kwargs": {"control_freq": 10}})


def _other_version(file):
    file["data"].attrs["tracebed"] = json.dumps({**ATTRIBUTES, "task_version": "0"})


def _unknown_member(file):
    replace(file, "mask/valid", np.array([b"demo_77"]))


def _overlap(file):
    replace(file, "mask/valid", file["mask/train"][:1])


def _empty_mask(file):
    replace(file, "mask/train", np.array([], dtype="S"))


def _repeated_seed(file):
    file["data/demo_1"].attrs["seed"] = file["data/demo_0"].attrs["seed"]


def _evaluation_seed(file):
    file["data/demo_1"].attrs["seed"] = 7


def _no_demonstrations(file):
    for name in list(file["data"]):
        del file["data"][name]


def _no_data(file):
    file.move("data", "episodes")


def _odd_name(file):
    file.move("data/demo_0", "data/episode")


def _more_keys(file):
    file["data/demo_0/obs/extra"] = np.zeros((20, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan, r"1 values that are NaN or infinite in .*demo_1/actions, the first at step 3"),
        (_infinite, r"NaN or infinite in .*demo_2/obs/object, the first at step 0"),
        (_too_large, r"actions up to 1\.5 .*expected \[-1, 1\]"),
        (_short_observation, r"obs/object of shape \(19, 10\), expected \(20, 10\)"),
        (_narrow_observation, r"obs/object of shape \(20, 9\), expected \(20, 10\)"),
        (_missing_observation, r"object-state.*\['object'\] missing.*import_demonstrations"),
        (_wide_actions, r"actions of shape \(20, 8\).*expected \(steps, 7\)"),
        (_no_step, r"actions of shape \(0, 7\)"),
        (_wrong_count, r"num_samples 19 .*expected its number of actions, 20"),
        (_wrong_total, r"found total 119 .* 120"),
        (_no_json, r"env_args .*not JSON"),
        (_other_environment, r"environment 'Stack'.*expected \['Lift'\]"),
        (_other_suite, r"found task mimicgen\.Lift .*expected open\.Lift"),
        (_other_controller, r"controller \['JOINT_POSITION'\].*expected OSC_POSE"),
        (_other_frequency, r"frequency of 10 Hz .*expected 20 Hz"),
        (_other_version, r"version '0' of open\.Lift .*record them again"),
        (_unknown_member, r"\['demo_77'\] in mask/valid"),
        (_overlap, r"in both mask/train and mask/valid"),
        (_empty_mask, r"empty mask/train"),
        (_repeated_seed, r"seeds \[2000000\] more than once"),
        (_evaluation_seed, r"seeds \[7\], expected seeds of range\(2000000, 3000000\)"),
        (_no_demonstrations, r"no demonstration in"),
        (_no_data, r"expected a group 'data'"),
        (_odd_name, r"\['episode'\] under data"),
        (_more_keys, r"do not mix recordings"),
    ],
)
def test_invalid_demonstrations_are_refused_with_what_was_found_and_expected(valid, change, message):
    with pytest.raises(DemonstrationError, match=message):
        validate_demonstrations(damage(valid, change), LIFT)


def test_files_that_cannot_be_read_are_refused(valid, tmp_path):
    whole = valid.read_bytes()
    with pytest.raises(DemonstrationError, match="no file"):
        validate_demonstrations(tmp_path / "absent.hdf5", LIFT)
    for content, message in (
        (b"", "empty file"),
        (b"not a file of demonstrations", "is not HDF5"),
        (whole[: len(whole) // 2], "damaged or truncated"),
        (whole[:-200], "damaged or truncated"),
    ):
        valid.write_bytes(content)
        with pytest.raises(DemonstrationError, match=message):
            validate_demonstrations(valid, LIFT)


def test_demonstrations_of_another_task_are_refused(valid):
    with pytest.raises(DemonstrationError, match=r"task 'open\.Lift'.*expected 'open\.Stack_D0'"):
        validate_demonstrations(valid, STACK)


# importing


def foreign(path):
    """As robomimic and MimicGen write it: no seeds, no attributes of ours, float32, robosuite's name, no masks."""

    def change(file):
        args = {key: value for key, value in ENV_ARGS.items() if key not in ("suite", "task")}
        file["data"].attrs["env_args"] = json.dumps(args)
        del file["data"].attrs["tracebed"], file["mask"]
        for name in file["data"]:
            demo = file[f"data/{name}"]
            del demo.attrs["seed"]
            for section in ("obs", "next_obs"):
                values = demo[section]["object"][()].astype(np.float32)
                del demo[section]["object"]
                demo[section]["object-state"] = values
                demo[section]["robot0_joint_pos"] = np.zeros((len(values), 7))

    return damage(path, change)


def test_a_file_of_other_origin_that_fits_is_accepted_as_it_is(valid):
    def strip(file):
        del file["data"].attrs["tracebed"], file["mask"]
        for name in file["data"]:
            del file[f"data/{name}"].attrs["seed"]
            del file[f"data/{name}/states"], file[f"data/{name}/rewards"]

    report = validate_demonstrations(damage(valid, strip), LIFT)
    assert report.task is None and report.seeds is None and report.masks == {}
    assert [len(demo.rewards) for demo in read_demonstrations(valid)] == [0] * 6


def test_an_import_converts_what_is_needed_says_so_and_leaves_the_source(valid, tmp_path):
    source, destination = foreign(valid), tmp_path / "imported.hdf5"
    before = source.read_bytes()
    with pytest.raises(DemonstrationError, match="object-state"):
        validate_demonstrations(source, LIFT)
    report = import_demonstrations(source, destination, LIFT)
    assert source.read_bytes() == before
    assert report.task == "open.Lift" and report.n == 6 and set(report.masks) == {"train", "valid"}
    assert report.attributes["imported_sha256"] == hashlib.sha256(before).hexdigest()
    converted = report.attributes["converted"]
    assert "observation object-state renamed object" in converted
    assert "observation robot0_joint_pos left out" in converted
    assert any(text.startswith("masks drawn") for text in converted)
    with h5py.File(destination) as file:
        assert file["data/demo_0/obs/object"].dtype == np.float64
    again = tmp_path / "again.hdf5"
    import_demonstrations(source, again, LIFT)
    assert again.read_bytes() == destination.read_bytes()


def test_an_import_that_would_not_be_valid_writes_nothing(valid, tmp_path):
    source, destination = foreign(valid), tmp_path / "imported.hdf5"
    with pytest.raises(DemonstrationError, match=r"\['object'\] missing"):
        import_demonstrations(source, destination, LIFT, rename={})
    with pytest.raises(DemonstrationError, match="environment 'Lift'"):
        import_demonstrations(source, destination, STACK)
    damage(source, _nan)
    with pytest.raises(DemonstrationError, match="NaN"):
        import_demonstrations(source, destination, LIFT)
    assert not destination.exists() and len(list(tmp_path.iterdir())) == 1
