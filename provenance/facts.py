"""What a reader is told of the rows that a number stands on: the few facts of each table that decide it.

A fact is a label and a text, perhaps with the artifact that holds the bytes. What is expensive to read (weights) is
left to `tracebed weights`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from home import Home
from io_managers.schemas import table
from io_managers.tables import MissingPartition, TableStore
from provenance.lineage import FILE, Record
from provenance.weights.bases import base_task
from provenance.weights.of_training import origin_of_training

_SHOWN = 8


@dataclass(frozen=True)
class Fact:
    """One fact. ``artifact`` is the artifact's name, where the fact is about one."""

    label: str
    text: str
    artifact: str | None = None


def facts_of(home: Home, name: str, rows: pl.DataFrame, address: str, record: Record | None) -> list[Fact]:
    """The facts of rows of table ``name`` (or of a `file`); empty where there is nothing to tell."""
    if name == FILE:
        there = Path(address).exists()
        return [Fact("source file", address if there else f"{address}, which is gone from there")]
    teller = _TELLERS.get(name)
    if teller is None or rows.is_empty():
        return []
    return list(teller(_Asked(home, table(name).completed(rows), record)))


@dataclass(frozen=True)
class _Asked:
    home: Home
    rows: pl.DataFrame
    record: Record | None

    def only(self, column: str) -> str:
        """The value of a column, or its values."""
        values = self.rows[column].unique(maintain_order=True).to_list()
        shown = ", ".join("none" if each is None else str(each) for each in values[:_SHOWN])
        return shown + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")

    def artifacts(self, column: str, label: str) -> Iterator[Fact]:
        for each in self.rows[column].drop_nulls().unique(maintain_order=True)[:_SHOWN]:
            yield Fact(label, f"sha256 {Path(each).stem}", each)


def _success_rate(asked: _Asked) -> Iterator[Fact]:
    for row in asked.rows[:_SHOWN].iter_rows(named=True):
        rate = "no rate" if row["rate"] is None else f"{row['successes']}/{row['n']} = {row['rate']:.3f}"
        interval = f"95 % Wilson interval {row['ci_low']:.3f} to {row['ci_high']:.3f}"
        checkpoint = (
            f", checkpoint {row['checkpoint_hash'][:12]} at step {row['step']}" if row["checkpoint_hash"] else ""
        )
        errors = f", {row['errors']} errors in no rate" if row["errors"] else ""
        yield Fact(f"success rate, {row['arm']}", f"{rate} ({interval}, n = {row['n']}{errors}){checkpoint}")


def _rollouts(asked: _Asked) -> Iterator[Fact]:
    for (arm,), episodes in asked.rows.group_by("arm", maintain_order=True):
        counts = ", ".join(f"{n} {outcome}" for outcome, n in episodes["outcome"].value_counts(sort=True).iter_rows())
        seeds = "seeds {} to {}".format(*(episodes["seed"].sort()[at] for at in (0, -1)))
        yield Fact(f"episodes, {arm}", f"{episodes.height} ({counts}), {seeds}")
    yield Fact("engine", asked.only("engine"))
    yield Fact("evaluation", f"{asked.only('evaluation')} (environment {asked.only('environment_hash')})")


def _checkpoint(asked: _Asked) -> Iterator[Fact]:
    for row in asked.rows[:_SHOWN].iter_rows(named=True):
        chosen = ", the chosen one" if row["chosen"] else ""
        yield Fact(
            "checkpoint",
            f"{row['origin']}, step {row['step']}{chosen}, sha256 {row['checkpoint_hash']}",
            row["checkpoint_artifact"],
        )
        task = f"{row['suite']}.{row['task']}"
        if row["origin"] == "EXTERNAL":
            yield Fact("imported from", str(row["source"]))
        else:
            if row["selection_n"]:
                yield Fact("selection seeds", f"{row['selection_successes']}/{row['selection_n']} solved at this step")
            yield Fact("training seed", str(row["seed"]))
            yield from _attempts(asked.home, row["policy"], task, row["attempt"])
        yield Fact("base weights", _base_weights(asked.home, task, row))


