"""Records are held against Dagster's event log, wherever in its SQLite files an event was lost or changed."""

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing

import dagster as dg
import polars as pl
import pytest
from audited_home import (
    BENCHMARK,
    CHECKPOINT,
    EMBEDDING,
    ENCODER,
    MIRROR,
    RM_IDEAL,
    SECTION,
    TASK,
    copied,
    named,
    rows_of,
)

from io_managers.content import content_hash
from io_managers.table_io_manager import Rows, TableIOManager, materialised
from io_managers.tables import TablePartition
from partitions import SECTIONS, pair
from provenance.audit.audit import audit
from provenance.audit.events import read_event_log
from provenance.audit.findings import Kind
from provenance.lineage import Origin, record

MATERIALISED = "dagster_event_type = 'ASSET_MATERIALIZATION'"
SECTION_A = f"{MATERIALISED} AND asset_key = '[\"spatial\", \"section\"]' AND partition = 'a'"


@pytest.fixture
def lab(tmp_path):
    with copied(tmp_path / "home") as lab:
        yield lab


def sql(lab, shard, statement, *values):
    path = lab.home.dagster / "history" / "runs" / f"{shard}.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def run_of(lab, name, *key):
    return lab.partition(name, *key).run_id


def found(lab, *selection, **options):
    return audit(lab.home, lab.instance, selection, **options)


def tags(lab, key, partition=None):
    wanted = dg.AssetRecordsFilter(key, asset_partitions=partition and [partition])
    return lab.instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization.tags


def noted(lab, key, partition, upstream):
    return tags(lab, key, partition)[f"dagster/input_data_version/{upstream.to_user_string()}"]


def over(*versions):
    return hashlib.sha256("".join(versions).encode()).hexdigest()


def test_what_dagster_notes_of_inputs_is_what_the_audit_expects_of_every_kind_of_input(lab):
    versions = {key: lab.partition("section", key).data_version for key in "abc"}
    mirrored = {key: lab.partition("section_as_target", key).data_version for key in "abc"}
    encoder = lab.partition("encoder", "pca", "all").data_version
    pairs = [lab.partition("rm_ideal", *key).data_version for key in ("ab", "bc")]
    assert noted(lab, EMBEDDING, "a", ENCODER) == encoder, "unpartitioned: the data version itself"
    assert noted(lab, EMBEDDING, "a", SECTION) == over(versions["a"]), "one partition: hashed"
    assert noted(lab, RM_IDEAL, pair("a", "b"), MIRROR) == over(mirrored["b"])
    assert noted(lab, MIRROR, "b", SECTION) == over(versions["b"]), "a range of one run: each partition its own"
    assert noted(lab, ENCODER, None, SECTION) == over(versions["a"], versions["c"]), "a cohort: in the order of keys"
    assert noted(lab, BENCHMARK, None, RM_IDEAL) == over(*pairs), "all partitions that there are"
    assert found(lab).clean


def test_an_event_that_was_deleted_in_the_index_is_named_although_its_run_still_has_it(lab):
    found(lab)
    sql(lab, "index", f"DELETE FROM event_logs WHERE {SECTION_A}")
    (finding,) = found(lab).findings
    assert (finding.kind, finding.subject) == (Kind.RECORD_WITHOUT_EVENT, "spatial/section [a]")
    assert "index" in finding.found and "still has it" in finding.found and finding.file.endswith("index.db")


def test_an_event_that_was_deleted_in_its_runs_log_is_named_although_the_index_still_has_it(lab):
    found(lab)
    run = run_of(lab, "section", "a")
    sql(lab, run, f"DELETE FROM event_logs WHERE {MATERIALISED}")
    (finding,) = found(lab).findings
    assert (finding.kind, finding.subject) == (Kind.RECORD_WITHOUT_EVENT, "spatial/section [a]")
    assert "lacks it" in finding.found and finding.file.endswith(f"{run}.db")


def test_an_event_that_was_deleted_in_both_is_named_with_the_run_that_must_have_had_it(lab):
    found(lab)
    run = run_of(lab, "section", "a")
    sql(lab, "index", f"DELETE FROM event_logs WHERE {SECTION_A}")
    sql(lab, run, f"DELETE FROM event_logs WHERE {MATERIALISED}")
    (finding,) = found(lab).findings
    assert (finding.kind, finding.subject) == (Kind.RECORD_WITHOUT_EVENT, "spatial/section [a]")
    assert f"nor in the log of run {run}, which ended SUCCESS" in finding.found
    assert named(found(lab, "spatial/rm_ideal")) == named(found(lab)), "what a selection stands on belongs to it"
    assert found(lab, "policy").clean


