"""Values of a small simulated study, computed again from their records: equal in every bit, different and where, or
refused by name."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import dagster as dg
import polars as pl
import psutil
import pytest
from fault_jobs import until
from test_study import Lab

import assets.spatial.benchmark
from assets.spatial.benchmark import BENCHMARK
from assets.spatial.keys import CONTROLS, RM_IDEAL, SECTION, SECTION_AS_TARGET, variant_key
from defs import build_defs
from home import ROOT
from io_managers.artifacts import ArtifactError
from io_managers.columns import TableSchema, number, text, volatile
from io_managers.tables import TableStore
from materialise import materialise, run_here
from partitions import pair
from provenance.lineage import write_record
from provenance.records import Records, UnknownValue
from replay import environment
from replay.compare import compare
from replay.refusals import ReplayRefused
from replay.run import replay
from replay.values import same_bits
from replay.verdict import Verdict

PAIR = "a|b"
SMOOTH = {name: variant_key(name, "smooth") for name in ("encoder", "embedding", "niche_query", "niche_figure")}
SMOOTH_TARGET = variant_key("embedding_as_target", "smooth")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A study of one pair and one encoder, filled in."""
    before = dict(os.environ)
    lab = Lab(tmp_path_factory.mktemp("replay"))
    plan = {
        SECTION: ["a", "b"],
        SECTION_AS_TARGET: ["b"],
        SMOOTH["encoder"]: [None],
        SMOOTH["embedding"]: ["a", "b"],
        SMOOTH_TARGET: ["b"],
        RM_IDEAL: [pair("a", "b")],
        CONTROLS: [pair("a", "b")],
        SMOOTH["niche_query"]: [pair("a", "b")],
        SMOOTH["niche_figure"]: [pair("a", "b")],
        BENCHMARK: [None],
    }
    said = []
    with dg.DagsterInstance.get() as instance:
        assert run_here(lab.home, instance, plan, said.append), "\n".join(said)
    yield lab
    os.environ.clear()
    os.environ.update(before)


def files_of(lab):
    """Everything in the home, with what would show a write."""
    paths = [path for path in lab.home.root.rglob("*") if path.is_file() and lab.home.dagster not in path.parents]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def no_scratch(lab):
    return not (lab.home.root / "scratch").exists()


@pytest.mark.parametrize(
    ("asset", "partition", "artifacts"),
    [
        ("spatial/section", "a", 1),
        ("spatial/section_as_target", "b", 1),
        ("spatial/encoder/smooth", "", 1),
        ("spatial/embedding/smooth", "b", 1),
        ("spatial/niche_query/smooth", PAIR, 1),
        ("spatial/niche_figure/smooth", PAIR, 2),
    ],
)
def test_a_value_comes_out_the_same_in_every_bit(lab, asset, partition, artifacts):
    before = files_of(lab)
    prepared = []
    found = replay(lab.home, asset, partition, on_prepared=prepared.append)
    assert found.comparison.verdict is Verdict.BIT_EQUAL, found.comparison.differences
    assert found.comparison.rows == prepared[0].target.rows.height
    assert (found.comparison.artifacts, found.comparison.same_bytes) == (artifacts, artifacts)
    assert not [each for each in found.prepared.differs if "git commit" not in each]
    assert files_of(lab) == before and no_scratch(lab)
    assert os.environ["TRACEBED_HOME"] == str(lab.home.root)


def test_the_command_names_what_differs_before_it_computes_and_ends_with_the_verdict(lab, monkeypatch):
    found = dict(environment.deciding_versions())
    monkeypatch.setattr(environment, "deciding_versions", lambda: found | {"polars": "0.0.1"})
    said = lab.cli("replay", "benchmark/spatial")
    assert said.exit_code == 0, said.output
    assert "benchmark/spatial, published" in said.output and "inputs: 2, all there" in said.output
    line = f"differs: polars: {found['polars']} then, 0.0.1 now"
    assert line in said.output and said.output.index(line) < said.output.index("computed again")
    assert said.output.rstrip().endswith("BIT-EQUAL")


