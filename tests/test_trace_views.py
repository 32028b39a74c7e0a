"""The views of a trace: complete, escaped, and readable by who knows nothing of the platform."""

import json
import re
import shutil
import subprocess
from dataclasses import fields, replace
from html.parser import HTMLParser

import dagster as dg
import polars as pl
import pytest
from markdown_it import MarkdownIt
from small_platform import ASSETS, Platform, mirror, rm_ideal, section
from trace_examples import CHECKPOINT, EXAMPLES, HOSTILE, cyclic, hostile, node, of, success_rate, superseded

from home import Home
from io_managers.table_io_manager import Rows, materialised
from io_managers.tables import TablePartition
from partitions import PAIRS, add_section_key, pair
from provenance.facts import Fact
from provenance.lineage import Input, Record
from provenance.trace import trace
from provenance.tree import Edge, Node
from provenance.views.as_json import SCHEMA, as_json, described, from_json
from provenance.views.dot import as_dot
from provenance.views.explained import KINDS
from provenance.views.html import as_html
from provenance.views.levels import depths, in_reading_order
from provenance.views.markdown import as_markdown, direct_inputs
from provenance.views.story import story, title
from provenance.views.values import numbers
from resources.artifact_server import artifact_url

A_TO_B = pair("a", "b")
QUERY = "spatial/niche_query/pca"


@dg.asset(
    key=["spatial", "niche_query", "pca"],
    partitions_def=PAIRS,
    io_manager_key="tables",
    code_version="1",
    ins={"rm_ideal": dg.AssetIn(["spatial", "rm_ideal"])},
)
def niche_query(rm_ideal: TablePartition):
    row = {
        "source": "a",
        "target": "b",
        "method": "pca",
        "control": False,
        "seed": 0,
        "layer": "all",
        "metric": "A",
        "value": 0.25,
        "n": rm_ideal.frame().height,
        "ci_low": 0.1,
        "ci_high": 0.4,
        "gene_share_source": 1.0,
        "gene_share_target": 1.0,
        "encoder_artifact": None,
        "hops": 3,
        "iterations": 3,
        "simulated": True,
    }
    return materialised(Rows(pl.DataFrame([row], schema_overrides={"encoder_artifact": pl.String})))


class WithMetric(Platform):
    def query(self):
        return dg.materialize(
            [*ASSETS, niche_query],
            selection=[niche_query],
            partition_key=A_TO_B,
            instance=self.instance,
            resources={"tables": self.tables},
        )

    def entry(self, asset: str, partition: str | None) -> str:
        metadata = self.event(dg.AssetKey(asset.split("/")), partition).metadata
        return metadata["trace"].value if "trace" in metadata else ""


@pytest.fixture
def platform(tmp_path):
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        made = WithMetric(Home(tmp_path / "home"), instance)
        for key in ("a", "b"):
            add_section_key(instance, key)
            made.run(section, key)
        made.run_range(mirror, "a", "b")
        made.run(rm_ideal, A_TO_B)
        made.query()
        yield made


@pytest.fixture(params=EXAMPLES)
def example(request):
    return EXAMPLES[request.param]()


# JSON


def test_json_gives_the_same_trace_back(example):
    text = as_json(example)
    again = from_json(text)
    assert as_json(again) == text
    assert again.nodes == dict(example.nodes)
    assert again.value.equals(example.value)
    assert (again.root, dict(again.where)) == (example.root, dict(example.where))


def test_json_of_a_real_trace_gives_it_back(platform):
    found = trace(platform.home, QUERY, A_TO_B)
    assert described(from_json(as_json(found))) == described(found)


def test_json_holds_every_field_that_a_trace_has():
    content = json.loads(as_json(superseded()))
    each = content["nodes"][1]
    assert content["schema"] == SCHEMA
    assert {field.name for field in fields(Node)} <= set(each)
    assert {field.name for field in fields(Record)} == set(each["record"])
    assert {field.name for field in fields(Input)} == set(each["record"]["inputs"][0])
    assert {field.name for field in fields(Edge)} == set(each["inputs"][0])
    assert {field.name for field in fields(Fact)} == set(each["facts"][0])


def test_json_of_another_schema_is_refused():
    with pytest.raises(ValueError, match=r"'tracebed.trace/9', expected 'tracebed.trace/1'"):
        from_json(as_json(success_rate()).replace(SCHEMA, "tracebed.trace/9"))


# Graphviz


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_draws_it(example):
    drawn = subprocess.run(["dot", "-Tplain"], input=as_dot(example), capture_output=True, text=True, check=True)
    lines = drawn.stdout.splitlines()
    assert sum(line.startswith("node ") for line in lines) == len(example.nodes)
    assert sum(line.startswith("edge ") for line in lines) == sum(len(each.inputs) for each in example.nodes.values())
    assert not drawn.stderr


def test_every_quote_and_backslash_of_a_graph_is_escaped():
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", as_dot(hostile()))
    assert '"' not in outside
    assert "script" not in outside