def _base_weights(home: Home, task: str, row: Mapping[str, Any]) -> str:
    """The verdict that was published with a checkpoint; of an older one, what documents say now."""
    if row["base_verdict"] is not None:
        return f"{row['base_verdict']} {row['base_weights'] or ''}".strip() + f": {row['base_evidence']}"
    if row["origin"] == "EXTERNAL":
        return "UNDETERMINED: nothing is known of its training"
    return origin_of_training(home, row["policy"], task, row["attempt"]).sentence()


def _base_checkpoint(asked: _Asked) -> Iterator[Fact]:
    for row in asked.rows[:_SHOWN].iter_rows(named=True):
        chosen = ", the chosen one" if row["chosen"] else ""
        yield Fact(
            f"base {row['base']}",
            f"{row['origin']}, step {row['step']}{chosen}, on {', '.join(json.loads(row['tasks']))}, sha256 "
            f"{row['checkpoint_hash']}",
            row["checkpoint_artifact"],
        )
        yield from _attempts(asked.home, row["policy"], base_task(row["base"]), row["attempt"])


def _attempts(home: Home, policy: str, task: str, newest: str) -> Iterator[Fact]:
    """The attempt of a checkpoint and those that it went on from, newest first."""
    store, seen = TableStore(home.tables), set()
    name: str | None = newest
    while name is not None and name not in seen:
        seen.add(name)
        try:
            attempt = store.partition("train_attempts", (policy, task, name)).frame().row(0, named=True)
        except MissingPartition:
            yield Fact("attempt", f"{name}, of which no row is left in train_attempts")
            return
        began = "fresh, from step 0" if attempt["intent"] == "fresh" else f"resumed at step {attempt['first_step']}"
        yield Fact("attempt", f"{name}: {began}, to step {attempt['last_step']}, {attempt['ending']}")
        name = attempt["resumed_from"]


def _demonstrations(asked: _Asked) -> Iterator[Fact]:
    kept = asked.rows.filter("kept")
    yield Fact("demonstrations", f"{kept.height} kept of {asked.rows.height}, {asked.only('origin')}")
    yield from asked.artifacts("dataset_artifact", "dataset")


def _embedding(asked: _Asked) -> Iterator[Fact]:
    yield Fact("embedding", f"{asked.only('method')}, seed {asked.only('seed')}, {asked.rows.height} spots")
    yield Fact("gene share", f"{asked.only('gene_share')}")
    yield from asked.artifacts("encoder_artifact", "encoder")
    yield from _embedding_attempts(asked)


def _encoder(asked: _Asked) -> Iterator[Fact]:
    for row in asked.rows[:_SHOWN].iter_rows(named=True):
        refit = "" if row["attempt"] == 0 else f", REFITTED: attempt {row['attempt']} of {row['attempts']}"
        yield Fact(
            "encoder",
            f"{row['method']}, seed {row['seed']} (fitted with {row['fit_seed']}{refit}), cohort "
            f"{', '.join(row['cohort'])}, {row['n_genes']} genes to {row['dimension']} dimensions",
            row["encoder_artifact"],
        )
    yield from _embedding_attempts(asked)


def _embedding_attempts(asked: _Asked) -> Iterator[Fact]:
    """What validation said of each fit in the run that published these rows: a collapse shows here."""
    if asked.record is None:
        return
    store, method = TableStore(asked.home.tables), asked.record.asset.split("/")[-1]
    try:
        key = (method, asked.record.run_id, asked.record.partition or "cohort")
        attempts = store.partition("embedding_attempts", key).frame()
    except MissingPartition:
        return
    invalid = attempts.filter(~pl.col("valid"))
    told = f"{attempts.height} validations, {invalid.height} collapsed or invalid"
    yield Fact("validation", told + (f": {invalid['reason'][0]}" if invalid.height else ""))