def test_a_record_without_configuration_is_replayed_only_with_that_of_its_run(lab):
    records = Records(TableStore(lab.home.tables))
    (record,) = records.of("spatial/rm_ideal", PAIR)
    write_record(records.store, replace(record, config=None))
    try:
        with pytest.raises(ReplayRefused, match="--config-from-run"):
            replay(lab.home, "spatial/rm_ideal", PAIR)
        found = replay(lab.home, "spatial/rm_ideal", PAIR, config_from_run=True)
        assert found.comparison.verdict is Verdict.BIT_EQUAL, found.comparison.differences
        assert found.prepared.configuration.source == f"from Dagster's run {record.run_id}"
    finally:
        write_record(records.store, record)


def test_a_wrong_published_number_is_found_with_its_row_and_column(lab, monkeypatch):
    right = assets.spatial.benchmark.leaderboard

    def wrong(queries):
        board = right(queries)
        one = (pl.col("method") == "smooth") & (pl.col("metric") == "A") & (pl.col("layer") == "all")
        return board.with_columns(mean=pl.when(one).then(pl.col("mean") + 0.25).otherwise(pl.col("mean")))

    first = Records(TableStore(lab.home.tables)).of("benchmark/spatial", "")[-1].run_id
    monkeypatch.setattr(assets.spatial.benchmark, "leaderboard", wrong)
    with dg.DagsterInstance.get() as instance:
        assert materialise(build_defs(home=lab.home), instance, BENCHMARK, None) is None
    monkeypatch.undo()
    found = replay(lab.home, "benchmark/spatial")
    assert found.comparison.verdict is Verdict.DIFFERENT
    (difference,) = found.comparison.differences
    assert all(each in difference.where for each in ("method=smooth", "layer=all", "metric=A"))
    assert (difference.column, difference.count) == ("mean", 1)
    assert difference.recorded == pytest.approx(difference.replayed + 0.25)
    said = lab.cli("replay", "benchmark/spatial")
    assert said.exit_code == 1 and "DIFFERENT" in said.output and "mean: " in said.output
    assert lab.cli("replay", "benchmark/spatial", "--at", first).exit_code == 0


@contextmanager
def replaced(*paths, content=None):
    """Files with other content, or without them, for a while. They are replaced, not written: others link to them."""
    kept = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    yield
    for path, whole in zip(paths, kept, strict=True):
        path.unlink(missing_ok=True)
        path.write_bytes(whole)


def input_files(lab, asset, partition, of):
    """Where the bytes of an input of a value are: its version, and the partition itself."""
    records = Records(TableStore(lab.home.tables))
    (each,) = [each for each in records.of(asset, partition)[-1].inputs if each.asset == of]
    folder = lab.home.tables / of.split("/")[1] / each.partition
    return [folder / "versions" / f"{each.content_hash}--{each.run_id}.parquet", folder / "data.parquet"]


def test_an_input_that_was_changed_by_hand_is_refused(lab, tmp_path):
    version, _ = input_files(lab, "spatial/embedding/smooth", "a", "spatial/section")
    changed = tmp_path / "changed.parquet"
    rows = pl.read_parquet(version, hive_partitioning=False).with_columns(pl.col("sum_umi") + 1)
    rows.write_parquet(changed, metadata=pl.read_parquet_metadata(version))
    with (
        replaced(version, content=changed.read_bytes()),
        pytest.raises(ReplayRefused, match=r"input spatial/section \[a\].* is not what was read"),
    ):
        replay(lab.home, "spatial/embedding/smooth", "a")
    assert no_scratch(lab)


def test_an_input_whose_bytes_are_not_kept_is_refused(lab):
    files = input_files(lab, "spatial/embedding/smooth", "a", "spatial/section")
    with replaced(*files), pytest.raises(ReplayRefused, match=r"input spatial/section \[a\].* is not kept"):
        replay(lab.home, "spatial/embedding/smooth", "a")


def test_an_artifact_of_an_input_that_is_gone_is_refused(lab):
    name = TableStore(lab.home.tables).partition("encoder", ("smooth", "all")).frame()["encoder_artifact"][0]
    path = lab.home.artifacts / name[:2] / name
    with replaced(path), pytest.raises(ReplayRefused, match=f"artifact {name} is missing"):
        replay(lab.home, "spatial/embedding/smooth", "a")


