"""`tracebed weights`, and the asset that fingerprints a base once: on real checkpoints, through the real command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import torch
import weight_study_jax
import weight_study_torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from cli import main
from defs import build_defs
from home import ROOT, Home
from io_managers.tables import TableStore
from provenance.weights.bases import Base, BaseError, base_candidate, load_bases, stored_fingerprint
from science.robots.policies.registry import policy_specs

HEAVY = ("torch", "jax", "orbax", "tensorstore", "safetensors", "scanpy", "mujoco")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return weight_study_torch.write_study(tmp_path_factory.mktemp("study"), ".safetensors")


@pytest.fixture
def home(tmp_path, monkeypatch, study):
    """A home whose bases are the study's."""
    home = Home(tmp_path / "home").ensure()
    names = ("pi05_base", "pi05_libero")
    bases(tmp_path / "bases.toml", {name: study.paths[name] for name in names})
    monkeypatch.setenv("TRACEBED_HOME", str(home.root))
    monkeypatch.setenv("TRACEBED_BASES", str(tmp_path / "bases.toml"))
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    return home


def bases(file: Path, paths: dict[str, Path]) -> None:
    file.write_text("\n".join(f'[base.{name}]\npath = "{path}"\n' for name, path in paths.items()))


def weights(*arguments):
    return CliRunner().invoke(main, ["weights", *map(str, arguments)])


def said(result, status: int = 0) -> str:
    assert result.exit_code == status, result.output
    return result.output


# --- show and compare ------------------------------------------------------------------------------------------------


def test_show_lists_the_leaves_of_a_path_and_of_a_base(home, study):
    by_path, by_name = said(weights("show", study.paths["pi05_base"])), said(weights("show", "pi05_base"))
    assert by_path == by_name
    assert "llm.final_norm.scale" in by_path and "40 x 24" in by_path
    assert f"fingerprint {study.fingerprint('pi05_base').digest}" in by_path
    assert "10 leaves, 3,775 elements, 0 leaves constant" in by_path


def test_compare_counts_leaves_and_says_by_how_much_they_differ(home, study):
    text = said(weights("compare", "pi05_base", study.paths["lora_from_base"]))
    counts = {line[6:].split(" (")[0]: int(line[:5]) for line in text.splitlines() if line[:5].strip().isdigit()}
    assert counts == {
        "equal": 6,
        "differ": 4,
        "have another shape": 0,
        "only in pi05_base": 0,
        f"only in {study.paths['lora_from_base']}": 4,
    }
    first, second = (load_file(study.paths[name]) for name in ("pi05_base", "lora_from_base"))
    greatest = (first["vision.weight"] - second["vision.weight"]).abs().max().item()
    assert f"vision.weight  max |difference| {greatest:.3g}" in text
    assert "llm.embedder.weight" not in text
    assert "llm.embedder.weight" in said(weights("compare", "--all", "pi05_base", study.paths["lora_from_base"]))


def test_compare_of_a_copy_in_another_format_says_the_same_weights(home, study, tmp_path):
    half = {name: tensor.bfloat16() for name, tensor in load_file(study.paths["pi05_base"]).items()}
    torch.save(half, tmp_path / "copy.pt")
    text = said(weights("compare", tmp_path / "copy.pt", "pi05_base"))
    assert "10 equal (0 of them constant)" in text and text.endswith("the same weights\n")


