"""What is on disk is held against what was recorded: every kind of damage is named, and what is whole is clean."""

import json
import os
import shutil
import time
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from audited_home import (
    CHECKPOINT,
    ENCODER,
    ROLLOUTS,
    SECTION,
    TASK,
    copied,
    flip_a_byte,
    named,
    rewrite,
)
from click.testing import CliRunner

from assets.operations.audit import audit as audit_asset
from assets.operations.audit import check_name
from cli_audit import audit_command
from io_managers.table_io_manager import TableIOManager
from provenance.audit.audit import audit
from provenance.audit.bytes_on_disk import SETTLED_NS, Memory
from provenance.audit.findings import Kind
from provenance.audit.records_on_disk import read_records
from provenance.audit.tables_on_disk import read_tables
from provenance.records import UnknownValue


@pytest.fixture
def lab(tmp_path):
    with copied(tmp_path / "home") as lab:
        yield lab


def found(lab, *selection, **options):
    return audit(lab.home, lab.instance, selection, **options)


def artifact_of(lab, key) -> Path:
    return lab.artifacts.path(lab.partition("section", key).frame()["section_artifact"][0])


def test_a_home_in_which_nothing_happened_is_clean_and_everything_was_checked(lab):
    report = found(lab)
    assert report.clean and report.not_checked == ()
    assert (report.counts.partitions, report.counts.records, report.counts.events) == (13, 13, 13)
    assert (report.counts.artifacts, report.counts.sources) == (3, 3)


def test_two_runs_that_published_identical_bytes_are_no_finding(lab):
    lab.run(SECTION, "a")
    lab.run(ENCODER)
    report = found(lab)
    assert report.clean and report.counts.records == 15


def test_a_flipped_byte_in_an_artifact_is_named_with_its_asset_and_both_hashes(lab):
    path = artifact_of(lab, "b")
    flip_a_byte(path)
    (finding,) = found(lab).findings
    assert (finding.kind, finding.subject, finding.file) == (
        Kind.CHANGED_ARTIFACT,
        "spatial/section [b]",
        str(path),
    )
    assert path.stem in finding.expected and "bytes" in finding.found and path.stem not in finding.found


def test_a_missing_artifact_is_named_with_the_rows_that_point_to_it(lab):
    path = artifact_of(lab, "b")
    path.unlink()
    report = found(lab)
    assert {each.kind for each in report.findings} == {Kind.MISSING_ARTIFACT}
    assert report.findings[0].file == str(path) and "tables/section" in report.findings[0].expected


def test_an_artifact_that_no_row_points_to_is_an_orphan_but_only_where_everything_is_looked_at(lab, tmp_path):
    stray = tmp_path / "stray.h5ad"
    stray.write_bytes(b"of a run that died before it published")
    name = lab.artifacts.put(stray)
    assert [(each.kind, Path(each.file).name) for each in found(lab).findings] == [(Kind.ORPHAN_ARTIFACT, name)]
    assert found(lab, "spatial").clean


def test_an_edited_value_is_named_and_the_kept_version_is_offered(lab):
    path = lab.partition("rm_ideal", "a", "b").address
    rewrite(path, lambda rows: rows.with_columns(layer=pl.lit("edited")))
    (finding,) = found(lab).findings
    assert (finding.kind, finding.subject) == (Kind.EDITED_TABLE, "spatial/rm_ideal [a|b]")
    assert "versions/" in finding.to_do
    shutil.copy(finding.to_do.split("; ")[1].split(" still")[0], path)
    assert found(lab).clean


def test_an_edited_system_column_is_an_edited_table(lab):
    path = lab.partition("rm_ideal", "a", "b").address
    rewrite(path, lambda rows: rows.with_columns(run_id=pl.lit("another")))
    assert named(found(lab)) == {("edited table", "spatial/rm_ideal [a|b]")}


