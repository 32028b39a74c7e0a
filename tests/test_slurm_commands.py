"""What Slurm prints is read as it was recorded; what it does not print is not guessed."""

import os
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.folders import short_folder
from cluster.processes import until
from cluster.slurm import SlurmCluster
from hypothesis import given
from hypothesis import strategies as st

from resources.compute.endings import Seen
from resources.compute.interface import SiteUnavailable, State
from resources.compute.reach import Done
from resources.compute.sites import SlurmNames
from resources.compute.slurm_commands import (
    _SACCT_FIELDS,
    Slurm,
    SubmitError,
    cpu_seconds,
    memory_bytes,
    parse_account,
    parse_queue,
    usage,
)

COMMAND = "TRACEBED_WRITE_EXAMPLES=1 .venv/bin/pytest tests/test_slurm_commands.py"
RECORDED = Path(__file__).parent / "recorded" / "slurm"


def recorded(name: str) -> str:
    """What Slurm 22.05.8 printed; `#` lines say with which command and after what."""
    return "".join(
        line for line in (RECORDED / f"{name}.txt").read_text().splitlines(keepends=True) if not line.startswith("#")
    )


class Recorded:
    """Stands for the way to a Slurm: answers each command as it was recorded, so that no cluster is needed."""

    where = "a recording"

    def __init__(self, **answers: Done):
        self.answers, self.asked = answers, []

    def run(self, argv, **_):
        self.asked.append(list(argv))
        return self.answers[argv[0] if argv[0] != "env" else argv[2]]  # env TZ=UTC sacct ...


def slurm(accounting: bool = True, **answers: str | Done) -> tuple[Slurm, Recorded]:
    reach = Recorded(**{name: said if isinstance(said, Done) else Done(0, said, "") for name, said in answers.items()})
    return Slurm(SlurmNames(), reach, accounting), reach


def squeue_is_read(text: str) -> None:
    found = parse_queue(text)
    words = {seen.word: seen.state for seen in found.values()}
    assert {word for word, state in words.items() if state == State.ENDED} == {"COMPLETED", "FAILED", "CANCELLED"}
    assert words["RUNNING"] == State.RUNNING
    assert words["PENDING"] == State.PENDING
    assert {seen.detail for seen in found.values() if seen.word == "PENDING"} == {"BeginTime"}
    assert all(seen.node is None for seen in found.values() if seen.word == "PENDING")
    assert all(seen.node and not seen.detail for seen in found.values() if seen.word == "RUNNING")


def sacct_is_read(text: str) -> None:
    every = parse_account(text)
    rows = {row.name: row for row in every if not row.step}
    assert (rows["exits-3"].state, rows["exits-3"].code, rows["exits-3"].signal) == ("FAILED", 3, 0)
    assert (rows["log-gone"].state, rows["log-gone"].signal) == ("FAILED", 53)
    assert (rows["succeeds"].state, rows["succeeds"].code) == ("COMPLETED", 0)
    assert rows["cancelled"].state == "CANCELLED"
    assert rows["cancelled"].detail.startswith("by ")
    assert rows["step-fails"].state == "COMPLETED"
    assert rows["step-fails"].code == 7  # its step's: the batch script itself ended with 0
    assert rows["succeeds"].tres["mem"] == "200M"
    assert rows["succeeds"].user == "root"
    assert {row.step for row in every if row.job == rows["step-fails"].job} == {"", "batch", "0"}


def refusal_is_read(text: str) -> None:
    rows = parse_account(text)
    assert [(row.name, row.state, row.code, row.nodes) for row in rows] == [("refused", "FAILED", 1, "None assigned")]
    asked, _ = slurm(sacct=text)  # a search by name must not find it
    assert asked.account_by_name("refused", "2026-01-01T00:00:00") == []


READ = {"squeue_endings": squeue_is_read, "sacct_endings": sacct_is_read, "sacct_refused": refusal_is_read}
ASKED = {
    "squeue_endings": "squeue --me --states=all --noheader --format=%i|%T|%r|%N",
    "sacct_endings": f"sacct --parsable2 --noheader --starttime=now-1hour --format={_SACCT_FIELDS}",
    "sacct_refused": f"sacct --parsable2 --noheader --starttime=now-1hour --name=refused --format={_SACCT_FIELDS}",
}
JOBS = {
    "succeeds": ("true", "--mem=200M"),
    "exits-3": ("exit 3",),
    "log-gone": ("true", "--output=/nowhere/log"),
    "step-fails": ("srun sh -c 'exit 7'; exit 0",),
    "cancelled": ("sleep 300",),
    "runs": ("sleep 300",),
    "waits": ("true", "--begin=now+1hour"),
    "refused": ("true", "--mem=1000G"),
}


@pytest.mark.parametrize("name", READ)
def test_what_slurm_printed_is_read(name):
    """In job, log, step, cancellation, a job that waits, one that runs, and a submission that was refused."""
    READ[name](recorded(name))


