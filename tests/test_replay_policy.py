"""Policies of a task, trained and rolled out small, computed again: training, rollouts, rates, and one episode state by
state."""

import json
import os
import re
from dataclasses import replace

import dagster as dg
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from test_task_study import TASK
from test_task_study import Lab as TaskLab

import task_study
from assets.policy.keys import DEMONSTRATIONS, policy_key
from cli import main
from io_managers.artifacts import ArtifactStore
from io_managers.columns import VOLATILE
from io_managers.schemas import table
from io_managers.tables import TableStore
from materialise import run_here
from provenance.lineage import Input, Origin, record
from provenance.records import Records
from provenance.selection import Ambiguous
from replay.artifacts import differing_leaves
from replay.episode import find_episode, replay_episode
from replay.refusals import ReplayRefused
from replay.run import replay
from replay.trajectory import part
from replay.verdict import Verdict
from science.robots.rollouts.episode import TIMES
from science.robots.rollouts.store import read_episode

RECIPES = """
[demonstrations.default]
n = 3
noise = 0.06
tail_steps = 5
action_label = "clean"

[bc_rnn.default]
steps = 20
checkpoint_every = 10
hidden = 20
selection_n = 0
"""
ROLLOUTS = {"n": 1, "arms": ["control", "shift"], "expert_seeds": 0, "workers": 1}
BC_RNN, SCRIPTED = policy_key("rollouts", "bc_rnn"), policy_key("rollouts", "scripted")
CHECKPOINT = policy_key("checkpoint", "bc_rnn")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A task with a policy that was hardly trained, and the scripted expert, each rolled out in two arms."""
    lab = TaskLab(tmp_path_factory.mktemp("replay-policy"))
    recipes = lab.home.root.parent / "recipes.toml"
    recipes.write_text(RECIPES)
    before = dict(os.environ)
    os.environ.update(lab.environment)
    plan = {
        DEMONSTRATIONS: [TASK],
        CHECKPOINT: [TASK],
        BC_RNN: [TASK],
        SCRIPTED: [TASK],
        policy_key("success_rate", "bc_rnn"): [TASK],
    }
    said = []
    with dg.DagsterInstance.get() as instance:
        task_study.add_tasks(instance, [TASK])
        config = {BC_RNN: ROLLOUTS, SCRIPTED: ROLLOUTS}
        assert run_here(lab.home, instance, plan, said.append, config=config), "\n".join(said)
    # Merged with what is there: a training that goes on from the first one, and the expert on another seed.
    assert lab.run(CHECKPOINT, {"intent": "resume", "resume_step": 10}) is None
    assert lab.run(SCRIPTED, ROLLOUTS | {"first_seed": 1, "arms": ["control"]}) is None
    recipes.write_text(RECIPES.replace("n = 3", "n = 2").replace("steps = 20", "steps = 30"))
    yield lab
    os.environ.clear()
    os.environ.update(before)


def cli(*arguments):
    return CliRunner().invoke(main, ["replay", *arguments])


@pytest.mark.parametrize("asset", ["policy/demonstrations", "policy/success_rate/bc_rnn"])
def test_a_value_comes_out_the_same_whatever_the_recipes_say_now(lab, asset):
    found = replay(lab.home, asset, TASK)
    assert found.comparison.verdict is Verdict.BIT_EQUAL, found.comparison.differences


def test_trainings_that_began_fresh_or_went_on_give_the_same_weights(lab):
    before = {path: path.stat().st_mtime_ns for path in lab.home.training.rglob("*")}
    fresh, resumed = Records(TableStore(lab.home.tables)).of("policy/checkpoint/bc_rnn", TASK)
    for each, rows in ((fresh, 2), (resumed, 3)):
        found = replay(lab.home, each.asset, TASK, at=each.run_id)
        assert found.comparison.verdict is Verdict.BIT_EQUAL, found.comparison.differences
        assert found.comparison.rows == found.comparison.artifacts == rows
        assert not found.inputs_differ
    assert {path: path.stat().st_mtime_ns for path in lab.home.training.rglob("*")} == before


def test_rollouts_and_the_rows_that_they_were_merged_with_come_out_the_same(lab):
    episodes = set(lab.home.episodes.rglob("*.npz"))
    merged = replay(lab.home, "policy/rollouts/scripted", TASK)
    assert merged.comparison.verdict is Verdict.BIT_EQUAL, merged.comparison.differences
    assert merged.comparison.rows == 3 and set(merged.comparison.volatile) == set(TIMES) - {"cpu_s"}
    # What was run again has other times in it, and so is another file; the row that was carried over is the same.
    assert (merged.comparison.artifacts, merged.comparison.same_bytes) == (3, 2)
    trained = replay(lab.home, "policy/rollouts/bc_rnn", TASK)
    assert trained.comparison.verdict is Verdict.BIT_EQUAL, trained.comparison.differences
    assert set(lab.home.episodes.rglob("*.npz")) == episodes


def test_a_perturbed_episode_is_run_again_state_by_state(lab):
    said = cli("policy/rollouts/bc_rnn", TASK, "--seed", "0", "--arm", "shift")
    assert said.exit_code == 0 and said.output.rstrip().endswith("BIT-EQUAL"), said.output
    row = lab.rows("rollouts").filter((pl.col("policy") == "bc_rnn") & (pl.col("arm") == "shift")).row(0, named=True)
    assert f"compared: {row['steps'] + 1} states" in said.output and f"engine {row['engine']}" in said.output


def test_the_first_step_that_differs_of_a_file_that_was_changed_is_named(lab):
    row = lab.rows("rollouts").filter((pl.col("policy") == "scripted") & (pl.col("seed") == 1)).row(0, named=True)
    path = lab.home.artifacts / row["episode_artifact"][:2] / row["episode_artifact"]
    whole = path.read_bytes()
    with np.load(path) as content:
        arrays = dict(content)
    arrays["states"][7, 3] += 1e-6
    path.unlink()
    np.savez_compressed(path.open("wb"), **arrays)
    try:
        said = cli("policy/rollouts/scripted", TASK, "--seed", "1")
    finally:
        path.unlink()
        path.write_bytes(whole)
    assert said.exit_code == 1, said.output
    assert "holds other bytes than its name says" in said.output and "DIFFERENT" in said.output
    assert "first at control step 7: state, element 3 of" in said.output
    assert "(by 1e-06); 1 of its elements differ" in said.output and "the simulator" not in said.output


def test_an_episode_that_was_published_wrong_is_found_with_its_step_in_the_whole_table(lab, tmp_path):
    """A trajectory with one changed action, published with sound hashes by a run that had a fault."""
    store, artifacts = TableStore(lab.home.tables), ArtifactStore(lab.home.artifacts)
    key = ("bc_rnn", TASK)
    published = store.partition("rollouts", key)
    before = Records(store).exactly(published.asset, TASK, published.data_version, published.run_id)
    rows = published.frame()
    episode = read_episode(artifacts.path(rows["episode_artifact"][0]))
    actions = episode.actions.copy()
    actions[5, 6] = -actions[5, 6]
    path = tmp_path / "wrong.npz"
    np.savez_compressed(
        path, record=json.dumps(episode.record()), states=episode.states, actions=actions, milestones=episode.milestones
    )
    first = pl.int_range(pl.len()) == 0
    wrong = rows.with_columns(
        episode_artifact=pl.when(first).then(pl.lit(artifacts.put(path))).otherwise(pl.col("episode_artifact"))
    )
    planned = replace(published, run_id="a-run-with-a-fault", data_version="")
    made = store.publish("rollouts", key, wrong, asset=planned.asset, partition=TASK, run_id=planned.run_id)
    inputs = [each for each in before.inputs if isinstance(each, Input)]
    record(store, made, inputs, Origin(before.code_version, None, before.node, before.config))
    found = replay(lab.home, "policy/rollouts/bc_rnn", TASK)
    (difference,) = found.comparison.differences
    assert "episode_artifact -> actions[5, 6], 1 of" in difference.column and difference.count == 1
    assert difference.recorded == -difference.replayed
    step = replay_episode(find_episode(lab.home, planned.asset, TASK, seed=0, arm=rows["arm"][0]))
    assert (step.parting.what, step.parting.step, step.parting.element) == ("action", 5, 6)


def test_an_episode_that_is_not_there_is_refused_with_those_that_are(lab):
    with pytest.raises(ReplayRefused, match="seeds 0 to 1 and arms control, shift"):
        find_episode(lab.home, "policy/rollouts/scripted", TASK, seed=9, arm="control")
    with pytest.raises(ReplayRefused, match="only it has episodes"):
        find_episode(lab.home, "policy/success_rate/bc_rnn", TASK, seed=0, arm="control")
    assert "leave out --site" in cli("policy/rollouts/scripted", TASK, "--seed", "0", "--keep").output


def test_several_evaluations_of_an_episode_are_told_apart(lab):
    store = TableStore(lab.home.tables)
    published = store.partition("rollouts", ("scripted", TASK))
    rows = published.frame()
    both = pl.concat([rows, rows.with_columns(evaluation=pl.lit("f" * 64))])
    made = store.publish(
        "rollouts", ("scripted", "copy"), both, asset="policy/rollouts/scripted", partition="copy", run_id="r"
    )
    record(store, made, [], Origin("1"))
    with pytest.raises(Ambiguous, match=re.escape("2 evaluations ran seed 0, arm control")):
        find_episode(lab.home, "policy/rollouts/scripted", "copy", seed=0, arm="control")


def test_where_two_trajectories_part():
    one = {"states": np.zeros((3, 2)), "actions": np.zeros((2, 1)), "milestones": np.zeros((3, 1), dtype=bool)}
    assert part(one, one) is None
    other = {name: values.copy() for name, values in one.items()}
    other["actions"][1] = 0.5
    other["states"][2] = 0.25
    parting = part(one, other)
    assert (parting.what, parting.step, parting.steps_differing, parting.largest) == ("action", 1, 2, 0.25)


def test_files_of_other_bytes_and_the_same_content_are_equal(tmp_path):
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(a, x=np.arange(3.0), record=json.dumps({"wall_s": 1.0, "outcome": "success"}))
    np.savez_compressed(b, record=json.dumps({"outcome": "success", "wall_s": 2.0}), x=np.arange(3.0))
    assert a.read_bytes() != b.read_bytes() and differing_leaves(a, b) == []
    np.savez(b, x=np.array([0.0, 1.0, 2.5]), record=json.dumps({"wall_s": 1.0, "outcome": "failure"}))
    found = {each.leaf: (each.index, each.recorded, each.replayed) for each in differing_leaves(a, b)}
    assert found == {"x": ((2,), 2.0, 2.5), "record.outcome": ((), "success", "failure")}


def test_what_is_not_compared_is_no_result():
    volatile = {column.name for column in table("checkpoint").columns if column.compared == VOLATILE}
    assert volatile == {"attempt", "versions", "git_commit", "recorded_at"}