@pytest.mark.parametrize("damage", ["no parquet", "no metadata"])
def test_a_damaged_table_is_named_by_its_asset_also_where_it_cannot_say_so_itself(lab, damage):
    path = lab.partition("rm_ideal", "a", "b").address
    rows = pl.read_parquet(path, hive_partitioning=False)
    path.unlink()
    path.write_bytes(b"PAR1 nothing else") if damage == "no parquet" else rows.write_parquet(path)
    assert named(found(lab)) == {("damaged table", "spatial/rm_ideal [a|b]")}
    assert named(found(lab, "spatial/rm_ideal")) == {("damaged table", "spatial/rm_ideal [a|b]")}


def test_a_flipped_byte_anywhere_in_a_table_or_record_never_stops_the_audit(lab, tmp_path):
    table = lab.partition("embedding", "pca", "a").address
    record = lab.record_path("spatial/embedding/pca", "a")
    for path, read in ((table, read_tables), (record, read_records)):
        content = path.read_bytes()
        whole = read(lab.home.tables, Memory(tmp_path / "memory"))
        named = 0
        for position in range(4, len(content), 173):
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            path.write_bytes(flipped)
            named += read(lab.home.tables, Memory(tmp_path / "memory")) != whole
        path.write_bytes(content)
        assert named > 10, "bytes that hold no value are not seen: statistics, indices, unused space"


def test_a_damaged_old_version_is_named(lab):
    old = lab.partition("section", "a")
    lab.run(SECTION, "a", {"umi": 2.0})
    kept = old.address.parent / "versions" / f"{old.data_version}--{old.run_id}.parquet"
    kept.write_bytes(b"nothing")
    assert ("damaged table", "spatial/section [a]") in named(found(lab))
    assert any(each.file == str(kept) for each in found(lab).findings)


def test_a_partition_that_was_copied_over_another_is_misplaced(lab):
    wrong = lab.partition("section", "b").address
    wrong.unlink()
    shutil.copy(lab.partition("section", "a").address, wrong)
    assert ("misplaced table", "spatial/section [a]") in named(found(lab))


def test_a_partition_whose_file_is_gone_is_missing_and_its_kept_version_is_offered(lab):
    gone = lab.partition("embedding", "pca", "a")
    gone.address.unlink()
    (finding,) = found(lab).findings
    assert (finding.kind, finding.subject) == (Kind.MISSING_PARTITION, "spatial/embedding/pca [a]")
    assert f"{gone.data_version}--{gone.run_id}.parquet" in finding.to_do
    shutil.rmtree(gone.address.parent)
    (finding,) = found(lab).findings
    assert finding.kind == Kind.MISSING_PARTITION and "backup" in finding.to_do


def test_an_older_version_put_back_by_hand_is_named(lab):
    old = lab.partition("section", "b")
    kept = old.address.parent / "versions" / f"{old.data_version}--{old.run_id}.parquet"
    lab.run(SECTION, "b", {"umi": 2.0})
    old.address.unlink()
    shutil.copy(kept, old.address)
    assert ("replaced partition", "spatial/section [b]") in named(found(lab))


def test_an_old_version_that_a_number_stands_on_must_be_kept(lab):
    old = lab.partition("section", "b")
    lab.run(SECTION, "b", {"umi": 2.0})
    (old.address.parent / "versions" / f"{old.data_version}--{old.run_id}.parquet").unlink()
    report = found(lab)
    assert ("missing version", "spatial/section [b]") in named(report)
    assert any("not kept" in each.reason for each in report.not_checked)


def test_an_input_that_was_published_again_with_other_rows_is_named_where_it_was_read(lab):
    lab.run(SECTION, "a", {"umi": 2.0})
    assert named(found(lab)) == {
        ("older input", "spatial/section_as_target [a]"),
        ("older input", "spatial/encoder/pca"),
        ("older input", "spatial/embedding/pca [a]"),
        ("older input", "spatial/rm_ideal [a|b]"),
    }
    assert "sum_umi" in next(each.found for each in found(lab).findings)


def test_a_checkpoint_that_is_no_longer_chosen_makes_rollouts_old_and_a_merged_table_does_not(lab):
    lab.run(CHECKPOINT, TASK, {"attempt": "second"})
    report = found(lab)
    assert named(report) == {("older input", f"policy/rollouts/bc_rnn [{TASK}]")}
    assert "another is chosen now" in report.findings[0].found
    lab.run(ROLLOUTS, TASK)
    assert found(lab).clean