@pytest.mark.xdist_group("slurm")
def test_what_slurm_prints_now_is_read_likewise(folder):
    """With TRACEBED_WRITE_EXAMPLES=1, it is also recorded."""
    with SlurmCluster(folder) as own:  # of its own: its job list holds nothing else
        submitted = {}
        for name, (command, *options) in JOBS.items():
            words = ("--parsable", "--output=/dev/null", "--chdir=/", f"--job-name={name}", *options)
            submitted[name] = own.run("sbatch", *words, f"--wrap={command}", check=False).stdout.strip()
        until(lambda: _states(own, submitted["cancelled"], submitted["runs"]) == {"RUNNING"}, 40, "both run")
        own.run("scancel", submitted["cancelled"])
        ended = [submitted[name] for name in ("succeeds", "exits-3", "log-gone", "step-fails", "cancelled")]
        until(lambda: _states(own, *ended) <= {"COMPLETED", "FAILED", "CANCELLED"}, 40, "the others have ended")
        until(lambda: "COMPLETING" not in own.run("squeue", "--format=%T").stdout, 40, "nothing is being cleaned up")
        for name, check in READ.items():
            printed = own.run(*ASKED[name].split()).stdout
            check(printed)
            if os.environ.get("TRACEBED_WRITE_EXAMPLES"):
                header = f"# {ASKED[name]}\n# Slurm 22.05.8. Written by: {COMMAND}\n"
                (RECORDED / f"{name}.txt").write_text(header + printed)


def _states(own: SlurmCluster, *jobs: str) -> set[str]:
    options = ("--noheader", "--parsable2", "--allocations", "--format=State")
    return {line.split()[0] for line in own.run("sacct", *options, f"--jobs={','.join(jobs)}").stdout.splitlines()}


@pytest.fixture
def folder() -> Iterator[Path]:
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    with short_folder() as made:
        yield made


def test_a_reason_with_commas_and_brackets_is_kept_whole():
    line = "7|PENDING|ReqNodeNotAvail, UnavailableNodes:an[51-53]|\n"
    assert parse_queue(line) == {
        "7": Seen(State.PENDING, "PENDING", "ReqNodeNotAvail, UnavailableNodes:an[51-53]", None)
    }


def test_a_job_name_with_a_newline_or_a_bar_is_one_row():
    rows = parse_account(recorded("sacct_down"), "^")
    strangers = [row for row in rows if row.job == "2" and not row.step]
    assert [(row.name, row.state, row.user) for row in strangers] == [("train | resnet v2", "NODE_FAIL", "nobody")]
    assert {row.step for row in rows if row.job == "1"} == {"", "batch", "0", "1"}


def test_the_code_of_a_step_is_the_jobs_where_slurm_lost_it():
    """So it printed 5 of 25 such jobs on a busy machine; it said the same 20 s later."""
    printed = recorded("sacct_endings")
    lost = printed.replace("|0:0|7:0|", "|0:0|0:0|")
    assert lost != printed
    assert parse_account(lost) == parse_account(printed)


def test_a_steps_signal_counts_and_steps_of_an_earlier_run_do_not():
    """A requeued job stands in the account once a run, each run before its own steps."""
    row = "{}|train|{}|{}|{}|an51|2026-11-25T23:03:35|2026-11-25T23:03:36|2026-11-25T23:03:36|0|00:00.014||mem=1M|root"
    earlier = [row.format("4", "REQUEUED", "0:0", "0:0"), row.format("4.0", "FAILED", "7:0", "")]
    out_of_memory = [row.format("4", "COMPLETED", "0:0", "0:0"), row.format("4.0", "OUT_OF_MEMORY", "0:125", "")]
    went_well = [row.format("4", "COMPLETED", "0:0", "0:0"), row.format("4.0", "COMPLETED", "0:0", "")]
    for last, signal in ((out_of_memory, 125), (went_well, 0)):
        rows = parse_account("\n".join([*earlier, *last]))
        assert [(row.code, row.signal) for row in rows if not row.step] == [(0, 0), (0, signal)]


def test_a_script_that_failed_keeps_its_own_code():
    printed = recorded("sacct_endings")
    failed = printed.replace("|step-fails|COMPLETED|0:0|7:0|", "|step-fails|FAILED|3:0|7:0|")
    assert failed != printed
    assert [row.code for row in parse_account(failed) if row.name == "step-fails"] == [3]


def test_resources_are_those_of_the_job_and_memory_the_largest_of_its_steps():
    lines = """\
1|train.1|COMPLETED|0:0|0:0|an53|2026-11-25T22:46:08|2026-11-25T22:46:08|2026-11-25T22:46:11|3|00:00.025||billing=1,\
cpu=1,gres/gpu=2,mem=500M,node=1|root
1.batch|batch|COMPLETED|0:0||an53|2026-11-25T22:46:08|2026-11-25T22:46:08|2026-11-25T22:46:11|3|00:00.020|10928K|\
cpu=1,gres/gpu=2,mem=500M,node=1|
1.0|sleep|COMPLETED|0:0||an53|2026-11-25T22:46:08|2026-11-25T22:46:08|2026-11-25T22:46:10|2|00:00.002|1480K|cpu=1,\
gres/gpu=2,mem=500M,node=1|
"""
    assert usage(parse_account(lines)) == {
        "elapsed_s": 3.0,
        "cpu_s": 0.025,
        "max_rss_gb": 10928 / 1024**2,
        "gpus": 2,
        "cpus": 1,
    }


