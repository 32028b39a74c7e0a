"""A workload for fault tests: does what $FAULT_BEHAVIOUR says, with nothing but the standard library.

sleep SECONDS            print `working`, sleep, and exit 0
exit CODE                exit so
train STEPS STEP_S DIR   write checkpoints step-1, step-2, ... into DIR, each only as the launch that counts; go on
                         from the last one; on SIGTERM save and exit 1
overrun MORE STEP_S DIR  the same, but a launch that begins at step 0 goes on until SIGTERM, and a later one MORE steps
child SECONDS            start a child with a session of its own, print its pid, sleep
memory MIB               hold so much memory
fill PATH                fill the disk of PATH
echo                     print the variables that begin with ECHO_, as JSON
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from workloads.fence import require_fence


def train(directory: Path, step_s: float, *, steps: float | None = None, more: int = 0) -> None:
    launch, stop = Path(os.environ["TRACEBED_LAUNCH"]), []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    done = max((int(path.name.removeprefix("step-")) for path in directory.glob("step-*")), default=0)
    print(f"begins after step {done}", flush=True)
    if steps is None:
        steps = done + more if done else math.inf
    while done < steps:
        time.sleep(step_s)
        done += 1
        require_fence()
        (directory / f"step-{done}").write_text(launch.name)
        (launch / "checkpoint").write_text(str(done))
        print(f"step {done}", flush=True)
        if stop:
            sys.exit(1)


def main() -> None:
    verb, *arguments = json.loads(os.environ["FAULT_BEHAVIOUR"])
    print("working", flush=True)
    if verb == "sleep":
        time.sleep(float(arguments[0]))
    elif verb == "exit":
        sys.exit(int(arguments[0]))
    elif verb == "train":
        train(Path(arguments[2]), float(arguments[1]), steps=int(arguments[0]))
    elif verb == "overrun":
        train(Path(arguments[2]), float(arguments[1]), more=int(arguments[0]))
    elif verb == "child":
        child = subprocess.Popen(["sleep", str(arguments[0])], start_new_session=True)
        print(f"child {child.pid}", flush=True)
        time.sleep(float(arguments[0]))
    elif verb == "memory":
        held = bytearray(int(arguments[0]) << 20)
        for at in range(0, len(held), 4096):
            held[at] = 1
        time.sleep(1)
    elif verb == "fill":
        with Path(arguments[0]).open("wb") as stream:
            while True:
                stream.write(b"0" * 65536)
                stream.flush()
    elif verb == "echo":
        print(json.dumps({name: value for name, value in os.environ.items() if name.startswith("ECHO_")}), flush=True)
    else:
        raise ValueError(verb)


if __name__ == "__main__":
    main()
