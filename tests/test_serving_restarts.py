"""A server that is killed and comes back costs nothing: episodes go on, and give what they would have given."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import serving_policies
from serving_policies import IDENTITY, POLICIES, Small, serve_here
from websockets.exceptions import ConnectionClosed

from science.robots.policies.base import PolicyError
from science.robots.policies.batched import BatchedPolicy, ChunkedEpisode
from science.robots.policies.registry import find_policy
from science.robots.rollouts.episode import TIMES
from science.robots.rollouts.pool import RolloutPool, RolloutRequest
from science.robots.serving import KEY_VARIABLE, process
from science.robots.serving.client import PolicyClient
from science.robots.serving.process import MAX_RESTARTS, ServerDied, ServerProcess, keep_port
from science.robots.serving.remote import RemotePolicy
from science.robots.serving.rollouts import served_policy
from science.robots.tasks.registry import find_task

LIFT = find_task("open.Lift")
STEPS = 30


def episode(policy: BatchedPolicy, seed: int, at_step=lambda step: None) -> np.ndarray:
    acting = ChunkedEpisode(policy)
    acting.start(seed)
    seen = np.random.default_rng(seed).standard_normal((STEPS, 3))
    actions = []
    for step in range(STEPS):
        at_step(step)
        actions.append(acting.act({"x": seen[step]}))
    return np.array(actions)


class Killable:
    """A small policy served in a process, at one address."""

    def __init__(self, name: str, folder: Path, port: int):
        self.name, self.ready, self.port = name, folder / "ready", port

    def start(self) -> None:
        self.ready.unlink(missing_ok=True)
        command = [sys.executable, serving_policies.__file__, self.name, str(self.port), str(self.ready)]
        path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
        self.process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def free_port():
    with keep_port() as kept:
        yield kept.getsockname()[1]


@pytest.mark.parametrize("name", POLICIES)
def test_one_and_eight_clients_and_a_killed_server_give_identical_actions(name, tmp_path, free_port):
    expected = [episode(POLICIES[name](), seed) for seed in range(8)]
    server = Killable(name, tmp_path, free_port)
    server.start()
    killed = threading.Event()

    def kill_once(step: int) -> None:
        if step == STEPS // 2 and not killed.is_set():
            killed.set()
            server.kill()
            server.start()

    address = f"ws://127.0.0.1:{free_port}"
    try:
        alone = RemotePolicy(address, IDENTITY)  # waits for the server
        assert np.array_equal(episode(alone, 0), expected[0])
        clients = [RemotePolicy(address, IDENTITY) for _ in range(8)]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda seed: episode(clients[seed], seed, kill_once), range(8)))
        assert killed.is_set() and all(client.reconnected for client in clients)
        assert np.array_equal(found, expected)
    finally:
        server.kill()


def test_a_session_that_the_server_forgot_is_shown_again_and_a_strange_one_refused():
    policy = POLICIES["remembering"]()
    with serve_here(policy) as (address, _):
        remote = RemotePolicy(address, IDENTITY)
        forgetful = lambda step: policy._sessions.clear() if step == 11 else None  # noqa: E731
        assert np.array_equal(episode(remote, 4, forgetful), episode(POLICIES["remembering"](), 4))
        with pytest.raises(PolicyError, match="SessionLost: found step 5 of session"):
            remote._client.infer({"x": np.zeros(3)}, session="new", seed=0, step=5)


def test_a_server_that_comes_late_is_waited_for(tmp_path, free_port):
    server = Killable("small", tmp_path, free_port)
    late = threading.Timer(1.0, server.start)
    late.start()
    try:
        remote = RemotePolicy(f"ws://127.0.0.1:{free_port}", IDENTITY)
        assert np.array_equal(episode(remote, 3), episode(Small(), 3))
    finally:
        late.join()
        server.kill()


def test_a_long_warm_up_is_waited_for_and_kills_no_client():
    with serve_here(Small(warm_up_s=0.5), max_batch=4) as (address, _):  # nobody can connect before
        assert np.array_equal(episode(RemotePolicy(address, IDENTITY), 3), episode(Small(), 3))


@pytest.mark.parametrize("field", IDENTITY)
def test_another_policy_task_version_or_checkpoint_is_refused_by_name(field):
    said = rf"answers for another policy: found {field} '.*' \(expected 'other'\)"
    with serve_here(Small()) as (address, _), pytest.raises(PolicyError, match=said):
        RemotePolicy(address, IDENTITY | {field: "other"})


def test_a_server_that_came_back_as_another_is_refused_in_mid_episode(tmp_path, free_port):
    server = Killable("small", tmp_path, free_port)
    server.start()
    expected = dict(IDENTITY)
    remote = RemotePolicy(f"ws://127.0.0.1:{free_port}", expected)

    def replaced(step: int) -> None:
        if step == 10:
            server.kill()
            expected["checkpoint_hash"] = "other"
            server.start()

    try:
        with pytest.raises(PolicyError, match="checkpoint_hash 'abc' \\(expected 'other'\\)"):
            episode(remote, 1, replaced)
    finally:
        server.kill()


# the server of a job, and its workers


def test_workers_that_ask_a_server_run_the_very_episodes_that_they_run_alone_also_when_it_is_killed():
    episodes = [(seed, "control") for seed in range(4)]

    def run(request: RolloutRequest, n_workers: int, environment=None, on_episode=lambda each: None):
        found = {}

        def keep(each):
            found[each.seed] = {name: value for name, value in each.record().items() if name not in TIMES}
            on_episode(each)

        with RolloutPool(n_workers, environment) as pool:
            pool.run(request, episodes, keep)
        return found

    alone = RolloutRequest("open.Lift", "scripted", horizon_steps=60)
    key = {**os.environ, KEY_VARIABLE: "secret"}
    with ServerProcess("scripted", "open.Lift", None, environment=key) as server:
        killed = []

        def kill_once(_) -> None:
            if not killed:
                killed.append(os.kill(server.pid, signal.SIGKILL))

        served = run(replace(alone, server=server.address), 2, key, kill_once)
        assert server.restarts == 1
        assert served == run(alone, 1)


def test_a_wrong_key_is_no_episode_but_a_refusal(monkeypatch):
    with ServerProcess("random", "open.Lift", None, environment={**os.environ, KEY_VARIABLE: "secret"}) as server:
        monkeypatch.setenv(KEY_VARIABLE, "other")
        with pytest.raises(PolicyError, match="refuses"):
            served_policy(server.address, find_policy("random"), LIFT, None)
        monkeypatch.setenv(KEY_VARIABLE, "secret")
        policy = served_policy(server.address, find_policy("random"), LIFT, None)
        with pytest.raises(PolicyError, match="found policy 'random' \\(expected 'scripted'\\)"):
            served_policy(server.address, find_policy("scripted"), LIFT, None)
        policy.start(0)
        assert policy.act({}).shape == (7,) and policy.server_s > 0


def test_a_server_that_does_not_come_up_says_why_and_leaves_nothing():
    with (
        pytest.raises(ServerDied, match=r"(?s)ended with status 1 as it started.*needs a checkpoint"),
        ServerProcess("bc_rnn", "open.Lift", None),
    ):
        raise AssertionError("it came up")


def test_a_server_that_keeps_dying_is_given_up():
    with ServerProcess("random", "open.Lift", None) as server:
        for number in range(MAX_RESTARTS + 1):
            until(server._ready.exists)
            pid = server.pid
            os.kill(pid, signal.SIGKILL)
            if number < MAX_RESTARTS:
                until(lambda pid=pid: server.pid != pid)
        server._thread.join(30)
        assert server.restarts == MAX_RESTARTS and not server._thread.is_alive()


def test_what_fails_for_a_server_that_is_given_up_says_how_it_died(monkeypatch):
    monkeypatch.setattr(process, "MAX_RESTARTS", 0)
    said = r"(?s)died 1 times and was not started again; the end of its log:\nrandom for open.Lift at ws://"
    with pytest.raises(ServerDied, match=said), ServerProcess("random", "open.Lift", None) as server:
        os.kill(server.pid, signal.SIGKILL)
        server._thread.join(30)
        PolicyClient(server.address, wait_s=0.1)


def test_a_server_that_cannot_start_again_at_once_is_tried_again_and_keeps_its_port(monkeypatch):
    monkeypatch.setattr(process, "_PAUSE_S", 0.1)
    with ServerProcess("random", "open.Lift", None) as server:
        asked, server._asked = server._asked, ["--policy", "none", "--task", "open.Lift"]
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: server.restarts)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server._port))
        server._asked = asked
        policy = served_policy(server.address, find_policy("random"), LIFT, None)
        policy.start(0)
        assert policy.act({}).shape == (7,) and server.restarts >= 2


def test_a_server_that_dies_as_it_is_ended_stays_ended():
    with ServerProcess("random", "open.Lift", None) as server:
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
    assert not server._thread.is_alive() and server._process.returncode is not None


def test_a_server_that_gets_sigterm_closes_its_connections_and_ends_well(tmp_path):
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "science.robots.serving.serve", "--policy", "random", "--task", "open.Lift"]
    served = subprocess.Popen([*command, "--ready", str(ready)], stdout=subprocess.PIPE, text=True)
    try:
        until(ready.exists)
        client = PolicyClient(f"ws://127.0.0.1:{ready.read_text()}")
        assert client.infer({})["actions"].shape == (1, 7)
        served.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            client._connection.recv()
        assert closed.value.rcvd.code == 1001
        assert served.communicate(timeout=60)[0].startswith("random for open.Lift at ws://127.0.0.1:")
        assert served.returncode == 0
    finally:
        served.kill()
        served.wait()


def test_a_server_ends_with_the_process_that_started_it():
    code = (
        "import sys, time; from science.robots.serving.process import ServerProcess\n"
        "with ServerProcess('random', 'open.Lift', None) as server:\n"
        "    print(server.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


def until(holds):
    for _ in range(6000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to hold")
