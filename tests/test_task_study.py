"""The whole policy stream on a real simulator, small: from demonstrations to a leaderboard."""

import json
import os
import re
import signal
import threading
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import torch
from fault_jobs import until

import task_study
from assets.policy.keys import BENCHMARK, DEMONSTRATIONS, policy_key
from defs import build_defs
from home import Home
from io_managers.tables import TableStore
from materialise import PlanError, materialise
from resources.attempts import known_attempts
from resources.compute.job_directory import open_jobs, write_text
from resources.compute.job_table import job_table
from science.robots.bc_rnn.checkpoint import read_checkpoint
from science.robots.tasks.base import TaskError

TASK = "open.Lift"
RECIPES = """
[demonstrations.default]
n = 6
noise = 0.06
tail_steps = 5
action_label = "clean"

[bc_rnn.default]
steps = 60
checkpoint_every = 30
hidden = 40
selection_n = 1
"""
POLICIES = ("bc_rnn", "random", "scripted")
SMALL = {"n": 3, "arms": ["control", "drop"]}


class Lab:
    """A home with one task, filled in with a policy that was hardly trained."""

    def __init__(self, folder: Path):
        self.home = Home(folder / "home").ensure()
        recipes = folder / "recipes.toml"
        recipes.write_text(RECIPES)
        self.environment = {**self.home.environment(), "TRACEBED_RECIPES": str(recipes)}

    def run(self, key, config=None, partition=TASK):
        """Materialise one partition; returns the error's message, or None."""
        with dg.DagsterInstance.get() as instance:
            return materialise(build_defs(home=self.home), instance, key, partition, config)

    @property
    def store(self):
        return TableStore(self.home.tables)

    def rows(self, table):
        return self.store.scan(table)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, gl):
    lab = Lab(tmp_path_factory.mktemp("policy"))
    before = dict(os.environ)
    os.environ.update(lab.environment)
    said = []
    with dg.DagsterInstance.get() as instance:
        task_study.add_tasks(instance, [TASK])
    config = {policy_key("rollouts", name): SMALL for name in POLICIES}
    config |= {policy_key("videos", name): {"gl": gl.backend, "size": 64} for name in POLICIES}
    config[policy_key("diagnosis", "bc_rnn")] = {"expert_seeds": 3, "random_seeds": 2, "replayed": 2}
    succeeded = task_study.fill_tasks_here(lab.home, [TASK], ["bc_rnn"], said.append, config)
    assert succeeded, "\n".join(said)
    yield lab
    os.environ.clear()
    os.environ.update(before)


def test_everything_that_a_task_needs_is_there(lab):
    demonstrations = lab.rows("demonstrations")
    assert demonstrations.filter("kept").height == 6
    assert set(demonstrations["split"].drop_nulls()) == {"train", "valid"}
    checkpoints = lab.rows("checkpoint").sort("step")
    assert checkpoints["step"].to_list() == [30, 60] and checkpoints["chosen"].sum() == 1
    assert lab.rows("train_attempts")["ending"].to_list() == ["FINISHED"]
    assert lab.rows("train_curve")["loss"].drop_nulls().len() > 0
    board = lab.rows("benchmark_policy").filter(pl.col("arm") == "control")
    rates = dict(board.select("policy", "rate").iter_rows())
    assert set(rates) == {"bc_rnn", "random", "scripted"}
    assert (rates["scripted"], rates["random"]) == (1.0, 0.0)
    assert lab.rows("benchmark_policy_pairs").height == 3
    assert lab.rows("diagnosis").height > 0


def test_a_rollout_leads_to_its_checkpoint_and_states(lab):
    row = lab.rows("rollouts").filter(pl.col("policy") == "bc_rnn").row(0, named=True)
    chosen = lab.rows("checkpoint").filter("chosen").row(0, named=True)
    assert (row["checkpoint_hash"], row["step"]) == (chosen["checkpoint_hash"], chosen["step"])
    assert (lab.home.artifacts / row["episode_artifact"][:2] / row["episode_artifact"]).is_file()
    lineage = lab.rows("lineage").filter(pl.col("asset") == "policy/rollouts/bc_rnn")
    assert "policy/checkpoint/bc_rnn" in lineage["input_asset"].to_list()


def test_success_is_not_shown_before_there_are_enough_episodes_and_failures_are(lab):
    videos = lab.rows("videos")
    assert "success" not in videos.filter(pl.col("arm") == "control")["outcome"].to_list()
    assert videos.filter((pl.col("policy") == "random") & (pl.col("outcome") == "failure")).height > 0
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(policy_key("videos", "scripted"))
    assert event.asset_materialization.metadata["successes"].value == "WAITING: 3 episodes, at least 20 are needed"


