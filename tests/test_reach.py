"""The way to a site: what goes through `ssh` arrives as it was sent, and every refusal says what to do."""

import concurrent.futures
import itertools
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cluster.folders import short_folder
from cluster.processes import all_pids, holds_file_under, program
from cluster.sshd import Sshd
from fault_jobs import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from home import ROOT
from resources.compute import reach as reach_module
from resources.compute.interface import SiteUnavailable
from resources.compute.processes import SUPERVISOR, _uploaded, supervisor
from resources.compute.reach import Here, Ssh, explained
from resources.compute.sites import Site

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def alone():
    """An sshd without a cluster behind it."""
    if reason := Sshd.missing():
        pytest.skip(reason)
    with short_folder() as folder, Sshd(folder) as started:
        yield started


@pytest.fixture
def there(alone: Sshd):
    """The way to it, over a connection of its own."""
    way = Ssh("an51", alone.user, config=alone.ssh_config)
    close(way)
    yield way
    close(way)


def close(way: Ssh) -> None:
    subprocess.run([*way.command()[:-1], "-O", "exit", way.host], capture_output=True, timeout=20, check=False)


def masters(way: Ssh) -> list[int]:
    """Ids of the ssh processes that serve the shared connection: they hold its socket and its log."""
    return [pid for pid in all_pids() if program(pid) == "ssh" and holds_file_under(pid, way.socket.parent)]


ARGUMENTS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARGUMENTS)
def test_any_arguments_arrive_as_they_were_sent(there: Ssh, arguments: list[str]):
    done = there.run(["printf", "%s\\0", "begin", *arguments])
    assert done.out == "".join(f"{each}\0" for each in ["begin", *arguments])


TRICKY = [
    "a'b\"c",
    "$HOME",
    "`id`",
    "$(id)",
    "a\nb",
    "ünïcode \u2028 🙂",
    " spaces ",
    ";",
    "*",
    "--",
    "-n",
    "",
    "\\",
    "!x",
]


@pytest.mark.fault("every character that a shell reads, in arguments", "they arrive as they were sent, here and by ssh")
def test_what_a_shell_would_read_arrives_as_it_was_sent(there: Ssh, record_property):
    for way in (Here(), there):
        done = way.run(["printf", "%s\\0", "begin", *TRICKY])
        assert done.out.split("\0")[1:-1] == TRICKY
    assert there.run(["cat"], send="\n".join(TRICKY)).out == "\n".join(TRICKY)
    record_property("measured", f"{len(TRICKY)} of {len(TRICKY)} arguments, byte for byte; 12 random lists too")


def refused(way: Ssh) -> str:
    with pytest.raises(SiteUnavailable) as caught:
        way.run(["true"])
    return str(caught.value)


@pytest.fixture
def config(alone: Sshd, tmp_path: Path):
    """A client configuration with some lines replaced."""
    numbers = itertools.count()

    def changed(**lines: str) -> Path:
        kept = [
            line for line in alone.ssh_config.read_text().splitlines() if line.split()[0] not in (*lines, "BatchMode")
        ]
        path = tmp_path / f"ssh_config-{next(numbers)}"
        path.write_text("\n".join([*kept, *(f"    {name} {value}" for name, value in lines.items())]) + "\n")
        return path

    return changed


