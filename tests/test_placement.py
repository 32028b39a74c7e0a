"""Claims: with two GPUs server and drawing are kept apart, with one nothing is moved, and no worker sees CUDA."""

from science.robots.egl_devices import DEVICE_VARIABLE, EglDevice
from science.robots.rollouts.placement import place

DEVICES = [EglDevice(0, None, ""), EglDevice(1, 3, ""), EglDevice(2, 0, "")]


def never():
    raise AssertionError("EGL was asked although there is nothing to choose")


def test_the_server_gets_the_first_gpu_and_workers_draw_on_the_last_by_egls_own_index():
    found = place({"CUDA_VISIBLE_DEVICES": "0,2,3", "HOME": "/h"}, lambda: DEVICES)
    assert found.server == {"CUDA_VISIBLE_DEVICES": "0", "HOME": "/h"}
    assert found.workers == {DEVICE_VARIABLE: "1", "HOME": "/h"}
    assert found.said == "the server computes on GPU 0, workers draw on GPU 3"


def test_with_one_gpu_or_none_the_workers_draw_where_the_preflight_said():
    one = place({"CUDA_VISIBLE_DEVICES": "5", DEVICE_VARIABLE: "2"}, never)
    assert one.server["CUDA_VISIBLE_DEVICES"] == "5" and one.workers == {DEVICE_VARIABLE: "2"}
    none = place({"HOME": "/h"}, never)
    assert none.server == none.workers == {"HOME": "/h"}


def test_a_gpu_that_egl_does_not_have_is_said_not_guessed():
    found = place({"CUDA_VISIBLE_DEVICES": "0,1", DEVICE_VARIABLE: "2"}, lambda: DEVICES)
    assert found.workers == {DEVICE_VARIABLE: "2"}
    assert "EGL has no device of GPU 1" in found.said
    uuids = place({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, lambda: DEVICES)
    assert uuids.server == {"CUDA_VISIBLE_DEVICES": "GPU-a"} and "no device of GPU GPU-b" in uuids.said
