"""The whole spatial stream on simulated sections: filled in here, and by a real backfill of a real daemon."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import study
from assets.spatial.benchmark import BENCHMARK
from assets.spatial.keys import RM_IDEAL, SECTION, variant_key
from cli import main
from defs import build_defs
from home import ROOT, Home
from io_managers.catalog import connect
from io_managers.tables import MissingPartition, TableStore
from materialise import PlanError, built_on_failure, materialise, submit
from partitions import pair
from registry import register_section
from science.spatial.simulate import simulate_cortex
from science.spatial.simulated_files import write_annotated

TESTS = Path(__file__).parent
VARIANTS = """
[cohort]
study = ["a", "b"]
three = ["a", "b", "c"]

[encoder.smooth]
method = "pca_smooth"
cohort = "study"
params = { steps = 4, n_components = 15, n_top_genes = 200 }

[encoder.recovers]
method = "collapsing_encoder:CollapsesOnFirstSeed"
cohort = "study"

[encoder.loses_c]
method = "collapsing_encoder:NeverRecoversForOneSection"
cohort = "three"
max_refits = 1
params = { section = "c" }
"""


class Lab:
    """A home with three simulated sections and its own encoder variants."""

    def __init__(self, folder: Path):
        self.home = Home(folder / "home").ensure()
        encoders = folder / "encoders.toml"
        encoders.write_text(VARIANTS)
        self.environment = {
            **self.home.environment(),
            "TRACEBED_ENCODERS": str(encoders),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]),
            "PYTHONWARNINGS": "ignore",
        }
        os.environ.update(self.environment)
        self.store = TableStore(self.home.tables)
        for seed, key in enumerate(("a", "b", "c"), start=1):
            path = folder / f"{key}.h5ad"
            image = write_annotated(simulate_cortex(key, seed=seed, n_rows=26, n_cols=20, n_genes=300), path)
            register_section(self.home, key, path, image=image)

    def fill(self, *keys: str, only: tuple[str, ...]) -> tuple[bool, list[str]]:
        said: list[str] = []
        return study.fill_here(self.home, keys, only, said.append), said

    def has(self, name: str, *key: str) -> bool:
        try:
            self.store.partition(name, key)
        except MissingPartition:
            return False
        return True

    def cli(self, *arguments: str):
        return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    before = dict(os.environ)
    yield Lab(tmp_path_factory.mktemp("lab"))
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def filled(lab):
    succeeded, said = lab.fill("a", "b", only=("smooth", "recovers"))
    assert succeeded, "\n".join(said)
    return lab


def test_a_study_is_filled_in_end_to_end(filled):
    for method in ("smooth", "recovers", "controls"):
        for source, target in (("a", "b"), ("b", "a")):
            assert filled.has("niche_query", method, source, target)
    assert filled.has("niche_figure", "smooth", "a", "b")
    board = filled.store.partition("benchmark_spatial", ("all",)).frame()
    a = dict(board.filter((pl.col("metric") == "A") & (pl.col("layer") == "all")).select("method", "mean").iter_rows())
    assert abs(a["random"]) < 0.05 < a["smooth"] < a["layer_composition"]
    assert board["simulated"].all()


def test_a_collapsed_fit_is_refitted_with_another_seed_and_both_attempts_are_kept(filled):
    fit = filled.store.partition("encoder", ("recovers", "all")).frame().row(0, named=True)
    assert (fit["seed"], fit["fit_seed"], fit["attempts"]) == (0, 1000, 2)
    attempts = filled.store.scan("embedding_attempts").filter(
        (pl.col("method") == "recovers") & (pl.col("step") == "encoder")
    )
    by_attempt = attempts.group_by("attempt").agg(pl.col("valid").all(), pl.len()).sort("attempt")
    assert by_attempt.rows() == [(0, False, 2), (1, True, 2)]
    assert attempts.filter(~pl.col("valid"))["reason"].str.len_chars().min() > 0


def test_every_row_of_a_metric_leads_to_the_source_file(filled):
    """Walk the lineage table from a metric to the h5ad that it came from."""
    lineage = filled.store.scan("lineage")
    front, seen = {("spatial/niche_query/smooth", "a|b")}, set()
    while front:
        seen |= front
        rows = lineage.filter(pl.struct("asset", "partition").is_in([{"asset": a, "partition": p} for a, p in front]))
        front = set(rows.drop_nulls("input_asset").select("input_asset", "input_partition").iter_rows()) - seen
    files = {partition for asset, partition in seen if asset == "file"}
    assert {Path(file).name for file in files if file.endswith(".h5ad")} == {"a.h5ad", "b.h5ad"}
    assert ("spatial/encoder/smooth", "") in seen
    assert lineage["job_key"].drop_nulls().n_unique() > 5


def test_an_unchanged_pair_reuses_its_rm_ideal_and_a_changed_definition_does_not(filled):
    definitions = build_defs(home=filled.home)
    job = definitions.resolve_implicit_global_asset_job_def()
    key = pair("a", "b")
    with dg.DagsterInstance.get() as instance:

        def again(**config):
            run_config = {"ops": {"spatial__rm_ideal": {"config": config}}}
            result = job.execute_in_process(
                instance=instance, asset_selection=[RM_IDEAL], partition_key=key, run_config=run_config
            )
            return result.asset_materializations_for_node("spatial__rm_ideal")[0].metadata

        assert "cached" in again()
        rows = filled.store.partition("rm_ideal", ("a", "b")).frame()
        similarity = filled.home.artifacts / rows["similarity_artifact"][0][:2] / rows["similarity_artifact"][0]
        whole = similarity.read_bytes()
        similarity.write_bytes(b"damaged")
        assert "cached" not in again()
        assert similarity.read_bytes() == whole
        assert "cached" not in again(hops=1, oracle_pairs=5)
        assert filled.store.partition("rm_ideal", ("a", "b")).frame()["hops"].unique().to_list() == [1]
        assert "cached" not in again()


def test_adding_a_section_plans_its_own_partitions_and_refits_nothing(filled):
    with dg.DagsterInstance.get() as instance:
        needed = study.plan(filled.home, instance, ["c"], ["smooth"])
    counts = {key.to_user_string(): len(partitions) for key, partitions in needed.items()}
    assert counts == {
        "spatial/section": 1,
        "spatial/section_as_target": 1,
        "spatial/embedding/smooth": 1,
        "spatial/embedding_as_target/smooth": 1,
        "spatial/rm_ideal": 4,
        "spatial/niche_query/controls": 4,
        "spatial/niche_query/smooth": 4,
        "spatial/niche_figure/smooth": 4,
        "benchmark/spatial": 1,
    }


def test_an_edited_variant_is_fitted_again_and_its_old_encoder_refused(filled, tmp_path, monkeypatch):
    edited = tmp_path / "encoders.toml"
    edited.write_text(VARIANTS.replace("n_components = 15", "n_components = 5"))
    monkeypatch.setenv("TRACEBED_ENCODERS", str(edited))
    with dg.DagsterInstance.get() as instance:
        needed = study.plan(filled.home, instance, ["a"], ["smooth"])
        assert variant_key("encoder", "smooth") in needed
        error = materialise(build_defs(home=filled.home), instance, variant_key("embedding", "smooth"), "a")
    assert error is not None and "encoders.toml changed" in error


def test_scores_of_an_encoder_that_was_fitted_again_are_superseded_in_view_table_and_figure(
    filled, tmp_path, monkeypatch
):
    home = Home(tmp_path / "home")
    shutil.copytree(filled.home.root, home.root)
    edited = tmp_path / "encoders.toml"
    edited.write_text(VARIANTS.replace("n_components = 15", "n_components = 5"))
    for name, value in (home.environment() | {"TRACEBED_ENCODERS": str(edited)}).items():
        monkeypatch.setenv(name, value)

    def status(table):
        with connect(home) as connection:
            query = f"SELECT DISTINCT method, superseded FROM {table}_status WHERE method IN ('smooth', 'recovers')"
            return dict(connection.execute(query).fetchall())

    assert status("niche_query") == status("niche_figure") == {"smooth": None, "recovers": None}
    definitions = build_defs(home=home)
    with dg.DagsterInstance.get() as instance:
        for key, partition in ((variant_key("encoder", "smooth"), None), (BENCHMARK, None)):
            assert materialise(definitions, instance, key, partition) is None
        assert materialise(definitions, instance, variant_key("niche_figure", "smooth"), pair("a", "b")) is None
        metadata = instance.get_latest_materialization_event(BENCHMARK).asset_materialization.metadata
    assert "smooth (simulated) (SUPERSEDED)" in metadata["table"].value
    assert "recovers (simulated) (SUPERSEDED)" not in metadata["table"].value
    assert status("niche_query") == {"smooth": "its encoder was fitted again", "recovers": None}
    drawn = [json.loads(path.read_text()) for path in home.jobs.glob("niche_figure-smooth-a-b-*/inputs.json")]
    assert {each["params"]["superseded"] for each in drawn} == {"", "its encoder was fitted again"}


@pytest.mark.parametrize(
    ("key", "partition", "failed", "skipped"),
    [
        (("niche_query", "controls"), "a|b", {"rm_ideal": {"a|b"}}, True),
        (("niche_query", "controls"), "a|b", {"rm_ideal": {"a|x"}}, False),
        (("niche_query", "controls"), "a|b", {"section": {"a"}}, True),
        (("niche_query", "controls"), "a|b", {"section": {"x"}}, False),
        (("encoder", "smooth"), None, {"section": {"b"}}, True),
        (("encoder", "smooth"), None, {"section": {"c"}}, False),
        (("embedding", "smooth"), "a", {"encoder/smooth": {""}}, True),
    ],
)
def test_only_what_reads_a_failed_partition_is_skipped(lab, key, partition, failed, skipped):
    graph = build_defs(home=lab.home).resolve_asset_graph()
    lost = {dg.AssetKey(["spatial", *name.split("/")]): keys for name, keys in failed.items()}
    assert built_on_failure(graph, dg.AssetKey(["spatial", *key]), partition, lost) is skipped


def test_the_log_of_a_job_is_in_its_run(filled):
    captured = [path.read_text() for path in filled.home.dagster.rglob("*.out")]
    assert any("labelled spots" in text and " %  " in text for text in captured)


def test_plans_that_cannot_work_are_refused(filled):
    with dg.DagsterInstance.get() as instance:
        with pytest.raises(PlanError, match="no such sections: nowhere"):
            study.plan(filled.home, instance, ["nowhere"])
        with pytest.raises(PlanError, match="no such encoder variants: typo"):
            study.plan(filled.home, instance, ["a"], ["typo"])
        with pytest.raises(PlanError, match="no daemon"):
            study.submit_backfill(filled.home, ["a"])


def test_the_command_line_shows_what_there_is(filled, tmp_path):
    listed = filled.cli("section", "list")
    assert listed.exit_code == 0 and "a.h5ad" in listed.output
    counted = filled.cli("sql", "--csv", "SELECT count(DISTINCT section) AS n FROM embedding WHERE method = 'smooth'")
    assert counted.output == "n\n2\n"
    assert "embedding_attempts" in filled.cli("tables").output
    assert "UMI" in filled.cli("tables", "section").output
    assert filled.cli("snapshot", str(tmp_path / "s.duckdb")).exit_code == 0
    refused = filled.cli("snapshot", str(tmp_path / "s.duckdb"))
    assert refused.exit_code == 1 and "never overwritten" in refused.output
    wrong = filled.cli("sql", "SELECT * FROM nothing")
    assert wrong.exit_code == 1 and "tracebed tables" in wrong.output


@pytest.mark.parametrize("key", ["a|b", "a,b", "a/b", ".."])
def test_a_bad_section_key_is_refused_before_anything_is_read(lab, key):
    refused = lab.cli("section", "add", key, "nowhere.h5ad")
    assert refused.exit_code == 1 and "cannot name a partition" in refused.output
    assert "Traceback" not in refused.output


def test_another_source_under_the_same_key_is_refused(lab, tmp_path):
    path = tmp_path / "other.h5ad"
    write_annotated(simulate_cortex("a", seed=9, n_rows=26, n_cols=20, n_genes=300), path)
    refused = lab.cli("section", "add", "a", str(path))
    assert refused.exit_code == 1 and "--replace" in refused.output


def test_a_source_that_changed_after_it_was_added_is_refused_by_name(lab, tmp_path):
    path = tmp_path / "d.h5ad"
    write_annotated(simulate_cortex("d", seed=4, n_rows=26, n_cols=20, n_genes=300), path)
    assert lab.cli("section", "add", "d", str(path)).exit_code == 0
    write_annotated(simulate_cortex("d", seed=5, n_rows=26, n_cols=20, n_genes=300), path)
    definitions = build_defs(home=lab.home)
    with dg.DagsterInstance.get() as instance:
        error = materialise(definitions, instance, SECTION, "d")
    assert error is not None and "d.h5ad" in error and "--replace" in error
    assert not lab.has("section", "d")
    assert lab.cli("section", "remove", "d").exit_code == 0


def test_a_section_without_labels_is_embedded_and_rm_ideal_says_what_is_missing(filled, tmp_path):
    section = simulate_cortex("unlabelled", seed=7, n_rows=26, n_cols=20, n_genes=300)
    section = replace(section, layer=np.full(section.n_spots, ""))
    path = tmp_path / "unlabelled.h5ad"
    write_annotated(section, path)
    assert "no labels" in filled.cli("section", "add", "unlabelled", str(path)).output
    definitions = build_defs(home=filled.home)
    with dg.DagsterInstance.get() as instance:
        assert materialise(definitions, instance, SECTION, "unlabelled") is None
        assert materialise(definitions, instance, variant_key("embedding", "smooth"), "unlabelled") is None
        error = materialise(definitions, instance, RM_IDEAL, pair("unlabelled", "a"))
        assert study.plan(filled.home, instance, ["unlabelled"], ["smooth"])[RM_IDEAL] == []
        assert any("no labels" in note for note in study.left_out(filled.home, instance, ["unlabelled"]))
    assert error is not None and "unlabelled" in error and "--labels" in error
    assert filled.cli("section", "remove", "unlabelled").exit_code == 0


def test_a_reader_refuses_a_collapsed_embedding_that_got_published_all_the_same(filled):
    definitions = build_defs(home=filled.home)
    embedding, query = variant_key("embedding", "smooth"), variant_key("niche_query", "smooth")
    good = filled.store.partition("embedding", ("smooth", "a"))
    zeros = good.frame().with_columns(z=pl.lit([0.0, 0.0], pl.List(pl.Float32)))
    filled.store.publish("embedding", ("smooth", "a"), zeros, asset=good.asset, partition="a", run_id="by hand")
    scores = filled.store.partition("niche_query", ("smooth", "a", "b"))
    with dg.DagsterInstance.get() as instance:
        error = materialise(definitions, instance, query, pair("a", "b"))
        assert error is not None and "section a at seed 0 is not valid" in error
        assert filled.store.partition("niche_query", ("smooth", "a", "b")) == scores
        assert materialise(definitions, instance, embedding, "a") is None
        assert filled.store.partition("embedding", ("smooth", "a")).data_version == good.data_version


def test_a_pair_too_large_to_keep_is_refused_before_the_memory_is_full(filled):
    job = build_defs(home=filled.home).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:
        refused = job.execute_in_process(
            instance=instance,
            asset_selection=[RM_IDEAL],
            partition_key=pair("b", "a"),
            run_config={"ops": {"spatial__rm_ideal": {"config": {"max_similarity_gb": 1e-6, "hops": 2}}}},
            raise_on_error=False,
        )
    failure = next(event for event in refused.all_events if event.is_step_failure)
    assert "max_similarity_gb" in failure.step_failure_data.user_failure_data.description
    assert filled.store.partition("rm_ideal", ("b", "a")).frame()["hops"].unique().to_list() == [3]


def test_in_a_real_backfill_a_lost_embedding_stops_its_pairs_and_nothing_else(filled):
    lab = filled
    definitions = build_defs(home=lab.home)
    pairs = [pair("a", "b"), pair("a", "c"), pair("c", "a")]
    with dg.DagsterInstance.get() as instance:
        for key, partition in [
            (SECTION, "c"),
            (dg.AssetKey(["spatial", "section_as_target"]), "c"),
            (RM_IDEAL, pairs[1]),
            (RM_IDEAL, pairs[2]),
            (variant_key("encoder", "loses_c"), None),
        ]:
            assert materialise(definitions, instance, key, partition) is None
        needed = {
            variant_key("embedding", "loses_c"): ["a", "b", "c"],
            variant_key("embedding_as_target", "loses_c"): ["a", "b", "c"],
            variant_key("niche_query", "loses_c"): pairs,
        }
        backfill_id = submit(instance, definitions, needed, "one section never recovers")
        _run_daemon_until_done(lab, instance, backfill_id)
        order = [
            (record.asset_materialization.asset_key.path[1], record.timestamp)
            for key in needed
            for record in instance.fetch_materializations(key, limit=10, ascending=True).records
        ]
    assert [lab.has("embedding", "loses_c", key) for key in "abc"] == [True, True, False]
    assert [lab.has("embedding_as_target", "loses_c", key) for key in "abc"] == [True, True, False]
    assert [lab.has("niche_query", "loses_c", *key.split("|")) for key in pairs] == [True, False, False]
    attempts = lab.store.scan("embedding_attempts").filter((pl.col("method") == "loses_c") & (pl.col("section") == "c"))
    assert not attempts["valid"].any() and set(attempts["step"]) == {"encoder", "embedding"}
    assert _failed_checks(lab, variant_key("embedding", "loses_c"))
    scored = min(when for name, when in order if name == "niche_query")
    assert scored > max(when for name, when in order if name == "embedding_as_target")


def _failed_checks(lab: Lab, key: dg.AssetKey) -> set[str]:
    """Names of the asset's checks of which some evaluation failed."""
    names = {
        check.name
        for check in build_defs(home=lab.home).resolve_asset_graph().asset_check_keys
        if check.asset_key == key
    }
    with dg.DagsterInstance.get() as instance:
        storage = instance.event_log_storage
        return {
            name
            for name in names
            for record in storage.get_asset_check_execution_history(dg.AssetCheckKey(key, name), limit=10)
            if record.status.value == "FAILED"
        }


def _run_daemon_until_done(lab: Lab, instance: dg.DagsterInstance, backfill_id: str) -> None:
    log = (lab.home.root / "daemon.log").open("w")
    daemon = subprocess.Popen(
        [Path(sys.executable).with_name("dagster-daemon"), "run", "-w", ROOT / "workspace.yaml"],
        cwd=ROOT,
        env=lab.environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 420
        while time.monotonic() < deadline:
            backfill = instance.get_backfill(backfill_id)
            if backfill.status.value.startswith(("COMPLETED", "FAILED", "CANCELED")):
                return
            assert daemon.poll() is None, Path(log.name).read_text()[-3000:]
            time.sleep(1)
        raise AssertionError(f"the backfill did not end: {Path(log.name).read_text()[-3000:]}")
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait(timeout=60)
        log.close()