@pytest.mark.fault(
    "another host key, an unknown one, no key accepted, an unknown host, a port where nothing listens",
    "each is refused with what to do; no job is lost by it",
)
def test_each_refusal_of_ssh_says_what_to_do(alone: Sshd, config, tmp_path, record_property):
    for name in ("wrong", "other"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(make, timeout=30, check=True)
    (tmp_path / "changed").write_text(f"[127.0.0.1]:{alone.port} {(tmp_path / 'wrong.pub').read_text()}")
    (tmp_path / "none").write_text("")
    changed_key = config(UserKnownHostsFile=str(tmp_path / "changed"))
    no_key = config(UserKnownHostsFile=str(tmp_path / "none"))
    not_let_in = config(IdentityFile=str(tmp_path / "other"))
    cases = {
        "find out why": Ssh("an51", alone.user, config=changed_key),
        "ssh-keyscan an51": Ssh("an51", alone.user, config=no_key),
        "ssh-copy-id": Ssh("an51", alone.user, config=not_let_in),
        "mend `host`": Ssh("nowhere.invalid", alone.user, config=alone.ssh_config),
        "mend `port`": Ssh("an51", alone.user, port=1, config=alone.ssh_config),
    }
    for cure, way in cases.items():
        said = refused(way)
        assert cure in said, said
        assert cure == "ssh-keyscan an51" or "ssh-keyscan" not in said, f"advises to accept that key: {said}"
    record_property("measured", f"{len(cases)} of {len(cases)} refusals name their cure")


@pytest.mark.fault("a host that asks for a password", "it is refused at once: nothing ever waits for a human")
def test_a_password_is_never_asked_for(there: Ssh, record_property):
    asked = there.command("ControlMaster=yes", "ControlPersist=3600", "BatchMode=yes")
    told = subprocess.run(["ssh", "-G", *asked[1:]], capture_output=True, text=True, timeout=20, check=True).stdout
    values = dict(line.partition(" ")[::2] for line in told.splitlines())
    assert values["batchmode"] == "yes" and values["stricthostkeychecking"] == "true"
    assert "ssh-copy-id" in explained(f"{there.where}: Permission denied (publickey,password).", there.host)
    record_property("measured", "ssh -G: batchmode yes, stricthostkeychecking true")


@pytest.mark.fault("a host that accepts the connection and says nothing", "SiteUnavailable, and the lock is free again")
def test_a_host_that_never_answers_is_unavailable(alone: Sshd, config, monkeypatch, record_property):
    monkeypatch.setattr(reach_module, "TIMEOUT_S", 1.0)
    way = Ssh("an51", alone.user, config=config(ProxyCommand="sleep 60"))
    for _ in range(2):
        assert "has not let us in within 1 s" in refused(way)
    record_property("measured", "2 of 2 calls ended by the time-out")


def test_the_refusal_of_a_node_without_a_job_names_inside_allocation():
    recorded = "Access denied by pam_slurm_adopt: you have no active jobs on this node Connection closed by 127.0.0.1"
    assert "inside_allocation = true" in explained(recorded, "an51")


@pytest.mark.fault(
    "the shared connection's process killed: a stale control socket", "it is replaced by a new connection"
)
def test_a_stale_control_socket_is_replaced(there: Ssh, alone: Sshd, record_property):
    assert there.run(["echo", "one"]).out == "one\n"
    (pid,) = masters(there)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not masters(there), 10, "the master is gone")
    assert there.socket.exists()
    assert there.run(["echo", "two"]).out == "two\n"
    assert len(masters(there)) == 1
    record_property("measured", "1 connection afterwards, the command's output is complete")


@pytest.mark.fault("six processes open the connection at once", "one shared connection")
def test_processes_that_connect_at_once_share_one_connection(there: Ssh, alone: Sshd, record_property):
    before = alone.log.read_bytes().count(b"Accepted publickey")
    code = (
        "import sys\nfrom pathlib import Path\nfrom resources.compute.reach import Ssh\n"
        "print(Ssh('an51', sys.argv[1], config=Path(sys.argv[2])).run(['echo', 'hello']).out, end='')"
    )
    argv = [sys.executable, "-c", code, alone.user, str(alone.ssh_config)]
    started = [subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(6)]
    assert [each.communicate(timeout=60)[0] for each in started] == [b"hello\n"] * 6
    assert len(masters(there)) == 1
    logins = alone.log.read_bytes().count(b"Accepted publickey") - before
    assert logins == 1
    record_property("measured", f"6 processes, {logins} login")


def test_the_control_socket_has_a_short_path_in_a_folder_of_this_user_alone(there: Ssh, monkeypatch, tmp_path):
    long = tmp_path / ("long" * 20)
    long.mkdir()
    (long / f"tracebed-{os.getuid()}").mkdir(mode=0o755)
    for folder in (None, str(long)):
        monkeypatch.setattr(reach_module.tempfile, "tempdir", folder)
        assert len(os.fsencode(there.socket)) + len(".1234567890abcdef") < 108
        for each in (there.socket.parent, there.socket.parent.parent):
            assert each.stat().st_mode & 0o777 == 0o700, each


def test_a_folder_of_another_user_is_refused(there: Ssh, monkeypatch, tmp_path):
    with short_folder() as folder:
        monkeypatch.setattr(reach_module.tempfile, "tempdir", str(folder))
        planted = folder / f"tracebed-{os.getuid()}"
        planted.symlink_to(tmp_path)
        assert "belongs to another user" in refused(there)
        planted.unlink()
        planted.mkdir()
        os.chown(planted, 65534, 65534)
        assert "belongs to another user" in refused(there)


