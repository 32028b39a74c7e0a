"""tiny_vla: bits that depend on settings, data and step alone; LoRA that leaves its base as it is; refusals by name."""

import dataclasses
import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from demonstration_files import LIFT, STACK, demonstration, write_file

from provenance.weights.candidates import Candidate
from provenance.weights.evidence import Verdict
from provenance.weights.fingerprint import fingerprint
from provenance.weights.origin import judge_origin
from provenance.weights.readers import open_weights
from science.robots.policies.base import PolicyError
from science.robots.policies.batched import Row, episode_noise, image_key
from science.robots.policies.conformance import problems
from science.robots.policies.tiny_vla import SPEC
from science.robots.tiny_vla.checkpoint import CheckpointError, inspect_checkpoint, read_weights
from science.robots.tiny_vla.config import ConfigError, TinyVlaConfig, frozen, resolve
from science.robots.tiny_vla.facts import facts, inspect
from science.robots.tiny_vla.training import train
from science.robots.training_result import TrainingError

SMALL = TinyVlaConfig(width=16, layers=2, heads=2, batch_size=8, steps=6, checkpoint_every=3, warmup_steps=2, seed=3)
LORA = dataclasses.replace(SMALL, weight_loader="base", lora_rank=2, seed=5)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {task.key: write_file(folder / f"{task.key}.hdf5", task=task) for task in (LIFT, STACK)}


@pytest.fixture(scope="module")
def lift(datasets):
    return {LIFT.key: datasets[LIFT.key]}


@pytest.fixture(scope="module")
def base(datasets, tmp_path_factory):
    return train(SMALL, datasets, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tuned(base, lift, tmp_path_factory):
    return train(LORA, lift, tmp_path_factory.mktemp("tuned"), base=base.checkpoints[6]).checkpoints[6]


def rows(policy, n, key=0):
    seen = demonstration(key).observations
    return [
        Row(f"{i}", i, 0, {name: seen[name][i] for name in policy.observation}, episode_noise(i, 0, policy.noise_shape))
        for i in range(n)
    ]


# training


def test_the_same_training_gives_the_same_file(base, datasets, tmp_path):
    again = train(SMALL, datasets, tmp_path)
    assert again.losses == base.losses and again.finished
    assert again.checkpoints[6].read_bytes() == base.checkpoints[6].read_bytes()
    other = train(dataclasses.replace(SMALL, seed=4, steps=3), datasets, tmp_path / "other")
    assert other.checkpoints[3].read_bytes() != base.checkpoints[3].read_bytes()


def test_a_resumed_training_is_one_long_run_bit_for_bit(base, datasets, tmp_path):
    resumed = train(SMALL, datasets, tmp_path, resume_from=base.checkpoints[3])
    assert (resumed.first_step, resumed.last_step) == (3, 6) and resumed.losses == base.losses[3:]
    assert resumed.checkpoints[6].read_bytes() == base.checkpoints[6].read_bytes()


def test_a_training_that_is_asked_to_stop_keeps_its_step(lift, tmp_path):
    seen = []
    result = train(SMALL, lift, tmp_path, on_step=lambda step, *_: seen.append(step), should_stop=lambda: seen[-1] == 2)
    assert not result.finished and [*result.checkpoints] == [2]
    assert inspect_checkpoint(result.checkpoints[2]).step == 2


def test_the_loss_of_something_learnable_falls(lift, tmp_path):
    config = dataclasses.replace(SMALL, steps=150, checkpoint_every=150, learning_rate=5e-3)
    losses = train(config, lift, tmp_path).losses
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])


def test_what_cannot_be_resumed_is_named(base, datasets, lift, tmp_path):
    at_3 = base.checkpoints[3]
    with pytest.raises(CheckpointError, match=r"of another training.*'seed': \(3, 9\)"):
        train(dataclasses.replace(SMALL, seed=9), datasets, tmp_path, resume_from=at_3)
    with pytest.raises(CheckpointError, match="demonstrations"):
        train(SMALL, lift, tmp_path, resume_from=at_3)


