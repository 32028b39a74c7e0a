"""A tiny_vla checkpoint is one file in openpi's layout; what is half-written, cut or of another shape is refused."""

import dataclasses
import io
import tarfile

import numpy as np
import pytest
from demonstration_files import LIFT, write_file

from provenance.weights.fingerprint import fingerprint
from provenance.weights.leaves import WeightsError
from provenance.weights.readers import open_weights
from science.robots.policies.tiny_vla import SPEC
from science.robots.tiny_vla.checkpoint import (
    CheckpointError,
    inspect_checkpoint,
    read_train_state,
    read_weights,
    unpacked,
    write_checkpoint,
)
from science.robots.tiny_vla.config import TinyVlaConfig
from science.robots.tiny_vla.training import train

SMALL = TinyVlaConfig(width=16, layers=1, heads=2, batch_size=8, steps=1, warmup_steps=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    return train(SMALL, {LIFT.key: write_file(folder / "lift.hdf5")}, folder).checkpoints[1]


def repacked(checkpoint, path, change):
    """A copy in whose folder something was changed."""
    with unpacked(checkpoint) as folder, tarfile.open(path, "w") as archive:
        change(folder)
        for each in sorted(folder.iterdir()):
            archive.add(each, each.name)
    return path


def test_it_is_openpis_layout_and_its_fingerprint_that_of_its_folder(checkpoint):
    with tarfile.open(checkpoint) as archive:
        names = archive.getnames()
        assert {"_CHECKPOINT_METADATA", "params/_METADATA", "train_state/_METADATA"} <= set(names)
        assert {"assets/tracebed/norm_stats.json", "assets/tracebed/training.json"} <= set(names)
        assert {(each.mtime, each.uid, each.uname) for each in archive} == {(0, 0, "")}
    with unpacked(checkpoint) as folder:
        assert dict(fingerprint(open_weights(folder))) == dict(fingerprint(open_weights(checkpoint)))
    assert set(open_weights(checkpoint).names()) == set(read_weights(checkpoint))


def test_arrays_come_back_bit_for_bit(checkpoint, tmp_path):
    weights, state, info = read_weights(checkpoint), read_train_state(checkpoint), inspect_checkpoint(checkpoint)
    write_checkpoint(tmp_path / "again.tar", info, weights, state)
    assert (tmp_path / "again.tar").read_bytes() == checkpoint.read_bytes()


def test_a_file_that_is_cut_is_refused_wherever_it_is_cut(checkpoint, tmp_path):
    whole, cut = checkpoint.read_bytes(), tmp_path / "cut.tar"
    for share in (0.0, 0.01, 0.3, 0.6, 0.9):
        cut.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match=r"copy it again|no whole tar"):
            SPEC.make(LIFT, cut)
        if 0 < share < 0.6:  # beyond, the parameters are whole
            with pytest.raises(WeightsError):
                fingerprint(open_weights(cut))


def test_what_orbax_never_committed_is_refused_as_folder_and_as_tar(checkpoint, tmp_path):
    draft = tmp_path / "500.orbax-checkpoint-tmp-17"
    draft.mkdir()
    with pytest.raises(CheckpointError, match="never committed"):
        inspect_checkpoint(draft)
    half = repacked(
        checkpoint, tmp_path / "half.tar", lambda f: (f / "params").rename(f / "params.orbax-checkpoint-tmp")
    )
    undated = repacked(checkpoint, tmp_path / "undated.tar", lambda f: (f / "_CHECKPOINT_METADATA").write_text("{}"))
    for path in (half, undated):
        with pytest.raises(CheckpointError, match=r"never committed .*use an earlier step"):
            inspect_checkpoint(path)
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="found a folder"):
        inspect_checkpoint(tmp_path / "other")


def test_arrays_of_another_shape_than_the_settings_say_are_named(checkpoint, tmp_path):
    weights, state, info = read_weights(checkpoint), read_train_state(checkpoint), inspect_checkpoint(checkpoint)
    wider = {**weights, "action/out/bias": np.zeros(9, np.float32)}
    write_checkpoint(tmp_path / "wider.tar", info, wider, state)
    with pytest.raises(CheckpointError, match=r"found 1 arrays .*action/out/bias \(9,\) \(expected \(7,\)\)"):
        SPEC.make(LIFT, tmp_path / "wider.tar")
    deeper = dataclasses.replace(info, settings={**info.settings, "layers": 2})
    write_checkpoint(tmp_path / "deeper.tar", deeper, weights, state)
    with pytest.raises(CheckpointError, match=r"expert/layer_1/.* None \(expected"):
        SPEC.make(LIFT, tmp_path / "deeper.tar")


def test_a_damaged_array_is_refused(checkpoint, tmp_path):
    def cut(folder):
        array = folder / "params" / "params.action.out.kernel" / "0.0"
        array.write_bytes(array.read_bytes()[:-20])

    with pytest.raises(CheckpointError, match=r"found params of .*damaged"):
        SPEC.make(LIFT, repacked(checkpoint, tmp_path / "damaged.tar", cut))


def test_a_tar_that_would_write_elsewhere_is_not_unpacked(checkpoint, tmp_path):
    path = tmp_path / "escaping.tar"
    path.write_bytes(checkpoint.read_bytes())
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("../escaped")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"out"))
    with pytest.raises(CheckpointError, match="no plain files"):
        SPEC.make(LIFT, path)
    with pytest.raises(WeightsError, match="no plain files"):
        open_weights(path)
    assert not (tmp_path.parent / "escaped").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    other = tmp_path / "other.tar"
    with tarfile.open(other, "w") as archive:
        archive.addfile(tarfile.TarInfo("readme"))
    with pytest.raises(CheckpointError, match="without a whole _CHECKPOINT_METADATA"):
        inspect_checkpoint(other)
    with pytest.raises(CheckpointError, match="found no file"):
        inspect_checkpoint(tmp_path / "absent.tar")
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(CheckpointError, match="no whole tar"):
        inspect_checkpoint(tmp_path / "text.tar")
