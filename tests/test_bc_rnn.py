"""BC-RNN: robomimic's batches, training that resumes bit for bit, checkpoints that run no code, robomimic's actions."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from demonstration_files import ATTRIBUTES, ENV_ARGS, LIFT, STACK, demonstration, write_file

from science.robots.action_error import action_error
from science.robots.bc_rnn.checkpoint import CheckpointError, inspect_checkpoint, read_checkpoint
from science.robots.bc_rnn.config import BcRnnConfig, ConfigError
from science.robots.bc_rnn.policy import load
from science.robots.bc_rnn.robomimic_imports import SequenceDataset, obs_utils, quiet
from science.robots.bc_rnn.sequences import TrainingSequences
from science.robots.bc_rnn.training import TrainingError, train
from science.robots.demonstrations import write_demonstrations
from science.robots.policies.base import PolicyError
from science.robots.policies.bc_rnn import SPEC
from science.robots.policies.conformance import problems
from science.robots.seeds import DEMONSTRATION

SMALL = BcRnnConfig(hidden=24, layers=2, steps=40, checkpoint_every=20, batch_size=32, seed=3)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("data") / "lift.hdf5")


@pytest.fixture(scope="module")
def run(demonstrations, tmp_path_factory):
    return train(SMALL, demonstrations, LIFT, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def checkpoint(run):
    return run.checkpoints[40]


def weights(path):
    return read_checkpoint(path)["model"]["nets"]


def observation(step=0):
    return {key: values[step] for key, values in demonstration(7).observations.items()}


def rewritten(path, destination, change):
    content = read_checkpoint(path)
    change(content)
    torch.save(content, destination)
    return destination


def test_it_conforms_with_a_fork_for_every_session(checkpoint):
    assert problems(SPEC.make_batched(LIFT, checkpoint)) == []


# training


@pytest.mark.parametrize("normalise", [True, False])
def test_batches_are_those_of_robomimics_own_loader(demonstrations, normalise):
    config = dataclasses.replace(SMALL, normalise=normalise)
    robomimic_config = config.robomimic()
    with quiet():
        obs_utils.initialize_obs_utils_with_config(robomimic_config)
        dataset = SequenceDataset(
            hdf5_path=str(demonstrations),
            obs_keys=robomimic_config.all_obs_keys,
            action_keys=["actions"],
            dataset_keys=["actions"],
            action_config=robomimic_config.train.action_config,
            seq_length=config.seq_length,
            hdf5_cache_mode="low_dim",
            hdf5_normalize_obs=normalise,
            filter_by_attribute="train",
            load_next_obs=False,
        )
    sequences = TrainingSequences(demonstrations, config, robomimic_config)
    assert sequences.n == len(dataset) > 60
    chosen = np.arange(sequences.n)
    theirs = torch.utils.data.default_collate([dataset[i] for i in chosen])
    statistics = dataset.get_obs_normalization_stats() if normalise else None
    obs = {key: values.float() for key, values in theirs["obs"].items()}
    if statistics is not None:
        obs = obs_utils.normalize_dict(
            obs, {k: {name: torch.from_numpy(v) for name, v in entry.items()} for k, entry in statistics.items()}
        )
    ours = sequences.gather(chosen)
    assert torch.equal(ours["actions"], theirs["actions"])
    assert set(ours["obs"]) == set(obs)
    for key, values in obs.items():
        assert torch.equal(ours["obs"][key], values), key


def test_every_epoch_shows_each_sequence_at_most_once_and_the_next_in_another_order(demonstrations):
    config = SMALL
    robomimic_config = config.robomimic()
    with quiet():
        obs_utils.initialize_obs_utils_with_config(robomimic_config)
    sequences = TrainingSequences(demonstrations, config, robomimic_config)
    batches = sequences.n // config.batch_size
    epochs = [np.concatenate([sequences.indices(e * batches + b) for b in range(batches)]) for e in range(2)]
    assert all(len(set(epoch)) == batches * config.batch_size for epoch in epochs)
    assert not np.array_equal(*epochs)


def test_training_resumed_from_a_checkpoint_gives_the_weights_of_one_long_run(demonstrations, run, tmp_path):
    asked = iter(range(1, 99))
    stopped = train(SMALL, demonstrations, LIFT, tmp_path, should_stop=lambda: next(asked) == 13)
    assert not stopped.finished and list(stopped.checkpoints) == [13]
    resumed = train(SMALL, demonstrations, LIFT, tmp_path, resume_from=stopped.checkpoints[13])
    assert resumed.finished and (resumed.first_step, resumed.last_step) == (13, 40)
    assert stopped.losses + resumed.losses == run.losses
    straight, mended = read_checkpoint(run.checkpoints[40]), read_checkpoint(resumed.checkpoints[40])
    assert [attempt["from_step"] for attempt in mended["tracebed"]["attempts"]] == [0, 13]
    for part in ("nets", "optimizers"):
        assert_equal(straight["model"][part], mended["model"][part])


def assert_equal(left, right):
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    else:
        assert left == right


def test_a_cosine_schedule_resumes_too_and_ends_at_zero(demonstrations, tmp_path):
    config = dataclasses.replace(SMALL, schedule="cosine", steps=12, checkpoint_every=6)
    rates = []
    straight = train(config, demonstrations, LIFT, tmp_path / "a", on_step=lambda step, loss, rate: rates.append(rate))
    resumed = train(config, demonstrations, LIFT, tmp_path / "b", resume_from=straight.checkpoints[6])
    assert_equal(weights(straight.checkpoints[12]), weights(resumed.checkpoints[12]))
    assert rates[0] < config.learning_rate and rates[-1] == pytest.approx(0, abs=1e-12)
    with pytest.raises(CheckpointError, match=r"settings steps=12 \(expected 20\)"):
        train(
            dataclasses.replace(config, steps=20), demonstrations, LIFT, tmp_path, resume_from=straight.checkpoints[6]
        )


def test_the_same_training_writes_the_same_bytes(demonstrations, run, tmp_path):
    again = train(SMALL, demonstrations, LIFT, tmp_path)
    assert again.checkpoints[40].read_bytes() == run.checkpoints[40].read_bytes()
    other = train(dataclasses.replace(SMALL, seed=4, steps=20), demonstrations, LIFT, tmp_path / "other")
    assert not torch.equal(*(next(iter(weights(r.checkpoints[20]).values())) for r in (run, other)))


def test_evaluating_a_checkpoint_while_training_changes_no_byte_of_the_next(demonstrations, run, tmp_path):
    def evaluate(step, path):
        policy = load(LIFT, path)
        policy.start(step)
        policy.act(observation())

    again = train(SMALL, demonstrations, LIFT, tmp_path, on_checkpoint=evaluate)
    assert again.checkpoints[40].read_bytes() == run.checkpoints[40].read_bytes()


def test_the_loss_falls(run):
    assert np.mean(run.losses[-5:]) < np.mean(run.losses[:5]) - 1


def test_resuming_with_anything_else_is_refused_by_name(demonstrations, checkpoint, tmp_path):
    def resume(config=SMALL, data=demonstrations, path=checkpoint):
        return train(config, data, LIFT, tmp_path, resume_from=path)

    longer = dataclasses.replace(SMALL, steps=41)
    with pytest.raises(CheckpointError, match=r"settings hidden=24 \(expected 32\)"):
        resume(dataclasses.replace(SMALL, hidden=32))
    fewer = dataclasses.replace(SMALL, observation=("robot0_eef_pos", "object"))
    with pytest.raises(CheckpointError, match=r"found observation robot0_eef_quat=4 \(expected None\)"):
        resume(fewer)
    other = write_file(tmp_path / "other.hdf5", n=5)
    with pytest.raises(CheckpointError, match="SHA-256"):
        resume(data=other)

    def foreign(content):
        content["tracebed"]["task"] = "open.Stack_D0"

    with pytest.raises(CheckpointError, match=r"found task 'open\.Stack_D0'"):
        resume(path=rewritten(checkpoint, tmp_path / "foreign.pth", foreign))
    cut = tmp_path / "cut.pth"
    cut.write_bytes(checkpoint.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        resume(path=cut)
    with pytest.raises(CheckpointError, match="no optimiser state"):
        resume(path=rewritten(checkpoint, tmp_path / "bare.pth", lambda content: content.pop("tracebed")))
    assert resume(longer).last_step == 41


def test_too_few_sequences_and_impossible_settings_are_refused(demonstrations, tmp_path):
    with pytest.raises(TrainingError, match="at least a batch of 4096"):
        train(dataclasses.replace(SMALL, batch_size=4096), demonstrations, LIFT, tmp_path)
    one = demonstration(DEMONSTRATION[0], length=80)
    one.observations["object"][:] = 3e38
    huge = tmp_path / "huge.hdf5"
    write_demonstrations(huge, [one], ENV_ARGS, seed=0, attributes=ATTRIBUTES)
    with pytest.raises(TrainingError, match="at step 1, expected a finite number; lower learning_rate"):
        train(SMALL, huge, LIFT, tmp_path)
    for wrong in ({"steps": 0}, {"schedule": "step"}, {"learning_rate": 0.0}, {"observation": ()}):
        with pytest.raises(ConfigError):
            BcRnnConfig(**wrong)
    assert BcRnnConfig.from_settings(json.loads(json.dumps(SMALL.settings()))) == SMALL


# checkpoints


def test_a_checkpoint_tells_what_it_is(checkpoint):
    info = inspect_checkpoint(checkpoint)
    assert (info.algo, info.step, info.task, info.env_name) == ("bc", 40, "open.Lift", "Lift")
    assert dict(info.observation) == dict(LIFT.observation) and info.action_dim == 7
    assert (info.seq_length, info.rnn_horizon) == (10, 10)
    assert info.normalised and info.has_optimizer
    assert info.settings == SMALL.settings() and set(info.versions) == {"torch", "robomimic", "numpy"}


class Wicked:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file ran code')",)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(checkpoint, tmp_path):
    def infect(content):
        content["variable_state"] = Wicked()

    wicked = rewritten(checkpoint, tmp_path / "wicked.pth", infect)
    with pytest.raises(CheckpointError, match=r"exec.*trusted=True"):
        inspect_checkpoint(wicked)
    with pytest.raises(SystemExit, match="the file ran code"):
        inspect_checkpoint(wicked, trusted=True)


def test_checkpoints_with_numpy_statistics_as_older_robomimic_wrote_them_are_read(checkpoint, tmp_path):
    def older(content):
        del content["tracebed"]
        for entry in content["obs_normalization_stats"].values():
            for name in entry:
                entry[name] = np.array(entry[name], np.float32)
        content["variable_state"] = {"epoch": np.int64(20), "best": np.float64(0.5)}

    path = rewritten(checkpoint, tmp_path / "older.pth", older)
    info = inspect_checkpoint(path)
    assert (info.step, info.task, info.has_optimizer) == (None, None, False)
    ours, theirs = load(LIFT, checkpoint), load(LIFT, path)
    ours.start(0)
    theirs.start(0)
    assert np.array_equal(ours.act(observation()), theirs.act(observation()))


def test_files_that_are_no_bc_rnn_checkpoint_are_refused(checkpoint, tmp_path):
    def other_algo(content):
        content["algo_name"] = "bcq"

    def not_recurrent(content):
        config = json.loads(content["config"])
        config["algo"]["rnn"]["enabled"] = False
        content["config"] = json.dumps(config)

    def no_config(content):
        content["config"] = "{"

    empty = tmp_path / "empty.pth"
    empty.touch()
    text = tmp_path / "text.pth"
    text.write_text("no checkpoint")
    bare = tmp_path / "bare.pth"
    torch.save({"state_dict": {}}, bare)
    old_pickle = tmp_path / "pickle.pth"
    old_pickle.write_bytes(pickle.dumps({"a": 1}))
    for path, message in (
        (tmp_path / "absent.pth", "no file"),
        (empty, "empty file"),
        (text, "no pickle|damaged"),
        (bare, r"\['state_dict'\].*missing"),
        (old_pickle, "no pickle|damaged|missing"),
        (rewritten(checkpoint, tmp_path / "a.pth", other_algo), "algorithm 'bcq'"),
        (rewritten(checkpoint, tmp_path / "b.pth", not_recurrent), "RNN with Gaussian mixture: False"),
        (rewritten(checkpoint, tmp_path / "c.pth", no_config), "configuration"),
    ):
        with pytest.raises(CheckpointError, match=message):
            inspect_checkpoint(path)


# the policy


def test_a_policy_acts_as_robomimics_own_bit_for_bit(checkpoint):
    """robomimic's under `no_grad`: recording gradients, oneDNN's LSTM rounds differently (1e-8)."""
    from robomimic.utils.file_utils import policy_from_checkpoint

    with quiet():
        theirs, _ = policy_from_checkpoint(ckpt_path=str(checkpoint), device=torch.device("cpu"))
    ours = load(LIFT, checkpoint)
    episode = demonstration(11, length=35).observations
    theirs.start_episode()
    ours.start(5)
    torch.manual_seed(5)
    for step in range(35):
        seen = {key: values[step] for key, values in episode.items()}
        with torch.no_grad():
            action = theirs({key: np.array(value) for key, value in seen.items()})
        expected = np.clip(action.astype(np.float64), -1, 1)
        assert np.array_equal(ours.act(seen), expected), step


def test_an_episode_does_not_depend_on_what_ran_before_or_between(checkpoint):
    def episode(policy, disturb=False):
        policy.start(4)
        actions = []
        for step in range(15):
            if disturb:
                torch.rand(3)
            actions.append(policy.act(observation(step)))
        return np.stack(actions)

    policy = load(LIFT, checkpoint)
    first = episode(policy)
    policy.start(9)
    for step in range(4):
        policy.act(observation(step))
    assert np.array_equal(episode(policy, disturb=True), first)
    assert np.array_equal(episode(load(LIFT, checkpoint)), first)
    assert first.dtype == np.float64 and np.abs(first).max() <= 1


def test_the_hidden_state_is_reset_every_horizon(checkpoint):
    policy = load(LIFT, checkpoint)
    policy.start(0)
    actions = [policy.act(observation(0)) for _ in range(20)]
    arm = np.stack(actions)[:, :6]
    modes = np.abs(arm[:10] - arm[10:]).max(axis=1)
    assert modes.min() < 1e-2, "the same observations after a reset give the same mixture"


def test_scalar_observations_are_taken_as_arrays_of_length_one():
    """robomimic's `to_tensor` raises on numpy.float64, which simulators give for observations of length one."""
    from science.robots.bc_rnn.policy import BcRnnPolicy

    policy = BcRnnPolicy.__new__(BcRnnPolicy)
    policy.observation, policy._keys = {"gap": 1}, ("gap",)
    policy._offset, policy._scale = np.zeros(1, np.float32), np.ones(1, np.float32)
    for value in (np.float64(0.5), 0.5, np.array(0.5), np.array([0.5]), [0.5]):
        assert policy._input({"gap": value}).tolist() == [[[0.5]]]


