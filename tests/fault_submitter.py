"""A process of its own that submits fault probes, for tests that kill it, start several, or turn its clock.

`python fault_submitter.py FOLDER SITE VERB ARGUMENTS`; SITE is JSON, $FAULT_BEHAVIOUR what the jobs do, $FAULT_CGROUP a
control group that this process enters first.

submit NAME...             submit each job; print its name and reference
together PROCESSES NAME    that many processes submit one job at once
killed SEED NAME...        a process submits each job and is killed after a random part of what a submission takes
crash NAME                 submit, and die before the handle is written
follow NAME                follow the job to its end; print the ending
poll NAME...               submit jobs and poll them to their end; print the endings
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fault_jobs import Bench

from resources.compute.job_directory import SubmissionDirectory
from resources.compute.sites import Site

BEHAVIOUR = json.loads(os.environ.get("FAULT_BEHAVIOUR", '["exit", 0]'))
AT_ONCE = 3


def in_another_process(work: Callable[[], object], kill_after_s: float | None = None) -> int:
    """Exit status of a forked process that works and may be killed in between."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def together(bench: Bench, processes: int, name: str) -> None:
    begin_at = time.monotonic() + 0.3

    def one(_: int) -> None:
        time.sleep(max(0.0, begin_at - time.monotonic()))
        os.write(1, f"{bench.submit(name, *BEHAVIOUR).reference}\n".encode())  # one write: lines of others stay apart

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(lambda number: in_another_process(lambda: one(number)), range(processes)))


def killed(bench: Bench, seed: int, names: Sequence[str]) -> None:
    """Prints how many of the processes were killed before they had ended."""
    began = time.monotonic()
    in_another_process(lambda: bench.submit(f"{names[0]}-measured", *BEHAVIOUR))
    longest_s = 2 * (time.monotonic() - began)
    delays_s = [random.Random(seed + number).uniform(0, longest_s) for number in range(len(names))]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        statuses = list(
            pool.map(
                lambda name, delay_s: in_another_process(lambda: bench.submit(name, *BEHAVIOUR), delay_s),
                names,
                delays_s,
            )
        )
    print(sum(os.WIFSIGNALED(status) for status in statuses))


def crash(bench: Bench, name: str) -> None:
    SubmissionDirectory.write_handle = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    bench.submit(name, *BEHAVIOUR)


def poll(bench: Bench, names: Sequence[str]) -> None:
    handles = [bench.submit(name, *BEHAVIOUR) for name in names]
    endings: dict[str, str | None] = {}
    while not endings or None in endings.values():
        time.sleep(0.1)
        endings = {key: status.ending for key, status in bench.backend.poll(handles).items()}
    print(json.dumps(endings))


def main() -> None:
    folder, site, verb, *arguments = sys.argv[1:]
    if group := os.environ.get("FAULT_CGROUP"):
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    bench = Bench(Path(folder), Site(**json.loads(site)))
    if verb == "submit":
        for name in arguments:
            print(name, bench.submit(name, *BEHAVIOUR).reference, flush=True)
    elif verb == "together":
        together(bench, int(arguments[0]), arguments[1])
    elif verb == "killed":
        killed(bench, int(arguments[0]), arguments[1:])
    elif verb == "crash":
        crash(bench, arguments[0])
    elif verb == "follow":
        print(bench.follow(arguments[0], *BEHAVIOUR).ending)
    elif verb == "poll":
        poll(bench, arguments)
    else:
        raise ValueError(verb)


if __name__ == "__main__":
    main()
