"""Traces made by hand: what a real run seldom shows (hostile texts, a cycle, something superseded, lost things)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl

from io_managers.content import content_hash
from io_managers.schemas import table
from provenance.facts import Fact
from provenance.lineage import Input, Record
from provenance.tree import CARRIED, READ, Edge, Node, Trace

HOSTILE = "<script>alert('x')</script> | \"quoted\" \\N `code` [link](http://evil.example) & *bold*"
START = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
CHECKPOINT = "c" * 64
VERSIONS = {"dagster": "1.13.27", "numpy": "2.4.6", "torch": "2.13.0"}


def row(name: str, **values) -> pl.DataFrame:
    """One row of a table, with something plausible in the columns that are not given."""
    plain = {pl.String(): "x", pl.Int64(): 1, pl.Float64(): 0.5, pl.Boolean(): True}
    columns = table(name).columns
    given = {
        column.name: values.get(column.name, None if column.nullable else plain.get(column.dtype)) for column in columns
    }
    return pl.DataFrame([given], schema={column.name: column.dtype for column in columns})


def node(asset: str, partition: str, inputs=(), facts=(), step=0, **other) -> Node:
    hashed = content_hash(pl.DataFrame({"of": [asset, partition]}))
    run = f"00000000-0000-4000-8000-{step:012d}"
    record = Record(
        asset,
        partition,
        hashed,
        run,
        f"/home/tables/{asset}/{partition}/data.parquet",
        "3",
        "0123456789abcdef0123456789abcdef01234567",
        VERSIONS,
        {"n": 20, "arms": ["control"]},
        f"job-{step}" if step % 2 else None,
        "node-7",
        START + timedelta(minutes=10 - step),
        tuple(Input(each.asset, each.partition, each.content_hash, each.run_id, each.address) for each in inputs),
    )
    job = {
        "key": f"job-{step}",
        "submission": 2,
        "asset": asset,
        "partition": partition,
        "site": "cluster",
        "node": "node-7",
        "reference": "4711",
        "ending": "SUCCEEDED",
        "submitted_at": START,
        "started_at": START + timedelta(seconds=1),
        "ended_at": START + timedelta(seconds=30),
    }
    made = Node(
        f"{asset}[{partition}]@{hashed[:12]}",
        asset,
        partition,
        hashed,
        run,
        record.address,
        record,
        job if step % 2 else None,
        n_rows=20,
        facts=list(facts),
        inputs=[Edge(each.id, READ) for each in inputs],
    )
    return replace(made, **other)


def file(path: str, digest: str = "d" * 64) -> Node:
    return Node(f"{path}@{digest[:12]}", "file", "", digest, None, path, facts=[Fact("source file", path)])


def of(value: pl.DataFrame, nodes: list[Node], **where: str) -> Trace:
    return Trace(nodes[0].id, where, value, {each.id: each for each in nodes})


def success_rate() -> Trace:
    """17 of 20, of a checkpoint that was trained from demonstrations, which a file was imported to."""
    source = file("/data/demonstrations of Lift.hdf5")
    demonstrations = node(
        "policy/demonstrations",
        "open.Lift",
        [source],
        [Fact("demonstrations", "40 kept of 42, imported"), Fact("dataset", f"sha256 {'e' * 64}", f"{'e' * 64}.hdf5")],
        step=3,
    )
    checkpoint = node(
        "policy/checkpoint/bc_rnn",
        "open.Lift",
        [demonstrations],
        [
            Fact("checkpoint", f"TRAINED, step 600, sha256 {CHECKPOINT}", f"{CHECKPOINT}.pth"),
            Fact("attempt", "a1: fresh, from step 0, to step 600, FINISHED"),
        ],
        step=2,
    )
    rollouts = node(
        "policy/rollouts/bc_rnn",
        "open.Lift",
        [checkpoint],
        [Fact("episodes, control", "20 (17 success, 3 failure), seeds 0 to 19")],
        step=1,
    )
    root = node("policy/success_rate/bc_rnn", "open.Lift", [rollouts, checkpoint])
    value = row(
        "success_rate",
        suite="open",
        task="Lift",
        policy="bc_rnn",
        arm="control",
        n=20,
        successes=17,
        errors=0,
        rate=0.85,
        ci_low=0.6396,
        ci_high=0.9476,
        checkpoint_hash=CHECKPOINT,
    )
    return of(value, [root, rollouts, checkpoint, demonstrations, source], chosen="true", arm="control")


def superseded() -> Trace:
    """The same rate after other rollouts were published; its own rows were carried over from an earlier version."""
    found = success_rate()
    nodes = list(found.nodes.values())
    record = replace(nodes[0].record, content_hash="f" * 64, inputs=())
    earlier = replace(nodes[0], id="earlier", content_hash="f" * 64, record=record, inputs=[])
    nodes[0] = replace(nodes[0], inputs=[*nodes[0].inputs, Edge("earlier", CARRIED)])
    nodes[1] = replace(nodes[1], newest=False, superseded="outcome, steps changed")
    return of(found.value, [*nodes, earlier], **found.where)


def hostile() -> Trace:
    """Texts that would break a page, a table or a graph, in every place that comes from outside."""
    source = file(f"/data/{HOSTILE}.h5ad")
    lost = node("spatial/section", HOSTILE, [source], record=None, problems=[f"its record is lost: {HOSTILE}"])
    section = node(
        "spatial/section_as_target", HOSTILE, [source], [Fact(HOSTILE, HOSTILE, f"{HOSTILE}.exe")], superseded=HOSTILE
    )
    root = node("spatial/niche_query/pca", f"{HOSTILE}|b", [lost, section], facts=[Fact("A", HOSTILE)])
    value = row("niche_query", source=HOSTILE, target="b", method=HOSTILE, metric="A", value=0.25, layer=HOSTILE)
    return of(value, [root, lost, section, source], method=HOSTILE)


def cyclic() -> Trace:
    """Two nodes that say that each was made from the other, and one that another reads too."""
    found = success_rate()
    nodes = list(found.nodes.values())
    nodes[-2] = replace(nodes[-2], inputs=[Edge(nodes[0].id, READ)], problems=["a cycle in the records"])
    return of(found.value, nodes[:-1], **found.where)


EXAMPLES = {"success_rate": success_rate, "superseded": superseded, "hostile": hostile, "cyclic": cyclic}
