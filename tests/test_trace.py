"""From a value to its sources: what was really read, for the newest value and for any older one."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from small_platform import Platform, mirror, rm_ideal, section, spot

from home import Home
from io_managers.catalog import connect
from io_managers.content import content_hash
from partitions import add_section_key, pair
from provenance.lineage import Input, Origin, record, write_record
from provenance.records import Records, UnknownValue
from provenance.selection import Ambiguous
from provenance.trace import trace, trace_row
from provenance.tree import CARRIED
from provenance.views.text import as_text

PAIR = "spatial/rm_ideal"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Sections a, b, c; the pair a|b; then another a, from which the pair was not computed again."""
    folder = tmp_path_factory.mktemp("trace")
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        for key in "abc":
            add_section_key(instance, key)
        platform = Platform(Home(folder / "home"), instance)
        for key in "abc":
            platform.run(section, key)
        platform.run_range(mirror, "a", "c")
        platform.run(rm_ideal, pair("a", "b"))
        platform.run(section, "a", config={"umi": 9.0})
        yield platform


@pytest.fixture
def platform(filled, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(filled.home.root, tmp_path / "home")
    return Platform(Home(tmp_path / "home"), filled.instance)


def node(found, title):
    (one,) = [each for each in found.nodes.values() if each.title == title]
    return one


def test_a_value_leads_to_the_versions_that_were_read_and_says_which_is_superseded(platform):
    found = trace(platform.home, PAIR, "a|b")
    assert [each.title for _, _, each, _ in found.walk()] == [
        "spatial/rm_ideal [a|b]",
        "spatial/section [a]",
        "spatial/section_as_target [b]",
        "spatial/section [b]",
    ]
    assert node(found, "spatial/section [a]").content_hash == content_hash(spot("a"))
    assert found.superseded == ["spatial/section [a]: sum_umi changed"]
    assert not found.problems
    assert "SUPERSEDED" in as_text(found)


def test_the_same_rows_in_a_newer_version_supersede_nothing(platform):
    platform.run(section, "b")
    found = trace(platform.home, PAIR, "a|b")
    assert node(found, "spatial/section [b]").newest and "section [b]" not in str(found.superseded)


def test_every_hop_says_who_computed_it(platform):
    root = node(trace(platform.home, PAIR, "a|b"), "spatial/rm_ideal [a|b]")
    assert root.record.code_version == "1" and root.record.versions["polars"] and root.record.node
    assert root.run_id == root.record.run_id and root.job is None
    assert node(trace(platform.home, "spatial/section", "a"), "spatial/section [a]").record.config == {"umi": 9.0}


def test_a_past_value_is_found_by_time_by_run_and_by_its_row(platform):
    first, second = Records(platform.store).of("spatial/section", "a")
    for found in (
        trace(platform.home, "spatial/section", "a", at=first.run_id[:8]),
        trace(platform.home, "spatial/section", "a", at=first.recorded_at.isoformat()),
        trace_row(platform.home, "section", {"section": "a", "sum_umi": "1.0"}),
    ):
        assert found.nodes[found.root].content_hash == content_hash(spot("a"))
        assert found.superseded == ["spatial/section [a]: sum_umi changed"]
    later = trace(platform.home, "spatial/section", "a", at=(second.recorded_at + timedelta(days=1)).isoformat())
    assert later.nodes[later.root].content_hash == content_hash(spot("a", 9.0)) and not later.superseded


def test_what_is_unknown_is_answered_with_what_there_is(platform):
    with pytest.raises(UnknownValue, match=r"(?s)spatial/nonsense.*spatial/rm_ideal"):
        trace(platform.home, "spatial/nonsense")
    with pytest.raises(UnknownValue, match=r"'a\|c'.*a\|b"):
        trace(platform.home, PAIR, "a|c")
    with pytest.raises(UnknownValue, match=r"(?s)2020-01-01.*content"):
        trace(platform.home, PAIR, "a|b", at="2020-01-01")
    with pytest.raises(UnknownValue, match=r"(?s)no value.*'ffffff'.*run "):
        trace(platform.home, PAIR, "a|b", at="ffffff")
    with pytest.raises(Ambiguous, match=r"no column nonsense; it has source"):
        trace(platform.home, PAIR, "a|b", where={"nonsense": "1"})
    with pytest.raises(Ambiguous, match=r"(?s)side=target.*source"):
        trace(platform.home, PAIR, "a|b", where={"side": "target"})
    with pytest.raises(UnknownValue, match="there is no table 'nonsense'"):
        trace_row(platform.home, "nonsense", {})


def test_a_number_that_appears_twice_is_refused_with_both_places(platform):
    with pytest.raises(Ambiguous, match=r"(?s)3 rows.*spatial/section \[a\].*spatial/section \[b\]"):
        trace_row(platform.home, "section", {"layer": "WM"})
    with pytest.raises(Ambiguous, match="0 rows"):
        trace_row(platform.home, "section", {"section": "z"})


def test_two_runs_that_made_identical_bytes_are_told_apart(platform):
    platform.run(section, "c")
    first, second = Records(platform.store).of("spatial/section", "c")
    assert first.content_hash == second.content_hash and first.run_id != second.run_id
    for each in (first, second):
        found = trace(platform.home, "spatial/section", "c", at=each.run_id)
        assert found.nodes[found.root].record.run_id == each.run_id and not found.superseded


def test_a_lost_record_is_named_and_the_rest_is_still_traced(platform):
    shutil.rmtree(platform.home.tables / "lineage" / "spatial.section" / "b")
    found = trace(platform.home, PAIR, "a|b")
    assert node(found, "spatial/section [b]").record is None
    assert [each for each in found.problems if "lineage rebuild" in each] == found.problems
    assert node(found, "spatial/section [a]").record is not None


def test_bytes_that_are_gone_or_changed_are_named_and_the_records_still_lead_on(platform):
    target = platform.store.partition("section_as_target", ("b",)).address
    for path in target.parent.rglob("*.parquet"):
        path.unlink()
    found = trace(platform.home, PAIR, "a|b")
    assert any("is not kept" in each for each in found.problems)
    assert node(found, "spatial/section [b]").record is not None
    edited = platform.store.partition("section", ("b",))
    metadata = pl.read_parquet_metadata(edited.address)
    rows = pl.read_parquet(edited.address).with_columns(sum_umi=pl.lit(5.0))
    for path in edited.address.parent.rglob("*.parquet"):
        rows.write_parquet(path, metadata={name: text for name, text in metadata.items() if "tracebed" in name})
    problems = trace(platform.home, PAIR, "a|b").problems
    assert any("does not hold what spatial/section [b] published" in each for each in problems)


def test_a_cycle_in_the_records_ends_and_is_named(platform):
    records = Records(platform.store)
    (b,) = records.of("spatial/section", "b")
    (target,) = records.of("spatial/section_as_target", "b")
    back = Input(target.asset, target.partition, target.content_hash, target.run_id, target.address)
    write_record(platform.store, replace(b, inputs=(back,)))
    found = trace(platform.home, PAIR, "a|b")
    assert any("a cycle in the records" in each for each in found.problems)
    assert "cycle" in as_text(found)


def test_records_of_the_layout_before_are_read(platform):
    root = platform.home.tables / "lineage"
    for path in list(root.glob("*/*/*/*/data.parquet")):
        asset, partition, digest, run = path.relative_to(root).parts[:4]
        old = root / run / asset / partition / digest / "data.parquet"
        old.parent.mkdir(parents=True)
        path.rename(old)
    for asset in ("spatial.section", "spatial.section_as_target", "spatial.rm_ideal"):
        shutil.rmtree(root / asset)
    found = trace(platform.home, PAIR, "a|b")
    assert not found.problems and len(found.nodes) == 4
    assert Records(platform.store).partitions(PAIR) == ["a|b"]
    assert PAIR in Records(platform.store).assets()


def rates(evaluation, checkpoint, *, chosen, rate):
    row = {
        "suite": "open",
        "task": "Lift",
        "policy": "bc_rnn",
        "control": False,
        "checkpoint_hash": checkpoint,
        "step": 60,
        "evaluation": evaluation,
        "environment_hash": "env",
        "chosen": chosen,
        "arm": "control",
        "n": 20,
        "successes": round(20 * rate),
        "errors": 0,
        "solved_at_reset": 0,
        "rate": rate,
        "ci_low": 0.0,
        "ci_high": 1.0,
    }
    return row


def test_rows_of_a_merged_table_are_followed_to_the_version_that_made_them(platform):
    """A table that keeps earlier rows beside new ones: each row leads to its own input."""
    from io_managers.schemas import table

    schema = {column.name: column.dtype for column in table("success_rate").columns}
    asset, partition, key = "policy/success_rate/bc_rnn", "open.Lift", ("bc_rnn", "open.Lift")
    earlier, sources = None, {}
    kept: list[dict] = []
    for run, evaluation in (("run-1", "e1"), ("run-2", "e2")):
        source = platform.home.root / f"{evaluation}.txt"
        source.write_text(evaluation)
        sources[evaluation] = str(source)
        kept = [
            rates(evaluation, f"c-{evaluation}", chosen=True, rate=0.5),
            *({**each, "chosen": False} for each in kept),
        ]
        frame = pl.DataFrame(kept, schema=schema)
        inputs = [Input("file", str(source), "0" * 64, None, str(source))]
        inputs += [Input.of(earlier)] if earlier else []
        planned = platform.store.publish("success_rate", key, frame, asset=asset, partition=partition, run_id=run)
        record(platform.store, planned, inputs, Origin("1"))
        earlier = planned
    for evaluation, other in (("e1", "e2"), ("e2", "e1")):
        found = trace(platform.home, asset, partition, where={"evaluation": evaluation})
        files = [each.address for each in found.nodes.values() if each.asset == "file"]
        assert files == [sources[evaluation]], f"{evaluation} was not made from {other}'s source"
    old = trace(platform.home, asset, partition, where={"evaluation": "e1"})
    assert [edge.how for edge in old.nodes[old.root].inputs] == [CARRIED]
    newest = trace(platform.home, asset, partition)
    assert newest.where == {"chosen": "true", "arm": "control"} and newest.value["evaluation"].to_list() == ["e2"]
    past = trace(platform.home, asset, partition, at="run-1")
    assert past.superseded == [f"{asset} [{partition}]: another is chosen now"]


def test_the_time_of_a_past_value_may_carry_a_time_zone(platform):
    records = Records(platform.store)
    (b,) = records.of("spatial/section", "b")
    moment = b.recorded_at.astimezone(UTC)
    assert records.at("spatial/section", "b", moment.isoformat()) == b
    assert records.at("spatial/section", "b", moment.replace(tzinfo=None).isoformat()) == b
    assert isinstance(b.recorded_at, datetime)


def test_an_input_without_any_of_the_rows_is_not_followed_and_its_change_supersedes_nothing(platform):
    """A leaderboard of two methods: the score of one leads to its own queries only."""
    from io_managers.schemas import table

    def frame(name, **columns):
        every = table(name).columns
        plain = {pl.String: "x", pl.Int64: 1, pl.Float64: 0.5, pl.Boolean: False}
        row = {column.name: None if column.nullable else plain[type(column.dtype)] for column in every}
        rows = [{**row, **dict(zip(columns, values, strict=True))} for values in zip(*columns.values(), strict=True)]
        return pl.DataFrame(rows, schema={column.name: column.dtype for column in every})

    def publish(name, key, asset, partition, rows, run, inputs=()):
        done = platform.store.publish(name, key, rows, asset=asset, partition=partition, run_id=run)
        record(platform.store, done, [Input.of(each) for each in inputs], Origin("1"))
        return done

    def query(method, value, run):
        rows = frame("niche_query", method=[method], layer=["all"], metric=["A"], value=[value])
        return publish("niche_query", (method, "a", "b"), f"spatial/niche_query/{method}", "a|b", rows, run)

    queries = [query(method, 0.5, "run-1") for method in ("pca", "staig")]
    board = frame("benchmark_spatial", method=["pca", "staig"], layer=["all"] * 2, metric=["A"] * 2)
    publish("benchmark_spatial", ("all",), "benchmark/spatial", "", board, "run-2", queries)
    query("staig", 0.7, "run-3")
    pca, staig = (trace(platform.home, "benchmark/spatial", where={"method": method}) for method in ("pca", "staig"))
    assert {each.asset for each in pca.nodes.values()} == {"benchmark/spatial", "spatial/niche_query/pca"}
    assert not pca.superseded and staig.superseded == ["spatial/niche_query/staig [a|b]: value changed"]
    said = [fact.text for fact in pca.nodes[pca.root].facts if fact.label == "also read"]
    assert said == ["1 inputs that hold nothing of these rows"]
    with connect(platform.home) as connection:
        status = dict(connection.execute("SELECT method, superseded FROM benchmark_spatial_status").fetchall())
    assert status == {"pca": None, "staig": "a niche query that it averages was computed again"}


def test_rows_that_were_computed_again_lead_to_their_new_inputs_and_not_to_the_old_ones(platform):
    from io_managers.schemas import table

    schema = {column.name: column.dtype for column in table("success_rate").columns}
    asset, key = "policy/success_rate/bc_rnn", ("bc_rnn", "open.Lift")
    earlier = None
    for run, rate in (("run-1", 0.5), ("run-2", 0.75)):
        source = platform.home.root / f"{run}.txt"
        source.write_text(run)
        rows = pl.DataFrame([rates("e1", "c1", chosen=True, rate=rate)], schema=schema)
        inputs = [Input("file", str(source), "0" * 64, None, str(source))] + ([Input.of(earlier)] if earlier else [])
        earlier = platform.store.publish("success_rate", key, rows, asset=asset, partition="open.Lift", run_id=run)
        record(platform.store, earlier, inputs, Origin("1"))
    found = trace(platform.home, asset, "open.Lift")
    read = [edge.node for edge in found.nodes[found.root].inputs if edge.how != CARRIED]
    assert len(read) == 1 and "run-2.txt" in read[0]


def test_a_value_is_named_exactly(platform):
    with pytest.raises(Ambiguous, match="holds true or false, found 'maybe'"):
        trace(platform.home, "spatial/section", "a", where={"simulated": "maybe"})
    with pytest.raises(Ambiguous, match="no row"):
        trace(platform.home, "spatial/section", "a", where={"sum_umi": "9.4e0"})
    assert trace(platform.home, "spatial/section", "a", where={"sum_umi": "9e0", "simulated": "yes"}).value.height == 1
    with pytest.raises(UnknownValue, match="are no values of their own"):
        trace_row(platform.home, "lineage", {"partition": "a"})


def test_a_day_means_its_end(platform):
    (b,) = Records(platform.store).of("spatial/section", "b")
    assert Records(platform.store).at("spatial/section", "b", f"{b.recorded_at:%Y-%m-%d}") == b