@pytest.mark.parametrize(
    ("said", "temporary"),
    [
        ("sbatch: error: invalid partition specified: gpux", False),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", False),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", True),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", True),
        ("sbatch: error: AssocMaxSubmitJobLimit", True),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", True),
    ],
)
def test_an_error_of_sbatch_is_temporary_or_for_good(said, temporary):
    asked, _ = slurm(sbatch=Done(1, "", said))
    assert asked.submit([], "run.sh", []) == SubmitError(said, temporary)


def test_an_id_is_read_with_or_without_a_cluster_name():
    assert slurm(sbatch="12;testbed\n")[0].submit([], "run.sh", []) == "12"
    assert slurm(sbatch="13\n")[0].submit([], "run.sh", []) == "13"
    assert isinstance(slurm(sbatch="")[0].submit([], "run.sh", []), SubmitError)


def test_a_running_job_needs_no_sacct():
    asked, reach = slurm(squeue="5|RUNNING|None|an51\n")
    assert asked.seen(["5"])["5"].state == State.RUNNING
    assert [argv[0] for argv in reach.asked] == ["squeue"]


def test_where_sacct_lags_behind_squeue_the_word_of_squeue_holds():
    asked, _ = slurm(squeue="5|FAILED|NonZeroExitCode|an51\n", sacct="")
    assert asked.seen(["5"])["5"] == Seen(State.ENDED, "FAILED", "NonZeroExitCode", "an51")


def test_where_sacct_cannot_be_asked_squeue_is_believed_and_the_rest_is_unknown():
    down = Done(1, "", "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection")
    asked, _ = slurm(squeue="5|FAILED|NonZeroExitCode|an51\n6|RUNNING|None|an52\n", sacct=down)
    found = asked.seen(["5", "6", "7"])
    assert [found[job].state for job in ("5", "6", "7")] == [State.ENDED, State.RUNNING, State.UNKNOWN]
    assert "slurm_persist_conn" in found["7"].detail


def test_a_job_that_neither_knows_is_unknown_and_without_accounting_ended():
    assert slurm(squeue="", sacct="")[0].seen(["5"])["5"].state == State.UNKNOWN
    assert slurm(False, squeue="")[0].seen(["5"])["5"].state == State.ENDED


def test_a_controller_that_is_down_says_nothing_of_any_job():
    down = Done(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    with pytest.raises(SiteUnavailable, match="squeue: slurm_load_jobs error: Unable to contact"):
        slurm(squeue=down)[0].seen(["5"])


def test_cancelling_a_job_that_is_gone_is_no_error():
    slurm(scancel=Done(1, "", "scancel: error: Kill job error on job id 5: Invalid job id specified"))[0].cancel("5")
    with pytest.raises(SiteUnavailable, match="scancel 5"):
        slurm(scancel=Done(1, "", "scancel: error: Access/permission denied"))[0].cancel("5")


@given(days=st.integers(0, 400), hours=st.integers(0, 23), minutes=st.integers(0, 59), seconds=st.integers(0, 59))
def test_cpu_seconds_of_days_and_hours(days, hours, minutes, seconds):
    clock = f"{hours:02d}:{minutes:02d}:{seconds:02d}"
    expected = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    assert cpu_seconds(f"{days}-{clock}" if days else clock) == expected


@given(minutes=st.integers(0, 59), thousandths=st.integers(0, 59_999))
def test_cpu_seconds_of_minutes_and_fractions(minutes, thousandths):
    text = f"{minutes:02d}:{thousandths // 1000:02d}.{thousandths % 1000:03d}"
    assert cpu_seconds(text) == pytest.approx(60 * minutes + thousandths / 1000)


@given(number=st.integers(0, 10**6), unit=st.sampled_from(["", *"KMGTP"]))
def test_memory_bytes_of_whole_units(number, unit):
    power = " KMGTP".index(unit or " ")
    assert memory_bytes(f"{number}{unit}") == number * 1024**power


@given(hundredths=st.integers(0, 10**5), unit=st.sampled_from("KMGT"))
def test_memory_bytes_of_fractions(hundredths, unit):
    expected = hundredths / 100 * 1024 ** " KMGT".index(unit)
    assert memory_bytes(f"{hundredths / 100:.2f}{unit}") == pytest.approx(expected, abs=1)


@given(st.text(string.ascii_letters + " :-", max_size=8))
def test_no_memory_is_read_from_what_is_none(text):
    assert memory_bytes(text) is None


def test_nothing_recorded_is_no_memory_and_no_time():
    assert memory_bytes("") is None
    assert cpu_seconds("") == 0.0