def test_compare_shows_ten_names_of_a_kind_and_how_many_more(home, tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_file({f"leaf{i:02}": torch.full((3,), value + i) for i in range(14)}, tmp_path / name)
    text = said(weights("compare", tmp_path / "a", tmp_path / "b"))
    assert "   14 differ" in text and "... and 4 more (--all)" in text
    assert text.count("max |difference| 1") == 10


# --- origin ----------------------------------------------------------------------------------------------------------


def test_origin_prints_verdict_evidence_and_deciding_leaves(home, study):
    text = said(weights("origin", study.paths["lora_from_base"], "--candidates", "pi05_base", "pi05_libero"))
    assert text.startswith(
        "PROVEN: the weights are of pi05_base: 5 of 8 discriminating leaves equal pi05_base, 0 equal"
    )
    for line in (
        "  PROVEN       pi05_base",
        "  CONTRADICTED pi05_libero",
        "  fingerprint: 0 of 8 discriminating leaves equal pi05_libero: contradicts pi05_libero",
        "deciding: llm.attn.0.weight, llm.attn.1.weight",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("run", "claimed", "verdict", "status"),
    [
        ("lora_from_base", "pi05_base", "PROVEN", 0),
        ("lora_from_base", "pi05_libero", "CONTRADICTED", 1),
        ("lora_from_base", "scratch", "CONTRADICTED", 1),
        ("full_of_everything", "pi05_libero", "UNDETERMINED", 0),
    ],
)
def test_the_exit_status_is_1_for_a_claim_that_is_contradicted_only(home, study, run, claimed, verdict, status):
    candidates = ["--candidates", "pi05_base", "--candidates", "pi05_libero"]
    text = said(weights("origin", study.paths[run], *candidates, "--claimed", claimed), status)
    assert text.startswith(f"{claimed} is {verdict}: ")


def test_without_a_claim_nothing_is_contradicted(home, study):
    arguments = ["--candidates", "pi05_base", "--untouched", "llm.attn*"]
    text = said(weights("origin", study.paths["scratch"], *arguments))
    assert text.startswith("CONTRADICTED: ") and "2 frozen leaves are not of pi05_base" in text


@pytest.mark.parametrize("ending", [".json", ".toml"])
def test_the_configuration_of_a_full_fine_tune_proves_what_bytes_cannot(home, study, tmp_path, ending):
    config = tmp_path / f"config{ending}"
    place = "gs://openpi-assets/checkpoints/pi05_base/params"
    if ending == ".json":
        config.write_text(json.dumps({"name": "pi05_libero", "resume": False, "weight_loader": {"params_path": place}}))
    else:
        config.write_text(f'name = "pi05_libero"\nintent = "fresh"\nweight_loader = "{place}"\n')
    candidates = ["--candidates", "pi05_base", "pi05_libero"]
    text = said(weights("origin", study.paths["full_of_everything"], *candidates, "--config", config))
    assert text.startswith("PROVEN: training began from pi05_base, as its documents say")
    assert "in configuration 'pi05_libero' (a name is no evidence): supports pi05_base" in text


def test_a_configuration_alone_does_not_say_whether_its_attempt_was_fresh(home, study, tmp_path):
    (tmp_path / "config.json").write_text('{"weight_loader": "/lab/pi05_base/params"}')
    arguments = ["--candidates", "pi05_base", "pi05_libero", "--config", tmp_path / "config.json"]
    text = said(weights("origin", study.paths["full_of_everything"], *arguments))
    assert text.startswith("UNDETERMINED: ") and "it is not known whether attempt 0 began afresh" in text


def test_logs_and_configurations_of_a_chain_are_given_oldest_first(home, study, tmp_path):
    arguments = ["--candidates", "pi05_base", "pi05_libero"]
    for n, (restored, loader) in enumerate((("/cache/pi05_base/params", "pi05_base"), ("/runs/a/b/3", "pi05_libero"))):
        (tmp_path / f"{n}.log").write_text(
            f"04:50:38.076 [I] Restoring checkpoint from {restored}.   (98:saving.py:36)\n"
        )
        (tmp_path / f"{n}.json").write_text(json.dumps({"weight_loader": f"/any/{loader}/params"}))
        arguments += ["--log", tmp_path / f"{n}.log", "--config", tmp_path / f"{n}.json"]
    found = json.loads(said(weights("origin", study.paths["full_of_everything"], *arguments, "--json")))
    assert (found["verdict"], found["base"]) == ("PROVEN", "pi05_base")
    told = {(piece["level"], piece["attempt"]): (piece["says"], piece["about"]) for piece in found["evidence"]}
    assert told["config", "attempt 0"] == told["log", "attempt 0"] == ("supports", "pi05_base")
    assert told["config", "attempt 1"] == told["chain", "attempt 1"] == ("says nothing", None)
    text = said(weights("origin", study.paths["full_of_everything"], *arguments, "--log", tmp_path / "0.log"), 1)
    assert "found 2 --config and 3 --log, expected one of each for every attempt" in text


def test_what_cannot_be_read_is_one_message_with_its_cure(home, study, tmp_path):
    for arguments, expected in (
        (["show", tmp_path / "no"], "found neither a checkpoint at"),
        (["origin", tmp_path / "no", "--candidates", "pi05_base"], "found nothing at"),
        (["origin", study.paths["scratch"], "--candidates", "pi05"], "one of ['pi05_base', 'pi05_libero']"),
        (["origin", study.paths["scratch"]], "Missing option '--candidates'"),
        (["origin", study.paths["scratch"], "--candidates", "pi05_base", "--log", tmp_path / "no"], "found no log"),
    ):
        result = weights(*arguments)
        assert result.exit_code in (1, 2) and expected in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)


# --- the asset -------------------------------------------------------------------------------------------------------


def materialise(home: Home, name: str, raise_on_error: bool = True):
    job = build_defs(home=home).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:
        return job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["policy", "base_weights", name])],
            raise_on_error=raise_on_error,
        )


