"""The audit: hashing beside hashlib and sha256sum on the same bytes, and whole audits of many materialisations.

    python bench/audit.py [--sizes N ...] [--megabytes N]

Audits run in processes of their own; what is measured is their CPU time, imports left out. The home is in the page
cache, so that reading costs what the platform makes of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _synthetic_lineage import make_home

from home import Home

ARTIFACT_BYTES = 4_000_000

_AUDIT = """
import json, resource, sys, time
import dagster as dg
from home import Home
from provenance.audit.audit import audit
home = Home(__import__("pathlib").Path(sys.argv[1]))
with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
    instance.get_runs(limit=1)
    before, began = time.process_time(), time.monotonic()
    report = audit(home, instance, full=sys.argv[2] == "full")
    spent, wall = time.process_time() - before, time.monotonic() - began
kinds = sorted({str(each.kind) for each in report.findings})
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([spent, wall, memory, report.counts.bytes_hashed, report.counts.records, kinds]))
"""


def audited(home: Home, how: str) -> tuple[float, float, float, int, int, list[str]]:
    """CPU seconds, wall seconds, peak MB, bytes hashed, records, and kinds of findings of one audit."""
    command = [sys.executable, "-W", "ignore", "-c", _AUDIT, str(home.root), how]
    return tuple(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def hashing(root: Path, megabytes: int) -> None:
    home = Home(root).ensure()
    paths = []
    for _ in range(megabytes * 1_000_000 // ARTIFACT_BYTES):
        content = os.urandom(ARTIFACT_BYTES)
        name = f"{hashlib.sha256(content).hexdigest()}.bin"
        path = home.artifacts / name[:2] / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    before = time.process_time()
    for path in paths:
        hashlib.sha256(path.read_bytes()).hexdigest()
    plain = time.process_time() - before
    before = children_cpu_s()
    subprocess.run(["sha256sum", *paths], check=True, stdout=subprocess.DEVNULL)
    command = children_cpu_s() - before
    size = len(paths) * ARTIFACT_BYTES / 1e6
    full, again = audited(home, "full")[0], audited(home, "incremental")[0]
    print(f"{len(paths)} artifacts, {size:.0f} MB\n\n| what | CPU s | MB/s | over hashlib |\n|---|---:|---:|---:|")
    named = (("hashlib, file by file", plain), ("sha256sum", command), ("full audit", full))
    for name, seconds in named:
        print(f"| {name} | {seconds:.2f} | {size / seconds:.0f} | {seconds / plain:.2f} |")
    print(f"| incremental audit | {again:.2f} | | {again / plain:.2f} |")


def audits(root: Path, n: int) -> None:
    before = time.process_time()
    home, instance = make_home(root, n)
    instance.dispose()
    made = time.process_time() - before
    first, again, full = audited(home, "first"), audited(home, "incremental"), audited(home, "full")
    for name, (spent, wall, memory, read, records, kinds) in (("first", first), ("incremental", again), ("full", full)):
        each = f"{spent / records * 1e6:.0f}"
        ratio = f"{spent / full[0]:.3f}"
        found = ", ".join(kinds) or "none"
        print(
            f"| {records} | {name} | {spent:.1f} | {wall:.1f} | {each} | {ratio} | {read / 1e6:.0f} | {memory:.0f} "
            f"| {found} |",
            flush=True,
        )
    print(f"\n(made in {made:.0f} CPU s)\n" if n else "", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000], help="materialisations; also try 100000")
    parser.add_argument("--megabytes", type=int, default=400, help="of artifacts")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as root:
        hashing(Path(root) / "artifacts", chosen.megabytes)
    print("\n| materialisations | audit | CPU s | wall s | CPU us each | over full | MB read | peak MB | findings |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|---|")
    for n in chosen.sizes:
        with tempfile.TemporaryDirectory(prefix="bench-audit-") as root:
            audits(Path(root) / "home", n)


if __name__ == "__main__":
    main()
