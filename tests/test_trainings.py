"""Two trainings side by side: what differs is named, and a difference of rates is held against chance."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest
from test_success_rate import episodes

from assets.policy.success_rate import rates
from home import Home
from io_managers.catalog import ensure_catalog
from io_managers.schemas import table
from io_managers.tables import TableStore
from provenance.trainings.comparison import compare_trainings
from provenance.trainings.text import as_text
from provenance.trainings.training import UnknownTraining, find_training

WHICH = {"suite": "open", "task": "Lift", "policy": "bc_rnn"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOG = """\
10:00:01.000 [I] Restoring checkpoint from /weights/pi05_base/params.
10:00:05.000 [I] Step 0: grad_norm=1.2, loss=0.9, param_norm=3.0
10:00:09.000 [I] Step 100: grad_norm=1.0, loss=0.4, param_norm=3.1
"""


class Lab:
    def __init__(self, home):
        ensure_catalog(home)
        self.home, self.store = home, TableStore(home.tables)
        self._checkpoints, self._rollouts = [], []

    def publish(self, name, key, rows, asset):
        frame = (
            rows
            if isinstance(rows, pl.DataFrame)
            else pl.DataFrame(rows, schema={column.name: column.dtype for column in table(name).columns})
        )
        self.store.publish(name, key, frame, asset=asset, partition="open.Lift", run_id="run")

    def train(self, attempt, losses, outcomes=None, data="d" * 64, environment="env", **settings):
        checkpoint = attempt * 8
        row = {
            "attempt": attempt,
            "intent": "fresh",
            "resumed_from": None,
            "first_step": 0,
            "last_step": max(losses),
            "ending": "FINISHED",
            "config_hash": "c",
            "demonstrations_hash": data,
            "directory": "/nowhere",
            "started_at": NOW,
            "ended_at": NOW,
        }
        asset = "policy/checkpoint/bc_rnn"
        self.publish("train_attempts", ("bc_rnn", "open.Lift", attempt), [WHICH | row], asset)
        curve = [WHICH | {"attempt": attempt, "step": step, "loss": loss} for step, loss in losses.items()]
        self.publish("train_curve", ("bc_rnn", "open.Lift", attempt), curve, asset)
        self._checkpoints.append(
            WHICH
            | {
                "checkpoint_hash": checkpoint,
                "checkpoint_artifact": f"{checkpoint}.pth",
                "origin": "TRAINED",
                "attempt": attempt,
                "step": 100,
                "chosen": True,
                "demonstrations_hash": data,
                "settings": json.dumps({"seed": 0, "steps": 100} | settings),
                "versions": json.dumps({"torch": "2.13.0"}),
                "git_commit": "abc",
                "recorded_at": NOW,
            }
        )
        self.publish("checkpoint", ("bc_rnn", "open.Lift"), self._checkpoints, asset)
        if outcomes is None:
            return
        rolled = episodes(evaluation=f"e-{attempt}", checkpoint=checkpoint, outcomes=outcomes)
        self._rollouts.append(rolled.with_columns(environment_hash=pl.lit(environment)))
        every = pl.concat(self._rollouts)
        self.publish("rollouts", ("bc_rnn", "open.Lift"), every, "policy/rollouts/bc_rnn")
        rated = rates(every, f"e-{attempt}", control=False)
        self.publish("success_rate", ("bc_rnn", "open.Lift"), rated, "policy/success_rate/bc_rnn")

    def compared(self, a, b):
        return compare_trainings(self.home, find_training(self.home, str(a)), find_training(self.home, str(b)))


@pytest.fixture
def lab(tmp_path):
    return Lab(Home(tmp_path / "home"))


def concluded(found, text):
    return any(text in each for each in found.conclusions)


def test_only_another_seed_is_said_to_leave_chance_and_a_small_gap_is_chance(lab):
    lab.train("first", {50: 0.5, 100: 0.25}, outcomes="sssf")
    lab.train("other", {50: 0.5, 100: 0.2}, outcomes="ssff", seed=1)
    found = lab.compared("first", "other")
    assert [(each.what, each.a, each.b) for each in found.differences] == [("setting seed", "0", "1")]
    assert concluded(found, "only the training seed differs")
    assert concluded(found, "the same demonstrations, byte for byte")
    assert concluded(found, "first differ at step 100; at step 100, the last shared one, 0.25 against 0.2")
    assert concluded(found, "success 3/4 against 2/4: on 4 shared seeds only the first solved 1")
    assert concluded(found, "which chance explains")
    assert "what that says" in as_text(found)


def test_a_gap_beyond_chance_is_said_to_be_one(lab):
    lab.train("good", {100: 0.1}, outcomes="s" * 12)
    lab.train("bad", {100: 0.1}, outcomes="f" * 12, seed=1)
    found = lab.compared("good", "bad")
    assert concluded(found, "more than chance explains") and concluded(found, "losses are identical at all 1")


def test_other_data_other_settings_and_another_environment_are_named(lab):
    lab.train("first", {100: 0.1}, outcomes="ssss")
    lab.train("other", {100: 0.1}, outcomes="ffff", data="e" * 64, environment="moved", steps=200)
    found = lab.compared("first", "other")
    assert concluded(found, "DIFFERENT demonstrations")
    assert concluded(found, "settings that decide weights differ: steps")
    assert concluded(found, "DIFFERENT environments: they do not compare")


def test_a_training_without_a_rate_is_told_to_be_evaluated(lab):
    lab.train("first", {100: 0.1})
    lab.train("other", {90: 0.1})
    found = lab.compared("first", "other")
    assert concluded(found, "no success rate is known of first, other")
    assert concluded(found, "no step's loss is known of both")


def test_a_folder_that_somebody_else_left_is_a_comparison_group(lab, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    config = {"name": "pi05_libero", "weight_loader": {"params_path": "/weights/pi05_base/params"}, "seed": 0}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "train.log").write_text(LOG)
    lab.train("ours", {0: 0.8, 100: 0.4}, steps=100)
    theirs = find_training(lab.home, str(folder))
    assert theirs.began == "restored /weights/pi05_base/params" and theirs.curve == {0: 0.9, 100: 0.4}
    found = lab.compared("ours", folder)
    assert concluded(found, "whether they were trained on the same demonstrations is not known")
    assert concluded(found, "they began from different weights or in another way (began: fresh against restored")
    assert concluded(found, "known of one side only: setting name, setting steps")
    assert not any(text in each for each in found.conclusions for text in ("different policies", "versions differ"))
    assert found.curve.rows() == [(0, 0.8, 0.9), (100, 0.4, 0.4)]


def test_a_name_that_fits_nothing_or_several_is_answered_with_what_there_is(lab, tmp_path):
    lab.train("first", {100: 0.1})
    lab.train("other", {100: 0.1})
    with pytest.raises(UnknownTraining, match=r"(?s)found 0 trainings for 'nonsense'.*first.*other"):
        find_training(lab.home, "nonsense")
    assert find_training(lab.home, "firstfirst").name == "first"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UnknownTraining, match="found nothing in"):
        find_training(lab.home, str(empty))
    (empty / "config.json").write_text("{")
    with pytest.raises(UnknownTraining, match="cannot be read"):
        find_training(lab.home, str(empty))
