"""The story of an53 on a real Slurm: our step ended, then the node died under somebody else's job.

`TRACEBED_WRITE_EXAMPLES=1 .venv/bin/pytest tests/test_incident_on_slurm.py` also writes docs/incident-example.md and
what Slurm printed, into tests/recorded/slurm/.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner
from cluster.folders import short_folder
from cluster.processes import until
from cluster.slurm import SlurmCluster

from assets.operations.incident import INCIDENT
from cli import main
from defs import build_defs
from home import Home
from io_managers.tables import TableStore
from materialise import materialise
from resources.compute.incident import Incident, IncidentError, Verdict
from resources.compute.incident_report import duration
from resources.compute.incident_slurm import named_values, seconds
from resources.compute.incident_sources import investigate
from resources.compute.job_directory import JobDirectory
from resources.compute.sites import Site
from resources.compute.slurm_commands import _SACCT_FIELDS

pytestmark = pytest.mark.xdist_group("slurm")

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "tests" / "recorded" / "slurm"
SITE = Site(name="lab", scheduler="slurm")
OURS, STRANGERS, REQUEUED = "success_rate-lift-0a1b2c3d4e5f.1", "train | resnet\nv2", "sweep"
COMMAND = "TRACEBED_WRITE_EXAMPLES=1 .venv/bin/pytest tests/test_incident_on_slurm.py"


@dataclass(frozen=True)
class Story:
    cluster: SlurmCluster
    home: Home
    ours: str
    strangers: str
    requeued: str
    killed_at: datetime
    incident: Incident


def submit(cluster: SlurmCluster, name: str, command: str, *options: str) -> str:
    words = ("--parsable", "--output=/dev/null", "--chdir=/", "--nodelist=an53", f"--job-name={name}", *options)
    return cluster.run("sbatch", *words, f"--wrap={command}").stdout.strip()


def state(cluster: SlurmCluster, job: str) -> str:
    listed = cluster.run("sacct", "--noheader", "--parsable2", "--allocations", "--format=State", "--jobs", job).stdout
    return listed.split()[0] if listed.split() else ""


def timeouts_s(cluster: SlurmCluster) -> tuple[float, float]:
    config = named_values(cluster.run("scontrol", "show", "config").stdout)
    return seconds(config["SlurmdTimeout"], 0), seconds(config["MessageTimeout"], 0)


def window_s(cluster: SlurmCluster) -> float:
    slurmd_s, message_s = timeouts_s(cluster)
    return 5 / 3 * slurmd_s + 2 * message_s + 1


def our_record(home: Home, job: str) -> None:
    files = JobDirectory(home.jobs / OURS.rpartition(".")[0])
    files.path.mkdir(parents=True)
    files.record({"key": files.path.name, "asset": "policy/success_rate", "partition": "lift", "site": "lab"})
    files.submission(1).path.mkdir()
    files.submission(1).write_handle({"job": job})


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Iterator[Story]:
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    with short_folder() as folder, SlurmCluster(folder) as slurm:  # its own: no node of it has failed before
        yield from told(slurm, tmp_path_factory)


def told(slurm: SlurmCluster, tmp_path_factory) -> Iterator[Story]:
    home = Home(tmp_path_factory.mktemp("home")).ensure()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm.environment().items():
            patch.setenv(name, value)
        ours = submit(slurm, OURS, "srun sleep 2; srun sleep 1", "--gres=gpu:2", "--mem=500M")
        our_record(home, ours)
        until(lambda: state(slurm, ours) == "COMPLETED", 40, "our job has ended")
        strangers = submit(slurm, STRANGERS, "srun sleep 600", "--gres=gpu:4", "--uid=nobody", "--no-requeue")
        requeued = submit(slurm, REQUEUED, "sleep 600", "--uid=nobody", "--requeue")
        until(lambda: {state(slurm, job) for job in (strangers, requeued)} == {"RUNNING"}, 40, "strangers' jobs run")
        # The declaration follows the kill by SlurmdTimeout at least; the window must begin after the end of our job.
        time.sleep(window_s(slurm) - timeouts_s(slurm)[0] + 3)
        killed_at = datetime.now(UTC)
        slurm.kill_node("an53")
        until(lambda: state(slurm, strangers) == "NODE_FAIL", 90, "the node is declared down")
        until(lambda: slurm.node_state("an53").startswith("DOWN"), 20, "the node is down")
        events = ("sacctmgr", "--noheader", "show", "event", "nodes=an53")
        until(lambda: "DOWN" in slurm.run(*events).stdout, 20, "the accounting has it too: it lags behind")
        yield Story(slurm, home, ours, strangers, requeued, killed_at, investigate(home, SITE, "an53"))


@pytest.mark.fault(
    "the an53 story: our steps end, then the node dies under strangers' jobs (slurmd SIGKILLed)",
    "the report exonerates ours with its margin and names the strangers'",
)
def test_our_ended_step_is_exonerated_by_its_margin(story: Story, record_property):
    ours = [each for each in story.incident.judged if each.ran.ours]
    assert {each.ran.step for each in ours} == {"batch", "0", "1"}
    assert {each.ran.job for each in ours} == {story.ours}
    assert {each.verdict for each in ours} == {Verdict.EXONERATED}
    assert all(each.ran.gpus == 2 and each.ran.cpus == 1 for each in ours)
    assert {round(each.ran.memory_gb, 2) for each in ours} == {0.49}
    for each in ours:
        assert each.margin_s == (story.incident.window.start - each.ran.ended_at).total_seconds() > 0
    words = story.incident.markdown()
    assert f"`{OURS}` of root (asset policy/success_rate, partition lift) **is exonerated**" in words
    assert f"{duration(min(each.margin_s for each in ours))} before the earliest moment" in words
    assert "No job of this platform is known to have been running there at the failure" in words
    margin = duration(min(each.margin_s for each in ours))
    record_property("measured", f"ours ended {margin} before the window; 2 strangers' jobs were running")


def test_the_strangers_job_is_named_as_running_at_the_failure(story: Story):
    present = story.incident.of(Verdict.RUNNING_AT_FAILURE)
    assert {each.ran.job for each in present} == {story.strangers, story.requeued}
    assert {each.ran.user for each in present} == {"nobody"}
    assert not any(each.ran.ours for each in present)
    assert {each.ran.step for each in present if each.ran.job == story.strangers} == {"batch", "0"}
    words = story.incident.markdown()
    assert f"Not ours: job {story.strangers} `train ? resnet v2` of nobody **was running at the failure**" in words
    assert "not proof of guilt" in words


def test_the_failure_lies_in_its_window_and_is_not_its_declaration(story: Story):
    window = story.incident.window
    assert window.start <= story.killed_at <= window.end == story.incident.failure.down
    assert window.end - window.start == timedelta(seconds=window_s(story.cluster))
    assert story.incident.failure.source == "sacctmgr show event"
    assert story.incident.failure.reason == "Not responding"


def test_the_asset_and_the_command_give_the_same_report(story: Story, tmp_path, monkeypatch):
    (tmp_path / "sites.toml").write_text('[sites.lab]\nscheduler = "slurm"\n')
    for name, value in {**story.home.environment(), "TRACEBED_SITES": str(tmp_path / "sites.toml")}.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance:
        definitions = build_defs(home=story.home)
        for _ in range(2):  # a second report of one failure replaces its rows
            assert materialise(definitions, instance, INCIDENT, None, {"node": "an53", "site": "lab"}) is None
        event = instance.get_latest_materialization_event(INCIDENT).asset_materialization
    rows = TableStore(story.home.tables).scan("incident")
    assert rows.height == len(story.incident.rows())
    assert set(rows.filter("ours")["verdict"]) == {"EXONERATED"}
    assert set(rows.filter(~pl.col("ours"))["verdict"]) == {"RUNNING_AT_FAILURE"}
    assert "**is exonerated**" in event.metadata["report"].value
    shown = CliRunner().invoke(main, ["incident", "an53"])
    assert shown.exit_code == 0 and "**is exonerated**" in shown.output
    unknown = CliRunner().invoke(main, ["incident", "an99"])
    assert unknown.exit_code == 1 and "an53" in unknown.output


def test_the_zone_of_the_host_changes_nothing(story: Story, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    assert replace(investigate(story.home, SITE, "an53"), limits=()) == replace(story.incident, limits=())


def test_a_time_before_the_failure_finds_none_and_names_those_there_are(story: Story):
    with pytest.raises(IncidentError, match=f"{story.incident.failure.down:%Y-%m-%d %H:%M:%S} UTC .Not responding"):
        investigate(story.home, SITE, "an53", story.killed_at - timedelta(seconds=1))
    again = investigate(story.home, SITE, "an53", story.incident.failure.down)
    assert again.failure.down == story.incident.failure.down


def test_a_node_that_did_not_fail_shows_its_state(story: Story):
    with pytest.raises(IncidentError, match=r"no failure of an51 at site lab is known.*State: IDLE"):
        investigate(story.home, SITE, "an51")


def test_an_unknown_node_names_the_nodes(story: Story):
    with pytest.raises(IncidentError, match="no node 'an99'; its nodes are: an51, an52, an53"):
        investigate(story.home, SITE, "an99")


def test_with_slurmdbd_down_the_report_says_that_the_accounting_cannot_be_asked(story: Story):
    story.cluster.stop_slurmdbd()
    try:
        incident = investigate(story.home, SITE, "an53")
    finally:
        story.cluster.start_slurmdbd()
    assert incident.failure.source == "scontrol show node"
    assert incident.failure.down == story.incident.failure.down
    assert incident.judged == ()
    assert "The accounting cannot be asked" in incident.markdown()
    assert "Others may have been running" in incident.markdown()
    assert "Nobody is known to have been running" in incident.markdown()


def test_examples_are_written_when_asked_for(story: Story):
    if not os.environ.get("TRACEBED_WRITE_EXAMPLES"):
        pytest.skip(f"not asked for: {COMMAND}")
    told = f"Written by `{COMMAND}` on the test cluster, where the strangers' jobs follow ours by seconds, not hours."
    (ROOT / "docs" / "incident-example.md").write_text(f"<!-- {told} -->\n\n{story.incident.markdown()}")
    RECORDED.mkdir(parents=True, exist_ok=True)
    fields = f"--format={_SACCT_FIELDS}"
    sacct = f"sacct --allusers --duplicates --parsable2 --noheader --nodelist=an53 --starttime=now-1hour {fields}"
    sacct += " --delimiter=^"
    events = "sacctmgr --parsable2 --noheader show event nodes=an53 start=now-1hour"
    events += " format=State,TimeStart,TimeEnd,Reason,User"
    made = "slurmd of an53 was killed with SIGKILL, and its node declared down"
    record("sacct_down", sacct, made)
    record("events_down", events, made)
    record("node_down", "scontrol --details show node an53", made)
    record("config", "scontrol --details show config", made)
    story.cluster.start_node("an53")
    until(lambda: state(story.cluster, story.requeued) == "RUNNING", 60, "the requeued job runs again")
    time.sleep(2)
    made += "; then slurmd was started again, and the requeued job ran again"
    record("sacct_back", sacct, made)
    record("events_back", events, made)
    record("node_back", "scontrol --details show node an53", made)


def record(name: str, command: str, made: str) -> None:
    done = subprocess.run(["env", "TZ=UTC", *command.split()], capture_output=True, text=True, check=True)
    header = f"# env TZ=UTC {command}\n# Slurm 22.05.8: {made}. Written by: {COMMAND}\n"
    told = re.sub(r"/tmp/tb-\w+", "/tmp/cluster", done.stdout)  # the folder of one run
    (RECORDED / f"{name}.txt").write_text(header + told)


def test_without_accounting_the_report_says_so(slurm_without_accounting: SlurmCluster, tmp_path, monkeypatch):
    cluster = slurm_without_accounting
    cluster.reset()
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    cluster.kill_node("an53")
    until(lambda: cluster.node_state("an53").startswith("DOWN"), 90, "the node is down")
    incident = investigate(Home(tmp_path).ensure(), SITE, "an53")
    assert incident.failure.source == "scontrol show node"
    assert "keeps no account of jobs" in incident.markdown()
    assert "Others may have been running" in incident.markdown()
    cluster.reset()
