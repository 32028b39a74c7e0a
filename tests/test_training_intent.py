"""No training starts over by accident, and nothing that was trained is overwritten."""

import json
import re
import sys
from pathlib import Path

import polars as pl
import pytest

from assets.policy.recipes import RecipeError, demonstrations_recipe, recipe
from home import Home
from io_managers.catalog import ensure_catalog
from io_managers.tables import TableStore
from resources.attempts import attempts_without_rows, chain, known_attempts
from resources.training import Intent, IntentRefused, begin_attempt, plan_training
from science.robots.bc_rnn.config import BcRnnConfig, ConfigError, resolve

SETTINGS = {"steps": 100, "learning_rate": 0.001}
TASK = "open.Lift"


@pytest.fixture
def home(tmp_path) -> Home:
    home = Home(tmp_path / "home")
    ensure_catalog(home)
    return home


def plan(home, kind=None, step=None, settings=SETTINGS, free=("steps",), data="d" * 64):
    return plan_training(home, "bc_rnn", TASK, settings, Intent(kind, step), free=free, demonstrations_hash=data)


def trained(home, settings=SETTINGS, steps=(50, 100), run_id="11111111-2"):
    attempt = begin_attempt(home, plan(home, "fresh", settings=settings), "d" * 64, run_id)
    for step in steps:
        (Path(attempt.directory) / f"step-{step:06d}.pth").write_bytes(b"weights")
    (Path(attempt.directory) / "ending").write_text("FINISHED")
    return attempt


def test_the_first_training_is_fresh_without_being_told(home):
    planned = plan(home)
    assert (planned.intent, planned.first_step, planned.resume_from) == ("fresh", 0, None)


def test_a_second_training_without_intent_is_refused_with_the_list_of_what_is_there(home):
    attempt = trained(home)
    with pytest.raises(IntentRefused, match=r"checkpoints at steps 50, 100") as refused:
        plan(home)
    assert attempt.name in str(refused.value) and "resume_step" in str(refused.value)


def test_an_attempt_without_a_checkpoint_or_an_ending_is_known_too(home):
    begin_attempt(home, plan(home), "d" * 64, "22222222")
    with pytest.raises(IntentRefused, match="ended without a word; checkpoints at steps none"):
        plan(home)


def test_an_attempt_is_known_by_its_table_after_its_directory_is_gone(home):
    attempt = trained(home)
    rows = attempt.recorded()
    TableStore(home.tables).publish(
        "train_attempts", ("x",), rows["train_attempts"], asset="a", partition=TASK, run_id="r"
    )
    for path in Path(attempt.directory).iterdir():
        path.unlink()
    assert [each.name for each in known_attempts(home, "bc_rnn", TASK)] == [attempt.name]
    with pytest.raises(IntentRefused, match="is gone"):
        plan(home)


def test_fresh_takes_a_directory_of_its_own_and_leaves_the_old_one(home):
    first = trained(home)
    second = begin_attempt(home, plan(home, "fresh"), "d" * 64, "33333333")
    assert first.directory != second.directory
    assert (Path(first.directory) / "step-000100.pth").read_bytes() == b"weights"


def test_another_policy_or_task_does_not_count(home):
    trained(home)
    assert plan_training(home, "bc_rnn", "open.Stack_D0", SETTINGS, Intent()).intent == "fresh"
    assert plan_training(home, "other", TASK, SETTINGS, Intent()).intent == "fresh"


def test_resume_goes_on_from_the_step_it_names(home):
    attempt = trained(home)
    planned = plan(home, "resume", 50)
    assert (planned.resume_from, planned.resumed_attempt, planned.first_step) == (
        Path(attempt.directory) / "step-000050.pth",
        attempt.name,
        50,
    )
    more = plan(home, "resume", 100, SETTINGS | {"steps": 200})
    assert more.first_step == 100


@pytest.mark.parametrize(
    ("kind", "step", "settings", "told"),
    [
        ("resume", None, SETTINGS, "must name the step"),
        ("resume", 70, SETTINGS, "no checkpoint at step 70"),
        ("resume", 50, SETTINGS | {"learning_rate": 0.01}, "learning_rate was 0.001 and is 0.01"),
        ("resume", 100, SETTINGS | {"steps": 90}, "beyond the last step 90"),
        ("overwrite", None, SETTINGS, "expected fresh or resume"),
        (None, 50, SETTINGS, "without intent: resume"),
    ],
)
def test_an_intent_that_does_not_fit_is_refused(home, kind, step, settings, told):
    trained(home)
    with pytest.raises(IntentRefused, match=told):
        plan(home, kind, step, settings)


def test_steps_that_decide_the_weights_so_far_cannot_be_changed(home):
    trained(home)
    with pytest.raises(IntentRefused, match="steps was 100 and is 200"):
        plan(home, "resume", 50, SETTINGS | {"steps": 200}, free=())