def test_a_base_is_fingerprinted_once_by_a_job_and_used_when_its_files_are_gone(home, tmp_path):
    params = weight_study_jax.fresh_params(3)
    path = tmp_path / "assets" / "pi05_small"
    weight_study_jax.save_base(path, params)
    bases(tmp_path / "bases.toml", {"pi05_small": path / "params"})
    base = Base("pi05_small", path / "params")
    store = TableStore(home.tables)
    assert stored_fingerprint(base, store) is None
    read = base_candidate(base, store).fingerprint
    result = materialise(home, "pi05_small")
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("tells_apart", True)
    (event,) = result.asset_materializations_for_node("policy__base_weights__pi05_small")
    assert event.metadata["format"].value == "orbax" and event.metadata["fingerprint"].value == read.digest
    rows = store.partition("base_weights", ("pi05_small", "all")).frame()
    assert rows.height == 8 and rows["constant"].sum() == 3  # the norm and two biases, before any training
    assert stored_fingerprint(base, store) == read and stored_fingerprint(base, store).digest == read.digest
    lineage = store.scan("lineage").filter(asset="policy/base_weights/pi05_small")
    assert lineage.select("input_asset", "input_partition", "input_hash").row(0) == (
        "file",
        str(path / "params"),
        read.digest,
    )
    path.rename(tmp_path / "elsewhere")
    assert f"fingerprint {read.digest}" in said(weights("show", "pi05_small"))
    moved = Base("pi05_small", tmp_path / "elsewhere" / "params")
    assert stored_fingerprint(moved, store) is None  # what was published was of another path


def test_a_base_that_cannot_be_read_fails_with_its_cure_and_publishes_nothing(home, study, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(study.paths["pi05_base"].read_bytes()[:500])
    bases(tmp_path / "bases.toml", {"broken": tmp_path / "cut.safetensors"})
    result = materialise(home, "broken", raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "cut.safetensors damaged or cut" in failure.step_failure_data.error.message
    assert not TableStore(home.tables).partitions("base_weights")


def test_loading_definitions_with_bases_and_the_command_imports_nothing_heavy(home):
    code = f"import cli, defs, sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env={**os.environ, "TRACEBED_BASES": os.environ["TRACEBED_BASES"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == []


# --- bases.toml ------------------------------------------------------------------------------------------------------


def test_the_bases_of_the_repository_are_trained_here_and_its_example_can_be_read(tmp_path):
    assert all(base.policy in policy_specs() for base in load_bases(ROOT / "bases.toml"))
    lines = (ROOT / "bases.toml").read_text().splitlines()
    example = [
        line.removeprefix("# ") for line in lines if line.startswith(("# [", "# path =", "# desc", "# source ="))
    ]
    (tmp_path / "bases.toml").write_text("\n".join(example))
    (base,) = load_bases(tmp_path / "bases.toml")
    assert base.name == "pi05_base" and base.source in base.places and str(base.path) in base.places


def test_a_base_that_is_trained_here_has_tasks_and_settings_and_no_path(tmp_path):
    (tmp_path / "bases.toml").write_text(
        '[base.small]\npolicy = "tiny_vla"\ntasks = ["open.Lift"]\n[base.small.settings]\nsteps = 3\n'
    )
    (base,) = load_bases(tmp_path / "bases.toml")
    assert (base.policy, base.tasks, dict(base.settings)) == ("tiny_vla", ("open.Lift",), {"steps": 3})
    assert base.path is None and base.places == ("small",)


def test_a_relative_path_is_relative_to_the_file(tmp_path):
    (tmp_path / "bases.toml").write_text('[base.small]\npath = "weights/small.pt"\n')
    assert load_bases(tmp_path / "bases.toml") == (Base("small", tmp_path / "weights" / "small.pt"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[base.x", "cannot be read as TOML"),
        ("[bases.x]\npath = 'a'", r"found tables \['bases'\], expected only \[base.<name>\]"),
        ("base = 3", "found base = 3, expected tables"),
        ("[base.Pi05]\npath = 'a'", r"found \[base.Pi05\], expected a name of lower-case letters"),
        ("[base.scratch]\npath = 'a'", "expected another name"),
        ("[base]\nx = 'a'", r"found base.x = 'a', expected a table \[base.x\]"),
        ("[base.x]\n", r"\[base.x\] with \[\], expected either `path`, or `policy` and `tasks`"),
        ("[base.x]\npath = 'a'\npolicy = 'b'", r"with \['path', 'policy'\], expected either `path`, or `policy`"),
        ("[base.x]\npath = 3", r"path = 3, expected a text"),
        ("[base.x]\npolicy = 'tiny_vla'", r"tasks = \[\], expected at least one task"),
        (
            "[base.x]\npolicy = 'tiny_vla'\ntasks = ['a', 'a']",
            "expected at least one task `<suite>.<task>`, and each once",
        ),
        ("[base.x]\npolicy = 'tiny_vla'\ntasks = ['a']\npath = 'b'", "expected either `path`, or `policy`"),
        ("[base.x]\npolicy = 'tiny_vla'\ntasks = ['a']\nsettings = 3", "settings = 3, expected a table"),
        ("[base.x]\npath = 'gs://a/b'", "an address belongs into `source`"),
        ("[base.x]\npath = 'a'\nsource = 3", "source = 3, expected a text"),
        ("[base.x]\npath = 'a'\nurl = 'b'", r"\[base.x\] with \['url'\], expected only"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_was_found_and_expected(tmp_path, text, message):
    (tmp_path / "bases.toml").write_text(text)
    with pytest.raises(BaseError, match=message) as refused:
        load_bases(tmp_path / "bases.toml")
    assert str(tmp_path / "bases.toml") in str(refused.value)
