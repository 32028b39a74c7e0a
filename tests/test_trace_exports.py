"""A trace for other tools: an RO-Crate that its library reads, OpenLineage events of that project's own classes."""

import hashlib
import json
import socket
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from rocrate.rocrate import ROCrate
from trace_examples import EXAMPLES, success_rate, superseded

from cli import main
from io_managers.artifacts import ArtifactError, ArtifactStore
from io_managers.tables import TableStore
from provenance.facts import Fact
from provenance.lineage import FILE
from provenance.tree import Trace
from provenance.views.as_json import from_json
from provenance.views.html import as_html
from provenance.views.names import bytes_name, data_name
from provenance.views.openlineage_export import as_openlineage
from provenance.views.rocrate_export import METADATA, PROFILE, write_rocrate


@pytest.fixture(params=EXAMPLES)
def example(request):
    return EXAMPLES[request.param]()


@pytest.fixture
def kept(tmp_path) -> tuple[Trace, ArtifactStore]:
    """A trace whose checkpoint is an artifact that is there."""
    store = ArtifactStore(tmp_path / "artifacts")
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    name = store.put(weights)
    found = success_rate()
    nodes = dict(found.nodes)
    for each in nodes.values():
        facts = [Fact("checkpoint", "TRAINED", name)] if "checkpoint" in each.asset or "rate" in each.asset else []
        nodes[each.id] = replace(each, facts=facts)
    return replace(found, nodes=nodes), store


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# RO-Crate


@pytest.mark.parametrize("name", ["crate", "crate.zip"])
def test_a_crate_is_read_by_its_own_library(example, tmp_path, name):
    write_rocrate(example, tmp_path / name)
    crate = ROCrate(tmp_path / name)
    actions = crate.get_by_type("CreateAction")
    recorded = [each for each in example.nodes.values() if each.record is not None]
    assert len(actions) == len(recorded)
    assert crate.root_dataset["conformsTo"].id == PROFILE
    assert {each.id for each in crate.root_dataset["mentions"]} == {each.id for each in actions}
    assert all(each["instrument"].type == "SoftwareApplication" for each in actions)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_the_number_is_a_property_value_that_the_first_action_made(tmp_path):
    write_rocrate(success_rate(), tmp_path / "crate", author="A. Scientist")
    crate = ROCrate(tmp_path / "crate")
    (number,) = crate.get_by_type("PropertyValue")
    assert (number["value"], number["minValue"], number["maxValue"]) == (0.85, 0.6396, 0.9476)
    (action,) = [each for each in crate.get_by_type("CreateAction") if number in each["result"]]
    assert action["agent"]["name"] == "A. Scientist"
    assert crate.mainEntity["variableMeasured"] == number
    assert crate.mainEntity in action["result"]


def test_an_action_reads_what_the_record_says_it_read(tmp_path):
    found = success_rate()
    write_rocrate(found, tmp_path / "crate")
    crate = ROCrate(tmp_path / "crate")
    by_name = {each["name"]: each for each in crate.get_by_type("CreateAction")}
    for node in found.nodes.values():
        if node.record is None:
            continue
        read = by_name[f"Made {node.title}"]["object"]
        read = {each.id for each in (read if isinstance(read, list) else [read])}
        assert read == {data_name(found.nodes[edge.node]) for edge in node.inputs}


def test_nobody_is_named_who_was_not_given(tmp_path):
    write_rocrate(success_rate(), tmp_path / "crate")
    crate = ROCrate(tmp_path / "crate")
    assert not crate.get_by_type("Person")
    assert all("agent" not in each.properties() for each in crate.get_by_type("CreateAction"))


def test_a_crate_holds_the_page_and_the_json_with_their_hashes(tmp_path):
    write_rocrate(success_rate(), tmp_path / "crate")
    crate = ROCrate(tmp_path / "crate")
    for name in ("trace.html", "trace.json"):
        assert crate.get(name)["sha256"] == sha256(tmp_path / "crate" / name)
    assert (tmp_path / "crate" / "trace.html").read_text() == as_html(success_rate())


