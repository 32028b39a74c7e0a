"""A policy is trained, evaluated, trained again with another seed, and evaluated again: each rate leads to its own."""

import os

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner
from test_task_study import TASK, Lab

import task_study
from assets.policy.keys import BENCHMARK, DEMONSTRATIONS, policy_key
from cli import main
from io_managers.catalog import connect
from provenance.audit.audit import audit
from provenance.garbage import find_garbage, remove
from provenance.records import Records
from provenance.trace import trace, trace_row
from provenance.trainings.comparison import compare_trainings
from provenance.trainings.training import find_training
from provenance.views.html import as_html
from replay.episode import find_episode, replay_episode
from replay.run import replay
from replay.verdict import Verdict

CHECKPOINT, ROLLOUTS, RATE = (policy_key(kind, "bc_rnn") for kind in ("checkpoint", "rollouts", "success_rate"))
ASSET = "policy/success_rate/bc_rnn"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("retraining"))
    before = dict(os.environ)
    os.environ.update(lab.environment)
    with dg.DagsterInstance.get() as instance:
        task_study.add_tasks(instance, [TASK])
    evaluated = {"n": 3, "arms": ["control"], "expert_seeds": 0}
    for key, config in (
        (DEMONSTRATIONS, None),
        (CHECKPOINT, None),
        (ROLLOUTS, evaluated),
        (RATE, None),
        (CHECKPOINT, {"intent": "fresh", "overrides": {"seed": 1}}),
        (ROLLOUTS, evaluated),
        (RATE, None),
    ):
        assert lab.run(key, config) is None
    assert lab.run(BENCHMARK, partition=None) is None
    yield lab
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def rates(lab):
    """The rows of both evaluations, the first one first."""
    rows = lab.rows("success_rate").filter(pl.col("policy") == "bc_rnn").sort("chosen")
    assert rows["chosen"].to_list() == [False, True]
    return rows.to_dicts()


def checkpoint_said(found):
    """What the trace says of the checkpoint that the rate stands on."""
    nodes = [each for each in found.nodes.values() if each.asset == "policy/checkpoint/bc_rnn"]
    return {fact.text for node in nodes for fact in node.facts if fact.label == "checkpoint"}


def test_each_rate_traces_to_its_own_checkpoint_and_only_the_first_is_superseded(lab, rates):
    first, second = (trace_row(lab.home, "success_rate", {"evaluation": row["evaluation"]}) for row in rates)
    for found, row in ((first, rates[0]), (second, rates[1])):
        said = checkpoint_said(found)
        assert said and all(row["checkpoint_hash"] in text for text in said)
        assert not found.problems
        seeds = {fact.text for node in found.nodes.values() for fact in node.facts if fact.label == "training seed"}
        assert seeds == {"0" if row is rates[0] else "1"}
        origin = {fact.text for node in found.nodes.values() for fact in node.facts if fact.label == "base weights"}
        assert len(origin) == 1 and origin.pop().startswith("PROVEN scratch")
    assert first.superseded == ["policy/checkpoint/bc_rnn [open.Lift]: another is chosen now"]
    assert not second.superseded
    newest = trace(lab.home, ASSET, TASK)
    assert newest.value["evaluation"].to_list() == [rates[1]["evaluation"]]


def test_the_value_of_before_the_retraining_is_still_there(lab, rates):
    before = Records(lab.store).of(ASSET, TASK)[0]
    past = trace(lab.home, ASSET, TASK, at=before.run_id)
    assert past.value["evaluation"].to_list() == [rates[0]["evaluation"]]
    assert f"{ASSET} [{TASK}]: another is chosen now" in past.superseded
    with connect(lab.home) as connection:
        query = "SELECT newest, rate FROM success_rate_versions WHERE evaluation = ? AND chosen"
        assert connection.execute(query, [rates[0]["evaluation"]]).fetchall() == [(False, rates[0]["rate"])]
        status = dict(connection.execute("SELECT evaluation, superseded FROM success_rate_status").fetchall())
    assert status == {rates[0]["evaluation"]: "another checkpoint is chosen now", rates[1]["evaluation"]: None}


def test_a_reader_of_the_page_is_told(lab, rates):
    page = as_html(trace_row(lab.home, "success_rate", {"evaluation": rates[0]["evaluation"]}))
    assert "another is chosen now" in page and rates[0]["checkpoint_hash"][:12] in page
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_audit_of_both_is_clean(lab):
    with dg.DagsterInstance.get() as instance:
        report = audit(lab.home, instance, (ASSET,))
    assert report.clean, report.findings
    assert report.counts.events > 0 and report.counts.artifacts > 0


def test_the_rate_and_one_episode_replay_bit_for_bit(lab, rates):
    assert replay(lab.home, ASSET, TASK).comparison.verdict is Verdict.BIT_EQUAL
    for row in rates:
        found = find_episode(
            lab.home, "policy/rollouts/bc_rnn", TASK, seed=1, arm="control", evaluation=row["evaluation"]
        )
        assert replay_episode(found).verdict is Verdict.BIT_EQUAL


def test_the_two_trainings_compare_as_equal_but_for_their_seed(lab, rates):
    a, b = (find_training(lab.home, row["checkpoint_hash"][:12]) for row in rates)
    found = compare_trainings(lab.home, a, b)
    assert [each.what for each in found.differences] == ["setting seed"]
    assert any("only the training seed differs" in each for each in found.conclusions)
    assert any("on 3 shared seeds" in each for each in found.conclusions)


def test_nothing_that_either_rate_reaches_is_garbage(lab, rates):
    remove(lab.home, find_garbage(lab.home, older_than_s=-1))
    for row in rates:
        assert not trace_row(lab.home, "success_rate", {"evaluation": row["evaluation"]}).problems


def test_the_commands_say_the_same(lab, rates):
    def said(*arguments):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    old = said("trace", "--row", f"success_rate:evaluation={rates[0]['evaluation'][:12]},policy=bc_rnn")
    assert "SUPERSEDED" in old and rates[0]["checkpoint_hash"] in old
    assert rates[1]["checkpoint_hash"] in said("trace", ASSET, TASK)
    assert "only the training seed differs" in said("runs", "compare", *(row["checkpoint_hash"][:10] for row in rates))
    assert "nothing was removed" in said("gc")
