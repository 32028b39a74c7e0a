"""Who was on a node when it failed: the analysis, and what a real Slurm printed (tests/recorded/slurm)."""

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from home import Home
from resources.compute import incident_records as records
from resources.compute import incident_slurm as slurm
from resources.compute.excluded import ExcludedNodes
from resources.compute.incident import (
    Failure,
    Incident,
    IncidentError,
    Ran,
    Verdict,
    Window,
    choose_failure,
    failure_window,
    judge,
    judge_all,
)
from resources.compute.incident_report import duration
from resources.compute.incident_sources import investigate
from resources.compute.interface import SiteUnavailable
from resources.compute.job_directory import JobDirectory
from resources.compute.reach import Done
from resources.compute.sites import Site
from resources.compute.slurm_commands import parse_account

RECORDED = Path(__file__).parent / "recorded" / "slurm"
DOWN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
WINDOW = Window(DOWN - timedelta(seconds=521), DOWN)
SITE = Site(name="lab", scheduler="slurm")
OURS = "success_rate-lift-0a1b2c3d4e5f.1"
NOT_PRIVATE = "PrivateData = none\n"


def recorded(name: str) -> str:
    text = (RECORDED / f"{name}.txt").read_text()
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def ran(began_s: float | None, ended_s: float | None, **other) -> Ran:
    """A step that began and ended so many seconds after the window's start."""
    times = {"started_at": began_s, "ended_at": ended_s}
    moments = {name: None if s is None else WINDOW.start + timedelta(seconds=s) for name, s in times.items()}
    fields = {"job": "1", "step": "0", "job_name": "x", "user": "ann", "ours": False, "state": "COMPLETED"}
    return Ran(**{**fields, "job_state": "COMPLETED", **moments, **other})


def verdict(*args, **other) -> Verdict | None:
    judged = judge(ran(*args, **other), WINDOW)
    return judged.verdict if judged else None


# The analysis


def test_a_step_that_ended_before_the_window_is_exonerated_by_its_margin():
    judged = judge(ran(-9000, -7980), WINDOW)
    assert (judged.verdict, judged.margin_s, duration(judged.margin_s)) == (Verdict.EXONERATED, 7980, "2 h 13 min")


@pytest.mark.parametrize("ended_s", [0, 1, 520])
def test_a_step_that_ended_by_itself_inside_the_window_is_uncertain(ended_s):
    assert verdict(-100, ended_s) == Verdict.UNCERTAIN
    assert verdict(-100, ended_s, state="FAILED", job_state="NODE_FAIL") == Verdict.UNCERTAIN


def test_whoever_died_with_the_node_was_running_whatever_end_was_written():
    for ended_s in (0, 300, 521, 530):
        assert verdict(-100, ended_s, state="NODE_FAIL", job_state="NODE_FAIL") == Verdict.RUNNING_AT_FAILURE
        assert verdict(-100, ended_s, state="CANCELLED", job_state="NODE_FAIL") == Verdict.RUNNING_AT_FAILURE


def test_a_step_without_an_end_was_running_if_its_state_says_so():
    assert verdict(-100, None, state="RUNNING") == Verdict.RUNNING_AT_FAILURE
    assert verdict(-100, None, state="NODE_FAIL") == Verdict.RUNNING_AT_FAILURE
    assert verdict(-100, None, state="COMPLETED") == Verdict.UNCERTAIN


def test_a_step_that_never_began_is_no_step():
    assert verdict(None, None, state="PENDING") is None


def test_a_step_that_began_after_the_declaration_began_after_and_one_inside_the_window_says_so():
    judged = judge(ran(522, None, state="RUNNING"), WINDOW)
    assert (judged.verdict, judged.margin_s) == (Verdict.BEGAN_AFTER, 1)
    assert "perhaps after the failure" in judge(ran(10, 600), WINDOW).note


def test_times_that_contradict_each_other_prove_nothing():
    assert verdict(-100, -200) == Verdict.UNCERTAIN