def test_a_checkpoint_of_another_task_or_observation_is_refused(checkpoint, tmp_path):
    with pytest.raises(PolicyError, match=r"task open\.Lift version 1.*expected open\.Stack_D0"):
        SPEC.make(STACK, checkpoint)
    with pytest.raises(PolicyError, match="needs a checkpoint"):
        SPEC.make(LIFT)

    def strange(content):
        del content["tracebed"]
        content["env_metadata"]["env_name"] = "Square_D0"
        del content["env_metadata"]["suite"]

    with pytest.raises(PolicyError, match="'Square_D0'"):
        load(LIFT, rewritten(checkpoint, tmp_path / "square.pth", strange))
    wider = dataclasses.replace(LIFT, observation={**LIFT.observation, "object": 11})
    with pytest.raises(PolicyError, match=r"'object': 10.*'object': 11"):
        load(wider, checkpoint)
    policy = SPEC.make(LIFT, checkpoint)
    with pytest.raises(PolicyError, match="act before start"):
        policy.act(observation())
    policy.start(0)
    with pytest.raises(PolicyError, match="object missing"):
        policy.act({key: value for key, value in observation().items() if key != "object"})


def test_weights_that_are_broken_or_do_not_fit_are_refused(checkpoint, tmp_path):
    def poison(content):
        next(iter(content["model"]["nets"].values()))[0] = float("nan")

    def shrink(content):
        config = json.loads(content["config"])
        config["algo"]["rnn"]["hidden_dim"] = 8
        content["config"] = json.dumps(config)

    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load(LIFT, rewritten(checkpoint, tmp_path / "nan.pth", poison))
    with pytest.raises(CheckpointError, match="do not fit"):
        load(LIFT, rewritten(checkpoint, tmp_path / "small.pth", shrink))


def test_training_lowers_the_action_error_below_that_of_the_mean_action(demonstrations, run, tmp_path):
    config = dataclasses.replace(SMALL, steps=400, learning_rate=3e-3, checkpoint_every=400)
    trained = train(config, demonstrations, LIFT, tmp_path).checkpoints[400]
    early, late = (
        action_error(load(LIFT, path), demonstrations, mask="train", n=2) for path in (run.checkpoints[20], trained)
    )
    assert late["n_demonstrations"] == 2 and late["n_samples"] > 30
    assert late["arm_mse"] < early["arm_mse"] < 1
    assert late["arm_mse"] < 0.5 * late["mean_action"]["arm_mse"]
    assert late["gripper_agreement"] > early["gripper_agreement"]
