"""tiny_vla over the server: the same seeds give the same episodes with 1 and 8 clients, also when the server dies."""

import os
import signal
from dataclasses import replace

import pytest
from demonstration_files import LIFT, write_file

from science.robots.rollouts.episode import TIMES
from science.robots.rollouts.pool import RolloutPool, RolloutRequest
from science.robots.serving import KEY_VARIABLE
from science.robots.serving.process import ServerProcess
from science.robots.tiny_vla.config import TinyVlaConfig
from science.robots.tiny_vla.training import train

SMALL = TinyVlaConfig(width=16, layers=2, heads=2, batch_size=8, steps=3, warmup_steps=1)
SEEDS = range(10)
STEPS = 40


@pytest.fixture(scope="module")
def request_(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    checkpoint = train(SMALL, {LIFT.key: write_file(folder / "lift.hdf5")}, folder).checkpoints[3]
    return RolloutRequest(LIFT.key, "tiny_vla", checkpoint=checkpoint, horizon_steps=STEPS)


def episodes(request, n_workers, environment=None, on_episode=lambda: None):
    """What each seed's episode was but for its times, and how often an episode waited for a server."""
    found, served = {}, []

    def keep(episode):
        record = episode.record()
        served.append(record["server_s"])
        found[episode.seed] = {name: value for name, value in record.items() if name not in TIMES}
        on_episode()

    with RolloutPool(n_workers, environment) as pool:
        pool.run(request, [(seed, "control") for seed in SEEDS], keep)
    return found, served


def test_one_client_eight_clients_and_a_server_killed_once_give_identical_episodes(request_):
    environment = {**os.environ, KEY_VARIABLE: "secret"}
    alone, unserved = episodes(request_, 1)
    assert unserved == [None] * len(SEEDS)
    assert all(each["outcome"] == "failure" and each["steps"] == STEPS for each in alone.values())
    with ServerProcess("tiny_vla", LIFT.key, request_.checkpoint, environment=environment) as server:
        request = replace(request_, server=server.address)
        one, served = episodes(request, 1, environment)
        assert one == alone and all(each > 0 for each in served)
        killed = []

        def kill_once() -> None:
            if not killed:
                killed.append(os.kill(server.pid, signal.SIGKILL))

        eight, _ = episodes(request, 8, environment, kill_once)
        assert server.restarts == 1
    assert eight == alone  # trajectory hashes are among it: every action and state, bit for bit
