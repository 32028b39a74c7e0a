"""How a job ended, from what it left behind and what its site says; and which endings are worth another submission."""

import json
import os
from pathlib import Path

import pytest

from resources.compute.endings import EXIT_PREFLIGHT, FORGOTTEN, Seen, status
from resources.compute.interface import Ending, JobSpec, Needs, State, Status
from resources.compute.job_directory import JobDirectory, SubmissionDirectory
from resources.compute.patience import Patience
from resources.compute.retries import MOST_SUBMISSIONS, another
from resources.compute.sites import Site
from resources.compute.slurm import sbatch_options
from resources.compute.slurm_commands import Slurm, parse_account, parse_queue

GONE = Seen(State.ENDED, "gone", "its process is gone")


@pytest.fixture
def job(tmp_path) -> JobDirectory:
    return JobDirectory(tmp_path / "job")


def left(job: JobDirectory, number: int = 1, **files: str) -> SubmissionDirectory:
    """A submission with one launch that left these files behind (`log` beside it)."""
    submission = job.submission(number)
    launch = submission.path / "launches" / "a"
    launch.mkdir(parents=True)
    (submission.path / "log").write_text(files.pop("log", ""))
    for name, text in files.items():
        (launch / name.replace("__", ".")).write_text(text)
    job.fence.write_text(f"{number} a\n")
    return submission


def ended(word: str, code: int | None = None, signal: int | None = None, detail: str = "") -> Seen:
    return Seen(State.ENDED, word, detail, "an51", code, signal)


PREFLIGHT = json.dumps(
    {"ending": "CUDA_ARCH", "sentence": "Tesla P100 is sm_60; torch was built for sm_75", "checks": []}
)


@pytest.mark.parametrize(
    ("files", "seen", "ending", "said"),
    [
        ({"exit": "0"}, Seen(State.UNKNOWN), Ending.SUCCEEDED, ""),
        ({"exit": "0"}, ended("NODE_FAIL"), Ending.SUCCEEDED, ""),
        ({"exit": "3", "error": "ValueError: found nothing"}, ended("FAILED", 3), Ending.USER_ERROR, "exit code 3"),
        ({"exit": "139"}, ended("FAILED", 11), Ending.USER_ERROR, "signal 11"),
        (
            {"exit": "1", "error": "OutOfMemoryError: CUDA out of memory."},
            GONE,
            Ending.OUT_OF_MEMORY,
            "its GPU was too",
        ),
        ({"exit": "1", "error": "MemoryError: "}, GONE, Ending.OUT_OF_MEMORY, "MemoryError"),
        ({"log": "slurmstepd: error: Exceeded job memory limit"}, ended("FAILED", 9), Ending.OUT_OF_MEMORY, "the log"),
        ({"exit": "137", "out_of_memory": ""}, GONE, Ending.OUT_OF_MEMORY, "the kernel"),
        ({}, ended("OUT_OF_MEMORY", 0, 125), Ending.OUT_OF_MEMORY, "OUT_OF_MEMORY"),
        ({"exit": "1", "warned": "", "checkpoint": "40"}, ended("FAILED", 1), Ending.TIMEOUT, "step 40 is kept"),
        ({}, ended("TIMEOUT"), Ending.TIMEOUT, "time limit"),
        ({"exit": "143"}, ended("CANCELLED", detail="by 0"), Ending.CANCELLED, "by 0"),
        ({"exit": "143"}, ended("PREEMPTED"), Ending.PREEMPTED, "PREEMPTED"),
        ({}, ended("NODE_FAIL"), Ending.NODE_FAIL, "tracebed incident"),
        ({}, Seen(State.ENDED, "rebooted"), Ending.NODE_FAIL, "rebooted"),
        ({"exit": str(EXIT_PREFLIGHT), "preflight__json": PREFLIGHT}, ended("FAILED", 95), Ending.CUDA_ARCH, "sm_60"),
        ({"exit": str(EXIT_PREFLIGHT), "preflight__json": '{"ending": null}'}, GONE, Ending.USER_ERROR, "95"),
        (
            {"exit": "1", "error": "RuntimeError: CUDA error: no kernel image is available for execution"},
            ended("FAILED", 1),
            Ending.CUDA_ARCH,
            "no code for that GPU",
        ),
        ({"exit": "127"}, ended("FAILED", 127), Ending.LAUNCH_ERROR, "interpreter"),
        ({}, ended("FAILED", 0, 53), Ending.LAUNCH_ERROR, "could not open the log"),
        ({}, ended("FAILED", 96), Ending.NO_EXIT_FILE, "disk"),
        ({}, ended("COMPLETED", 0), Ending.NO_EXIT_FILE, "left no exit code"),
        ({"exit": "1"}, Seen(State.UNKNOWN, FORGOTTEN), Ending.USER_ERROR, "exit code 1"),
    ],
)
def test_each_ending_has_its_evidence(job, files, seen, ending, said):
    found = status(left(job, **files), seen)
    assert (found.ending, said in found.detail) == (ending, True), found


@pytest.mark.parametrize("state", [State.UNKNOWN, State.PENDING, State.RUNNING])
def test_what_is_not_known_to_have_ended_has_no_ending(job, state):
    found = status(left(job, exit="1", error="ValueError: no"), Seen(state, detail="squeue: cannot be asked"))
    assert found.ending is None and found.state == state and "cannot be asked" in found.detail


