"""A policy served in batches beside openpi's own server: the same policy, the same clients, one after the other.

    python bench/serving.py [--clients 1 4 8 16] [--seconds 20] [--rounds 3]

The policy sleeps 40 ms + 4 ms for each row of a batch, as a large model on a GPU costs; a client thinks for 25 ms (that
is its simulation) and asks again. Each server has a process of its own; all clients are openpi's, unmodified, in one
process of as many threads. The servers take turns, so that a busy machine slows both. Fairness is Jain's index of the
requests that each client got through: 1 where all got the same.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from science.robots.policies.batched import BatchedPolicy, Row

CALL_S, ROW_S, THINK_S = 0.040, 0.004, 0.025
SERVERS = ("openpi", "tracebed")
WANTED = {4: 2.0, 16: 4.0}
WARM_UP_S = 2.0
HORIZON, DIM = 10, 7


class Sleeping(BatchedPolicy):
    """Costs what a large model costs, and computes next to nothing."""

    observation: Mapping[str, int] = {"state": 8}
    action_dim = DIM
    horizon_steps = HORIZON

    def infer(self, rows: Sequence[Row]) -> np.ndarray:
        time.sleep(CALL_S + ROW_S * len(rows))
        return np.stack([np.full((HORIZON, DIM), np.tanh(row.observation["state"].sum())) for row in rows])


class SleepingAlone:
    """The same for openpi's server: a policy that answers one observation."""

    def infer(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(CALL_S + ROW_S)
        return {"actions": np.full((HORIZON, DIM), np.tanh(observation["state"].sum()))}


def serve(name: str, port: int) -> None:
    """Child process: serve until killed."""
    if name == "openpi":
        from openpi.serving.websocket_policy_server import WebsocketPolicyServer

        WebsocketPolicyServer(SleepingAlone(), host="127.0.0.1", port=port).serve_forever()
        return
    from science.robots.serving.server import PolicyServer

    asyncio.run(PolicyServer(Sleeping(), {}).run("127.0.0.1", port, lambda _: None))


@dataclass(frozen=True)
class Load:
    """What clients saw: requests of each, and the seconds of every request."""

    counts: list[int]
    waits_s: list[float]
    seconds: float

    @property
    def rate(self) -> float:
        return sum(self.counts) / self.seconds

    @property
    def fairness(self) -> float:
        counts = np.array(self.counts, float)
        return float(counts.sum() ** 2 / (len(counts) * (counts**2).sum()))

    def percentile_ms(self, share: float) -> float:
        return float(np.percentile(self.waits_s, share) * 1000)


def load(port: int, n_clients: int, seconds: float) -> Load:
    """Ask with so many clients."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    counts = [0] * n_clients
    waits: list[list[float]] = [[] for _ in range(n_clients)]
    clients = [WebsocketClientPolicy("127.0.0.1", port) for _ in range(n_clients)]
    counting, over = threading.Event(), threading.Event()

    def work(number: int) -> None:
        while not over.is_set():
            time.sleep(THINK_S)
            began_s = time.perf_counter()
            answer = clients[number].infer({"state": np.full(8, number * 0.01)})
            assert np.allclose(answer["actions"], np.tanh(8 * number * 0.01))
            if counting.is_set() and not over.is_set():
                counts[number] += 1
                waits[number].append(time.perf_counter() - began_s)

    threads = [threading.Thread(target=work, args=[number]) for number in range(n_clients)]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP_S)
    counting.set()
    began_s = time.perf_counter()
    time.sleep(seconds)
    over.set()
    took_s = time.perf_counter() - began_s
    for thread in threads:
        thread.join()
    for client in clients:
        client._ws.close()
    return Load(counts, [each for some in waits for each in some], took_s)


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int) -> None:
    from urllib.error import URLError
    from urllib.request import urlopen

    for _ in range(600):
        try:
            urlopen(f"http://127.0.0.1:{port}/healthz").close()
            return
        except URLError:
            time.sleep(0.1)
    sys.exit(f"no server came up on port {port}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
        return
    ports = {name: free_port() for name in SERVERS}
    command = [sys.executable, "-W", "ignore", str(Path(__file__))]
    processes = [subprocess.Popen([*command, "--serve", name, str(port)]) for name, port in ports.items()]
    try:
        for port in ports.values():
            wait_for(port)
        print(f"{CALL_S * 1000:g} ms + {ROW_S * 1000:g} ms a row, {THINK_S * 1000:g} ms between requests")
        print(f"(medians of {options.rounds} rounds of {options.seconds:g} s each)\n")
        print("| clients | server | requests/s | over openpi's | p50, ms | p99, ms | fairness |")
        print("|---:|---|---:|---:|---:|---:|---:|")
        for n in options.clients:
            loads: dict[str, list[Load]] = {name: [] for name in SERVERS}
            for _ in range(options.rounds):
                for name in SERVERS:
                    loads[name].append(load(ports[name], n, options.seconds))
            ratio = statistics.median(
                ours.rate / theirs.rate for theirs, ours in zip(*(loads[name] for name in SERVERS), strict=True)
            )
            for name in SERVERS:
                row = loads[name]
                aim = f" (aim {WANTED[n]:g})" if n in WANTED and name == SERVERS[1] else ""
                print(
                    f"| {n} | {name} | {statistics.median(each.rate for each in row):.1f} "
                    f"| {1 if name == SERVERS[0] else ratio:.2f}{aim} "
                    f"| {statistics.median(each.percentile_ms(50) for each in row):.0f} "
                    f"| {statistics.median(each.percentile_ms(99) for each in row):.0f} "
                    f"| {statistics.median(each.fairness for each in row):.3f} |",
                    flush=True,
                )
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
