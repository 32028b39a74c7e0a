"""Rates, recovery and pairs, as the assets compute them from rows of rollouts."""

from datetime import UTC, datetime
from types import SimpleNamespace

import polars as pl
import pytest

from assets.policy.benchmark import board_markdown, board_rows, paired_rows, pairs_markdown
from assets.policy.references import ReferencesError, references, references_markdown
from assets.policy.rollouts import with_earlier
from assets.policy.success_rate import chosen_evaluation, rates, rates_markdown
from home import Home
from io_managers.catalog import connect, ensure_catalog, superseded
from io_managers.schemas import table
from io_managers.table_io_manager import Rows
from io_managers.tables import TableStore


def episodes(
    policy="bc_rnn", evaluation="e1", arm="control", outcomes="sssf", checkpoint="c1", suite="open", **columns
):
    """Rows of rollouts: one letter an outcome (s, f, e, r), seeds from 0."""
    names = {"s": "success", "f": "failure", "e": "error", "r": "solved_at_reset"}
    rows = []
    for seed, letter in enumerate(outcomes):
        fired = arm != "control" and columns.get("fired", True)
        row = {
            "suite": suite,
            "task": "Lift",
            "policy": policy,
            "checkpoint_hash": checkpoint,
            "step": 100 if checkpoint else None,
            "evaluation": evaluation,
            "seed": seed,
            "arm": arm,
            "outcome": names[letter],
            "stage": names[letter],
            "steps": 40 + seed,
            "wall_s": 0.1,
            "success_step": 40 + seed if letter == "s" else None,
            "fired": fired,
            "fired_step": 20 if fired else None,
            "recovery_steps": 20 + seed if fired and letter == "s" else None,
            "initial_state_hash": f"i{seed}",
            "trajectory_hash": f"t{seed}",
            "environment_hash": "env",
            "engine": "robosuite",
            "error": None,
            "episode_artifact": None,
        }
        rows.append(row)
    return pl.DataFrame(rows, schema={column.name: column.dtype for column in table("rollouts").columns})


