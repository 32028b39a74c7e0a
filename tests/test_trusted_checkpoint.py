"""A checkpoint that needs code to load is refused, unless its owner vouches for it; then it becomes plain data."""

import pathlib

import numpy as np
import pytest
import torch

from science.robots.bc_rnn.checkpoint import CheckpointError, read_checkpoint
from science.robots.bc_rnn.trusted import rewrite_as_plain_data


def content(**more):
    plain = {"algo_name": "bc", "config": "{}", "env_metadata": {}, "shape_metadata": {"ac_dim": np.int64(7)}}
    return plain | {"model": {"w": torch.ones(2)}} | more


def test_a_file_that_asks_to_run_code_is_refused_and_names_what_it_asks_for(tmp_path):
    torch.save(content(path=pathlib.PurePosixPath("x")), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"asking to run .*PurePosixPath.*trusted=True"):
        read_checkpoint(tmp_path / "a.pth")


def test_what_is_not_data_is_refused_even_if_trusted(tmp_path):
    torch.save(content(path=pathlib.PurePosixPath("x")), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"found PurePosixPath at .*\['path'\]"):
        rewrite_as_plain_data(tmp_path / "a.pth", tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()


def test_a_trusted_file_becomes_one_that_loads_without_running_anything(tmp_path):
    statistics = {"object": {"mean": np.arange(3.0, dtype=np.float16)}}
    torch.save(content(obs_normalization_stats=statistics), tmp_path / "a.pth")
    rewrite_as_plain_data(tmp_path / "a.pth", tmp_path / "b.pth")
    read = read_checkpoint(tmp_path / "b.pth")
    assert read["obs_normalization_stats"]["object"]["mean"] == [0.0, 1.0, 2.0]
    assert torch.equal(read["model"]["w"], torch.ones(2)) and read["shape_metadata"]["ac_dim"] == 7
