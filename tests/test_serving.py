"""The policy server: what is asked together is answered together, and what one client does hurts no other."""

import asyncio
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from serving_policies import IDENTITY, POLICIES, Gated, Small, serve_here
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from science.robots.policies.base import PolicyError
from science.robots.policies.batched import Row, episode_noise
from science.robots.policies.conformance import problems
from science.robots.serving.batching import Batcher, Client, batch_sizes
from science.robots.serving.client import PolicyClient, ServerGone
from science.robots.serving.process import MAX_RESTARTS
from science.robots.serving.protocol import MAX_BYTES, SEED, SESSION, STEP, pack, unpack
from science.robots.serving.remote import RemotePolicy
from science.robots.serving.serve import require_key
from science.robots.serving.stats import Stats


def asked(policy, x, seed=0, step=0):
    row = Row("", seed, step, {"x": np.asarray(x, float)}, episode_noise(seed, step, policy.noise_shape), policy.prompt)
    return policy.infer([row])[0]


def page(address, path):
    with urllib.request.urlopen(address.replace("ws://", "http://") + path) as answer:
        return answer.read().decode()


def counted(address, name):
    lines = [line for line in page(address, "/stats").splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def raw(address, **headers):
    connection = connect(address, compression=None, max_size=None, additional_headers=headers, proxy=None)
    return connection, unpack(connection.recv())


# openpi's protocol


def test_an_unmodified_openpi_client_is_served():
    policy = Small()
    with serve_here(policy) as (address, _):
        client = WebsocketClientPolicy(address)
        told = client.get_server_metadata()
        assert {key: told[key] for key in IDENTITY} == IDENTITY
        assert (told["action_horizon"], told["action_dim"], told["replan_steps"]) == (4, 2, 2)
        answers = [client.infer({"x": np.full(3, ask), "prompt": "do it"})["actions"] for ask in range(3)]
    # The connection is the episode, of seed 0, and the step is the number of observations before.
    assert np.array_equal(answers, [asked(policy, np.full(3, ask), step=ask) for ask in range(3)])


def test_openpis_broker_plays_the_chunks_of_the_server():
    pytest.importorskip("tree", reason="openpi_client's broker needs dm-tree, which nothing else here does")
    from openpi_client.action_chunk_broker import ActionChunkBroker

    policy = Small()
    with serve_here(policy) as (address, _):
        broker = ActionChunkBroker(WebsocketClientPolicy(address), action_horizon=2)
        actions = [broker.infer({"x": np.full(3, step)})["actions"] for step in range(6)]
    chunks = [asked(policy, np.full(3, step), step=ask) for ask, step in enumerate((0, 2, 4))]
    assert np.array_equal(actions, np.concatenate([chunk[:2] for chunk in chunks]))


def test_an_answer_says_how_it_came_about():
    with serve_here(Small(cost_s=0.01)) as (address, _):
        answer = PolicyClient(address).infer({"x": np.zeros(3)})
    assert answer["server_timing"]["batch_size"] == 1 and answer["server_timing"]["queue_ms"] >= 0
    assert answer["policy_timing"]["infer_ms"] == answer["server_timing"]["infer_ms"] >= 10


# batches


def test_clients_that_ask_together_are_answered_together_each_with_its_own():
    policy = Small(cost_s=0.02)
    with serve_here(policy) as (address, _), ThreadPoolExecutor(8) as threads:
        clients = [PolicyClient(address) for _ in range(8)]

        def episode(number):
            found = [
                clients[number].infer({"x": np.full(3, number)}, session=f"{number}", seed=number, step=2 * ask)
                for ask in range(6)
            ]
            return [each["actions"] for each in found]

        answers = list(threads.map(episode, range(8)))
        assert counted(address, "tracebed_rows_answered_total") == 48
        assert counted(address, "tracebed_connections") >= 8
    assert max(policy.batches) == 8 and len(policy.batches) < 24
    assert set(policy.batches) <= {1, 2, 4, 8}
    for number, found in enumerate(answers):
        expected = [asked(policy, np.full(3, number), number, 2 * ask) for ask in range(6)]
        assert np.array_equal(found, expected)


def test_a_served_policy_conforms_as_it_does_here():
    for name in POLICIES:
        with serve_here(POLICIES[name]()) as (address, _):
            assert problems(RemotePolicy(address, IDENTITY)) == []


@pytest.mark.parametrize(
    ("sizes", "max_batch", "expected"),
    [(None, 8, [1, 2, 4, 8]), (None, 6, [1, 2, 4, 6]), (None, 1, [1]), ((4, 8), None, [4, 8]), ((4, 8), 5, [4])],
)
def test_batches_are_padded_to_the_policys_sizes_or_to_powers_of_two(sizes, max_batch, expected):
    policy = Small()
    policy.batch_sizes = sizes
    assert batch_sizes(policy, max_batch) == expected
    if sizes:
        with pytest.raises(ValueError, match="expected at least 4"):
            batch_sizes(policy, 3)


def test_clients_are_waited_for_where_more_rows_a_second_are_answered_with_them():
    def wait(n_waiting: int, *clients: Client) -> float:
        async def patience() -> float:
            batcher = Batcher(Small(), Stats(), max_batch=4)
            batcher.clients, batcher._batch_s = set(clients), 0.1
            batcher._waiting = [None] * n_waiting
            return batcher._patience_s(100.0)

        return asyncio.run(patience())

    soon, later = Client(answered_s=100.0, think_s=0.02), Client(answered_s=100.0, think_s=0.06)
    assert wait(1, soon) == pytest.approx(0.02)
    assert wait(1, soon, later) == pytest.approx(0.06)  # 3 rows in .16 s are more than 2 in .12 s
    assert wait(3, later) == 0  # 4 rows in .16 s are not
    assert wait(4, soon) == 0  # the batch is full
    assert wait(1, Client(answered_s=99.98, think_s=0.01)) == pytest.approx(0.01)  # late: as long again
    assert wait(1, Client(answered_s=90.0, think_s=0.02)) == 0  # it stays away
    assert wait(1, Client(answered_s=100.0, think_s=1.0)) == 0
    assert wait(1, Client()) == wait(1, Client(waiting=True, answered_s=99.9, think_s=0.1)) == 0  # nothing is known


def test_every_size_is_warm_before_anybody_is_served():
    warmed = []

    class Watched(Small):
        def warm_up(self, n_rows):
            warmed.append(n_rows)

    policy = Watched()
    with serve_here(policy, max_batch=4) as (address, _):
        assert warmed == [1, 2, 4] and policy.forgotten[:1] == ["example-0"]
        PolicyClient(address).infer({"x": np.zeros(3)})
    assert len(policy.batches) == 1


# isolation


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"x": np.zeros(4)}, r"found x of shape \(4,\)"),
        ({"x": np.array([0, np.nan, 0])}, "NaN or infinity in x"),
        ({"x": np.array(["a", "b", "c"])}, "expected 3 numbers"),
        ({"x": [[1.0, 2.0], [3.0]]}, "found x as lists of different lengths"),
        ({"x": {"y": 1}}, "expected 3 numbers"),
        ({"x": np.zeros(3), SESSION: "s", SEED: 1.0, STEP: 0}, "tracebed/seed = 1.0, expected a whole number"),
        ({"y": np.zeros(3)}, r"found keys \['y'\].*x is missing"),
        ({"x": np.zeros(3), "prompt": 3}, "expected text"),
        ({"x": np.zeros(3), SESSION: "s", SEED: -1, STEP: 0}, "tracebed/seed = -1, expected a whole number"),
        ({"x": np.zeros(3), SESSION: "s", SEED: 1}, "tracebed/step = None"),
        ({"x": np.zeros(3), SESSION: 7}, "expected text"),
        ({"x": np.zeros(3), "tracebed/ended": "all"}, "expected a list of sessions"),
        ({"x": np.full(3, Small.NAN)}, "8 of 8 elements that are NaN"),
        ({"x": np.full(3, Small.RAISES)}, "FloatingPointError: a row that no policy can bear"),
    ],
)
def test_a_bad_observation_among_good_ones_hurts_only_its_own_client(spoilt, said):
    policy = Small(cost_s=0.05)
    with serve_here(policy) as (address, _), ThreadPoolExecutor(4) as threads:
        good = [PolicyClient(address) for _ in range(3)]
        bad = PolicyClient(address)
        together = threading.Barrier(4)

        def ask(number):
            together.wait()
            return good[number].infer({"x": np.full(3, number)}, session=f"{number}", seed=number)["actions"]

        def fail():
            together.wait()
            with pytest.raises(PolicyError, match=said):
                bad.infer(spoilt)

        failing = threads.submit(fail)
        answers = list(threads.map(ask, range(3)))
        failing.result()
        assert all(np.array_equal(answer, asked(policy, np.full(3, n), n)) for n, answer in enumerate(answers))
        assert np.array_equal(
            bad.infer({"x": np.zeros(3)})["actions"], asked(policy, np.zeros(3))
        )  # on a new connection
        assert counted(address, "tracebed_rows_refused_total") == 1