def test_a_finished_training_can_be_resumed_at_its_end_to_publish_what_it_left(home):
    trained(home)
    assert "nothing is left to train" in plan(home, "resume", 100).sentence


def test_other_demonstrations_are_refused(home):
    trained(home)
    with pytest.raises(IntentRefused, match="the demonstrations are others"):
        plan(home, "resume", 50, data="e" * 64)


def test_the_attempt_with_these_settings_is_resumed_though_a_newer_one_has_others(home):
    first = trained(home)
    trained(home, SETTINGS | {"learning_rate": 0.01}, run_id="99999999")
    assert plan(home, "resume", 50).resumed_attempt == first.name


def test_a_chain_of_attempts_is_read_back_oldest_first(home):
    first = trained(home)
    second = begin_attempt(home, plan(home, "resume", 50), "d" * 64, "44444444")
    assert [(attempt.name, last) for attempt, last in chain(second)] == [(first.name, 50), (second.name, sys.maxsize)]


def test_an_attempt_whose_run_died_is_found_and_its_last_checkpoint_counts(home):
    attempt = trained(home)
    assert [each.name for each in attempts_without_rows(home, "bc_rnn", TASK)] == [attempt.name]
    (Path(attempt.directory) / "ending").unlink()
    row = attempt.recorded("USER_ERROR: exit code 137")["train_attempts"].row(0, named=True)
    assert (row["ending"], row["last_step"]) == ("USER_ERROR: exit code 137", 100)


@pytest.mark.parametrize(
    ("configured", "told"),
    [
        ({"stepz": 5}, "found settings ['stepz']"),
        ({"steps": "60"}, "found steps = '60' for bc_rnn, expected int"),
        ({"normalise": 1}, "expected bool"),
        ({"hidden": 0}, "expected at least 1"),
        ({"selection_n": -1}, "expected at least 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_an_attempt_begins(configured, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        resolve(configured)


def test_settings_are_compared_with_their_defaults_spelled_out():
    assert resolve({"hidden": BcRnnConfig().hidden})[0] == resolve({})[0]
    assert "steps" in resolve({"schedule": "constant"})[1]
    assert "steps" not in resolve({"schedule": "cosine"})[1]


def test_resume_with_nothing_there_never_starts_fresh(home):
    with pytest.raises(IntentRefused, match="no checkpoint at step 50; nothing was started"):
        plan(home, "resume", 50)


def test_a_half_written_checkpoint_is_no_checkpoint(home):
    attempt = trained(home, steps=(50,))
    (Path(attempt.directory) / ".step-000100.pth.draft").write_bytes(b"half")
    assert list(known_attempts(home, "bc_rnn", TASK)[0].checkpoints) == [50]


def test_what_became_of_an_attempt_is_recorded(home):
    attempt = trained(home)
    curve = [{"step": 50, "loss": -1.0}, {"step": 50, "selection_successes": 3, "selection_n": 5}]
    (Path(attempt.directory) / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve))
    recorded = attempt.recorded()
    assert recorded["train_attempts"].select("ending", "last_step").row(0) == ("FINISHED", 100)
    assert recorded["train_curve"]["selection_n"].to_list() == [None, 5]
    assert isinstance(recorded["train_curve"], pl.DataFrame)


def test_a_recipe_of_a_task_stands_over_the_default(tmp_path, monkeypatch):
    path = tmp_path / "recipes.toml"
    path.write_text('[bc_rnn.default]\nsteps = 1\nseed = 3\n[bc_rnn."open.Lift"]\nsteps = 2\n')
    monkeypatch.setenv("TRACEBED_RECIPES", str(path))
    assert recipe("bc_rnn", "open.Lift") == {"steps": 2, "seed": 3}
    assert recipe("bc_rnn", "open.Other") == {"steps": 1, "seed": 3}
    path.write_text("[bc_rnm.default]\nsteps = 1\n")
    with pytest.raises(RecipeError, match=r"found .'bc_rnm'., expected kinds"):
        recipe("bc_rnn", "open.Lift")
    path.write_text("[bc_rnn.Lift]\nsteps = 1\n")
    with pytest.raises(RecipeError, match='expected "default" or'):
        recipe("bc_rnn", "open.Lift")
    path.write_text("[demonstrations.default]\nn = 3\nnoize = 0.1\n")
    with pytest.raises(RecipeError, match=r"missing or unknown: .'action_label', 'noise', 'noize', 'tail_steps'."):
        demonstrations_recipe("open.Lift", {})
    path.write_text("[bc_rnn\n")
    with pytest.raises(RecipeError, match="cannot be read as TOML"):
        recipe("bc_rnn", "open.Lift")
