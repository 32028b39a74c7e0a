"""Checkpoints as orbax, torch, safetensors and robomimic write them, read leaf by leaf; and what is refused."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import polars as pl
import pytest
import torch
from demonstration_files import LIFT, write_file
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file
from weight_study_jax import jnp, ocp, save_step

from provenance.weights.fingerprint import Fingerprint, fingerprint, leaf_fingerprint
from provenance.weights.leaves import WeightsError, leaves
from provenance.weights.readers import open_weights

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAYOUTS = [
    pytest.param(ocdbt, zarr3, id=f"{'zarr3' if zarr3 else 'zarr'} in {'ocdbt' if ocdbt else 'folders'}")
    for ocdbt in (True, False)
    for zarr3 in (False, True)
]


def values() -> dict:
    """A tree with the types that checkpoints have, as NumPy arrays by path."""
    generator = np.random.default_rng(0)
    return {
        "llm/attn": generator.normal(size=(2, 30, 20)).astype(ml_dtypes.bfloat16),
        "llm/norm.scale": generator.normal(size=24).astype(np.float32),
        "vision/half": generator.normal(size=(8, 4)).astype(np.float16),
        "vision/ids": np.arange(40, dtype=np.int64).reshape(5, 8),
        "vision/mask": generator.random(17) < 0.5,
        "zeros": np.zeros((6, 6), np.float32),
        "count": np.asarray(3, np.int32),
    }


def nested(flat: dict) -> dict:
    tree: dict = {}
    for name, value in flat.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = jnp.asarray(value)
    return tree


def save_orbax(path: pathlib.Path, flat: dict, **options) -> pathlib.Path:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(path, nested(flat))
    return path


def as_torch(flat: dict) -> dict[str, torch.Tensor]:
    def tensor(value: np.ndarray) -> torch.Tensor:
        if value.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(np.array(value))

    return {name: tensor(value) for name, value in flat.items()}


def of(path: pathlib.Path) -> Fingerprint:
    return fingerprint(open_weights(path))


def hashes(path: pathlib.Path) -> dict[str, str]:
    return {name: leaf.sha256_bf16 for name, leaf in of(path).items()}


def assert_reads(path: pathlib.Path, format: str, expected: dict) -> None:
    weights = open_weights(path)
    assert weights.format == format
    found = dict(leaves(weights))
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].dtype.name == value.dtype.name, name
        assert found[name].tobytes() == value.tobytes(), name


# --- orbax -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ocdbt", "zarr3"), LAYOUTS)
def test_every_layout_of_orbax_is_read_bit_for_bit(tmp_path, ocdbt, zarr3):
    expected = {name: value for name, value in values().items() if value.dtype != np.int64}  # jax has no int64 here
    assert_reads(save_orbax(tmp_path / "it", expected, use_ocdbt=ocdbt, use_zarr3=zarr3), "orbax", expected)


@pytest.mark.parametrize(("ocdbt", "zarr3"), LAYOUTS)
def test_a_layout_that_the_metadata_does_not_name_is_told_by_its_manifest_as_of_orbax_0_11(tmp_path, ocdbt, zarr3):
    path = save_orbax(tmp_path / "it", values(), use_ocdbt=ocdbt, use_zarr3=zarr3)
    edit_json(path / "_METADATA", lambda content: content.pop("use_ocdbt"))
    assert len(of(path)) == len(values())


def test_the_parts_that_name_the_container_are_not_in_the_names_of_leaves(tmp_path):
    tree = {"llm": {"scale": jnp.arange(20.0)}, "out": jnp.ones(3)}
    step = save_step(tmp_path / "run", 7, tree)
    assert (step / "params" / "_METADATA").exists() and (step / "train_state" / "_METADATA").exists()
    assert list(of(step)) == ["llm/scale", "out"]
    assert of(step).digest == of(step / "params").digest
    assert list(of(step / "train_state")) == ["step"]
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "base", {"params": tree})
    assert of(tmp_path / "base").digest == of(step).digest


def test_a_step_of_one_item_is_that_item_and_a_folder_of_steps_is_refused_with_its_steps(tmp_path):
    with ocp.CheckpointManager(tmp_path / "run") as steps:
        for number in (0, 5):
            steps.save(number, args=ocp.args.StandardSave({"w": jnp.arange(20.0)}))
        steps.wait_until_finished()
    assert list(of(tmp_path / "run" / "5")) == ["w"]
    with pytest.raises(
        WeightsError, match=r"a folder .*run of steps \[0, 5\], expected one checkpoint; give one step's"
    ):
        open_weights(tmp_path / "run")


def test_items_without_params_among_them_must_be_chosen(tmp_path):
    step = save_step(tmp_path / "run", 7, {"w": jnp.ones(3)})
    (step / "params").rename(step / "ema")
    with pytest.raises(WeightsError, match=r"found items \['ema', 'train_state'\].*give the item's path"):
        open_weights(step)
    assert list(of(step / "ema")) == ["w"]


def test_reading_orbax_imports_neither_jax_nor_orbax(tmp_path):
    save_orbax(tmp_path / "it", values())
    code = (
        "import sys; from pathlib import Path; from provenance.weights.fingerprint import fingerprint;"
        "from provenance.weights.readers import open_weights; print(len(fingerprint(open_weights(Path(sys.argv[1])))));"
        "print(*[name for name in ('jax', 'orbax', 'torch') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "it")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == [str(len(values()))]


def test_reading_leaves_the_checkpoint_as_it_was(tmp_path):
    path = save_orbax(tmp_path / "it", values())
    before = {each: (each.read_bytes(), each.stat().st_mtime_ns) for each in path.rglob("*") if each.is_file()}
    of(path)
    assert {each: (each.read_bytes(), each.stat().st_mtime_ns) for each in path.rglob("*") if each.is_file()} == before


_PEAK = """
import resource, sys
from pathlib import Path
import tensorstore, ml_dtypes, numpy, polars
from provenance.weights.fingerprint import fingerprint
from provenance.weights.readers import open_weights
from provenance.weights.orbax_reader import OrbaxWeights
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fingerprint(open_weights(Path(sys.argv[1])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_near_that_of_the_biggest_leaf(tmp_path):
    leaf_kb, n = 8192, 16
    generator = np.random.default_rng(0)
    drawn = generator.normal(size=(n, leaf_kb * 256)).astype(np.float32)
    path = save_orbax(tmp_path / "it", {f"leaf{i}": drawn[i] for i in range(n)})
    ran = subprocess.run([sys.executable, "-c", _PEAK, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < n * leaf_kb / 2


# --- torch -----------------------------------------------------------------------------------------------------------


def test_a_state_dict_is_read_bit_for_bit(tmp_path):
    torch.save(as_torch(values()), tmp_path / "it.pt")
    assert_reads(tmp_path / "it.pt", "torch", values())


def test_a_file_of_the_format_before_1_6_is_read_too(tmp_path):
    torch.save(as_torch(values()), tmp_path / "it.pt", _use_new_zipfile_serialization=False)
    assert_reads(tmp_path / "it.pt", "torch", values())


def test_float8_and_views_are_read_as_they_are(tmp_path):
    square = torch.arange(12.0).reshape(3, 4)
    torch.save({"turned": square.T, "small": square.to(torch.float8_e4m3fn)}, tmp_path / "it.pt")
    found = dict(leaves(open_weights(tmp_path / "it.pt")))
    assert np.array_equal(found["turned"], np.arange(12.0).reshape(3, 4).T)
    assert found["small"].dtype == ml_dtypes.float8_e4m3fn
    assert np.array_equal(found["small"].astype(np.float32), square.to(torch.float8_e4m3fn).float().numpy())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_of_a_training_checkpoint_only_the_model_is_read(tmp_path, key):
    state = {f"module.{name}": tensor for name, tensor in as_torch(values()).items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(4)}}}
    torch.save({"step": 9, key: state, "optimizer": optimizer, "rng": np.arange(3)}, tmp_path / "it.pt")
    assert_reads(tmp_path / "it.pt", "torch", values())


def test_of_a_robomimic_checkpoint_the_networks_are_read(tmp_path):
    from science.robots.bc_rnn.checkpoint import read_checkpoint
    from science.robots.bc_rnn.config import BcRnnConfig
    from science.robots.bc_rnn.training import train

    config = BcRnnConfig(hidden=8, layers=1, steps=2, checkpoint_every=2, batch_size=8)
    path = train(config, write_file(tmp_path / "lift.hdf5"), LIFT, tmp_path / "run").checkpoints[2]
    nets = read_checkpoint(path)["model"]["nets"]
    assert_reads(path, "torch", {name: tensor.numpy() for name, tensor in nets.items()})
    assert all(name.startswith("policy.") for name in nets)


# --- safetensors -----------------------------------------------------------------------------------------------------


def test_a_safetensors_file_is_read_bit_for_bit_whatever_it_is_called(tmp_path):
    save_file(as_torch(values()), tmp_path / "weights", metadata={"format": "pt"})
    assert_reads(tmp_path / "weights", "safetensors", values())


def shards(folder: pathlib.Path) -> list[str]:
    tensors = list(as_torch(values()).items())
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        save_file(dict(tensors[i::3]), folder / name)
    return names


@pytest.mark.parametrize("index", [True, False])
def test_shards_are_one_checkpoint_and_a_missing_one_is_named(tmp_path, index):
    names = shards(tmp_path)
    if index:
        weight_map = {name: names[i % 3] for i, name in enumerate(values())}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_reads(tmp_path, "safetensors", values())
    (tmp_path / names[1]).unlink()
    with pytest.raises(WeightsError, match=rf"found no \['{names[1]}'\] in .*expected all 3 shards"):
        open_weights(tmp_path)


def test_beside_a_model_the_files_of_its_processors_are_not_its_weights(tmp_path):
    save_file(as_torch(values()), tmp_path / "model.safetensors")
    save_file({"mean": torch.ones(3)}, tmp_path / "policy_preprocessor_step_0.safetensors")
    assert_reads(tmp_path, "safetensors", values())
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"expected model\.safetensors or the shards of one model; give the file"):
        open_weights(tmp_path)


# --- the same weights, however stored --------------------------------------------------------------------------------


def test_one_model_in_three_formats_has_the_same_hashes(tmp_path):
    flat = {name.replace(".", "_"): value for name, value in values().items() if value.dtype != np.int64}
    torch.save(as_torch(flat), tmp_path / "it.pt")
    save_file(as_torch(flat), tmp_path / "it.safetensors")
    found = [of(save_orbax(tmp_path / "it", flat)), of(tmp_path / "it.pt"), of(tmp_path / "it.safetensors")]
    assert len({each.digest for each in found}) == 1
    assert dict(found[0]) == dict(found[1]) == dict(found[2])


@pytest.mark.parametrize("stored", [np.float64, np.float32, ml_dtypes.bfloat16])
def test_weights_stored_in_another_precision_have_the_same_fingerprint(tmp_path, stored):
    drawn = np.random.default_rng(1).normal(size=(50, 40)).astype(np.float32)
    torch.save(as_torch({"w": drawn}), tmp_path / "a.pt")
    torch.save(as_torch({"w": drawn.astype(stored)}), tmp_path / "b.pt")
    a, b = of(tmp_path / "a.pt"), of(tmp_path / "b.pt")
    assert a == b and a.digest == b.digest
    assert (a["w"].dtype, b["w"].dtype) == ("float32", np.dtype(stored).name)


def test_a_change_that_bfloat16_does_not_see_is_no_change_and_one_that_it_sees_is(tmp_path):
    drawn = np.ones(20, np.float32)
    drawn[::2] = 2
    fine, coarse = drawn.copy(), drawn.copy()
    fine[0] += 2**-9
    coarse[0] += 2**-6
    hashed = [leaf_fingerprint("w", each).sha256_bf16 for each in (drawn, fine, coarse)]
    assert hashed[0] == hashed[1] != hashed[2]


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int32, np.uint8, np.bool_, ">f4", ">i8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    ),
    st.booleans(),
)
def test_a_hash_is_that_of_row_major_little_endian_bytes(drawn, turned):
    drawn = np.asfortranarray(drawn) if turned else drawn
    with np.errstate(over="ignore"):
        expected = drawn.astype(np.float32).astype(ml_dtypes.bfloat16) if drawn.dtype.kind == "f" else drawn
    little = expected.astype(expected.dtype.newbyteorder("<"))
    found = leaf_fingerprint("w", drawn)
    assert found.sha256_bf16 == hashlib.sha256(little.tobytes("C")).hexdigest()
    assert (found.shape, found.elements) == (drawn.shape, drawn.size)
    same = little.size == 0 or bool((little == little.reshape(-1)[0]).all())
    assert found.constant == same


