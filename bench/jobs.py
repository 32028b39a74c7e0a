"""What a job costs beyond its work: from submission to its end, beside bare `sbatch` and beside dagster-slurm.

    python bench/jobs.py [--rounds 7] [--only NAME ...] [--peer PYTHON]

A Slurm with accounting and an sshd are started on this host and removed at the end. Ways are taken in turn, round by
round, so that a busy machine slows all of them; tables show medians, and the lowest and highest in brackets.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import _dagster_slurm
from _cluster import (
    NUMBERS,
    Child,
    Follower,
    Testbed,
    any_phase,
    bare,
    bare_until_file,
    cpu_s,
    interleaved,
    median_and_range,
    missing,
    open_testbed,
    start_ours,
    verdict,
)

WAIT_TRUE = "`sbatch --wait`, `true`"
OURS = {
    "host": "ours, Slurm on this host",
    "login": "ours, Slurm through SSH",
    "node": "ours, SSH, no scheduler",
    "local": "ours, this host, no scheduler",
}
AIMS_S = {"host": 2.0, "login": 3.0}
STAGES = ("submitted", "launched", "checked", "worked", "noticed")


def trivial(testbed: Testbed, rounds: int) -> None:
    python = f"{sys.executable} -c pass"
    followers = {site: Follower(testbed, site) for site in OURS}
    ways: dict[str, Callable[[], object]] = {
        WAIT_TRUE: partial(bare, "true", "--wait"),
        "`sbatch --wait`, Python once": partial(bare, python, "--wait"),
        "`sbatch`, `true`, end seen within 10 ms": partial(bare_until_file, testbed, "true"),
        "`sbatch`, Python once, end seen within 10 ms": partial(bare_until_file, testbed, python),
    }
    ways |= {name: followers[site].follow for site, name in OURS.items()}
    taken = interleaved(ways, rounds)
    base, seen = (statistics.median(taken[name]) for name in (WAIT_TRUE, list(ways)[2]))
    print(f"### A trivial payload, from submission to its end, {rounds} rounds\n")
    print(f"| way | s | over {WAIT_TRUE} | over `sbatch`, `true`, seen | aim, s |\n|---|---:|---:|---:|---:|")
    for name, values in taken.items():
        site = next((site for site, each in OURS.items() if each == name), "")
        middle = statistics.median(values)
        aim = verdict(middle, AIMS_S[site]) if site in AIMS_S else ""
        print(f"| {name} | {median_and_range(values)} | {middle / base:.2f} | {middle / seen:.1f} | {aim} |")
    print("\nWhere the time of ours goes, medians in ms:\n")
    print(f"| way | {' | '.join(STAGES)} |\n|---|{'---:|' * len(STAGES)}")
    for site, follower in followers.items():
        columns = zip(*follower.stages[1:], strict=True)
        print(f"| {OURS[site]} | {' | '.join(f'{1000 * statistics.median(each):.0f}' for each in columns)} |")
    print(
        "\nsubmitted: the handle is written; launched: launch.sh has begun on the node; checked: the preflight has "
        "passed; worked: the payload has ended; noticed: the run knows.\n",
        flush=True,
    )


def in_a_process(start: Callable[[], Child], **what: Any) -> dict[str, float]:
    """One materialisation in a process of its own, as a Dagster run has one; its start is not counted."""
    child = start()
    try:
        return child.ask(**what)
    finally:
        child.close()


def materialised(testbed: Testbed, rounds: int, given: str | None) -> None:
    ours = partial(in_a_process, partial(start_ours, testbed), seconds=0)
    ways = {
        "ours, Slurm on this host": partial(ours, site="host_counted"),
        "ours, Slurm through SSH": partial(ours, site="login"),
    }
    print(f"### One asset with a trivial payload, `dg.materialize` in a process of its own, {rounds} rounds\n")
    try:
        start = partial(_dagster_slurm.start, testbed, _dagster_slurm.prepare(testbed, given))
        in_a_process(start)
    except (RuntimeError, subprocess.SubprocessError) as error:
        print(f"dagster-slurm {_dagster_slurm.VERSION} was left out: {error}\n")
    else:
        quick = {"status_poll_interval_seconds": 0.3, "status_poll_max_interval_seconds": 0.3}
        ways[f"dagster-slurm {_dagster_slurm.VERSION}, as it comes"] = partial(in_a_process, start)
        ways["the same, asking for the state every 0.3 s"] = partial(in_a_process, start, **quick)
    calls: dict[str, list[Counter[str]]] = {name: [] for name in ways}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            any_phase()
            before = testbed.counts()
            found = way()
            if number:
                taken[name].append(found)
                calls[name].append(testbed.counts() - before)
    kinds = ("sessions", "connections", "sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo")
    print("| way | s | CPU-s | SSH sessions | new connections | sbatch | squeue | sacct | scontrol | scancel | sinfo |")
    print("|---|---:|---:|" + "---:|" * len(kinds))
    for name, measured in taken.items():
        shown = " | ".join(median_and_range([found[each] for found in measured]) for each in ("wall_s", "cpu_s"))
        each = " | ".join(f"{statistics.median(counted[kind] for counted in calls[name]):g}" for kind in kinds)
        print(f"| {name} | {shown} | {each} |")
    print("\nCounts are medians a run; CPU-s are those of the process that follows the job.\n", flush=True)


def submissions(testbed: Testbed, rounds: int, number: int = 100) -> None:
    from fault_jobs import Bench

    bench = Bench(testbed.folder / "submitted", testbed.site("host", options=("--hold",)))

    def ours() -> None:
        for _ in range(number):
            bench.submit(f"held-{next(NUMBERS)}", "exit", 0)

    def plain() -> None:
        for _ in range(number):
            bare("true", "--hold")

    taken = interleaved({"bare `sbatch`": plain, "ours": ours}, rounds)
    subprocess.run(["scancel", "--me"], check=True)
    base = statistics.median(taken["bare `sbatch`"])
    print(f"### {number} jobs submitted one by one by one process (held: none of them starts), {rounds} rounds\n")
    print("| way | s | ratio | aim, s |\n|---|---:|---:|---:|")
    for name, values in taken.items():
        middle = statistics.median(values)
        aim = verdict(middle, 5) if name == "ours" else ""
        print(f"| {name} | {median_and_range(values)} | {middle / base:.2f} | {aim} |")
    print(flush=True)


def poll_for(folder: Path, site, handles: Sequence, seconds: float) -> float:
    """Ask ten times a second for the state of all jobs; returns CPU ms a question."""
    from fault_jobs import Bench

    bench = Bench(folder, site)
    asked, used_s, deadline = 0, cpu_s(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        bench.backend.poll(handles)
        asked += 1
        time.sleep(0.1)
    return 1000 * (cpu_s() - used_s) / asked


def polling(testbed: Testbed, cycles: int = 10) -> None:
    """200 jobs: some running, half of them cancelled while they waited, so that both commands have to be asked."""
    from fault_jobs import Bench

    site = testbed.site("host_counted", poll_s=1.0)
    print(f"### Scheduler calls a polling cycle (`poll_s`, here 1 s), over {cycles} cycles\n")
    print("| jobs | processes | squeue | sacct | both, aim 2 | CPU-ms a question |\n|---|---:|---:|---:|---:|---:|")
    for jobs, processes in ((1, 1), (200, 1), (200, 4)):
        folder = testbed.folder / f"polled-{jobs}-{processes}"
        bench = Bench(folder, site)
        handles = [bench.submit(f"polled-{next(NUMBERS)}", "sleep", 600) for _ in range(jobs)]
        if cancelled := [handle.reference for handle in handles[100:]]:
            subprocess.run(["scancel", *cancelled], check=True)
        time.sleep(5)
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            pool.starmap(poll_for, [(folder, site, handles, 0.5)] * processes)
            before = testbed.counts()
            used = pool.starmap(poll_for, [(folder, site, handles, cycles * site.poll_s)] * processes)
            calls = testbed.counts() - before
        each = [calls[name] / cycles for name in ("squeue", "sacct")]
        shown = f"{each[0]:.1f} | {each[1]:.1f} | {sum(each):.1f}"
        print(f"| {jobs} | {processes} | {shown} | {statistics.median(used):.0f} |", flush=True)
        subprocess.run(["scancel", "--me"], check=True)
    print()


def incident(testbed: Testbed, number: int = 220, rounds: int = 5) -> None:
    from cluster.processes import until

    from resources.compute.incident_sources import investigate

    slurm, site, node = testbed.slurm, testbed.site("host"), "an53"
    record_ours(testbed, [bare("true", f"--nodelist={node}") for _ in range(20)])
    bare("true", f"--nodelist={node}", f"--array=1-{number}")
    until(lambda: not slurm.run("squeue", "--noheader").stdout.strip(), 300, "the jobs have ended")
    stranger = bare("sleep 600", f"--nodelist={node}", "--uid=nobody", "--no-requeue")
    until(lambda: "R" in slurm.run("squeue", "--noheader", "--format=%t").stdout, 60, f"{stranger} runs")
    slurm.kill_node(node)
    until(lambda: slurm.node_state(node).startswith("DOWN"), 120, "the node is declared down")
    events = ("sacctmgr", "--noheader", "show", "event", f"nodes={node}")
    until(lambda: "DOWN" in slurm.run(*events).stdout, 60, "the accounting has it")
    taken = interleaved({"report": lambda: investigate(testbed.home, site, node)}, rounds)["report"]
    found = investigate(testbed.home, site, node)
    listed = slurm.run("sacct", "--noheader", "--allusers", "-X", f"--nodelist={node}", "--format=JobID").stdout
    ours = len(list(testbed.home.jobs.glob("*/job.json")))
    print(f"### Incident report after a killed slurmd, {rounds} rounds\n")
    print("| jobs of the node in the accounting | jobs in our records | rows judged | s | aim, s |")
    print("|---:|---:|---:|---:|---:|")
    aim = verdict(statistics.median(taken), 2)
    print(f"| {len(listed.split())} | {ours} | {len(found.judged)} | {median_and_range(taken)} | {aim} |\n", flush=True)
    slurm.start_node(node)
    slurm.reset()


def record_ours(testbed: Testbed, jobs: Sequence[str]) -> None:
    """Records as of jobs that this platform submitted."""
    from resources.compute.job_directory import JobDirectory

    for job in jobs:
        files = JobDirectory(testbed.home.jobs / f"recorded-{job}")
        files.submission(1).path.mkdir(parents=True)
        files.record({"key": files.path.name, "asset": "policy/probe", "partition": "", "site": "host"})
        files.submission(1).write_handle({"job": job})


def following(testbed: Testbed, seconds: float = 20.0, rounds: int = 3) -> None:
    child = start_ours(testbed)
    print(f"### CPU time of following, {rounds} rounds of {seconds:.0f} s\n\n| what | measured |\n|---|---:|")
    for site, name in (("local", "this host, no scheduler"), ("host", "Slurm")):
        child.ask(site=site, seconds=0)
        rates = [
            60 / seconds * (child.ask(site=site, seconds=seconds)["cpu_s"] - child.ask(site=site, seconds=0)["cpu_s"])
            for _ in range(rounds)
        ]
        print(f"| a run that follows one job, {name}: CPU-s a minute | {median_and_range(rates)} |", flush=True)
    child.close()
    used = supervisor_status(testbed)
    print(f"| the supervisor's status of 200 jobs: CPU-s a call | {median_and_range(used)} |\n", flush=True)


def supervisor_status(testbed: Testbed, jobs: int = 200, rounds: int = 5) -> list[float]:
    from resources.compute.process import this_process
    from resources.compute.processes import supervisor

    me = this_process()
    folders = [testbed.folder / "supervised" / str(number) for number in range(jobs)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "process").write_text(f"{me['pid']} {me['ticks']} {me['boot']} {me['host']}\n")
    taken = []
    for _ in range(rounds):
        used_s = cpu_s()
        told = supervisor(testbed.site("local"), "", testbed.folder).run(
            ["status"], send="\n".join([*map(str, folders), ""])
        )
        taken.append(cpu_s() - used_s)
        assert told.out.count("alive\t") == jobs, told
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pieces = ("trivial", "materialised", "submissions", "polling", "incident", "following")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=pieces, default=pieces)
    parser.add_argument("--peer", help="a Python that has dagster-slurm; default: one is made in a temporary folder")
    arguments = parser.parse_args()
    if reason := missing():
        print(f"Nothing was measured: {reason}")
        return
    with open_testbed() as testbed:
        todo: dict[str, Callable[[], None]] = {
            "trivial": partial(trivial, testbed, arguments.rounds),
            "materialised": partial(materialised, testbed, arguments.rounds, arguments.peer),
            "submissions": partial(submissions, testbed, 3),
            "polling": partial(polling, testbed),
            "incident": partial(incident, testbed),
            "following": partial(following, testbed),
        }
        for name in arguments.only:
            todo[name]()
        print(f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