def test_artifacts_are_named_by_their_bytes_or_copied_in(kept, tmp_path):
    found, store = kept
    name = next(fact.artifact for node in found.nodes.values() for fact in node.facts)
    digest = name.partition(".")[0]
    write_rocrate(found, tmp_path / "named")
    assert ROCrate(tmp_path / "named").get(bytes_name(digest))["sha256"] == digest
    write_rocrate(found, tmp_path / "copied", artifacts=store)
    copied = ROCrate(tmp_path / "copied").get(f"artifacts/{name}")
    assert copied["sha256"] == digest == sha256(tmp_path / "copied" / copied.id)


def test_an_artifact_is_the_result_of_what_made_it_and_read_by_what_mentions_it(kept, tmp_path):
    found, store = kept
    write_rocrate(found, tmp_path / "crate", artifacts=store)
    crate = ROCrate(tmp_path / "crate")
    (artifact,) = [each for each in crate.data_entities if each.id.startswith("artifacts/")]
    made = [each["name"] for each in crate.get_by_type("CreateAction") if artifact in each["result"]]
    read = [each["name"] for each in crate.get_by_type("CreateAction") if artifact in each["object"]]
    assert made == ["Made policy/checkpoint/bc_rnn [open.Lift]"]
    assert read == ["Made policy/success_rate/bc_rnn [open.Lift]"]


def test_a_lost_artifact_leaves_no_half_of_a_crate(kept, tmp_path):
    found, store = kept
    name = next(fact.artifact for node in found.nodes.values() for fact in node.facts)
    store.path(name).unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="is missing"):
        write_rocrate(found, tmp_path / "out" / "crate", artifacts=store)
    assert not list((tmp_path / "out").iterdir())


def test_a_crate_replaces_a_crate_when_asked_and_nothing_else(tmp_path):
    write_rocrate(success_rate(), tmp_path / "crate")
    with pytest.raises(FileExistsError, match="exists already"):
        write_rocrate(superseded(), tmp_path / "crate")
    write_rocrate(superseded(), tmp_path / "crate", replace=True)
    assert "Superseded" in (tmp_path / "crate" / METADATA).read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("a year of it")
    with pytest.raises(FileExistsError, match="no RO-Crate"):
        write_rocrate(success_rate(), tmp_path / "mine", replace=True)
    assert (tmp_path / "mine" / "work.txt").read_text() == "a year of it"


# OpenLineage


def events_of(found: Trace) -> list[dict]:
    return [json.loads(line) for line in as_openlineage(found).splitlines()]


def as_model(event: dict) -> RunEvent:
    """The event through that project's own classes: they check ids, times and required fields."""
    return RunEvent(
        eventTime=event["eventTime"],
        eventType=RunState[event["eventType"]],
        run=Run(**event["run"]),
        job=Job(**event["job"]),
        inputs=[InputDataset(**each) for each in event["inputs"]],
        outputs=[OutputDataset(**each) for each in event["outputs"]],
        producer=event["producer"],
    )


def test_every_recorded_hop_is_a_run_that_starts_and_completes(example):
    events = events_of(example)
    recorded = [each for each in example.nodes.values() if each.record is not None]
    assert len(events) == 2 * len(recorded)
    for start, complete in zip(events[::2], events[1::2], strict=True):
        assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
        assert start["run"]["runId"] == complete["run"]["runId"]
        assert start["eventTime"] <= complete["eventTime"]
    assert len({each["run"]["runId"] for each in events}) == len(recorded)


def test_the_events_pass_the_projects_own_classes(example):
    for event in events_of(example):
        model = as_model(event)
        assert event["schemaURL"] == model.schemaURL
        assert model.outputs
        assert model.outputs[0].namespace == "tracebed"


def test_every_facet_names_its_producer_and_its_schema(example):
    for event in events_of(example):
        for holder in (event["run"], event["job"], *event["inputs"], *event["outputs"]):
            for facet in holder["facets"].values():
                assert facet["_producer"] == event["producer"]
                assert facet["_schemaURL"].startswith(("https://openlineage.io/spec/", event["producer"]))