@pytest.mark.fault("20 commands at once through one connection (MaxSessions 10)", "all succeed, at most 8 at a time")
def test_twenty_commands_at_once_stay_below_the_limit_of_sessions(there: Ssh, tmp_path, record_property):
    script = tmp_path / "count.sh"
    script.write_text(
        f'touch {tmp_path}/in.$$; ls {tmp_path}/in.* | wc -l; sleep 0.3; rm {tmp_path}/in.$$; echo "$1"\n'
    )
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda n: there.run(["sh", str(script), str(n)]), range(20)))
    assert [each.code for each in done] == [0] * 20
    assert [each.out.split()[1] for each in done] == [str(n) for n in range(20)]
    most = max(int(each.out.split()[0]) for each in done)
    assert most <= 8
    record_property("measured", f"20 of 20 succeeded, at most {most} at once")


@pytest.fixture
def node_site(alone: Sshd, tmp_path):
    ssh = {"host": "an51", "user": alone.user, "config": alone.ssh_config}
    yield Site(name="node", ssh=ssh, work=str(tmp_path / "a work folder with 'quotes'"))
    _uploaded.clear()


@pytest.mark.fault("an upload that broke half-way", "the half is never called; the next use uploads a whole one, once")
def test_the_supervisor_is_uploaded_whole_and_once(node_site: Site, tmp_path, monkeypatch, record_property):
    work = Path(node_site.work)
    work.mkdir()
    half = work / "supervisor-half.sh.part-1"
    half.write_bytes(SUPERVISOR.read_bytes()[:500])
    real, calls = reach_module._run, []

    def cut(argv, send, timeout_s, hold):
        """A line that breaks in mid-upload: tee gets the first half (a real cut cannot be timed to the byte)."""
        calls.append(argv[-1])
        return real(argv, send[:300] if argv[-1].startswith("tee") else send, timeout_s, hold)

    monkeypatch.setattr(reach_module, "_run", cut)
    with pytest.raises(SiteUnavailable, match="cannot be written"):
        supervisor(node_site, "an51", tmp_path)
    assert not list(work.glob("supervisor-*.sh"))
    monkeypatch.setattr(reach_module, "_run", real)
    assert supervisor(node_site, "an51", tmp_path).run(["status"]).code == 0
    (script,) = work.glob("supervisor-*.sh")
    assert script.read_bytes() == SUPERVISOR.read_bytes() and script.is_absolute()
    before = script.stat().st_mtime_ns
    _uploaded.clear()  # as in another process
    assert supervisor(node_site, "an51", tmp_path).run(["status"]).code == 0
    assert script.stat().st_mtime_ns == before
    assert len(list(work.glob("*.part-*"))) == 2  # the halves are still there, and nobody called them
    record_property("measured", f"{script.stat().st_size} bytes, written once in two uses")


@pytest.mark.fault("the node lost its work folder (an emptied /tmp)", "the supervisor is uploaded again")
def test_a_supervisor_that_was_deleted_is_uploaded_again(node_site: Site, tmp_path, record_property):
    assert supervisor(node_site, "an51", tmp_path).run(["status"]).code == 0
    (script,) = Path(node_site.work).glob("supervisor-*.sh")
    script.unlink()
    assert supervisor(node_site, "an51", tmp_path).run(["status"], send="/nowhere\n").out == "absent\t/nowhere\n"
    record_property("measured", "the same call answered")


def test_uploads_at_once_do_not_disturb_each_other(node_site: Site, tmp_path):
    errors = []

    def use():
        try:
            assert supervisor(node_site, "an51", tmp_path).run(["status"]).code == 0
        except SiteUnavailable as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    assert len(list(Path(node_site.work).iterdir())) == 1


@pytest.mark.fault("`supervisor.sh start` killed (SIGKILL) at some moment, then repeated", "one process")
def test_a_start_that_is_killed_and_repeated_starts_the_job_once(tmp_path, record_property):
    rounds, cut_short, pids = 24, 0, {}
    for number in range(rounds):
        job = tmp_path / str(number)
        job.mkdir()
        (job / "run.sh").write_text(f"echo $$ >>{shlex.quote(str(job))}/starts; exec sleep 0.5\n")
        argv = ["/bin/sh", str(SUPERVISOR), "start", str(job)]
        first = subprocess.Popen(argv, stdout=subprocess.PIPE)
        time.sleep(0.0005 * number)
        first.kill()
        cut_short += first.wait() != 0
        said = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout
        until(lambda job=job: (job / "starts").exists() and (job / "starts").read_text(), 10, "it runs")
        pids[job] = said.split()[0]
    time.sleep(0.5)  # a second process of the last job would have come by now
    assert {job: (job / "starts").read_text().split() for job in pids} == {job: [pid] for job, pid in pids.items()}
    assert cut_short
    record_property("measured", f"{rounds} starts, {cut_short} cut short, {rounds} processes")