def test_a_job_that_was_never_launched_is_a_launch_error(job):
    job.submission(1).path.mkdir(parents=True)
    found = status(job.submission(1), ended("FAILED", 1, detail="BadConstraints"))
    assert found.ending == Ending.LAUNCH_ERROR and "no node of the site" in found.detail


def test_only_the_launch_that_the_fence_names_counts(job):
    submission = left(job, exit="0")
    newer = submission.path / "launches" / "0-an-older-name-but-newer"
    newer.mkdir()
    job.fence.write_text("1 0-an-older-name-but-newer\n")
    assert status(submission, Seen(State.RUNNING)).ending is None


@pytest.mark.parametrize("word", ["COMPLETED", "FAILED", "gone"])
def test_an_end_without_an_exit_file_is_doubted_for_a_while(job, word):
    submission, patience = left(job), Patience(grace_s=0.0)
    assert patience.believed(submission, ended(word)).state == State.UNKNOWN
    assert patience.believed(submission, ended(word)).state == State.ENDED
    assert patience.believed(submission, ended("NODE_FAIL")).state == State.ENDED


SITE = Site(name="s", scheduler="slurm", max_memory_gb=12)


@pytest.mark.parametrize(
    ("how", "memory_gb", "node"),
    [
        (Status(Ending.NODE_FAIL, "", node="an51"), 4, "an51"),
        (Status(Ending.PREEMPTED, "", node="an51"), 4, None),
        (Status(Ending.OUT_OF_MEMORY, "the log says 'MemoryError'"), 8, None),
        *((Status(each, ""), None, None) for each in ("USER_ERROR", "CUDA_ARCH", "LAUNCH_ERROR", "NO_EXIT_FILE")),
        (Status(Ending.CANCELLED, ""), None, None),
        (Status(Ending.TIMEOUT, ""), None, None),
        (Status(Ending.OUT_OF_MEMORY, "the memory of its GPU was too small ('CUDA out of memory')"), None, None),
    ],
)
def test_only_what_can_end_otherwise_is_submitted_again(job, how, memory_gb, node):
    retry = another(how, [left(job)], Needs(memory_gb=4), SITE)
    assert (retry and retry.needs.memory_gb, retry and retry.exclude_node) == (memory_gb, node)


def test_a_time_limit_is_met_again_only_with_a_later_checkpoint(job):
    how = Status(Ending.TIMEOUT, "")
    first, second, third = left(job, 1, checkpoint="10"), left(job, 2, checkpoint="20"), left(job, 3, checkpoint="20")
    assert "step 20" in another(how, [first, second], Needs(), SITE).why
    assert another(how, [first, second, third], Needs(), SITE) is None


def test_memory_grows_up_to_what_the_site_has_and_submissions_are_bounded(job):
    how = Status(Ending.OUT_OF_MEMORY, "")
    assert another(how, [left(job)], Needs(memory_gb=8), SITE).needs.memory_gb == 12
    assert another(how, [job.submission(1)], Needs(memory_gb=12), SITE) is None
    every = [job.submission(1)] * MOST_SUBMISSIONS
    assert another(Status(Ending.NODE_FAIL, "", node="an51"), every, Needs(), SITE) is None


def test_a_login_shell_that_greets_hides_no_job():
    greeting = "Welcome to the cluster!\n  10 users | be kind\n"
    assert set(parse_queue(f"{greeting}77|RUNNING|None|an51\n")) == {"77"}
    row = "77|name|COMPLETED|0:0|0:0|an51|a|b|c|1|00:00:01||cpu=1|ann"
    assert [each.job for each in parse_account(f"Welcome!\n{row}\n")] == ["77"]


def test_a_word_that_is_not_known_is_no_end():
    found = parse_queue("1|EXPEDITING|None|\n2|OUT_OF_ME+|None|an51\n3|COMPLETED|None|an51\n")
    assert [found[job].state for job in "123"] == [State.UNKNOWN, State.UNKNOWN, State.ENDED]


@pytest.mark.parametrize(
    ("said", "temporary"),
    [
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", True),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: QOSMaxWallDurationPerJobLimit (job submit limit, user's size and/or time limits)", False),
        ("sbatch: error: invalid partition specified: nope", False),
    ],
)
def test_what_may_be_asked_again_is_told_from_what_is_refused_for_good(said, temporary, tmp_path):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    sbatch.chmod(0o755)
    names = SITE.commands.model_copy(update={"sbatch": str(sbatch)})
    assert Slurm(names, SITE.reach(), True).submit([], "x", []).temporary is temporary


def test_a_job_of_slurm_inherits_a_login_and_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_PASSWORD", "hunter2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("TRACEBED_GL", "egl")
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\nenv > "{tmp_path}/env"\necho "Welcome!"\necho "42;cluster"\n')
    sbatch.chmod(0o755)
    names = SITE.commands.model_copy(update={"sbatch": str(sbatch)})
    assert Slurm(names, SITE.reach(), True).submit([], "x", []) == "42"
    given = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert given["TRACEBED_GL"] == "egl" and given["HOME"] == os.environ["HOME"]
    assert not {"LAB_PASSWORD", "CUDA_VISIBLE_DEVICES"} & set(given)


def test_the_warning_never_comes_before_two_thirds_of_a_time_limit():
    assert [Site(name="s", warn_s=120).warn_before(limit_s) for limit_s in (None, 86400, 300, 2)] == [120, 120, 100, 1]
    spec = JobSpec("k.1", Path("/j/1"), "m", Needs(time_limit_s=60))
    assert "--signal=B:USR1@20" in sbatch_options(SITE, spec)