def test_what_a_hop_read_was_told_before_it():
    told = set()
    for event in events_of(success_rate()):
        read = {each["name"] for each in event["inputs"] if each["namespace"] == "tracebed"}
        if event["eventType"] == "START":
            assert read <= told
        told |= {each["name"] for each in event["outputs"]}


def test_content_hash_commit_and_run_are_in_the_facets():
    found = success_rate()
    last = events_of(found)[-1]
    root = found.nodes[found.root]
    facets = last["outputs"][0]["facets"]
    assert facets["version"]["datasetVersion"] == facets["tracebed_content"]["contentHash"] == root.content_hash
    assert last["job"]["facets"]["sourceCodeLocation"]["version"] == root.record.git_commit
    assert last["run"]["facets"]["parent"]["run"]["runId"] == root.record.run_id
    assert last["run"]["facets"]["processing_engine"]["version"] == root.record.versions["dagster"]
    uuid.UUID(last["run"]["runId"])


def test_names_hold_no_host():
    found = success_rate()
    events = events_of(found)
    names = [each["name"] for event in events for each in (*event["inputs"], *event["outputs"])]
    names += [data_name(each) for each in found.nodes.values()] + [event["producer"] for event in events]
    assert not [each for each in names if socket.gethostname() in each.split("/") or "node-7" in each]
    assert {each["namespace"] for event in events for each in (*event["inputs"], *event["outputs"])} == {
        "tracebed",
        FILE,
    }


# The command


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with one published value and its record."""
    from datetime import UTC, datetime

    from trace_examples import row

    from home import Home
    from provenance.lineage import Record, write_record

    monkeypatch.setenv("TRACEBED_HOME", str(tmp_path / "home"))
    made = Home(tmp_path / "home").ensure()
    store = TableStore(made.tables)
    frame = row("success_rate", arm="control", rate=0.85, n=20, successes=17, policy="bc_rnn", task="Lift")
    asset, run = "policy/success_rate/bc_rnn", str(uuid.uuid4())
    published = store.publish(
        "success_rate", ("bc_rnn", "open.Lift"), frame, asset=asset, partition="open.Lift", run_id=run
    )
    now = datetime(2026, 3, 4, tzinfo=UTC)
    write_record(
        store,
        Record(
            asset,
            "open.Lift",
            published.data_version,
            run,
            str(published.address),
            "1",
            None,
            {},
            None,
            None,
            "n",
            now,
            (),
        ),
    )
    return made


def tracebed(*arguments: str):
    return CliRunner().invoke(main, ["trace", "policy/success_rate/bc_rnn", "open.Lift", *arguments])


def test_text_is_the_default_and_json_and_dot_are_printed(home):
    assert "success rate, control: 17/20 = 0.850" in tracebed().output
    assert from_json(tracebed("--json").output).value["rate"].to_list() == [0.85]
    assert tracebed("--dot").output.startswith("digraph trace {")


@pytest.mark.parametrize("option", ["--html", "--openlineage", "--rocrate"])
def test_a_written_form_prints_its_path_and_replaces_only_when_forced(home, tmp_path, option):
    path = tmp_path / "out"
    first = tracebed(option, str(path))
    assert (first.exit_code, first.output.strip()) == (0, str(path))
    again = tracebed(option, str(path))
    assert again.exit_code == 1
    assert "exists already; --force replaces it" in again.output
    assert tracebed(option, str(path), "--force").exit_code == 0


def test_forms_exclude_each_other(home, tmp_path):
    assert "choose one of" in tracebed("--json", "--html", str(tmp_path / "x.html")).output
    assert "belong to --rocrate" in tracebed("--json", "--with-artifacts").output
    assert "--force belongs to" in tracebed("--force").output
    assert not (tmp_path / "x.html").exists()


def test_a_page_is_not_written_over_a_folder(home, tmp_path):
    (tmp_path / "folder").mkdir()
    result = tracebed("--html", str(tmp_path / "folder"), "--force")
    assert result.exit_code == 1
    assert "is a folder; name a file" in result.output