def test_a_job_counts_where_it_has_no_steps_or_held_the_node_longer_than_they_ran():
    job = ran(-9000, 521, step="", state="NODE_FAIL", job_state="NODE_FAIL")
    step = ran(-9000, -8000, job_state="NODE_FAIL")
    assert [each.ran.step for each in judge_all([job], WINDOW)] == [""]
    held, ended = judge_all([job, step], WINDOW)
    assert (held.ran.step, held.verdict) == ("", Verdict.RUNNING_AT_FAILURE)
    assert "no step of it is known to have run so long" in held.note
    assert ended.verdict == Verdict.EXONERATED
    cut = ran(-100, 521, step="1", state="CANCELLED", job_state="NODE_FAIL")
    assert [each.ran.step for each in judge_all([job, step, cut], WINDOW)] == ["1", "0"]


def test_where_a_person_declared_the_failure_nobody_is_exonerated():
    (judged,) = judge_all([ran(-9000, -8000)], WINDOW, noticed=False)
    assert (judged.verdict, judged.margin_s) == (Verdict.UNCERTAIN, None)


def test_the_window_covers_every_delay_that_was_measured():
    window = failure_window(DOWN, slurmd_timeout_s=15, message_timeout_s=10)
    assert (DOWN - window.start).total_seconds() >= 27
    assert failure_window(DOWN, 300, 10) == WINDOW


def test_the_failure_is_the_last_or_the_last_before_a_time():
    failures = [Failure(DOWN + timedelta(hours=h), DOWN + timedelta(hours=h + 1), f"{h}", "", "") for h in (5, 0, 10)]
    assert choose_failure(failures, None).reason == "10"
    assert choose_failure(failures, DOWN + timedelta(hours=9)).reason == "5"
    assert choose_failure(failures, DOWN + timedelta(hours=5)).reason == "5"
    assert choose_failure(failures, DOWN - timedelta(hours=1)) is None


def test_a_reason_that_is_written_later_makes_no_second_failure():
    later = DOWN + timedelta(hours=1)
    failures = [Failure(DOWN, later, "Not responding", "", ""), Failure(later, None, "fan", "ann", "")]
    chosen = choose_failure(failures, None)
    assert (chosen.down, chosen.until, chosen.reason) == (DOWN, None, "Not responding")


seconds_ = st.none() | st.integers(-100_000, 100_000)
states = st.sampled_from(["COMPLETED", "FAILED", "RUNNING", "NODE_FAIL", "CANCELLED", "PENDING", "TIMEOUT", ""])
steps = st.lists(
    st.builds(
        ran,
        seconds_,
        seconds_,
        state=states,
        job_state=states,
        job=st.sampled_from("12"),
        step=st.sampled_from(["", "0", "batch"]),
    )
)


@given(steps, st.integers(-(10**8), 10**8))
def test_shifting_all_clocks_changes_no_verdict(everything, by_s):
    by = timedelta(seconds=by_s)

    def shift(time):
        return None if time is None else time + by

    shifted = [replace(r, started_at=shift(r.started_at), ended_at=shift(r.ended_at)) for r in everything]
    before = judge_all(everything, WINDOW)
    after = judge_all(shifted, Window(WINDOW.start + by, WINDOW.end + by))
    assert [(b.verdict, b.margin_s, b.note) for b in before] == [(a.verdict, a.margin_s, a.note) for a in after]


@given(steps)
def test_a_step_that_ends_before_the_window_is_never_named_as_running(everything):
    for judged in judge_all(everything, WINDOW):
        if judged.ran.ended_at is not None and judged.ran.ended_at < WINDOW.start:
            assert judged.verdict in (Verdict.EXONERATED, Verdict.UNCERTAIN)
        if judged.verdict == Verdict.EXONERATED:
            assert judged.ran.ended_at < WINDOW.start and judged.margin_s > 0


@given(steps)
def test_whoever_overlaps_the_declaration_is_never_exonerated_nor_lost(everything):
    judged = judge_all(everything, WINDOW)
    for each in everything:
        if each.started_at and each.ended_at and each.started_at <= WINDOW.end <= each.ended_at:
            assert any(j.ran.job == each.job and j.verdict == Verdict.RUNNING_AT_FAILURE for j in judged)