def _rm_ideal(asked: _Asked) -> Iterator[Fact]:
    spots = dict(asked.rows["side"].value_counts().iter_rows())
    yield Fact(
        "RM-IDEAL",
        f"{spots.get('source', 0)} source and {spots.get('target', 0)} target spots, {asked.only('hops')} hops, "
        f"{asked.only('iterations')} Weisfeiler-Lehman iterations",
    )
    yield from asked.artifacts("similarity_artifact", "similarity matrix")


def _section(asked: _Asked) -> Iterator[Fact]:
    simulated = ", SIMULATED" if asked.rows["simulated"].any() else ""
    yield Fact("section", f"{asked.only('section')}: {asked.rows.height} spots{simulated}")
    yield from asked.artifacts("section_artifact", "canonical section")


def _section_source(asked: _Asked) -> Iterator[Fact]:
    row = asked.rows.row(0, named=True)
    yield Fact("registered", f"{row['kind']} at {row['path']}, sha256 over its files {row['source_hash']}")
    for path, digest in json.loads(row["files"]).items():
        yield Fact("file", f"{path}, sha256 {digest}")


def _niche_query(asked: _Asked) -> Iterator[Fact]:
    for row in asked.rows[: 2 * _SHOWN].iter_rows(named=True):
        value = "null" if row["value"] is None else f"{row['value']:.4f}"
        interval = "" if row["ci_low"] is None else f", 95 % interval {row['ci_low']:.3f} to {row['ci_high']:.3f}"
        yield Fact(
            f"{row['metric']}, layer {row['layer']}",
            f"{value} (n = {row['n']} query spots{interval}), {row['method']} seed {row['seed']}",
        )


def _benchmark_policy(asked: _Asked) -> Iterator[Fact]:
    for row in asked.rows[:_SHOWN].iter_rows(named=True):
        rate = "no rate" if row["rate"] is None else f"{row['successes']}/{row['n']} = {row['rate']:.3f}"
        yield Fact(
            f"{row['policy']} on {row['suite']}.{row['task']}",
            f"{rate} (95 % {row['ci_low']:.3f} to {row['ci_high']:.3f}), {row['arm']}",
        )


def _benchmark_spatial(asked: _Asked) -> Iterator[Fact]:
    for row in asked.rows[: 2 * _SHOWN].iter_rows(named=True):
        mean = "null" if row["mean"] is None else f"{row['mean']:.4f}"
        yield Fact(
            f"{row['method']}, {row['metric']}, layer {row['layer']}",
            f"{mean} over {row['n_pairs']} directed pairs and {row['n_seeds']} seeds",
        )


def _videos(asked: _Asked) -> Iterator[Fact]:
    for row in asked.rows[:_SHOWN].iter_rows(named=True):
        yield Fact(
            f"video, seed {row['seed']}, {row['arm']}", f"{row['outcome']} ({row['stage']})", row["video_artifact"]
        )


def _niche_figure(asked: _Asked) -> Iterator[Fact]:
    yield from asked.artifacts("figure_artifact", "figure")


def _diagnosis(asked: _Asked) -> Iterator[Fact]:
    row = asked.rows.row(0, named=True)
    yield Fact("verdict", f"{row['verdict']}: {row['cause']}", row["evidence_artifact"])


_TELLERS: Mapping[str, Callable[[_Asked], Iterator[Fact]]] = {
    "success_rate": _success_rate,
    "rollouts": _rollouts,
    "checkpoint": _checkpoint,
    "base_checkpoint": _base_checkpoint,
    "demonstrations": _demonstrations,
    "embedding": _embedding,
    "embedding_as_target": _embedding,
    "encoder": _encoder,
    "rm_ideal": _rm_ideal,
    "section": _section,
    "section_as_target": _section,
    "section_source": _section_source,
    "niche_query": _niche_query,
    "niche_figure": _niche_figure,
    "benchmark_policy": _benchmark_policy,
    "benchmark_spatial": _benchmark_spatial,
    "videos": _videos,
    "diagnosis": _diagnosis,
}