def test_a_source_file_that_is_gone_or_changed_is_refused(lab):
    source = lab.home.root.parent / "a.h5ad"
    with replaced(source), pytest.raises(ReplayRefused, match=f"{source} is gone"):
        replay(lab.home, "spatial/section", "a")
    with replaced(source, content=b"other"), pytest.raises(ReplayRefused, match=f"{source} has changed"):
        replay(lab.home, "spatial/section", "a")


def test_what_is_unknown_or_not_made_by_an_asset_is_refused_by_name(lab):
    with pytest.raises(UnknownValue, match=r"found partition 'c' of spatial/section, .*materialised: a, b"):
        replay(lab.home, "spatial/section", "c")
    with pytest.raises(UnknownValue, match=r"(?s)spatial/sectoin.*  - spatial/section"):
        replay(lab.home, "spatial/sectoin", "a")
    with pytest.raises(UnknownValue, match="no value of spatial/section"):
        replay(lab.home, "spatial/section", "a", at="1999-01-01")
    for asset in ("section_source", "operations/jobs", "operations/incident", "policy/train_attempts"):
        said = lab.cli("replay", asset, "a")
        assert said.exit_code == 1 and "cannot be replayed" in said.output, said.output
    assert "give --seed too" in lab.cli("replay", "spatial/section", "a", "--step", "3").output


def test_an_interrupt_ends_the_job_and_leaves_nothing_behind(lab):
    command = [sys.executable, str(ROOT / "cli.py"), "replay", "spatial/encoder/smooth"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    scratch = lab.home.root / "scratch"
    (pid_file,) = until(lambda: list(scratch.glob("replay-*/jobs/*/1/process")), 60, "the job has started")
    pid = int(until(pid_file.read_text, 10, "it is known").split()[0])
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Aborted" in said, said
    assert no_scratch(lab)
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", 20, "the job is gone")


class NoArtifacts:
    def verified(self, name):
        raise ArtifactError(name)


def held_together(schema, recorded, replayed):
    return compare(schema, pl.DataFrame(recorded), pl.DataFrame(replayed), NoArtifacts(), NoArtifacts())


def test_columns_are_compared_as_their_table_declares():
    rough = replace(number("rough", "a sum over threads"), compared=1e-6)
    columns = (text("name", "which"), number("exact", "a number"), rough, volatile(number("wall_s", "time")))
    schema = TableSchema("any", "a row", columns, identity=("name",))
    row = {"name": ["x", "y"], "exact": [0.0, 1.0], "rough": [1.0, 2.0], "wall_s": [1.0, 2.0]}
    assert held_together(schema, row, row | {"wall_s": [3.0, 4.0]}).verdict is Verdict.BIT_EQUAL
    near = held_together(schema, row, row | {"rough": [1.0, 2.0 + 1e-9]})
    assert near.verdict is Verdict.WITHIN_TOLERANCE and near.differences[0].where == "row 1 (name=y)"
    assert held_together(schema, row, row | {"rough": [1.0, 2.1]}).verdict is Verdict.DIFFERENT
    assert held_together(schema, row, row | {"exact": [-0.0, 1.0]}).verdict is Verdict.DIFFERENT
    turned = {name: values[::-1] for name, values in row.items()}
    assert held_together(schema, row, turned).differences[0].column == "order of the rows"
    fewer = {name: values[:1] for name, values in row.items()}
    assert (held_together(schema, row, fewer).differences[0].count, held_together(schema, row, fewer).rows) == (1, 1)


def test_an_identity_that_changed_everywhere_is_one_difference():
    schema = TableSchema("any", "a row", (text("evaluation", ""), text("arm", "")), identity=("evaluation", "arm"))
    found = held_together(
        schema, {"evaluation": ["e", "e"], "arm": ["x", "y"]}, {"evaluation": ["f", "f"], "arm": ["x", "y"]}
    )
    (difference,) = found.differences
    assert (difference.column, difference.recorded, difference.replayed, difference.count) == (
        "evaluation",
        "e",
        "f",
        2,
    )


def test_lists_are_equal_only_in_every_bit():
    assert same_bits([1.0, 2.0], [1.0, 2.0]) and not same_bits([0.0], [-0.0]) and not same_bits([1.0], [1.0, 2.0])