@pytest.mark.parametrize(
    ("length_s", "words"),
    [(0.2, "less than 1 s"), (14, "14 s"), (65, "1 min 5 s"), (7980, "2 h 13 min"), (7200, "2 h"), (266400, "3 d 2 h")],
)
def test_lengths_of_time_in_words(length_s, words):
    assert duration(length_s) == words


# What Slurm printed


def test_events_of_a_killed_slurmd_are_a_failure_that_slurm_noticed():
    (down,) = slurm.failures_of_events(recorded("events_down"))
    assert (down.until, down.reason, down.declared_by, down.noticed) == (None, "Not responding", "root(0)", True)
    (back,) = slurm.failures_of_events(recorded("events_back"))
    assert back.down == down.down and back.until > back.down


def test_a_drained_node_has_not_failed_and_a_reason_may_hold_anything():
    # As sacctmgr printed it for `scontrol update State=DRAIN Reason="look | here<newline>next"`.
    text = (
        "|2026-11-25T22:34:25|Unknown|Cluster Registered TRES|\n"
        "DRAIN|2026-11-25T22:34:25|Unknown|look | here\nnext|root(0)\nDOWN|2026-11-25T22:34:26|Unknown|a|b\n|ann(7)\n"
    )
    (failure,) = slurm.failures_of_events(text)
    assert (failure.reason, failure.declared_by, failure.noticed) == ("a|b ", "ann(7)", False)


def test_the_controller_says_since_when_a_node_is_down():
    facts = slurm.node_facts(recorded("node_down"))
    assert facts["State"] == "DOWN+NOT_RESPONDING"
    assert {"BootTime", "SlurmdStartTime", "LastBusyTime"} <= set(facts)
    failure = slurm.node_failure(facts)
    assert failure.down == slurm.failures_of_events(recorded("events_down"))[0].down
    assert slurm.node_failure(slurm.node_facts(recorded("node_back"))) is None


def test_an_older_reason_of_a_node_that_is_down_is_not_the_time_of_its_failure():
    facts = {
        "State": "DOWN+DRAIN+NOT_RESPONDING",
        "Reason": "fan",
        "Reason by": "ann",
        "Reason at": "2026-03-01T12:00:00",
    }
    assert not slurm.node_failure(facts).noticed


def test_the_time_limits_come_from_the_configuration():
    config = slurm.named_values(recorded("config"))
    assert slurm.seconds(config["SlurmdTimeout"], 300) == 15
    assert slurm.seconds(config["MessageTimeout"], 0) == 5
    assert config["PrivateData"] == "none"
    assert config["AccountingStorageType"] == "accounting_storage/slurmdbd"


def test_every_run_of_a_requeued_job_is_told_apart():
    rows = parse_account(recorded("sacct_back"), "^")
    everything = slurm.ran_on("an53", rows, {})
    sweep = [each for each in everything if each.job_name == "sweep" and not each.step]
    assert [(each.run, each.state) for each in sweep] == [(0, "NODE_FAIL"), (1, "RUNNING")]
    down = slurm.failures_of_events(recorded("events_back"))[0].down
    judged = judge_all([each for each in everything if each.job_name == "sweep"], failure_window(down, 15, 10))
    assert {(each.ran.run, each.verdict) for each in judged} == {
        (0, Verdict.RUNNING_AT_FAILURE),
        (1, Verdict.BEGAN_AFTER),
    }


def test_a_strangers_job_name_with_a_bar_and_a_newline_breaks_nothing():
    (train,) = [each for each in parse_account(recorded("sacct_down"), "^") if each.name.startswith("train")]
    assert (train.name, train.user, train.state) == ("train | resnet v2", "nobody", "NODE_FAIL")


def test_a_job_is_ours_by_its_name_and_its_id():
    rows = parse_account(recorded("sacct_down"), "^")
    ours = next(row.job for row in rows if row.name == OURS)
    assert {each.ours for each in slurm.ran_on("an53", rows, {OURS: (ours, "")}) if each.job == ours} == {True}
    assert not any(each.ours for each in slurm.ran_on("an53", rows, {OURS: ("999", "")}))


