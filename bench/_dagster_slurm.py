"""dagster-slurm beside this platform: one asset through its public API, on the same cluster, in a Python of its own.

It reaches Slurm through SSH only. Packing an environment is left out: it is given a deployed one, as its production
mode has it. As a script (with its own Python) this file is the process that measures.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _cluster import Child, Testbed

VERSION = "1.22.0"
_PAYLOAD = """\
from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    pipes.report_asset_materialization({"answer": 42})
"""


def install(folder: Path, python: str | None) -> str:
    """A Python that has it: the given one, or a new virtual environment in ``folder``.

    Raises
    ------
    RuntimeError
        When it cannot be installed or is another version.
    """
    if python is None:
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin" / "pip"), "install", "--quiet", f"dagster-slurm=={VERSION}"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            if done.returncode:
                raise RuntimeError(f"it could not be installed: {' '.join(done.stderr.split())[-300:]}")
        python = str(folder / "bin" / "python")
    ask = "import importlib.metadata as found; print(found.version('dagster-slurm'))"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=60, check=False)
    if done.stdout.strip() != VERSION:
        raise RuntimeError(f"{python} has {done.stdout.strip() or 'no dagster-slurm'}, expected {VERSION}")
    return python


def prepare(testbed: "Testbed", given: str | None) -> str:
    """Its Python, the payload, and the layout of a deployed environment: `activate.sh` beside `env/`.

    Raises
    ------
    RuntimeError
        With the reason, where it cannot be made to run.
    """
    python, folder = install(testbed.folder / "peer-python", given), testbed.folder / "peer"
    (folder / "deployed").mkdir(parents=True)
    (folder / "deployed" / "activate.sh").touch()
    (folder / "deployed" / "env").symlink_to(Path(python).parents[1])
    (folder / "payload.py").write_text(_PAYLOAD)
    (folder / "ssh").mkdir(mode=0o700)
    return python


def start(testbed: "Testbed", python: str) -> "Child":
    """A process that materialises assets with it."""
    from _cluster import Child

    sshd = testbed.sshd
    arguments = [str(testbed.folder / "peer"), str(sshd.root), str(sshd.port), sshd.user]
    command = [python, "-W", "ignore", "-P", __file__, *arguments]
    return Child(command, testbed.folder / "peer.log", {"PYTHONPATH": ""})


def main(folder: Path, ssh: Path, port: int, user: str) -> None:
    """Child process: a materialisation for every line that comes in, answered with its seconds."""
    os.environ["DAGSTER_SLURM_SSH_CONTROL_DIR"] = str(folder / "ssh")
    import dagster as dg
    from dagster_slurm import (  # type: ignore[import-not-found, unused-ignore]
        BashLauncher,
        ComputeResource,
        SlurmQueueConfig,
        SlurmResource,
        SSHConnectionResource,
    )

    @dg.asset
    def probe(context: dg.AssetExecutionContext, compute: ComputeResource):
        done = compute.run(context=context, payload_path=str(folder / "payload.py"))
        return done.get_materialize_result()

    @dg.asset
    def plain() -> None:
        """So that what is measured is not the first that Dagster does."""

    assert dg.materialize([plain]).success
    for line in sys.stdin:
        compute = ComputeResource(
            mode="slurm",
            slurm=SlurmResource(
                ssh=SSHConnectionResource(
                    host="127.0.0.1",
                    port=port,
                    user=user,
                    key_path=str(ssh / "user_key"),
                    known_hosts_file=str(ssh / "known_hosts"),
                ),
                queue=SlurmQueueConfig(partition="gpu", time_limit="00:10:00", cpus=1, mem="205M"),
                remote_base=str(folder / "runs"),
                **json.loads(line),
            ),
            default_launcher=BashLauncher(),
            pre_deployed_env_path=str(folder / "deployed"),
        )
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        began_s = time.perf_counter()
        outcome = dg.materialize([probe], resources={"compute": compute})
        wall_s = time.perf_counter() - began_s
        assert outcome.success
        now = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu_s = sum(each.ru_utime + each.ru_stime for each in now) - sum(each.ru_utime + each.ru_stime for each in used)
        print("measured: " + json.dumps({"wall_s": wall_s, "cpu_s": cpu_s}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
