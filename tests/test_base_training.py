"""A base is trained here, fine-tuned with LoRA, rolled out and traced; a fine-tune of its sibling is found out."""

import json
import os

import dagster as dg
import pytest
from test_task_study import Lab

import task_study
from assets.policy.keys import BENCHMARK, DEMONSTRATIONS, policy_key
from io_managers.artifacts import ArtifactStore
from provenance.trace import trace
from provenance.views.html import as_html

LIFT, STACK = "open.Lift", "open.Stack_D0"
NETWORK = "width = 16, layers = 1, heads = 2, batch_size = 16, warmup_steps = 1, selection_n = 0"
RECIPES = """
[demonstrations.default]
n = 3
noise = 0.05
tail_steps = 2
action_label = "clean"

[tiny_vla.default]
weight_loader = "small_base"
lora_rank = 2
width = 16
layers = 1
heads = 2
batch_size = 16
warmup_steps = 1
steps = 4
checkpoint_every = 2
selection_n = 1
"""
BASES = f"""
[base.small_base]
policy = "tiny_vla"
tasks = ["{LIFT}", "{STACK}"]
settings = {{ {NETWORK}, steps = 4, checkpoint_every = 4 }}

[base.sibling]
policy = "tiny_vla"
tasks = ["{LIFT}", "{STACK}"]
settings = {{ {NETWORK}, steps = 4, checkpoint_every = 4, seed = 1 }}
"""
CHECKPOINT, ROLLOUTS, RATE = (policy_key(kind, "tiny_vla") for kind in ("checkpoint", "rollouts", "success_rate"))
ROLLED_OUT = {"n": 2, "arms": ["control"], "expert_seeds": 0, "workers": 2}
TRAINED_BASES = [
    policy_key(kind, name) for name in ("small_base", "sibling") for kind in ("base_checkpoint", "base_weights")
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    lab = Lab(folder)
    (folder / "recipes.toml").write_text(RECIPES)
    (folder / "bases.toml").write_text(BASES)
    before = dict(os.environ)
    os.environ.update(lab.environment | {"TRACEBED_BASES": str(folder / "bases.toml")})
    with dg.DagsterInstance.get() as instance:
        task_study.add_tasks(instance, [LIFT, STACK])
    for task in (LIFT, STACK):
        assert lab.run(DEMONSTRATIONS, partition=task) is None
    yield lab
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def filled(lab):
    """Everything up to the leaderboard."""
    error = lab.run(CHECKPOINT)
    assert "the base 'small_base' has no checkpoint yet" in error
    for key in TRAINED_BASES:
        assert lab.run(key, partition=None) is None
    for key, config in ((CHECKPOINT, None), (ROLLOUTS, ROLLED_OUT), (RATE, None)):
        assert lab.run(key, config) is None
    assert lab.run(BENCHMARK, partition=None) is None
    return lab


def test_a_plan_trains_the_base_first_and_says_what_it_leaves_out_and_why(lab):
    def planned(*only):
        plan = task_study.plan_tasks(lab.home, instance, [LIFT], only)
        return {key.to_user_string(): parts for key, parts in plan.items() if parts}, task_study.left_out_tasks(
            lab.home, [LIFT], plan
        )

    with dg.DagsterInstance.get() as instance:
        plan, said = planned("tiny_vla", "openpi")
        assert plan["policy/base_checkpoint/small_base"] == plan["policy/base_weights/small_base"] == [None]
        assert plan["policy/checkpoint/tiny_vla"] == [LIFT] and "policy/base_checkpoint/sibling" not in plan
        asked = f"`tracebed checkpoint import openpi {LIFT} FILE`"
        assert said == [f"openpi on {LIFT} left out: it is not trained here: {asked}"]
        task_study.remove_task(instance, STACK)
        try:
            plan, said = planned("tiny_vla")
        finally:
            task_study.add_tasks(instance, [STACK])
    assert "policy/checkpoint/tiny_vla" not in plan
    assert said == [
        f"tiny_vla on {LIFT} left out: its base small_base is trained on {STACK}, too: `tracebed task add {STACK}`"
    ]


def test_the_base_of_a_fine_tune_is_proven_by_its_leaves_and_stands_beside_its_rate(filled):
    row = filled.rows("checkpoint").filter("chosen").row(0, named=True)
    assert (row["base_verdict"], row["base_weights"]) == ("PROVEN", "small_base"), row["base_evidence"]
    assert "leaves equal" in row["base_evidence"]
    board = filled.rows("benchmark_policy").filter(policy="tiny_vla").row(0, named=True)
    assert (board["base_verdict"], board["base_weights"]) == ("PROVEN", "small_base")
    assert board["checkpoint_hash"] == row["checkpoint_hash"] and board["steps_per_s"] > 0


def test_the_bases_are_rows_of_their_own_with_their_tasks(filled):
    rows = filled.rows("base_checkpoint").to_dicts()
    assert {row["base"] for row in rows} == {"small_base", "sibling"}
    assert all(json.loads(row["tasks"]) == [LIFT, STACK] and row["base_verdict"] == "PROVEN" for row in rows)
    assert {row["base_weights"] for row in rows} == {"scratch"}
    attempts = filled.rows("train_attempts")
    assert {("base", "small_base"), ("base", "sibling"), ("open", "Lift")} == set(
        attempts.select("suite", "task").rows()
    )


def test_the_rollouts_asked_one_server_of_the_job(filled):
    rows = filled.rows("rollouts").filter(policy="tiny_vla")
    assert rows.height == 2 and rows["server_s"].min() > 0 and set(rows["outcome"]) <= {"success", "failure"}
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(ROLLOUTS)
    metadata = event.asset_materialization.metadata
    assert metadata["answered"].value == "one server in this job; no GPU was given to the job"
    shares = [metadata[f"share_{part}"].value for part in ("policy", "transport", "physics")]
    assert all(0 < share < 1 for share in shares) and sum(shares) <= 1


def test_without_a_server_the_same_episodes_come_out(filled):
    before = filled.rows("rollouts").filter(policy="tiny_vla").sort("seed")["trajectory_hash"].to_list()
    for path in filled.home.episodes.rglob("*.npz"):
        path.unlink()
    assert filled.run(ROLLOUTS, ROLLED_OUT | {"server": "none"}) is None
    after = filled.rows("rollouts").filter(policy="tiny_vla").sort("seed")
    assert after["trajectory_hash"].to_list() == before and after["server_s"].null_count() == 2


def test_a_trace_leads_from_the_rate_to_the_base_and_its_demonstrations(filled):
    found = trace(filled.home, RATE.to_user_string(), LIFT)
    assert not found.problems, found.problems
    assets = {node.asset for node in found.nodes.values()}
    assert {CHECKPOINT.to_user_string(), "policy/base_checkpoint/small_base"} <= assets
    read = {(node.asset, node.partition) for node in found.nodes.values()}
    assert ("policy/demonstrations", STACK) in read
    page = as_html(found)
    assert "PROVEN small_base" in page


def test_a_lora_of_a_sibling_that_claims_the_base_is_contradicted(filled, tmp_path):
    """Its settings name the base; its frozen leaves are the sibling's."""
    assert filled.run(CHECKPOINT, {"intent": "fresh", "overrides": {"weight_loader": "sibling"}}) is None
    row = filled.rows("checkpoint").filter("chosen").row(0, named=True)
    assert (row["base_verdict"], row["base_weights"]) == ("PROVEN", "sibling")
    lying = tmp_path / "claims-the-base.tar"
    claim(ArtifactStore(filled.home.artifacts).verified(row["checkpoint_artifact"]), lying, "small_base")
    error = filled.run(CHECKPOINT, {"external": str(lying)})
    row = filled.rows("checkpoint").filter("chosen").row(0, named=True)
    assert row["origin"] == "EXTERNAL" and row["base_verdict"] == "CONTRADICTED", (error, row["base_evidence"])


def claim(path, destination, base):
    """A copy of a checkpoint whose settings name another base."""
    from dataclasses import replace

    from science.robots.tiny_vla.checkpoint import inspect_checkpoint, read_train_state, read_weights, write_checkpoint

    info = inspect_checkpoint(path)
    told = replace(info, settings={**info.settings, "weight_loader": base})
    write_checkpoint(destination, told, read_weights(path), read_train_state(path))


def test_a_server_that_is_none_is_refused_before_anything_runs(filled):
    error = filled.run(ROLLOUTS, ROLLED_OUT | {"server": "yes"})
    assert "server" in error and "own|none|" in error


def test_a_policy_with_cameras_is_trained_on_pictures_of_the_demonstrations_and_sees_in_its_rollouts(filled):
    from_scratch = {"weight_loader": "scratch", "lora_rank": 0, "cameras": ["agentview"], "camera_px": 28, "steps": 2}
    assert filled.run(CHECKPOINT, {"intent": "fresh", "overrides": from_scratch}) is None
    assert filled.run(ROLLOUTS, ROLLED_OUT) is None
    chosen = filled.rows("checkpoint").filter("chosen").row(0, named=True)
    assert json.loads(chosen["settings"])["cameras"] == ["agentview"] and chosen["base_verdict"] == "PROVEN"
    rows = filled.rows("rollouts").filter(checkpoint_hash=chosen["checkpoint_hash"])
    assert rows.height == 2 and rows["error"].null_count() == 2
