"""Every benchmark in turn, each in a process of its own: `make bench`, or `python -m bench NAME...`."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SECONDS_A_PIECE = 3600


def main() -> None:
    """Run the benchmarks that the arguments name, or all; a benchmark that fails makes the exit status 1."""
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    failed = []
    for name in names:
        print(f"\n## {name}\n", flush=True)
        command = [sys.executable, "-W", "ignore", str(HERE / f"{name}.py")]
        ended = subprocess.run(command, timeout=SECONDS_A_PIECE, check=False)
        if ended.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"these benchmarks failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