def test_a_step_on_other_nodes_of_its_job_was_not_here():
    text = (
        "7|big|NODE_FAIL|0:0|0:0|an[51-53]|2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T12:00:00|9|00:00|"
        "|cpu=6,gres/gpu:v100=12,mem=3G,node=3|ann\n"
        "7.0|a|CANCELLED|||an[51-52]|2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T12:00:00|9|00:00||cpu=4|\n"
    )
    (only,) = slurm.ran_on("an53", parse_account(text), {})
    assert (only.step, only.nodes, only.gpus, only.cpus, only.memory_gb) == ("", 3, 12, 6, 3.0)


def test_node_lists_are_expanded():
    assert slurm.expanded("an[51-53,60],cn1") == ["an51", "an52", "an53", "an60", "cn1"]
    assert slurm.expanded("r[1-2]n[08-10]") == [f"r{r}n{n}" for r in "12" for n in ("08", "09", "10")]
    assert slurm.expanded("None assigned") == ["None assigned"]


# The questions, answered by recorded outputs of a real Slurm: test_incident_on_slurm.py asks the real one


@dataclass
class Replayed:
    sacct: str | None = "sacct_back"
    database: str = NOT_PRIVATE
    level: str = "None\n"
    where: str = "login"

    def run(self, argv, **_) -> Done:
        words = [word for word in argv if word not in ("env", "TZ=UTC")]
        if words[0] in ("sacct", "sacctmgr") and self.sacct is None:
            return Done(1, "", "sacct: error: Problem talking to the database: Connection refused")
        match words:
            case ["sacct", *options]:
                delimiter = next(each for each in options if each.startswith("--delimiter=")).partition("=")[2]
                return Done(0, recorded(self.sacct).replace("^", delimiter), "")
            case ["sacctmgr", "show", "config"]:
                return Done(0, self.database, "")
            case ["sacctmgr", *rest]:
                return Done(0, self.level if "user" in rest else recorded("events_back"), "")
            case ["scontrol", *rest]:
                return Done(0, recorded("config" if "config" in rest else "node_back"), "")
            case _:
                return Done(0, "ann\n", "")


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path).ensure()


def ask(monkeypatch, home: Home, reach) -> Incident:
    monkeypatch.setattr(Site, "reach", lambda self: reach)
    return investigate(home, SITE, "an53")


def test_private_accounting_is_said_unless_we_are_an_operator(monkeypatch, home):
    private = "PrivateData = jobs,usage\n"
    words = ask(monkeypatch, home, Replayed(database=private)).markdown()
    assert "PrivateData is jobs,usage and ann is no operator, so only our own jobs are visible" in words
    assert "no operator" not in ask(monkeypatch, home, Replayed(database=private, level="Operator\n")).markdown()
    assert "no operator" not in ask(monkeypatch, home, Replayed()).markdown()


def test_without_accounting_and_without_a_down_node_no_failure_is_known(monkeypatch, home):
    with pytest.raises(IncidentError, match=r"The node now: .*State: .*The accounting cannot be asked"):
        ask(monkeypatch, home, Replayed(sacct=None))


def test_the_rows_have_the_columns_and_types_of_the_table(monkeypatch, home):
    rows = ask(monkeypatch, home, Replayed()).rows()
    assert {row["verdict"] for row in rows} <= set(map(str, Verdict))
    for row in rows:
        assert (row["site"], row["node"]) == ("lab", "an53")
        assert isinstance(row["gpus"], int) and isinstance(row["ours"], bool)
        assert row["started_at"].tzinfo == row["window_start"].tzinfo == UTC


def test_what_the_platform_did_then_is_told(monkeypatch, home):
    down = slurm.failures_of_events(recorded("events_back"))[0].down
    job = JobDirectory(home.jobs / "embedding-a-000000000000")
    for number, (ending, node, hours) in {1: ("NODE_FAIL", "an53", 0), 2: ("SUCCEEDED", "an51", 1)}.items():
        job.submission(number).path.mkdir(parents=True)
        at = (down + timedelta(hours=hours, seconds=9)).isoformat()
        job.submission(number).write_ended(
            {"ending": ending, "detail": "its node failed", "node": node, "ended_at": at}
        )
    job.record({"asset": "spatial/embedding", "partition": "a", "site": "lab"})
    words = ask(monkeypatch, home, Replayed()).markdown()
    assert "submission 1 ended NODE_FAIL" in words
    assert "submission 2 on an51 ended SUCCEEDED" in words


