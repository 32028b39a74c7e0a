"""How long the definitions take to load, over a plain `import dagster`.

    python bench/definitions.py

CPU seconds of fresh processes, in turn, after one warm-up of each; heavy libraries among the imports are named.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile

RUNS = 5
HEAVY = ("torch", "jax", "scanpy", "squidpy", "mujoco", "anndata", "numba", "sklearn", "matplotlib")


def cpu_s(code: str, home: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env={**os.environ, "TRACEBED_HOME": home})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        imports = ("import dagster", "import defs")
        times: dict[str, list[float]] = {code: [] for code in imports}
        for run in range(RUNS + 1):
            for code in imports:
                seconds = cpu_s(code, home)
                if run:
                    times[code].append(seconds)
        listed = f"import defs, sys; print(*[m for m in {HEAVY!r} if m in sys.modules] or ['none'])"
        env = {**os.environ, "TRACEBED_HOME": home}
        heavy = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", listed], check=True, capture_output=True, text=True, env=env
        )
    plain, ours = (statistics.median(times[code]) for code in imports)
    print("| process | CPU seconds (median of 5) | ratio |")
    print("|---|---:|---:|")
    print(f"| `import dagster` | {plain:.2f} | 1.00 |")
    print(f"| `import defs` (everything) | {ours:.2f} | {ours / plain:.2f} |")
    print(f"\nHeavy libraries loaded by the definitions: {heavy.stdout.strip()}")


if __name__ == "__main__":
    main()