def publish_checkpoint(home, digest, *, chosen):
    row = {
        "suite": "open",
        "task": "Lift",
        "policy": "bc_rnn",
        "checkpoint_hash": digest,
        "checkpoint_artifact": f"{digest}.pth",
        "origin": "TRAINED",
        "attempt": "first",
        "chosen": chosen,
        "settings": "{}",
        "versions": "{}",
        "recorded_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    frame = pl.DataFrame([row], schema={column.name: column.dtype for column in table("checkpoint").columns})
    key, asset = ("bc_rnn", "open.Lift"), "policy/checkpoint/bc_rnn"
    TableStore(home.tables).publish("checkpoint", key, frame, asset=asset, partition="open.Lift", run_id="run")


def publish_rate(home, frame):
    key, asset = ("bc_rnn", "open.Lift"), "policy/success_rate/bc_rnn"
    TableStore(home.tables).publish("success_rate", key, frame, asset=asset, partition="open.Lift", run_id="run")


def test_errors_and_episodes_solved_at_reset_are_in_no_rate():
    frame = rates(episodes(outcomes="sssfeer"), "e1", control=False)
    row = frame.row(0, named=True)
    assert (row["n"], row["successes"], row["errors"], row["solved_at_reset"]) == (4, 3, 2, 1)
    assert row["rate"] == 0.75 and row["ci_low"] < 0.75 < row["ci_high"]
    table("success_rate").conform(frame)


def test_recovery_counts_only_what_fired():
    perturbed = episodes(arm="drop", outcomes="ssff")
    quiet = episodes(arm="drop", outcomes="ssssss", fired=False).filter(pl.col("seed") > 3)
    control = episodes(outcomes="ssssss")
    row = (
        rates(pl.concat([control, perturbed, quiet]), "e1", control=False)
        .filter(pl.col("arm") == "drop")
        .row(0, named=True)
    )
    assert (row["n"], row["fired"], row["recovery_rate"]) == (6, 4, 0.5)
    assert row["paired_difference"] == pytest.approx(-2 / 6)
    assert row["steps_to_recover"] == 20.5


def test_a_rate_of_nothing_is_null_with_the_whole_interval():
    row = rates(episodes(outcomes="ee"), "e1", control=False).row(0, named=True)
    assert (row["n"], row["rate"], row["ci_low"], row["ci_high"]) == (0, None, 0.0, 1.0)


def test_the_chosen_evaluation_is_that_of_the_chosen_checkpoint():
    both = pl.concat([episodes(evaluation="new", checkpoint="c2"), episodes(evaluation="old", checkpoint="c1")])
    checkpoints = pl.DataFrame({"checkpoint_hash": ["c1", "c2"], "chosen": [True, False]})
    assert chosen_evaluation(both, checkpoints) == "old"
    assert chosen_evaluation(both, pl.DataFrame({"checkpoint_hash": ["c3"], "chosen": [True]})) is None
    frame = rates(both, "old", control=False)
    assert dict(frame.select("evaluation", "chosen").iter_rows()) == {"old": True, "new": False}
    assert "(chosen)" in rates_markdown(frame)


def test_two_policies_are_compared_on_shared_seeds_of_one_suite_only():
    every = pl.concat(
        [
            episodes("bc_rnn", outcomes="ssss"),
            episodes("random", evaluation="e2", outcomes="ffff", checkpoint=None),
            episodes("scripted", evaluation="e3", outcomes="ssss", checkpoint=None, suite="mimicgen"),
        ]
    )
    rows, unshared = paired_rows(every)
    assert [(row["suite"], row["policy_a"], row["policy_b"]) for row in rows] == [("open", "bc_rnn", "random")]
    assert rows[0]["difference"] == 1.0 and rows[0]["only_a"] == 4 and not unshared
    assert rows[0]["n_to_separate"] >= 6
    schema = {column.name: column.dtype for column in table("benchmark_policy_pairs").columns}
    assert "bc_rnn - random" in pairs_markdown(pl.DataFrame(rows, schema=schema))


def test_policies_that_ran_in_different_environments_are_never_paired():
    other = episodes("random", evaluation="e2", checkpoint=None).with_columns(environment_hash=pl.lit("another"))
    rows, unshared = paired_rows(pl.concat([episodes(), other]))
    assert not rows and unshared == ["open.Lift: bc_rnn and random ran in different environments"]


def earlier_partition(tmp_path, frame):
    store = TableStore(tmp_path)
    return store.publish("rollouts", ("bc_rnn", "open.Lift"), frame, asset="a", partition="open.Lift", run_id="r")


def test_earlier_rows_stay_and_equal_episodes_are_replaced(tmp_path):
    earlier = earlier_partition(tmp_path, pl.concat([episodes(evaluation="old"), episodes(evaluation="new")]))
    merged = with_earlier(Rows(episodes(evaluation="new")), earlier, "rollouts", ["evaluation", "arm", "seed"])
    assert merged.frame["evaluation"].to_list() == ["new"] * 4 + ["old"] * 4
    assert merged.replaces == earlier.data_version
    table("rollouts").conform(merged.frame)


def test_rows_of_before_a_column_existed_get_nulls_and_lose_nothing(tmp_path):
    earlier = earlier_partition(tmp_path, episodes(evaluation="old"))
    old_schema = SimpleNamespace(
        frame=lambda: earlier.frame().drop("recovery_steps"),
        **{name: getattr(earlier, name) for name in ("asset", "partition", "data_version", "run_id", "address")},
    )
    new = Rows(episodes(evaluation="new", arm="drop"))
    merged = with_earlier(new, old_schema, "rollouts", ["evaluation", "arm", "seed"])
    assert merged.frame.filter(pl.col("evaluation") == "new")["recovery_steps"].null_count() == 1
    table("rollouts").conform(merged.frame)


def test_policies_without_a_shared_seed_are_named():
    other = episodes("random", evaluation="e2", outcomes="ff").with_columns(seed=pl.col("seed") + 100)
    rows, unshared = paired_rows(pl.concat([episodes(), other]))
    assert not rows and unshared == ["open.Lift: bc_rnn and random"]


def test_the_leaderboard_shows_recovery_beside_the_rate():
    frame = rates(pl.concat([episodes(), episodes(arm="drop", outcomes="ssff")]), "e1", control=False)
    board = board_rows(frame)
    text = board_markdown(board, [None] * board.height)
    assert "3/4 = 0.75" in text and "drop 0.50" in text and "SUPERSEDED" not in text


def test_the_leaderboard_says_where_weights_come_from_and_how_fast_it_ran():
    frame = rates(episodes(), "e1", control=False)
    (checkpoint_hash,) = frame["checkpoint_hash"]
    columns = {column.name: None for column in table("checkpoint").columns}
    told = {"checkpoint_hash": checkpoint_hash, "base_weights": "small", "base_verdict": "CONTRADICTED"}
    told |= {name: frame[name][0] for name in ("suite", "task", "policy")}
    checkpoint = pl.DataFrame([columns | told], schema={c.name: c.dtype for c in table("checkpoint").columns})
    board = board_rows(frame, [checkpoint])
    text = board_markdown(board, [None])
    assert "small CONTRADICTED" in text
    assert f"| {frame['steps_per_s'][0]:.0f} |" in text


def test_references_stand_apart_and_in_no_table(tmp_path, monkeypatch):
    shown = references_markdown(references())
    assert "not measured here" in shown and "106/180 = 0.589" in shown and "0/250 = 0.000" in shown
    assert references_markdown([]) == ""
    monkeypatch.setenv("TRACEBED_REFERENCES", str(tmp_path / "none.toml"))
    assert references() == []


@pytest.mark.parametrize(
    "text",
    [
        "reference = 3",
        "[other]",
        "[[reference]]\npolicy = 'a'",
        "[[reference]]\npolicy = 'a'\ntasks = 'b'\nsuccesses = 3\nn = 2\nsource = 'c'",
        "[[reference]]\npolicy = 'a'\ntasks = 'b'\nsuccesses = true\nn = 2\nsource = 'c'",
        "[[reference",
    ],
)
def test_a_references_file_that_cannot_be_used_is_named(tmp_path, monkeypatch, text):
    path = tmp_path / "references.toml"
    path.write_text(text)
    monkeypatch.setenv("TRACEBED_REFERENCES", str(path))
    with pytest.raises(ReferencesError, match=str(path)):
        references()


def test_a_rate_whose_checkpoint_was_retrained_is_called_superseded_in_table_and_view(tmp_path):
    home = Home(tmp_path)
    ensure_catalog(home)
    frame = rates(episodes(), "e1", control=False)
    board = board_rows(frame)
    reasons = {}
    for when, row in {"before": {"chosen": True}, "after": {"chosen": False}}.items():
        publish_checkpoint(home, board["checkpoint_hash"][0], **row)
        publish_rate(home, frame)
        reasons[when] = superseded(home, "benchmark_policy", board)
        with connect(home) as connection:
            viewed = connection.execute("SELECT superseded FROM success_rate_status").fetchall()
        assert [reason for (reason,) in viewed] == reasons[when]
    assert reasons["before"] == [None]
    assert reasons["after"] == ["another checkpoint is chosen now"]
    assert "bc_rnn (SUPERSEDED: another checkpoint is chosen now)" in board_markdown(board, reasons["after"])