def test_garbage_and_text_are_answered_with_an_error_and_the_server_lives():
    with serve_here(Small()) as (address, _):
        for message in (b"\xc1garbage", pack({"x": np.zeros(3)})[:-3], "text", pack({"x": np.zeros(3)}) * 2):
            connection, _ = raw(address)
            connection.send(message)
            assert connection.recv().startswith("ProtocolError: found")
            with pytest.raises(ConnectionClosed):
                connection.recv()
        assert PolicyClient(address).infer({"x": np.zeros(3)})["actions"].shape == (4, 2)


def test_a_frame_that_is_cut_off_by_the_network_hurts_nobody():
    with serve_here(Small()) as (address, _):
        connection, _ = raw(address)
        connection.socket.sendall(b"\x82\xff" + struct.pack(">Q", 1000) + b"mask" + b"half")  # 1000 bytes announced
        connection.socket.close()
        until(lambda: counted(address, "tracebed_connections ") == 0)
        assert PolicyClient(address).infer({"x": np.zeros(3)})["actions"].shape == (4, 2)


@pytest.mark.parametrize("answer", [None, "text", np.zeros((1, 4, 3)), np.full((1, 4, 2), None), np.zeros((2, 4, 2))])
def test_answers_that_are_no_actions_are_errors_of_their_rows(answer):
    class Odd(Small):
        def infer(self, rows):
            return answer if rows[0].observation["x"][0] == 1 else super().infer(rows)

    with serve_here(Odd()) as (address, _):
        client = PolicyClient(address)
        with pytest.raises(PolicyError, match=r"answers of shape .*, expected \(1, 4, 2\) numbers"):
            client.infer({"x": np.ones(3)})
        assert client.infer({"x": np.zeros(3)})["actions"].shape == (4, 2)


