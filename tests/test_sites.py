"""`sites.toml`: what is impossible is refused by name; and `tracebed site check` tries each kind of site end to end."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cluster.folders import short_folder
from cluster.sshd import Sshd
from fault_jobs import until

from cli import main
from home import ROOT
from resources.compute.sites import YH, SiteError, load_sites

pytestmark = pytest.mark.xdist_group("slurm")

# entry -> what the refusal must name: the entry, what was found, what is expected
REFUSED = {
    '[sites.x]\nschedular = "slurm"': ("sites.x.schedular", "'slurm'", "expected one of scheduler, ssh"),
    '[sites.x]\nscheduler = "pbs"': ("sites.x.scheduler", "'pbs'", "'none' or 'slurm'"),
    '[sites.x]\nssh = "host"': ("sites.x.ssh", "'host'", "dictionary"),
    '[sites.x]\nssh = { host = "h" }': ("sites.x.ssh.user", "'h'", "required"),
    '[sites.x]\nssh = { host = "h", usr = "u" }': (
        "sites.x.ssh.usr",
        "'u'",
        "expected one of host, user, port, config",
    ),
    '[sites.x]\nssh = { host = "-oProxyCommand=id", user = "u" }': ("sites.x.ssh.host", "-oProxy", "begin with a dash"),
    '[sites.x]\nnodes = ["n"]': ("sites.x", "nodes", "say host and user"),
    "[sites.x]\ninside_allocation = true": ("sites.x", "inside_allocation", "scheduler = 'slurm' and ssh"),
    '[sites.x]\ninside_allocation = true\nscheduler = "slurm"': ("sites.x", "inside_allocation", "and ssh"),
    '[sites.x]\ncommands = "slrm"': ("sites.x.commands", "'slrm'", "dictionary"),
    '[sites.x]\ncommands = { sbach = "x" }': ("sites.x.commands.sbach", "'x'", "expected one of sbatch"),
    '[sites.x]\nwork = "relative"': ("sites.x", "'relative'", "absolute path"),
    '[sites.x]\nroot = "relative"': ("sites.x", "'relative'", "absolute path"),
    '[sites.x]\ngpu_request = "--gpus"': ("sites.x", "'--gpus'", "expected {gpus}"),
    "[sites.x]\ntime_limit_s = 0": ("sites.x.time_limit_s", "0", "greater than 0"),
    '[sites.x]\ntime_limit_s = "a day"': ("sites.x.time_limit_s", "'a day'", "integer"),
    "[sites.x]\nmax_jobs = -1": ("sites.x.max_jobs", "-1", "greater than 0"),
    "[sites.x]\npoll_s = 0": ("sites.x.poll_s", "0", "greater than 0"),
    "[sites.x]\nenvironments = 3": ("sites.x.environments", "3", "dictionary"),
    "[sites.x]\nenvironments = { a = 3 }": ("sites.x.environments.a", "3", "tuple"),
    "[sites.x]\nenvironments = { a = [] }": ("sites.x.environments", "a is []", "expected an interpreter"),
    '[sites.x]\nenvironments = { a = "" }': ("sites.x.environments", "a is ['']", "expected an interpreter"),
    '[sites.x]\nname = "y"': ("sites.x", "'y'", "without `name`"),
    '[sites."../y"]': ("sites.../y", "'../y'", "name a folder"),
    "[sites]\nx = 3": ("sites.x", "3", "expected a table"),
    "sites = 3": ("sites", "3", "expected a table"),
    '[run_on]\ndefault = "local"': ("run_on", "local", "expected one of runs_on, sites"),
    '[runs_on]\ndefault = "moon"\n[sites.x]': ("runs_on.default", "'moon'", "the sites are local, x"),
    "[runs_on]\ndefault = 3": ("runs_on.default", "3", "string"),
    "x = [": ("not TOML", "end of document", ""),
}


@pytest.fixture
def sites(tmp_path, monkeypatch):
    path = tmp_path / "sites.toml"
    monkeypatch.setenv("TRACEBED_SITES", str(path))

    def write(text: str):
        path.write_text(text)
        return load_sites()

    return write


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_impossible_is_refused_with_its_name_what_was_found_and_what_is_expected(sites, text):
    with pytest.raises(SiteError) as caught:
        sites(text)
    for part in REFUSED[text]:
        assert part in str(caught.value)


def test_every_problem_of_a_file_is_named_at_once(sites):
    with pytest.raises(SiteError) as caught:
        sites('[runs_on]\ndefault = "a"\n[sites.a]\nschedular = "slurm"\n[sites.b]\nmax_jobs = 0\n')
    said = str(caught.value)
    assert "sites.a.schedular" in said and "sites.b.max_jobs" in said
    assert "runs_on" not in said, "a site that was refused is no unknown one"


def test_a_missing_file_is_named_with_the_variable_that_names_another(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACEBED_SITES", str(tmp_path / "nothing.toml"))
    with pytest.raises(SiteError, match=r"there is no .*nothing\.toml; `TRACEBED_SITES` names another file"):
        load_sites()


def test_the_file_in_the_repository_can_be_read_with_all_its_examples(sites):
    text = (ROOT / "sites.toml").read_text()
    examples = "\n".join(
        line.removeprefix("# ") for line in text.splitlines() if line.startswith(("[", "# [")) or " = " in line
    )
    read = sites(examples)
    assert set(read.sites) == {"local", "cluster", "node", "inside"}
    assert read.sites["cluster"].commands == YH
    assert read.sites["cluster"].environments["mimicgen"] == ("/lab/bin/run-in-image", "python")
    assert read.for_group("spatial").name == "local"


def test_commands_may_be_named_together_or_each(sites):
    read = sites('[sites.x]\nscheduler = "slurm"\ncommands = "yh"\n[sites.y]\ncommands = { sbatch = "/opt/sbatch" }')
    assert (read.sites["x"].commands.sbatch, read.sites["x"].commands.sacct) == ("yhbatch", "yhacct")
    assert (read.sites["y"].commands.sbatch, read.sites["y"].commands.sacct) == ("/opt/sbatch", "sacct")


def test_an_environment_is_an_interpreter_or_a_command(sites):
    ssh = 'ssh = { host = "h", user = "u" }'
    site = sites(f'[sites.x]\n{ssh}\nenvironments = {{ one = "/a/python", two = ["run", "--nv", "python"] }}').sites[
        "x"
    ]
    assert site.command("one") == ["/a/python"] and site.command("two") == ["run", "--nv", "python"]
    assert site.command("default") == [sys.executable]
    with pytest.raises(SiteError, match=r"site 'x' has no environment 'three'; add it to \[sites\.x\.environments\]"):
        site.command("three")


def test_an_environment_of_this_host_may_be_named_by_a_variable(sites, monkeypatch, tmp_path):
    local = sites("").sites["local"]
    monkeypatch.setenv("TRACEBED_PYTHON_MIMICGEN", sys.executable)
    assert local.command("mimicgen") == [sys.executable]
    monkeypatch.setenv("TRACEBED_PYTHON_MIMICGEN", str(tmp_path / "no-python"))
    with pytest.raises(SiteError, match=r"TRACEBED_PYTHON_MIMICGEN is .*no-python.*cannot be run"):
        local.command("mimicgen")


def test_groups_run_where_the_file_says(sites):
    read = sites('[runs_on]\ndefault = "x"\npolicy = "local"\n[sites.x]')
    assert (read.for_group("policy").name, read.for_group("spatial").name) == ("local", "x")
    assert sites("").for_group("spatial").name == "local"
    with pytest.raises(SiteError, match=r"there is no site 'moon'; the sites of .* are: local"):
        sites("").site("moon")


# `tracebed site check`


@pytest.fixture
def check(sites, monkeypatch, tmp_path):
    """Run `tracebed site check` on a site of one name."""
    monkeypatch.setenv("TRACEBED_HOME", str(tmp_path / "home"))

    def run(text: str):
        sites(text)
        return CliRunner().invoke(main, ["site", "check", "x"])

    return run


def through(sshd: Sshd, host: str) -> str:
    return f"ssh = {{ host = '{host}', user = '{sshd.user}', config = '{sshd.ssh_config}' }}"


@pytest.fixture
def described(sshd, cluster, monkeypatch, tmp_path):
    """Each kind of site on the test cluster."""
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    sshd.start()
    slurm, work = 'scheduler = "slurm"\npartition = "gpu"', f"work = {json.dumps(str(tmp_path / 'work'))}"
    return {
        "local": "",
        "slurm": slurm,
        "slurm through ssh": f"{slurm}\n{through(sshd, 'login')}",
        "node": f"{through(sshd, 'an51')}\n{work}",
        "inside": f"{slurm}\n{through(sshd, 'login')}\ninside_allocation = true\n{work}",
    }


@pytest.mark.parametrize("kind", ["local", "slurm", "slurm through ssh", "node", "inside"])
def test_a_site_that_works_is_found_to_work(check, described, cluster, kind):
    outcome = check(f"[sites.x]\npoll_s = 0.5\n{described[kind]}")
    assert outcome.exit_code == 0, outcome.output
    assert "FAILED" not in outcome.output
    lines = outcome.output.splitlines()
    assert any(
        line.startswith("ok") and re.search(r"job \(default( on an51)?\): submitted in", line) for line in lines
    ), outcome.output
    held = ("squeue", "--noheader", "--states=running,pending")
    until(lambda: not cluster.run(*held).stdout.strip(), 20, "nothing is held")


def test_a_wrong_partition_is_named_with_its_cure(check, described):
    outcome = check(f"[sites.x]\n{described['slurm through ssh']}".replace('"gpu"', '"gpus"'))
    assert outcome.exit_code == 1
    assert "FAILED  partition" in outcome.output and "-> mend `partition`" in outcome.output


@pytest.mark.parametrize("kind", ["node", "inside"])
def test_a_wrong_interpreter_is_named_with_its_cure(check, described, kind):
    wrong = 'environments = { default = "/nowhere/python" }'
    outcome = check(f"[sites.x]\npoll_s = 0.5\n{described[kind]}\n{wrong}")
    assert outcome.exit_code == 1
    assert "LAUNCH_ERROR" in outcome.output and "mend `environments` of the site" in outcome.output, outcome.output


def test_a_home_that_the_node_does_not_have_is_named_with_its_cure(check, tmp_path):
    if reason := Sshd.missing():
        pytest.skip(reason)
    with short_folder() as folder, Sshd(folder) as node:
        # Each session gets a mount namespace of its own, in which the home is an empty file system: another machine.
        script = folder / "elsewhere"
        script.write_text(f'#!/bin/sh\nmount -t tmpfs none "{tmp_path}" && eval "$SSH_ORIGINAL_COMMAND"\n')
        key = (folder / "user_key.pub").read_text()
        (folder / "authorized_keys").write_text(f'command="unshare --mount /bin/sh {script}" {key}')
        outcome = check(f"[sites.x]\n{through(node, 'an51')}")
    if "unshare" in outcome.output or "mount:" in outcome.output:
        pytest.skip(f"no mount namespaces here: {outcome.output}")
    assert outcome.exit_code == 1
    assert "FAILED  home is shared" in outcome.output, outcome.output
    assert "-> put $TRACEBED_HOME on a file system that the site has at the same path" in outcome.output


def test_a_host_that_cannot_be_reached_is_named_with_its_cure(check, sshd):
    outcome = check(f"[sites.x]\n{through(sshd, 'an51').replace('host =', 'port = 1, host =')}")
    assert outcome.exit_code == 1 and "mend `port` of the site" in outcome.output
    assert Path(sshd.ssh_config).exists()
