"""Which GPU of a job's serves the policy and which one draws: the first, and the last.

CUDA load and drawing on one GPU can abort the drawing, so with two GPUs or more they are kept apart. Workers that ask a
server see no GPU through CUDA at all: they would only take its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from science.robots.egl_devices import DEVICE_VARIABLE, EglDevice, device_of_gpu, render_worker_environment

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Placement:
    """Environments of the server and of the workers, and the placement in words."""

    server: Mapping[str, str]
    workers: Mapping[str, str]
    said: str


def place(environment: Mapping[str, str], devices: Callable[[], Sequence[EglDevice]]) -> Placement:
    """Place a server and its workers on the GPUs that the job sees.

    Parameters
    ----------
    environment : of the job.
    devices : lists EGL's devices; asked only where there are two GPUs or more to choose from.
    """
    visible = [each for each in environment.get(_VISIBLE, "").split(",") if each]
    workers = render_worker_environment(environment)
    if len(visible) < 2:
        said = f"the server computes on GPU {visible[0]}" if visible else "no GPU was given to the job"
        return Placement(dict(environment), workers, said)
    server = {**environment, _VISIBLE: visible[0]}
    said = f"the server computes on GPU {visible[0]}"
    last = visible[-1]
    drawing = device_of_gpu(list(devices()), int(last)) if last.isdigit() else None
    if drawing is None:
        return Placement(server, workers, f"{said}; EGL has no device of GPU {last}, so workers draw where they drew")
    return Placement(server, workers | {DEVICE_VARIABLE: str(drawing)}, f"{said}, workers draw on GPU {last}")