def test_a_source_file_that_changed_or_is_gone_is_named_and_the_number_is_still_traceable(lab, tmp_path):
    for key in "ab":
        source = tmp_path / f"{key}.h5ad"
        source.write_text(f"the file of section {key}")
        lab.run(SECTION, key, {"source": str(source)})
    assert found(lab).clean
    (tmp_path / "a.h5ad").write_text("another file")
    (tmp_path / "b.h5ad").unlink()
    report = found(lab)
    assert named(report) == {
        ("changed source file", "spatial/section [a]"),
        ("missing source file", "spatial/section [b]"),
    }
    assert all("still traceable" in each.to_do for each in report.findings)


def test_rows_without_a_record_and_what_reads_them_are_named(lab):
    lab.record_path("spatial/encoder/pca", "").unlink()
    assert named(found(lab)) == {
        ("orphan table", "spatial/encoder/pca"),
        ("event without record", "spatial/encoder/pca"),
        ("missing hop", "spatial/encoder/pca"),
    }


def test_a_record_that_was_edited_disagrees_with_its_event_too(lab):
    path = lab.record_path("spatial/rm_ideal", "a|b")
    rewrite(path, lambda rows: rows.with_columns(input_hash=pl.lit("0" * 64)))
    report = found(lab)
    assert {
        ("edited table", "spatial/rm_ideal [a|b]"),
        ("record and event disagree", "spatial/rm_ideal [a|b]"),
    } < named(report)
    texts = [each.found for each in report.findings if each.kind == Kind.DISAGREEMENT]
    assert any("inputs differ" in text for text in texts)
    assert any("input data version" in text for text in texts)


def test_a_record_that_cannot_be_read_is_told_once(lab):
    lab.record_path("spatial/rm_ideal", "a|b").write_bytes(b"nothing")
    assert named(found(lab)) == {("damaged table", "spatial/rm_ideal [a|b]")}


def test_a_cycle_in_the_records_is_named_once(lab):
    child = lab.partition("rm_ideal", "a", "b")
    path = lab.record_path("spatial/section", "a")

    def reads_its_child(rows):
        return rows.with_columns(
            input_asset=pl.lit(child.asset),
            input_partition=pl.lit(child.partition),
            input_hash=pl.lit(child.data_version),
            input_run_id=pl.lit(child.run_id),
        )

    rewrite(path, reads_its_child)
    cycles = [each for each in found(lab).findings if each.kind == Kind.CYCLE]
    assert len(cycles) == 1
    assert "spatial/section [a]" in cycles[0].found and "spatial/rm_ideal [a|b]" in cycles[0].found


def test_a_second_audit_hashes_nothing_and_a_change_that_keeps_the_size_is_seen(lab):
    first = found(lab)
    time.sleep(2 * SETTLED_NS / 1e9)
    found(lab)
    third = found(lab)
    assert first.counts.bytes_hashed > 0 and third.counts.bytes_hashed == 0
    assert third.counts.bytes_unchanged == first.counts.bytes_hashed and third.clean
    flip_a_byte(artifact_of(lab, "a"))
    report = found(lab)
    assert named(report) == {("changed artifact", "spatial/section [a]")}
    assert 0 < report.counts.bytes_hashed < first.counts.bytes_hashed / 10


def test_a_full_audit_sees_what_no_stat_shows(lab):
    path = artifact_of(lab, "a")
    found(lab)
    time.sleep(2 * SETTLED_NS / 1e9)
    found(lab)
    before = path.stat()
    flip_a_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    _remember_its_ctime(lab, path)
    assert found(lab).clean, "a disk that rots changes no stat"
    assert named(found(lab, full=True)) == {("changed artifact", "spatial/section [a]")}
    assert named(found(lab)) == {("changed artifact", "spatial/section [a]")}, "what a full audit read is remembered"


def _remember_its_ctime(lab, path):
    """Make the memory believe that it has seen the file as it is: only a disk, or its owner, can keep a ctime."""
    memory = lab.home.root / "audit" / "files.parquet"
    now = path.stat().st_ctime_ns
    frame = pl.read_parquet(memory)
    here = pl.col("path") == str(path)
    frame.with_columns(ctime_ns=pl.when(here).then(now).otherwise("ctime_ns")).write_parquet(memory)