def test_the_log_of_a_run_that_is_gone_is_named_once(lab):
    run = run_of(lab, "section_as_target", "b")
    (lab.home.dagster / "history" / "runs" / f"{run}.db").unlink()
    (finding,) = found(lab).findings
    assert finding.kind == Kind.RECORD_WITHOUT_EVENT and "is gone, with 3 materialisations" in finding.found


def test_a_wiped_asset_is_named_for_each_of_its_records(lab):
    lab.instance.wipe_assets([RM_IDEAL])
    assert named(found(lab)) == {
        ("record without event", "spatial/rm_ideal [a|b]"),
        ("record without event", "spatial/rm_ideal [b|c]"),
    }


def test_a_run_that_was_deleted_whole_is_named(lab):
    lab.instance.delete_run(run_of(lab, "benchmark_spatial", "all"))
    (finding,) = found(lab).findings
    assert finding.kind == Kind.RECORD_WITHOUT_EVENT and "unknown to Dagster" in finding.found


def test_an_event_whose_record_was_deleted_is_named(lab):
    lab.record_path("benchmark/spatial", "").unlink()
    assert ("event without record", "benchmark/spatial") in named(found(lab))


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [
        ("dagster/data_version", "0" * 64, "data version 000"),
        ("dagster/code_version", "8", "code version '8'"),
        ("dagster/input_data_version/spatial/section", "0" * 64, "input data version 000"),
    ],
)
def test_a_tag_that_was_changed_in_the_event_disagrees_with_the_record(lab, tag, value, told):
    of_encoder = f"{MATERIALISED} AND asset_key LIKE '%encoder%'"
    ((text,),) = sql(lab, "index", f"SELECT event FROM event_logs WHERE {of_encoder}")
    entry = json.loads(text)
    entry["dagster_event"]["event_specific_data"]["materialization"]["tags"][tag] = value
    sql(lab, "index", f"UPDATE event_logs SET event = ? WHERE {of_encoder}", json.dumps(entry))
    (finding,) = found(lab).findings
    assert (finding.kind, finding.subject) == (Kind.DISAGREEMENT, "spatial/encoder/pca")
    assert finding.found.startswith(told)


def test_a_change_of_an_event_in_place_is_seen_by_a_full_audit(lab):
    found(lab)
    sql(lab, "index", f"UPDATE event_logs SET event = '[]' WHERE {SECTION_A}")
    assert found(lab).clean, "ids are listed anew, rows that are known are not read again"
    (finding,) = found(lab, full=True).findings
    assert finding.kind == Kind.DISAGREEMENT and "cannot be read" in finding.found


def test_records_older_than_a_purged_log_are_not_checked_and_no_finding(lab):
    (oldest,) = sql(lab, "index", f"SELECT id FROM event_logs WHERE {MATERIALISED} AND asset_key LIKE '%encoder%'")
    sql(lab, "index", "DELETE FROM event_logs WHERE id <= ?", *oldest)
    for path in (lab.home.dagster / "history" / "runs").glob("*-*.db"):
        path.unlink()
    report = found(lab)
    assert {each.kind for each in report.findings} == {Kind.RECORD_WITHOUT_EVENT}, "of the run logs that are gone"
    assert all("is gone" in each.found for each in report.findings)
    (left_out,) = report.not_checked
    assert (left_out.what, left_out.n) == ("records", 7) and "older than Dagster's event log" in left_out.reason


def test_an_empty_log_or_a_missing_dagster_home_leaves_records_unchecked(lab):
    shutil.rmtree(lab.home.dagster / "history")
    with dg.DagsterInstance.from_config(str(lab.home.dagster)) as anew:
        report = audit(lab.home, anew)
    assert report.clean and [(each.n, each.reason[-8:]) for each in report.not_checked] == [(13, "is empty")]
    report = audit(lab.home, None)
    assert report.clean and "no Dagster home" in report.not_checked[0].reason


@pytest.mark.parametrize("when", ["before it published", "after it kept the version"])
def test_of_a_run_that_died_before_it_published_the_record_alone_is_harmless(lab, when):
    address = lab.store.address("rm_ideal", ("c", "a"))
    in_the_way = address.parent.parent if when == "before it published" else address
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.touch() if when == "before it published" else in_the_way.mkdir()
    assert not lab.run(RM_IDEAL, pair("c", "a"), raise_on_error=False).success
    in_the_way.unlink() if when == "before it published" else in_the_way.rmdir()
    assert lab.record_path("spatial/rm_ideal", "c|a").exists()
    assert len(list(address.parent.glob("versions/*"))) == (0 if when == "before it published" else 1)
    assert found(lab).clean