def test_a_node_that_was_left_out_after_the_failure_is_told_and_an_earlier_time_is_not(home):
    ExcludedNodes(home.site("lab")).exclude("an53", 6, "its node failed", "x.1")
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    (out,) = records.left_out("an53", home.site("lab"), Window(now - hour, now), None)
    assert (out.job, out.until - out.since) == ("x.1", 6 * hour)
    assert records.left_out("an53", home.site("lab"), Window(now + hour, now + hour), None) == []
    assert records.left_out("an53", home.site("lab"), Window(now - hour, now), now - hour) == []
    assert records.left_out("an51", home.site("lab"), Window(now - hour, now), None) == []


def test_a_failure_that_a_person_declared_is_reported_as_one_of_unknown_time(monkeypatch, home):
    # The recorded events with the reason and state of a node that an operator set DOWN.
    real = recorded
    by_hand = {"events_back": real("events_back").replace("DOWN*", "DOWN").replace("Not responding", "fan")}
    monkeypatch.setattr(f"{__name__}.recorded", lambda name: by_hand.get(name) or real(name))
    incident = ask(monkeypatch, home, Replayed())
    words = incident.markdown()
    assert "When it failed is not known" in words and "Nobody is exonerated here" in words
    assert "It failed between" not in words
    assert incident.of(Verdict.EXONERATED) == [] and incident.of(Verdict.UNCERTAIN)


def test_a_time_without_a_zone_is_refused(home):
    with pytest.raises(IncidentError, match="without a zone"):
        investigate(home, SITE, "an53", datetime(2026, 3, 1))


# A site without a scheduler


def launch(home: Home, key: str, boot: str, began: datetime, ended: datetime | None, alive: datetime) -> None:
    job = JobDirectory(home.jobs / key)
    folder = job.submission(1).path / "launches" / f"{began.timestamp():.0f}-gpu7-1"
    folder.mkdir(parents=True)
    job.record({"asset": "a", "site": "desk"})
    started = (
        f"host={os.uname().nodename}\nnode={os.uname().nodename}\nstarted_at={began.timestamp():.0f}\nboot={boot}\n"
    )
    for name, text, at in (("started", started, began), ("heartbeat", "3\n", alive), ("exit", "0\n", ended)):
        if at is not None:
            (folder / name).write_text(text)
            os.utime(folder / name, (at.timestamp(), at.timestamp()))


def test_a_node_without_a_scheduler_that_was_started_anew_is_told_from_boot_ids(home):
    booted = datetime.fromtimestamp(
        int(next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")).split()[1]),
        UTC,
    )
    hour = timedelta(hours=1)
    launch(home, "ended-000000000000", "old", booted - 5 * hour, booted - 4 * hour, booted - 4 * hour)
    launch(home, "there-000000000000", "old", booted - 3 * hour, None, booted - hour)
    here = os.uname().nodename
    incident = investigate(home, Site(name="desk"), here)
    assert (incident.window.start, incident.window.end) == (booted - hour, booted)
    verdicts = {each.ran.job_name: each.verdict for each in incident.judged}
    assert verdicts == {"ended-000000000000.1": Verdict.EXONERATED, "there-000000000000.1": Verdict.RUNNING_AT_FAILURE}
    assert "no scheduler that keeps account of them" in incident.markdown()


def test_a_node_without_a_scheduler_that_never_went_down_has_no_incident(home):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    now = datetime.now(UTC)
    launch(home, "fine-000000000000", boot, now, now, now)
    with pytest.raises(IncidentError, match=f"Boot id: {boot}"):
        investigate(home, Site(name="desk"), os.uname().nodename)
    with pytest.raises(IncidentError, match="no node 'an53'; its nodes are"):
        investigate(home, Site(name="desk"), "an53")


def test_when_neither_the_controller_nor_the_accounting_answers_that_is_said(monkeypatch, home):
    class Silent:
        where = "login"

        def run(self, argv, **_):
            return Done(1, "", "Unable to contact slurm controller")

    with pytest.raises(SiteUnavailable, match="Unable to contact"):
        ask(monkeypatch, home, Silent())
