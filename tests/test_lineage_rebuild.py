"""A lost lineage table is written again from the event log: whole where events carry records, honestly where not."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from audited_home import EMBEDDING, SECTION, TASK, copied, named, rewrite
from click.testing import CliRunner

from cli_audit import lineage_group
from provenance.audit.audit import audit
from provenance.rebuild import NOT_KNOWN, rebuild
from provenance.records import Records


@pytest.fixture
def lab(tmp_path):
    with copied(tmp_path / "home") as lab:
        yield lab


def older_events(lab, *assets):
    """Make events those of code that did not put the record into them."""
    with closing(sqlite3.connect(lab.home.dagster / "history" / "runs" / "index.db")) as connection, connection:
        rows = connection.execute(
            "SELECT id, event FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
        ).fetchall()
        for number, text in rows:
            entry = json.loads(text)
            materialization = entry["dagster_event"]["event_specific_data"]["materialization"]
            if "/".join(materialization["asset_key"]["path"]) in assets:
                kept = [each for each in materialization["metadata_entries"] if each["label"] != "lineage"]
                materialization["metadata_entries"] = kept
                connection.execute("UPDATE event_logs SET event = ? WHERE id = ?", (json.dumps(entry), number))


def test_a_deleted_table_is_rebuilt_record_for_record(lab):
    before = {each.address + each.run_id: each for each in Records(lab.store).all()}
    shutil.rmtree(lab.home.tables / "lineage")
    done = rebuild(lab.home, lab.instance)
    assert (done.there, len(done.whole), done.partly, done.not_written) == (0, 13, [], [])
    assert {each.address + each.run_id: each for each in Records(lab.store).all()} == before
    assert audit(lab.home, lab.instance).clean


def test_one_deleted_record_is_rebuilt_and_the_others_are_not_touched(lab):
    path = lab.record_path("spatial/encoder/pca", "")
    path.unlink()
    others = {each: each.stat().st_mtime_ns for each in (lab.home.tables / "lineage").rglob("data.parquet")}
    done = rebuild(lab.home, lab.instance)
    assert (done.there, [each.asset for each in done.whole]) == (12, ["spatial/encoder/pca"])
    assert path.exists() and all(each.stat().st_mtime_ns == moment for each, moment in others.items())
    assert rebuild(lab.home, lab.instance).there == 13


def test_what_an_older_event_does_not_know_is_said_and_no_input_is_invented(lab):
    older_events(lab, "spatial/encoder/pca", "spatial/embedding/pca", "policy/rollouts/bc_rnn")
    for asset, partition in (
        ("spatial/encoder/pca", ""),
        ("spatial/embedding/pca", "a"),
        ("policy/rollouts/bc_rnn", TASK),
    ):
        lab.record_path(asset, partition).unlink()
    done = rebuild(lab.home, lab.instance)
    assert done.whole == [] and len(done.partly) == 3
    records = {record.asset: (record, lacking) for record, lacking in done.partly}
    encoder, lacking = records["spatial/encoder/pca"]
    assert encoder.inputs == () and "which partitions of spatial/section it read" in lacking, "a hash over two"
    embedding, lacking = records["spatial/embedding/pca"]
    assert {(each.asset, each.partition) for each in embedding.inputs} == {
        ("spatial/section", "a"),
        ("spatial/encoder/pca", ""),
    }, "each of these notes fits one publication alone"
    assert "which partitions" not in lacking and "source files" in lacking
    assert all(record.node == NOT_KNOWN and record.versions == {} for record, _ in records.values())
    assert audit(lab.home, lab.instance).clean


def test_an_input_that_several_runs_published_alike_is_not_guessed(lab):
    lab.run(SECTION, "a")
    lab.run(EMBEDDING, "a")
    older_events(lab, "spatial/embedding/pca")
    shutil.rmtree(lab.home.tables / "lineage" / "spatial.embedding.pca")
    (first, _), (second, lacking) = rebuild(lab.home, lab.instance).partly
    assert len(first.inputs) == 2, "only one run had published it then"
    assert [each.asset for each in second.inputs] == ["spatial/encoder/pca"] and "spatial/section" in lacking


def test_a_record_that_is_there_is_never_overwritten_also_where_it_is_damaged_or_edited(lab):
    damaged = lab.record_path("spatial/encoder/pca", "")
    damaged.write_bytes(b"nothing")
    edited = lab.record_path("benchmark/spatial", "")
    rewrite(edited, lambda rows: rows.with_columns(node=rows["node"] + "?"))
    content = edited.read_bytes()
    done = rebuild(lab.home, lab.instance)
    assert done.whole == [] and [told.split(" [")[0] for told, _ in done.not_written] == ["spatial/encoder/pca"]
    assert damaged.read_bytes() == b"nothing" and edited.read_bytes() == content
    damaged.unlink()
    edited.unlink()
    rebuild(lab.home, lab.instance)
    assert audit(lab.home, lab.instance).clean


def test_the_command_counts_and_says_what_could_not_be_recovered(lab):
    older_events(lab, "spatial/encoder/pca")
    shutil.rmtree(lab.home.tables / "lineage")
    done = CliRunner().invoke(lineage_group, ["rebuild"], obj=lab.home)
    assert done.exit_code == 0, done.output
    assert "0 records were there, 12 were written as their runs wrote them" in done.stdout
    assert "not recovered: which partitions of spatial/section it read" in done.stdout


def test_what_the_audit_names_is_what_the_rebuild_mends(lab):
    lab.record_path("spatial/section", "a").unlink()
    assert ("event without record", "spatial/section [a]") in named(audit(lab.home, lab.instance))
    rebuild(lab.home, lab.instance)
    assert audit(lab.home, lab.instance).clean