def test_records_and_artifacts_of_a_run_that_is_under_way_are_not_judged_yet(lab):
    seen = []

    @dg.asset(key=["policy", "videos", "bc_rnn"], io_manager_key="tables", code_version="1")
    def looks_around(context: dg.AssetExecutionContext, tables: dg.ResourceParam[TableIOManager]):
        rows = rows_of("videos", {"suite": "open", "task": "Lift"})
        address = tables.store.address("videos", ("bc_rnn", "all"))
        planned = TablePartition("policy/videos/bc_rnn", "", content_hash(rows), context.run_id, address)
        record(tables.store, planned, [], Origin("1"))
        video = lab.home.root / "video.mp4"
        video.write_text("kept before its rows")
        kept = tables.artifacts.path(tables.artifacts.take(video))
        seen.append(found(lab))
        kept.unlink()
        return materialised(Rows(rows))

    tables = TableIOManager(home=str(lab.home.root))
    dg.materialize([looks_around], instance=lab.instance, resources={"tables": tables})
    (during,) = seen
    assert during.clean
    assert {(each.what, each.n) for each in during.not_checked} == {("records", 1), ("artifacts", 1)}
    assert found(lab).clean


def test_from_100_partitions_on_dagster_keeps_one_version_and_the_audit_says_so(lab, tmp_path):
    many = dg.StaticPartitionsDefinition([f"p{number:03d}" for number in range(100)])

    @dg.asset(key=["policy", "demonstrations"], partitions_def=many, io_manager_key="tables", code_version="1")
    def demonstrations(context: dg.AssetExecutionContext):
        return materialised(Rows(rows_of("demonstrations", {"task": context.partition_key})))

    @dg.asset(
        key=["policy", "videos", "all"],
        io_manager_key="tables",
        code_version="1",
        ins={"every": dg.AssetIn(["policy", "demonstrations"], metadata={"missing": "skip"})},
    )
    def videos(every):
        return materialised(Rows(rows_of("videos", {"task": ",".join(every)})))

    tables = TableIOManager(home=str(lab.home.root))
    for key in ("p000", "p001"):
        both = {"instance": lab.instance, "resources": {"tables": tables}}
        dg.materialize([demonstrations, videos], selection=[demonstrations], partition_key=key, **both)
    dg.materialize([demonstrations, videos], selection=[videos], **both)
    report = found(lab)
    assert report.clean
    assert [(each.what, "100 or more" in each.reason) for each in report.not_checked] == [("input data versions", True)]


def test_an_input_that_was_published_again_while_the_run_began_is_no_finding(lab):
    @dg.asset(key=SECTION, partitions_def=SECTIONS, io_manager_key="tables", code_version="7")
    def section():
        raise AssertionError("it is not run here")

    class Later(TableIOManager):
        """Another run publishes the input after Dagster has noted its version and before it is loaded."""

        def load_input(self, context):
            lab.run(SECTION, "a", {"umi": 5.0})
            return super().load_input(context)

    @dg.asset(
        key=["spatial", "embedding", "slow"],
        partitions_def=SECTIONS,
        io_manager_key="tables",
        code_version="1",
        ins={"section": dg.AssetIn(SECTION)},
    )
    def slow(section):
        return materialised(Rows(rows_of("embedding", {"section": section.partition, "barcode": "b"})))

    tables = Later(home=str(lab.home.root))
    both = {"instance": lab.instance, "resources": {"tables": tables}}
    dg.materialize([section, slow], selection=[slow], partition_key="a", **both)
    report = found(lab, "spatial/embedding/slow")
    assert report.clean
    assert ["published again between" in each.reason for each in report.not_checked] == [True]


def test_a_deleted_row_is_noticed_although_all_others_are_remembered(lab):
    folder = lab.home.root / "audit"
    first = read_event_log(lab.instance, folder)
    remembered = pl.read_parquet(folder / "events.parquet")
    sql(lab, "index", f"DELETE FROM event_logs WHERE {SECTION_A}")
    second = read_event_log(lab.instance, folder)
    assert len(remembered) == len(first.events) == len(second.events) + 1
    assert len(pl.read_parquet(folder / "events.parquet")) == len(second.events)


def test_the_merged_tables_own_earlier_version_is_no_input_of_dagster(lab):
    lab.run(CHECKPOINT, TASK, {"attempt": "second"})
    assert not [name for name in tags(lab, CHECKPOINT, TASK) if "input_data_version" in name]
    assert found(lab, "policy/checkpoint").clean


def test_what_is_published_during_an_audit_is_no_finding(lab):
    busy = {"reading the lineage records": (SECTION, "b"), "reading the event log": (CHECKPOINT, TASK)}
    published = []

    def say(step):
        if step in busy:
            published.append(lab.run(*busy[step], {"umi": 3.0} if busy[step][0] == SECTION else {"attempt": "second"}))

    report = found(lab, "spatial/section", "policy/checkpoint", say=say)
    assert len(published) == 2 and report.clean