def test_files_that_are_gone_leave_the_memory_and_two_memories_add_up(tmp_path):
    files = [tmp_path / name for name in "abc"]
    for each in files:
        each.write_text(each.name)
    time.sleep(2 * SETTLED_NS / 1e9)
    one, other = Memory(tmp_path / "memory"), Memory(tmp_path / "memory")
    one.recall(str(files[0]), lambda path: "of a")
    one.recall(str(files[2]), lambda path: "of c")
    other.recall(str(files[1]), lambda path: "of b")
    one.save()
    other.save()
    files[2].unlink()
    both = Memory(tmp_path / "memory")
    assert [both.recall(str(each), None) for each in files[:2]] == ["of a", "of b"]
    both.save()
    assert sorted(Path(path).name for path in pl.read_parquet(tmp_path / "memory")["path"]) == ["a", "b"]


def test_a_memory_that_cannot_be_read_is_begun_anew(lab):
    found(lab)
    (lab.home.root / "audit" / "files.parquet").write_bytes(b"nothing")
    assert found(lab).counts.bytes_hashed > 0


def test_a_selection_is_held_with_all_that_it_stands_on_and_nothing_else(lab):
    flip_a_byte(artifact_of(lab, "b"))
    assert named(found(lab, "spatial/rm_ideal:a|b")) == {("changed artifact", "spatial/section [b]")}
    assert found(lab, "spatial/embedding/*").clean
    assert found(lab, "policy").counts.partitions == 2
    assert found(lab, "benchmark/spatial").counts.records == 8


def test_an_unknown_selection_lists_what_there_is(lab):
    with pytest.raises(UnknownValue, match="  - policy/rollouts/bc_rnn"):
        found(lab, "spatial/rollouts")
    with pytest.raises(UnknownValue, match="expected one that was materialised: a, b, c"):
        found(lab, "spatial/section:d")


def test_the_command_prints_blocks_fails_on_findings_and_ignores_kinds_that_it_is_told(lab, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(lab.home.dagster))
    whole = CliRunner().invoke(audit_command, [], obj=lab.home)
    assert whole.exit_code == 0 and "13 partitions" in whole.stdout, whole.output
    flip_a_byte(artifact_of(lab, "a"))
    failed = CliRunner().invoke(audit_command, ["spatial/section"], obj=lab.home)
    assert failed.exit_code == 1
    assert "changed artifact: spatial/section [a]" in failed.stdout and "to do" in failed.stdout
    ignored = CliRunner().invoke(audit_command, ["--ignore", "changed artifact"], obj=lab.home)
    assert ignored.exit_code == 0 and "ignored, as was asked" in ignored.stdout
    as_json = CliRunner().invoke(audit_command, ["--json"], obj=lab.home)
    assert json.loads(as_json.stdout)["findings"][0]["kind"] == "changed artifact"
    unknown = CliRunner().invoke(audit_command, ["--ignore", "rust"], obj=lab.home)
    assert unknown.exit_code == 2 and "changed artifact" in unknown.output


def test_the_asset_audit_has_a_check_for_each_kind_and_notes_its_findings_on_the_assets(lab):
    flip_a_byte(artifact_of(lab, "a"))
    tables = TableIOManager(home=str(lab.home.root))
    done = dg.materialize([audit_asset], instance=lab.instance, resources={"tables": tables})
    assert done.success
    results = {each.check_name: each for each in done.get_asset_check_evaluations()}
    assert set(results) == {check_name(kind) for kind in Kind}
    assert {name for name, each in results.items() if not each.passed} == {"no_changed_artifact"}
    rows = lab.store.scan("audit")
    assert rows.select("kind", "asset", "partition").rows() == [("changed artifact", "spatial/section", "a")]
    noted = lab.instance.fetch_observations(SECTION, limit=1).records[0].asset_observation
    assert noted.partition == "a" and "| changed artifact | spatial/section [a] |" in noted.metadata["audit"].value
    assert audit(lab.home, lab.instance, ["operations/*"]).clean