def test_a_loss_that_is_not_finite_ends_the_training_with_its_step(lift, tmp_path):
    with np.errstate(all="ignore"), pytest.raises(TrainingError, match=r"found loss .* at step \d+, expected a finite"):
        train(dataclasses.replace(SMALL, learning_rate=1e18, warmup_steps=0, steps=40), lift, tmp_path)


# LoRA and bases


def test_lora_leaves_every_frozen_leaf_of_its_base_as_it_is_and_changes_the_others(base, tuned):
    theirs, ours = read_weights(base.checkpoints[6]), read_weights(tuned)
    patterns = frozen(LORA.settings())
    told = fingerprint(open_weights(tuned))
    equal = {name for name in theirs if np.array_equal(theirs[name], ours[name])}
    assert equal == {name for name in theirs if name.startswith(("language/", "prefix/", "expert/"))}
    assert all(np.abs(ours[name]).max() > 0 for name in ours if name.endswith("lora_b") and "layer_0/q" in name)
    assert set(ours) - set(theirs) == {name for name in told if name.rpartition("/")[2].startswith("lora_")}
    assert len(patterns) == 5


def test_the_base_is_proven_by_its_leaves_and_a_sibling_contradicts(base, tuned, datasets, lift, tmp_path):
    sibling = train(dataclasses.replace(SMALL, seed=7), datasets, tmp_path / "sibling").checkpoints[6]
    candidates = [
        Candidate(name, fingerprint(open_weights(path)), (name,))
        for name, path in (("base", base.checkpoints[6]), ("sibling", sibling))
    ]
    untouched = frozen(LORA.settings())
    right = judge_origin(fingerprint(open_weights(tuned)), candidates, (), claimed="base", untouched=untouched)
    assert (right.verdict, right.base) == (Verdict.PROVEN, "base"), right.sentence
    of_sibling = train(LORA, lift, tmp_path / "wrong", base=sibling).checkpoints[6]
    wrong = judge_origin(fingerprint(open_weights(of_sibling)), candidates, (), claimed="base", untouched=untouched)
    assert wrong.verdict is Verdict.CONTRADICTED, wrong.sentence


def test_a_base_of_another_shape_or_with_lora_is_refused(base, tuned, lift, tmp_path):
    with pytest.raises(CheckpointError, match=r"base 'base' of another shape.*'width': \(16, 32\)"):
        train(dataclasses.replace(LORA, width=32), lift, tmp_path, base=base.checkpoints[6])
    with pytest.raises(CheckpointError, match="with LoRA of rank 2"):
        train(LORA, lift, tmp_path, base=tuned)
    with pytest.raises(TrainingError, match="found weight_loader = 'base' and no checkpoint"):
        train(LORA, lift, tmp_path)


# settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_rank": 4}, "without weight_loader"),
        ({"width": 30}, "a multiple"),
        ({"replan_steps": 9}, "at most 8"),
        ({"cameras": ["agentview"], "camera_px": 80}, "a multiple of patch_px"),
        ({"cameras": ["a", "a"]}, "each once"),
        ({"steps": 0}, "at least 1"),
        ({"steps": "many"}, "expected int"),
        ({"seed": True}, "expected int"),
        ({"cameras": "agentview"}, "expected tuple"),
        ({"weight_loader": 3}, "expected str"),
        ({"depth": 3}, r"found settings \['depth'\]"),
        ({"schedule": "linear"}, "'constant' or 'cosine'"),
        ({"selection_n": -1}, "at least 0"),
        ({"learning_rate": 0.0}, "> 0"),
    ],
)
def test_settings_that_cannot_be_trained_with_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        resolve(given)