def test_a_message_beyond_the_limit_is_refused_and_not_sent_again():
    with serve_here(Small()) as (address, _):
        with pytest.raises(PolicyError, match="takes no message so large"):
            PolicyClient(address).infer({"x": np.zeros(3), "more": b"0" * MAX_BYTES})
        assert PolicyClient(address).infer({"x": np.zeros(3)})["actions"].shape == (4, 2)


def test_a_client_that_is_gone_is_left_out_and_others_are_answered():
    policy = Small()
    with serve_here(policy) as (address, server):
        slow, other, gone = (raw(address)[0] for _ in range(3))
        slow.send(pack({"x": np.full(3, Small.SLOW)}))  # keeps the policy busy while the others queue
        until(lambda: policy.batches)
        gone.send(pack({"x": np.full(3, 5.0)}))
        until(lambda: len(server._batcher._waiting) == 1)
        gone.socket.close()
        other.send(pack({"x": np.full(3, 6.0)}))
        assert np.array_equal(unpack(other.recv())["actions"], asked(policy, np.full(3, 6.0)))
        until(lambda: counted(address, "tracebed_rows_abandoned_total") == 1)
        assert policy.batches[:2] == [1, 1]


def test_a_client_that_is_killed_is_left_out_and_others_are_answered():
    policy = Gated()
    code = (
        "import sys, numpy as np; from science.robots.serving.client import PolicyClient\n"
        "PolicyClient(sys.argv[1]).infer({'x': np.full(3, 5.0)})"
    )
    with serve_here(policy) as (address, server), ThreadPoolExecutor(2) as threads:
        slow, other = PolicyClient(address), PolicyClient(address)
        answers = [threads.submit(slow.infer, {"x": np.full(3, Small.SLOW)})]
        assert policy.computes.wait(60)
        killed = subprocess.Popen([sys.executable, "-c", code, address])
        until(lambda: len(server._batcher._waiting) == 1)
        answers.append(threads.submit(other.infer, {"x": np.full(3, 6.0)}))
        until(lambda: len(server._batcher._waiting) == 2)
        killed.kill()
        killed.wait()
        until(lambda: counted(address, "tracebed_rows_abandoned_total") == 1)
        policy.let_go.set()
        assert all(answer.result()["actions"].shape == (4, 2) for answer in answers)
        assert policy.batches == [1, 1]


