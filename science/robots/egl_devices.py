"""EGL devices, and which of them is which GPU: EGL's order is not that of CUDA or nvidia-smi.

`python -m science.robots.egl_devices` prints them; asking in a process of its own keeps a crashing driver out of ours.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

DEVICE_VARIABLE = "MUJOCO_EGL_DEVICE_ID"
_EGL_CUDA_DEVICE_NV = 0x323A
_EGL_EXTENSIONS = 0x3055


class EglError(RuntimeError):
    """EGL that is missing, or cannot list its devices."""


@dataclass(frozen=True)
class EglDevice:
    """One EGL device.

    Attributes
    ----------
    index : what ``$MUJOCO_EGL_DEVICE_ID`` names.
    cuda : index of its GPU, counted as CUDA does without ``$CUDA_VISIBLE_DEVICES``; None: not a GPU of NVIDIA.
    extensions : what EGL says of it.
    """

    index: int
    cuda: int | None
    extensions: str


def egl_devices() -> list[EglDevice]:
    """Every device, in EGL's order.

    Raises
    ------
    EglError
        Without libEGL, or without the extension that lists devices.
    """
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError as error:
        raise EglError(
            f"libEGL.so.1 cannot be loaded ({error}); on Debian and Ubuntu: apt-get install libegl1"
        ) from error
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    query = _function(
        egl, "eglQueryDevicesEXT", ctypes.c_uint, integer, ctypes.POINTER(pointer), ctypes.POINTER(integer)
    )
    count = integer()
    if not query(0, None, ctypes.byref(count)):
        raise EglError("eglQueryDevicesEXT failed")
    devices = (pointer * count.value)()
    if not query(count.value, devices, ctypes.byref(count)):
        raise EglError("eglQueryDevicesEXT failed")
    return [_device(egl, index, devices[index]) for index in range(count.value)]


def device_of_gpu(devices: list[EglDevice], gpu: int) -> int | None:
    """The EGL index of a GPU, or None where EGL does not have it."""
    return next((device.index for device in devices if device.cuda == gpu), None)


def render_worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a render worker starts: the EGL device alone says where it draws.

    robosuite asserts at import that ``$MUJOCO_EGL_DEVICE_ID`` is a substring of ``$CUDA_VISIBLE_DEVICES``, though the
    two count differently.
    """
    return {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}


def _device(egl: ctypes.CDLL, index: int, handle: int | None) -> EglDevice:
    pointer, integer, value = ctypes.c_void_p, ctypes.c_int, ctypes.c_ssize_t()
    attribute = _function(
        egl, "eglQueryDeviceAttribEXT", ctypes.c_uint, pointer, integer, ctypes.POINTER(ctypes.c_ssize_t)
    )
    text = _function(egl, "eglQueryDeviceStringEXT", ctypes.c_char_p, pointer, integer)
    known = attribute(handle, _EGL_CUDA_DEVICE_NV, ctypes.byref(value))
    return EglDevice(index, value.value if known else None, (text(handle, _EGL_EXTENSIONS) or b"").decode())


def _function(egl: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """A function of an EGL extension."""
    address = egl.eglGetProcAddress
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    found = address(name.encode())
    if not found:
        raise EglError(f"this EGL has no {name}; update its driver")
    return ctypes.CFUNCTYPE(result, *arguments)(found)


if __name__ == "__main__":
    print(json.dumps([asdict(device) for device in egl_devices()]))