def test_settings_are_whole_and_say_what_a_resume_may_change():
    settings, free = resolve({"steps": 10, "learning_rate": 1, "weight_loader": "b"})
    assert settings["width"] == 64 and settings["selection_n"] == 10 and free == {"checkpoint_every", "selection_n"}
    assert "steps" in resolve({"schedule": "constant"})[1]
    assert resolve({"weight_loader": "scratch"})[0]["weight_loader"] is None
    del settings["selection_n"]
    assert TinyVlaConfig.from_settings(json.loads(json.dumps(settings))).settings() == settings
    assert frozen({"lora_rank": 0}) == []


def test_settings_are_known_without_jax():
    code = (
        "import sys, science.robots.policies.registry as r; r.policy_specs();"
        "import science.robots.tiny_vla.config, science.robots.tiny_vla.checkpoint, science.robots.tiny_vla.facts;"
        "print(*[name for name in ('jax', 'orbax', 'optax', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


# the policy


def test_a_batch_has_one_shape_so_no_bit_depends_on_who_else_asks(base):
    policy = SPEC.make_batched(LIFT, base.checkpoints[6])
    assert problems(policy) == []
    asked = rows(policy, 11)
    together = policy.infer(asked)
    assert together.shape == (11, 8, 7) and np.abs(together).max() <= 1
    assert all(np.array_equal(policy.infer([row])[0], answer) for row, answer in zip(asked, together, strict=True))


def test_it_reads_words_and_noise_and_its_own_tasks_normalisation(base):
    policy = SPEC.make_batched(LIFT, base.checkpoints[6])
    (row,) = rows(policy, 1)
    first = policy.infer([row])
    assert np.array_equal(policy.infer([dataclasses.replace(row, prompt=LIFT.instruction)]), first)
    assert not np.array_equal(policy.infer([dataclasses.replace(row, prompt="drop everything")]), first)
    assert not np.array_equal(policy.infer([dataclasses.replace(row, noise=-row.noise)]), first)
    assert dict(SPEC.make_batched(STACK, base.checkpoints[6]).observation) == dict(STACK.observation)


def test_a_task_that_it_was_not_trained_on_is_refused(tuned):
    with pytest.raises(
        PolicyError, match=r"found a checkpoint of open.Lift, expected one that was trained on open.Stack"
    ):
        SPEC.make(STACK, tuned)


def test_a_checkpoint_tells_what_an_import_and_a_diagnosis_want(base, tuned, lift):
    told = inspect(tuned)
    assert (told.step, told.seed, told.settings["weight_loader"]) == (6, 5, "base")
    assert told.data_hash == inspect_checkpoint(tuned).data_hashes[LIFT.key] and "jax" in told.versions
    assert facts(tuned)["checkpoint_observation"] == dict(LIFT.observation)
    assert "checkpoint_task" not in facts(base.checkpoints[6])


# cameras


@pytest.mark.parametrize("cameras", [("agentview",), ("agentview", "robot0_eye_in_hand")])
def test_one_or_two_cameras_are_read_and_their_pictures_count(lift, tmp_path, cameras):
    pictured = tmp_path / "pictured.hdf5"
    pictured.write_bytes(lift[LIFT.key].read_bytes())
    generator = np.random.default_rng(0)
    with h5py.File(pictured, "r+") as file:
        for demo in file["data"].values():
            for camera in cameras:
                shape = (len(demo["actions"]), 28, 28, 3)
                demo[f"obs/{image_key(camera)}"] = generator.integers(0, 256, shape, dtype=np.uint8)
    config = dataclasses.replace(SMALL, cameras=cameras, camera_px=28, steps=2)
    path = train(config, {LIFT.key: pictured}, tmp_path).checkpoints[2]
    policy = SPEC.make_batched(LIFT, path)
    assert dict(policy.cameras) == dict.fromkeys(cameras, (28, 28))
    assert problems(policy) == []
    with pytest.raises(TrainingError, match=r"found pictures of agentview of shape None.*with_pictures"):
        train(config, lift, tmp_path)