def test_more_seeds_cost_only_the_episodes_that_are_missing(lab):
    before = lab.rows("rollouts").filter(pl.col("policy") == "random")
    files = {path: path.stat().st_mtime_ns for path in lab.home.episodes.rglob("*.npz")}
    assert lab.run(policy_key("rollouts", "random"), SMALL | {"n": 4}) is None
    after = lab.rows("rollouts").filter(pl.col("policy") == "random")
    assert after.height == before.height + 2
    assert after.join(before, on=["seed", "arm", "trajectory_hash", "wall_s"], how="semi").height == before.height
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_rollouts_need_no_expert_and_refuse_what_does_not_apply(lab):
    assert lab.run(policy_key("rollouts", "bc_rnn"), SMALL | {"expert_seeds": 0}) is None
    error = lab.run(policy_key("rollouts", "bc_rnn"), SMALL | {"engine": "warp"})
    assert "found engine 'warp'" in error and "'exact', 'robosuite'" in error
    assert "which has no checkpoints" in lab.run(policy_key("rollouts", "random"), SMALL | {"step": 30})


def test_a_damaged_partition_is_named_before_any_work_is_done(lab):
    path = lab.home.tables / "rollouts" / "scripted" / TASK / "data.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    error = lab.run(policy_key("rollouts", "scripted"), SMALL)
    path.write_bytes(whole)
    assert "Move that file away" in error and str(path) in error


def test_a_second_training_needs_an_intent_and_overwrites_nothing(lab):
    key = policy_key("checkpoint", "bc_rnn")
    before = lab.rows("checkpoint")
    refused = lab.run(key)
    assert "no intent was given" in refused and "checkpoints at steps 30, 60" in refused
    assert len(known_attempts(lab.home, "bc_rnn", TASK)) == 1
    assert lab.run(key, {"intent": "resume", "resume_step": 30}) is None
    after = lab.rows("checkpoint")
    assert set(before["checkpoint_hash"]) <= set(after["checkpoint_hash"])
    assert after["chosen"].sum() == 1
    attempts = lab.rows("train_attempts").sort("started_at")
    assert attempts["intent"].to_list() == ["fresh", "resume"]
    assert attempts["resumed_from"].to_list() == [None, attempts["attempt"][0]]
    resumed = after.filter((pl.col("step") == 60) & (pl.col("attempt") == attempts["attempt"][1]))
    assert resumed.height == 1
    plan = task_study.training_plan(lab.home, "bc_rnn", [TASK], "resume", 30)
    assert "resume attempt" in plan[0]
    assert task_study.training_plan(lab.home, "bc_rnn", [TASK], None, None)[0].startswith("REFUSED")
    known = len(known_attempts(lab.home, "bc_rnn", TASK))
    assert "found settings ['stepz']" in lab.run(key, {"intent": "fresh", "overrides": {"stepz": 5}})
    assert len(known_attempts(lab.home, "bc_rnn", TASK)) == known
    # What a run that died after its training left behind is published by a resume at its end.
    assert lab.run(key, {"intent": "resume", "resume_step": 60}) is None
    assert lab.rows("checkpoint")["chosen"].sum() == 1


def test_a_plan_trains_nothing_again_and_says_so(lab):
    with dg.DagsterInstance.get() as instance:
        needed = task_study.plan_tasks(lab.home, instance, [TASK], ["bc_rnn"])
        assert needed[policy_key("checkpoint", "bc_rnn")] == [] and needed[DEMONSTRATIONS] == []
        assert needed[policy_key("rollouts", "bc_rnn")] == [TASK] and needed[BENCHMARK] == [None]
        said = task_study.left_out_tasks(lab.home, [TASK], needed)
        assert said == [f"bc_rnn on {TASK}: its checkpoint is kept, not trained again"]
        with pytest.raises(PlanError, match=r"no such tasks: open\.Stack_D0"):
            task_study.plan_tasks(lab.home, instance, ["open.Stack_D0"])
        with pytest.raises(PlanError, match="no such policies: typo"):
            task_study.plan_tasks(lab.home, instance, [TASK], ["typo"])
        with pytest.raises(TaskError, match=r"open\.Nothing"):
            task_study.add_tasks(instance, ["open.Nothing"])


def test_a_partition_that_names_no_task_fails_with_the_tasks_that_there_are(lab):
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("tasks", ["open.Juggle"])
    error = lab.run(policy_key("rollouts", "random"), SMALL, "open.Juggle")
    assert "open.Juggle" in error and "open.Lift" in error