def test_a_leaf_larger_than_a_piece_is_hashed_as_a_whole_and_its_last_element_counts():
    drawn = np.zeros((5000, 1000), np.float32)
    assert leaf_fingerprint("w", drawn).constant
    drawn[-1, -1] = 1
    found = leaf_fingerprint("w", drawn)
    assert found.sha256_bf16 == hashlib.sha256(drawn.astype(ml_dtypes.bfloat16).tobytes()).hexdigest()
    assert not found.constant


def test_rows_give_the_fingerprint_back_and_edited_rows_are_refused(tmp_path):
    torch.save(as_torch(values()), tmp_path / "it.pt")
    found = of(tmp_path / "it.pt")
    rows = found.frame().with_columns(fingerprint=pl.lit(found.digest))
    assert Fingerprint.from_frame(rows) == found
    assert Fingerprint.from_frame(rows.sample(fraction=1, shuffle=True, seed=1)).digest == found.digest
    edited = rows.with_columns(pl.lit("0" * 64).alias("sha256_bf16"))
    with pytest.raises(WeightsError, match="as their rows say; fingerprint the checkpoint again"):
        Fingerprint.from_frame(edited)


# --- refused ---------------------------------------------------------------------------------------------------------


def edit_json(path: pathlib.Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut(path: pathlib.Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def biggest(folder: pathlib.Path) -> pathlib.Path:
    return max((each for each in folder.rglob("*") if each.is_file()), key=lambda each: each.stat().st_size)


@pytest.mark.parametrize(("ocdbt", "zarr3"), LAYOUTS)
def test_an_orbax_checkpoint_that_is_cut_is_refused_wherever_it_is_cut(tmp_path, ocdbt, zarr3):
    whole = save_orbax(tmp_path / "whole", values(), use_ocdbt=ocdbt, use_zarr3=zarr3)
    assert len(of(whole)) == len(values())
    cuts = {"data": lambda path: cut(biggest(path)), "no data": lambda path: biggest(path).unlink()}
    cuts |= {"tree": lambda path: cut(path / "_METADATA"), "step": lambda path: cut(path / "_CHECKPOINT_METADATA")}
    cuts |= {"no tree": lambda path: (path / "_METADATA").unlink()}
    if ocdbt:
        cuts |= {"manifest": lambda path: cut(path / "manifest.ocdbt")}
        cuts |= {"no manifest": lambda path: (path / "manifest.ocdbt").unlink()}
    else:
        cuts |= {"a leaf": lambda path: shutil.rmtree(path / "llm.attn")}
    for name, damage in cuts.items():
        path = tmp_path / name
        shutil.copytree(whole, path)
        damage(path)
        with pytest.raises(WeightsError, match=r"damaged|expected _METADATA of orbax"):
            of(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["torch", "torch before 1.6", "safetensors"])
def test_a_file_that_is_cut_is_refused(tmp_path, kind, share):
    path = tmp_path / ("it.safetensors" if kind == "safetensors" else "it.pt")
    if kind == "safetensors":
        save_file(as_torch(values()), path)
    else:
        torch.save(as_torch(values()), path, _use_new_zipfile_serialization=kind == "torch")
    cut(path, share)
    with pytest.raises(WeightsError, match=r"found .*it\..* damaged.*again"):
        of(path)


_KILLED = """
import os, signal, sys
import weight_study_jax
from weight_study_jax import jax, ocp
big = {"w": jax.random.normal(jax.random.key(0), (6000, 6000))}
ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()).save(sys.argv[1], big)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_training_was_saving_is_refused_as_not_committed(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path / "10")],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    (draft,) = tmp_path.iterdir()
    assert draft.name.startswith("10.orbax-checkpoint-tmp")
    with pytest.raises(WeightsError, match=r"found .*orbax-checkpoint-tmp.*never committed.*give an earlier step"):
        open_weights(draft)
    draft.rename(tmp_path / "10")
    with pytest.raises(WeightsError, match=r"never committed|expected _METADATA"):
        open_weights(tmp_path / "10")


def test_a_step_without_the_time_of_its_commit_is_refused_also_by_the_path_of_its_item(tmp_path):
    step = save_step(tmp_path / "run", 7, {"w": jnp.ones(3)})
    edit_json(step / "_CHECKPOINT_METADATA", lambda content: content.update(commit_timestamp_nsecs=None))
    for path in (step, step / "params"):
        with pytest.raises(WeightsError, match=r"found .*7, which orbax never committed"):
            open_weights(path)
    (step / "_CHECKPOINT_METADATA").unlink()  # older orbax wrote none
    assert list(of(step / "params")) == ["w"]
    step.rename(tmp_path / "7.orbax-checkpoint-tmp-1764130000")  # as orbax 0.11 names it
    with pytest.raises(WeightsError, match="never committed"):
        open_weights(tmp_path / "7.orbax-checkpoint-tmp-1764130000" / "params")


def test_a_checkpoint_of_nothing_but_empty_nodes_has_no_leaves(tmp_path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", {"a": {}, "b": None})
    torch.save({"step": 3, "name": "x"}, tmp_path / "it.pt")
    save_file({}, tmp_path / "it.safetensors")
    for path in (tmp_path / "it", tmp_path / "it.pt", tmp_path / "it.safetensors"):
        with pytest.raises(WeightsError, match=r"found no leaf in .*it"):
            open_weights(path)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_that_wants_code_is_refused_and_names_what_it_wants(tmp_path, new):
    content = {"w": torch.ones(3), "path": pathlib.PurePosixPath("x")}
    torch.save(content, tmp_path / "it.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=r"asking to run .*PurePosixPath.*state_dict"):
        open_weights(tmp_path / "it.pt")


def test_what_is_no_checkpoint_is_refused_with_what_was_found(tmp_path):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pt").write_text("not weights at all, whatever the name says")
    (tmp_path / "page.safetensors").write_text("<html>404</html>")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").touch()
    np.savez(tmp_path / "it.npz", a=np.ones(3))
    expected = {
        "missing": "found nothing at",
        "empty.pt": "found an empty file",
        "folder": "found an empty folder",
        "text.pt": "begins with b'not weig'",
        "page.safetensors": "damaged or cut",
        "src": r"found \['train.py'\].*expected _METADATA of orbax",
        "it.npz": "damaged or cut",
    }
    for name, said in expected.items():
        with pytest.raises(WeightsError, match=said):
            of(tmp_path / name)


def test_sparse_tensors_are_refused_by_their_leaf(tmp_path):
    torch.save({"fine": torch.ones(3), "odd": torch.eye(3).to_sparse()}, tmp_path / "it.pt")
    with pytest.raises(WeightsError, match=r"found leaf 'odd' of .* sparse, quantised or without data"):
        of(tmp_path / "it.pt")


def test_equality_of_leaves_is_of_name_shape_and_values():
    leaf = leaf_fingerprint("w", np.arange(6.0))
    assert leaf == leaf_fingerprint("w", np.arange(6.0, dtype=np.float32))
    assert leaf != leaf_fingerprint("w", np.arange(6.0).reshape(2, 3))
    assert leaf != dataclasses.replace(leaf, leaf="v")