def test_a_graph_marks_what_is_superseded_and_draws_what_was_carried_over():
    marked = [line for line in as_dot(superseded()).splitlines() if "SUPERSEDED" in line]
    assert len(marked) == 1
    assert "policy/rollouts/bc_rnn" in marked[0]
    assert "dashed" in marked[0]
    assert "rows carried over" in as_dot(superseded())


# The page


class Page(HTMLParser):
    """What a browser would do with a page: the text, the tags, and what it would load."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if self.open[-1:] == ["style"] else data


def test_a_page_is_well_formed_and_loads_nothing(example):
    text = as_html(example)
    page = Page(text)
    assert not page.open
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form"}
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert not {name for name, _ in page.attributes} & {"src", "onclick", "onload", "srcset"}
    assert "url(#tip)" in text
    assert not re.search(r"@import|url\((?!#)", text)


def test_whatever_comes_from_outside_is_text_on_a_page():
    text = as_html(hostile())
    assert "<script" not in text
    assert HOSTILE in Page(text).text


def test_every_link_of_a_page_leads_to_a_hop_that_is_there_once(example):
    page = Page(as_html(example))
    places = [value for name, value in page.attributes if name == "id"]
    assert len(places) == len(set(places))
    assert {value[1:] for name, value in page.attributes if name == "href"} <= set(places)
    assert {f"hop-{number}" for number in range(1, len(example.nodes) + 1)} <= set(places)


def test_a_page_says_the_number_with_n_and_interval_and_where_it_is_from():
    text = " ".join(Page(as_html(success_rate())).text.split())
    assert "Success rate of the policy bc_rnn on the task Lift" in text
    assert "0.850" in text
    assert "17 of n = 20 episodes" in text
    assert "95 % Wilson interval 0.640 to 0.948" in text
    assert "This success rate was measured on 20 simulated episodes" in text
    assert "40 kept of 42, imported" in text
    assert "It goes back to one file from outside, named here with its SHA-256." in text
    for each in success_rate().nodes.values():
        assert each.content_hash in text
        assert each.run_id is None or each.run_id in text


def test_a_page_says_how_to_verify_with_names_that_a_shell_takes():
    text = Page(as_html(success_rate())).text
    assert "tracebed audit policy/success_rate/bc_rnn:open.Lift" in text
    assert f"{'d' * 64}  /data/demonstrations of Lift.hdf5" in text
    assert f"{CHECKPOINT}  cc/{CHECKPOINT}.pth" in text
    query = of(hostile().value, [node("spatial/niche_query/pca", "a|b")])
    assert "tracebed replay spatial/niche_query/pca 'a|b' --at" in Page(as_html(query)).text


def test_a_superseded_number_and_a_lost_record_are_told_at_the_top():
    text = Page(as_html(superseded())).text
    assert text.index("Superseded.") < text.index("In short")
    assert "policy/rollouts/bc_rnn [open.Lift]: outcome, steps changed" in text
    lost = Page(as_html(hostile())).text
    assert lost.index("1 thing could not be followed") < lost.index("In short")
    assert "Superseded." not in Page(as_html(success_rate())).text
    assert "Some of its rows were carried over from an earlier version of the same result." in text


def test_versions_stand_once_and_differences_are_named():
    found = success_rate()
    nodes = list(found.nodes.values())
    nodes[2] = replace(nodes[2], record=replace(nodes[2].record, versions={"numpy": "1.26.0"}))
    text = Page(as_html(of(found.value, nodes))).text
    assert text.count("2.4.6") == 2  # once in the list, once in the difference
    assert "numpy 1.26.0 (here 2.4.6) at policy/checkpoint/bc_rnn [open.Lift]" in text


def test_a_hop_comes_after_everything_that_was_made_of_it():
    order = [each.asset for each in in_reading_order(success_rate())]
    assert order == [
        "policy/success_rate/bc_rnn",
        "policy/rollouts/bc_rnn",
        "policy/checkpoint/bc_rnn",
        "policy/demonstrations",
        "file",
    ]


def test_a_cycle_ends():
    assert depths("a", {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": []}) == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert len(in_reading_order(cyclic())) == len(cyclic().nodes)
    assert "a cycle in the records" in as_html(cyclic())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_browser_prints_it_on_paper(tmp_path):
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(as_html(superseded()), encoding="utf-8")
    command = ["chromium", "--no-sandbox", "--headless", "--disable-gpu", f"--print-to-pdf={printed}", page.as_uri()]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert printed.read_bytes().startswith(b"%PDF")
    # A4 in points, as PDF counts them
    assert re.search(rb"/MediaBox \[0 0 59[45]\.\d+ 84[12]\.\d+\]", printed.read_bytes())


# Words


def test_every_published_table_of_a_trace_is_explained():
    from io_managers.schemas import TABLES

    records = {"audit", "jobs", "incident", "lineage", "train_curve"}
    assert set(KINDS) - {"file"} == set(TABLES) - records


@pytest.mark.parametrize("name", ["success_rate", "niche_query", "benchmark_spatial", "benchmark_policy_pairs"])
def test_a_value_that_is_null_is_told(name):
    from trace_examples import row

    nothing = {"rate": None, "value": None, "mean": None, "difference": 0.0, "n_shared": 0, "p": 1.0}
    value = row(name, **{key: text for key, text in nothing.items() if key in row(name).columns})
    asset = {"benchmark_spatial": "benchmark/spatial", "benchmark_policy_pairs": "benchmark/policy_pairs"}
    found = of(value, [node(asset.get(name, f"policy/{name}/x"), "")])
    assert numbers(found)[0].told
    assert title(found)
    assert story(found)


def test_what_is_no_number_has_a_title_and_a_story():
    found = of(pl.DataFrame({"x": [1]}), [node("policy/rollouts/bc_rnn", "open.Lift")])
    assert not numbers(found)
    assert title(found) == "policy/rollouts/bc_rnn [open.Lift]"
    assert "It was made from nothing else that is recorded." in story(found)


# Markdown, and the entry of a materialisation


def rows_of(markdown: str) -> list[str]:
    return [line for line in markdown.splitlines() if line.startswith("|")]


def test_markdown_is_one_row_a_hop_of_four_cells(example):
    rows = rows_of(as_markdown(example, artifact_url=artifact_url))
    assert len(rows) == 2 + len(list(example.walk()))
    assert {len(re.findall(r"(?<!\\)\|", each)) for each in rows} == {5}


def test_markdown_escapes_what_comes_from_outside():
    rendered = MarkdownIt("commonmark").enable("table").render(as_markdown(hostile(), artifact_url=artifact_url))
    page = Page(rendered)
    assert HOSTILE in page.text
    assert page.tags <= {"p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code", "a"}
    assert not [value for name, value in page.attributes if name == "href" and "evil" in value]


def test_markdown_links_runs_and_the_artifacts_that_are_served():
    text = as_markdown(success_rate(), base="https://dagster.example/", artifact_url=artifact_url)
    assert "(https://dagster.example/runs/00000000-0000-4000-8000-000000000002)" in text
    assert f"/artifacts/{CHECKPOINT}.pth)" in text
    assert "/assets/" not in text  # without a moment the newest event would be shown
    assert ".exe" not in re.findall(r"\]\((.*?)\)", as_markdown(hostile(), artifact_url=artifact_url))


def test_markdown_says_what_is_superseded_and_what_stood_above():
    text = as_markdown(superseded())
    assert text.startswith("**SUPERSEDED**")
    assert "(above)" in text
    assert "carried over from policy/success" in text


def test_markdown_of_a_leaderboard_is_cut_and_says_so():
    inputs = tuple(Input("policy/success_rate/p", f"open.T{number}", "0" * 64, "r", "") for number in range(60))
    record = replace(success_rate().nodes[success_rate().root].record, asset="benchmark/policy", inputs=inputs)
    text = as_markdown(direct_inputs(record))
    assert len(rows_of(text)) == 2 + 40
    assert "21 more rows" in text
    assert "60 direct inputs" in text


def test_the_materialisation_of_a_metric_shows_its_trace(platform):
    entry = platform.entry(QUERY, A_TO_B)
    assert r"spatial/niche\_query/pca \[a\|b\]" in entry
    assert "A, layer all: 0.2500 (n = 1 query spots, 95 % interval 0.100 to 0.400)" in entry
    assert "spatial/section" in entry
    assert platform.entry("spatial/rm_ideal", A_TO_B) == ""


def test_its_links_open_exactly_the_events_that_were_read(platform):
    platform.run(rm_ideal, A_TO_B)  # the same rows, in another run
    entry = platform.entry(QUERY, A_TO_B)
    wanted = dg.AssetRecordsFilter(dg.AssetKey(["spatial", "rm_ideal"]), asset_partitions=[A_TO_B])
    newer, read = platform.instance.fetch_materializations(wanted, limit=2).records
    link = re.escape("[spatial/rm\\_ideal \\[a\\|b\\]](/assets/spatial/rm_ideal?view=events&partition=a%7Cb&asOf=")
    (shown,) = re.findall(link + r"(\d+)\)", entry)
    assert read.timestamp <= int(shown) / 1000 < newer.timestamp
    assert f"(/runs/{read.run_id})" in entry
    assert newer.run_id not in entry


def test_a_damaged_source_fails_no_run_and_is_told_in_the_entry(platform):
    (kept,) = (platform.home.tables / "section" / "a" / "versions").glob("*.parquet")
    kept.write_bytes(b"damaged")
    assert platform.query().success
    assert "Could not be followed or read:" in platform.entry(QUERY, A_TO_B)


def test_a_damaged_record_fails_no_run_and_is_told_in_the_entry(platform):
    for each in (platform.home.tables / "lineage" / "spatial.section" / "a").rglob("data.parquet"):
        each.write_bytes(b"damaged")
    assert platform.query().success
    entry = platform.entry(QUERY, A_TO_B)
    assert "cannot be read as Parquet" in entry


def test_a_leaderboard_shows_its_direct_inputs(platform):
    from small_platform import benchmark

    platform.run(benchmark)
    entry = platform.entry("benchmark/spatial", None)
    assert "1 direct inputs" in entry
    assert "/assets/spatial/rm_ideal?view=events&partition=a%7Cb&asOf=" in entry