def test_an_imported_checkpoint_is_external_and_another_tasks_is_refused(lab):
    artifact = lab.rows("checkpoint").sort("step")["checkpoint_artifact"][0]
    link = lab.home.root / "link.pth"
    link.symlink_to(lab.home.artifacts / artifact[:2] / artifact)
    said = []
    assert not task_study.import_checkpoint(lab.home, "bc_rnn", "open.Stack_D0", link, False, said.append)
    assert "found a checkpoint of task open.Lift" in said[-1]
    assert task_study.import_checkpoint(lab.home, "bc_rnn", TASK, link, False, said.append)
    chosen = lab.rows("checkpoint").filter("chosen").row(0, named=True)
    assert chosen["origin"] == "EXTERNAL" and chosen["source"].endswith(artifact)
    with dg.DagsterInstance.get() as instance:
        assert "open.Stack_D0" not in instance.get_dynamic_partitions("tasks")
    assert lab.rows("lineage").filter(pl.col("input_address") == str(link.resolve())).height == 1
    with pytest.raises(PlanError, match="found no file at"):
        task_study.import_checkpoint(lab.home, "bc_rnn", TASK, Path("nowhere.pth"), False, said.append)
    with pytest.raises(PlanError, match="expected one that has checkpoints: bc_rnn"):
        task_study.import_checkpoint(lab.home, "random", TASK, link, False, said.append)


def test_demonstrations_are_imported_from_a_file(lab):
    artifact = lab.rows("demonstrations")["dataset_artifact"][0]
    source = lab.home.artifacts / artifact[:2] / artifact
    assert lab.run(DEMONSTRATIONS, {"source": str(source)}) is None
    rows = lab.rows("demonstrations")
    assert set(rows["origin"]) == {"imported"} and rows["kept"].all()
    assert json.loads(rows["settings"][0])["source"] == str(source)
    broken = lab.home.root / "broken.hdf5"
    broken.write_bytes(source.read_bytes()[:5000])
    assert "broken.hdf5" in lab.run(DEMONSTRATIONS, {"source": str(broken)})
    assert lab.rows("demonstrations").equals(rows)


@pytest.mark.fault(
    "the node of a BC-RNN training dies after its second checkpoint (another boot id; the process killed)",
    "the same attempt goes on from its last checkpoint, in a second submission, and gives the weights of one long run",
)
def test_a_training_whose_node_failed_goes_on_and_gives_the_weights_of_one_long_run(lab, record_property):
    config = {"intent": "fresh", "overrides": {"steps": 60, "checkpoint_every": 10, "selection_n": 0}}
    key = policy_key("checkpoint", "bc_rnn")
    assert lab.run(key, config) is None
    failing = threading.Thread(target=_let_the_node_fail, args=(lab.home, set(_attempts(lab))))
    failing.start()
    assert lab.run(key, config) is None
    failing.join()
    straight, broken = sorted(_attempts(lab))[-2:]
    rows = job_table(lab.home).filter(pl.col("asset") == "policy/checkpoint/bc_rnn").head(2).sort("submission")
    assert rows["ending"].to_list() == ["NODE_FAIL", "SUCCEEDED"] and rows["key"].n_unique() == 1
    log = (lab.home.jobs / rows["key"][0] / "2" / "log").read_text()
    resumed = int(re.search(r"goes on from step (\d+)", log)[1])
    assert 20 <= resumed < 60
    one, other = (
        read_checkpoint(lab.home.training / "bc_rnn" / TASK / each / "step-000060.pth") for each in (straight, broken)
    )
    assert one["model"]["nets"].keys() == other["model"]["nets"].keys()
    assert all(torch.equal(value, other["model"]["nets"][name]) for name, value in one["model"]["nets"].items())
    curve = lab.rows("train_curve").filter(pl.col("attempt") == broken)
    assert curve["step"].is_unique().all()
    record_property("measured", f"resumed at step {resumed} of 60; weights bit-equal")


def _attempts(lab):
    return [path.name for path in (lab.home.training / "bc_rnn" / TASK).iterdir()]


def _let_the_node_fail(home: Home, known: set[str]) -> None:
    """Kill the training after its second checkpoint, and let its node have been started anew.

    A real reboot is not to be had in a test: the boot id that was recorded at the start is replaced by another one.
    """
    folder = home.training / "bc_rnn" / TASK
    new = until(lambda: [path for path in folder.iterdir() if path.name not in known], 120, "a new attempt begins")[0]
    until((new / "step-000020.pth").exists, 120, "its second checkpoint is there")
    (job,) = open_jobs(home.jobs)
    files = job.submission(1)
    pid, ticks, _, host = (files.path / "process").read_text().split()
    write_text(files.path / "process", f"{pid} {ticks} another-boot {host}\n")
    os.killpg(int(pid), signal.SIGKILL)