def test_pings_and_pages_are_answered_while_the_policy_computes():
    policy = Gated()
    with serve_here(policy) as (address, _):
        connection, _ = raw(address)
        connection.send(pack({"x": np.full(3, Small.SLOW)}))
        assert policy.computes.wait(60)
        assert connection.ping().wait(60)
        assert page(address, "/healthz") == "OK\n" and counted(address, "tracebed_rows_answered_total") == 0
        policy.let_go.set()
        assert unpack(connection.recv())["actions"].shape == (4, 2)


def test_seeds_and_steps_may_be_numbers_of_numpy():
    policy = Small()
    with serve_here(policy) as (address, _):
        answer = PolicyClient(address).infer({"x": np.zeros(3)}, session="s", seed=np.int64(5), step=np.uint8(2))
    assert np.array_equal(answer["actions"], asked(policy, np.zeros(3), 5, 2))


def test_a_server_that_dies_of_an_observation_is_not_asked_it_for_ever():
    def leave(connection):
        connection.send(pack({}))
        asked.append(connection.recv())

    asked = []
    with serve(leave, "127.0.0.1", 0) as server, ThreadPoolExecutor(1) as threads:
        threads.submit(server.serve_forever)
        address = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with pytest.raises(ServerGone, match="went away 4 times when it was asked the same"):
            PolicyClient(address).infer({"x": np.zeros(3)})
        server.shutdown()
    assert len(asked) == 4 < MAX_RESTARTS


# doors


def test_without_the_right_key_nobody_comes_in():
    with serve_here(Small(), api_key="right") as (address, _):
        for key in (None, "wrong", "righ"):
            with pytest.raises(PolicyError, match=r"refuses: found no or another API key"):
                PolicyClient(address, api_key=key)
        with pytest.raises(InvalidStatus) as refused:
            raw(address, Authorization="Bearer right")
        assert refused.value.response.status_code == 401
        assert PolicyClient(address, api_key="right").infer({"x": np.zeros(3)})["actions"].shape == (4, 2)
        assert WebsocketClientPolicy(address, api_key="right").infer({"x": np.zeros(3)})["actions"].shape == (4, 2)
        assert page(address, "/healthz") == "OK\n"
        assert counted(address, "tracebed_connections_turned_away_total") == 4


def test_a_server_that_others_can_reach_needs_a_key():
    for host in ("127.0.0.1", "::1", "localhost"):
        require_key(host, None)
    require_key("0.0.0.0", "key")
    with pytest.raises(PolicyError, match=r"found host '0.0.0.0' and no API key, expected \$TRACEBED_SERVER_KEY"):
        require_key("0.0.0.0", None)


def test_a_full_server_says_so_and_a_client_waits_for_its_turn():
    with serve_here(Small(), max_connections=1) as (address, _):
        first = PolicyClient(address)
        with pytest.raises(ServerGone, match=r"within 0.1 s; last: 1 clients are connected"):
            PolicyClient(address, wait_s=0.1)
        with ThreadPoolExecutor(1) as threads:
            second = threads.submit(PolicyClient, address)
            first.close()
            assert second.result().infer({"x": np.zeros(3)})["actions"].shape == (4, 2)


def test_a_server_that_is_asked_to_end_answers_what_it_has_in_hand():
    policy = Small()
    with serve_here(policy) as (address, server), ThreadPoolExecutor(2) as threads:
        held = PolicyClient(address, wait_s=0.2)
        idle, _ = raw(address)
        answer = threads.submit(held.infer, {"x": np.full(3, Small.SLOW)})
        until(lambda: policy.batches)
        server.drain()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            page(address, "/healthz")
        with pytest.raises(InvalidStatus) as refused:
            raw(address)
        assert refused.value.response.status_code == 503
        assert answer.result()["actions"].shape == (4, 2)
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv()
        assert closed.value.rcvd.code == 1001
        with pytest.raises(ServerGone):
            held.infer({"x": np.zeros(3)})


def test_rollouts_that_ask_no_server_need_nothing_of_the_protocol():
    code = (
        "import sys, workloads.rollouts;"
        "print(*[name for name in ('openpi_client', 'msgpack', 'websockets', 'jax') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_an_address_that_is_none_and_a_server_that_does_not_come_are_told(caplog):
    with pytest.raises(PolicyError, match="expected ws://host:port"):
        PolicyClient("localhost:1")
    with pytest.raises(ServerGone, match=r"no policy server at ws://127.0.0.1:9 within 0.1 s"):
        PolicyClient("ws://127.0.0.1:9", wait_s=0.1)
    assert "waiting up to 0.1 s for the policy server at ws://127.0.0.1:9: ConnectionRefusedError" in caplog.text


def until(holds):
    for _ in range(2000):
        if holds():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not come to hold")
