"""Slurm and sshd by hand: `python -m tests.cluster`, then paste the lines into another shell; Ctrl-C ends all."""

import argparse
import contextlib
import shlex
import signal
import sys
import time

from .folders import short_folder
from .slurm import SlurmCluster
from .sshd import Sshd


def main() -> int:
    """Start, print the environment, wait for Ctrl-C or SIGTERM, stop and remove."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--no-accounting", action="store_true", help="without slurmdbd and MariaDB: starts in seconds")
    options = parser.parse_args()
    accounting = not options.no_accounting
    if reason := SlurmCluster.missing(accounting) or Sshd.missing():
        print(reason, file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        _serve(accounting)
    return 0


def _serve(accounting: bool) -> None:
    began = time.monotonic()
    with short_folder() as root, SlurmCluster(root / "s", accounting=accounting) as slurm:
        environment = slurm.environment()
        with Sshd(root / "ssh", environment=environment) as sshd:
            print(f"# {root}: ready after {time.monotonic() - began:.1f} s; Ctrl-C here stops and removes it")
            for name, value in environment.items():
                print(f"export {name}={shlex.quote(value)}")
            print(f"export PATH={slurm.yh_commands()}:$PATH  # yhbatch, yhqueue, ...")
            print(f"export TRACEBED_SSH_CONFIG={sshd.ssh_config}  # ssh -F $TRACEBED_SSH_CONFIG login", flush=True)
            signal.pause()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
