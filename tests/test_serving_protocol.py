"""Messages of the policy server: what goes in comes out, and bytes that are none of it are refused."""

import msgpack
import numpy as np
import pytest

from science.robots.serving.protocol import ProtocolError, pack, unpack


def packed(data, kind, shape):
    """An array as openpi_client packs it, of any type and shape."""
    return msgpack.packb({"x": {b"__ndarray__": True, b"data": data, b"dtype": kind, b"shape": shape}})


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.zeros(2, dtype=complex), np.zeros(2, dtype="i4,f4"), {1, 2}]
)
def test_what_has_no_place_in_the_protocol_is_not_sent(value):
    with pytest.raises(ProtocolError, match="cannot be sent"):
        pack({"x": value})


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"garbage",
        pack({"x": np.zeros(3)})[:-5],
        pack({"x": np.zeros(3)}) + b"more",
        b"\x93\x01\x02\x03",
        b"\x81\xa1x\x83\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x08aaaaaaaa\xc4\x05dtype\xa1O",
        packed(b"a" * 8, "<U0", [-1]),  # NumPy divides by zero and ends the process
        packed(b"a" * 8, "m8[ns/0]", [1]),  # as well
        packed(b"a" * 8, "|O", [1]),
        packed(b"a" * 8, "V8", [1]),
        packed(b"a" * 16, "<c16", [1]),
        packed(b"a" * 8, "<f8", [-1]),
        packed(b"a" * 8, "<f8", [2**40]),
        packed(b"a" * 8, "<f8", [1.0]),
        packed(b"a" * 8, "<f8", [1] * 65),
        packed("a" * 8, "<f8", [1]),
        packed(b"a" * 8, "<f3", [1]),
        packed(b"a" * 8, ["<f8"], [1]),
        msgpack.packb({"x": {b"__npgeneric__": True, b"data": "1", b"dtype": "<f4"}}),
        b"\x81\xa1x" + b"\x91" * 100_000,
    ],
)
def test_bytes_that_are_no_message_are_refused(message):
    with pytest.raises(ProtocolError):
        unpack(message)


def test_arrays_and_scalars_come_out_as_they_went_in():
    sent = {
        "truth": np.array([True, False]),
        "picture": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        "big_endian": np.arange(3, dtype=">f4"),
        "none": np.zeros((0, 3)),
        "one": np.array(1.5),
        "text": np.array(["a", "bc"]),
        "scalar": np.float32(0.1),
        "whole": np.int64(7),
        "plain": [1, 2.0, "three", None],
    }
    found = unpack(pack(sent))
    assert list(found) == list(sent)
    for key, value in sent.items():
        assert np.array_equal(found[key], value) and getattr(found[key], "dtype", 0) == getattr(value, "dtype", 0)
