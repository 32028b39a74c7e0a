"""Everything that sections need, in one action: which partitions that is.

`submit_backfill` hands ONE backfill to Dagster's daemon (it runs where the UI runs, and shows there); `fill_here` runs
the same partitions one after the other in this process, which is what `make demo` does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import dagster as dg
import polars as pl

from assets.spatial.benchmark import BENCHMARK, board_markdown, superseded_methods
from assets.spatial.keys import CONTROLS, RM_IDEAL, SECTION, SECTION_AS_TARGET, variant_key
from assets.spatial.variants import EncoderVariant, load_variants
from defs import build_defs, encoders_file
from home import Home
from io_managers.addresses import partition_key
from io_managers.tables import TableStore
from materialise import Plan, PlanError, Say, require_daemon, run_here, submit
from partitions import pair, section_keys

DEMO_SECTIONS = {"demo_a": 1, "demo_b": 2}
"""Simulated sections of the demonstration, and the seeds they are simulated with."""

_PARTNER_TABLES = ("section_as_target", "embedding_as_target")


def plan(home: Home, instance: dg.DagsterInstance, keys: Sequence[str], only: Collection[str] = ()) -> Plan:
    """What sections need: their own partitions, and their pairs with each other and with every section that is there.

    Simulated and real sections are never paired. Variants are those named, or all whose whole cohort is registered.
    An encoder that is fitted is not fitted again, unless its entry in `encoders.toml` has changed. Sections without
    labels are embedded and take part in no pair. `left_out` says in words what a plan does not hold.

    Raises
    ------
    PlanError
        For a section that is not registered, a variant that does not exist, or one whose cohort is not complete.
    """
    registered = set(section_keys(instance))
    if unknown := sorted(set(keys) - registered):
        raise PlanError(f"no such sections: {', '.join(unknown)}; add them with `tracebed section add`")
    store = TableStore(home.tables)
    sources = {row["section"]: row for row in store.scan("section_source").iter_rows(named=True)}
    if unknown := sorted(set(keys) - set(sources)):
        raise PlanError(f"sections without a source: {', '.join(unknown)}; register one with `tracebed section add`")
    kinds = {sources[key]["simulated"] for key in keys}
    if len(kinds) != 1:
        raise PlanError("simulated and real sections cannot be filled in together; name only one kind")
    same_kind = {key for key in registered & set(sources) if sources[key]["simulated"] in kinds}
    variants = _variants(only, same_kind)
    published = {(each.asset, each.partition) for name in _PARTNER_TABLES for each in store.partitions(name)}

    def pairs(mirror: dg.AssetKey) -> list[dg.MultiPartitionKey]:
        name = mirror.to_user_string()
        everyone = {*keys, *(key for key in same_kind if (name, key) in published)}
        labelled = sorted(key for key in everyone if sources[key]["n_labelled"])
        return [pair(a, b) for a in labelled for b in labelled if a != b and (a in keys or b in keys)]

    fitted = dict(store.scan("encoder").select("method", "variant_hash").unique().iter_rows())
    unfitted = [each for each in variants if fitted.get(each.name) != each.hash]
    # A fit needs its whole cohort as sections, also those that are not filled in now.
    sections = sorted({*keys, *(key for each in unfitted for key in each.cohort)})
    needed: dict[dg.AssetKey, Sequence[str | None]] = {SECTION: sections, SECTION_AS_TARGET: sections}
    needed |= {variant_key("encoder", each.name): [None] for each in unfitted}
    for variant in variants:
        needed[variant_key("embedding", variant.name)] = list(keys)
        needed[variant_key("embedding_as_target", variant.name)] = list(keys)
    needed |= {RM_IDEAL: pairs(SECTION_AS_TARGET), CONTROLS: pairs(SECTION_AS_TARGET)}
    for variant in variants:
        embedded = pairs(variant_key("embedding_as_target", variant.name))
        needed[variant_key("niche_query", variant.name)] = embedded
        needed[variant_key("niche_figure", variant.name)] = embedded
    return needed | {BENCHMARK: [None]}


def _variants(only: Collection[str], sections: Collection[str]) -> list[EncoderVariant]:
    every = {variant.name: variant for variant in load_variants(encoders_file())}
    if unknown := sorted(set(only) - set(every)):
        raise PlanError(f"no such encoder variants: {', '.join(unknown)}; encoders.toml has {', '.join(every)}")
    complete = {name for name, variant in every.items() if set(variant.cohort) <= set(sections)}
    if incomplete := sorted(set(only) - complete):
        lacks = {name: sorted(set(every[name].cohort) - set(sections)) for name in incomplete}
        raise PlanError(f"sections of the cohort are not registered: {lacks}; add them with `tracebed section add`")
    return [every[name] for name in every if name in (only or complete)]


def left_out(home: Home, instance: dg.DagsterInstance, keys: Sequence[str], only: Collection[str] = ()) -> list[str]:
    """What a user might miss in the plan of these sections, a sentence each."""
    sources = TableStore(home.tables).scan("section_source")
    unlabelled = sources.filter(pl.col("section").is_in(list(keys)) & (pl.col("n_labelled") == 0))["section"]
    said = [f"{key} has no labels: it is embedded, and takes part in no pair" for key in unlabelled]
    registered = set(section_keys(instance))
    for variant in load_variants(encoders_file()) if not only else ():
        if lacking := sorted(set(variant.cohort) - registered):
            said.append(f"encoder {variant.name} left out: cohort {variant.cohort_name} lacks {', '.join(lacking)}")
    return said


def submit_backfill(home: Home, keys: Sequence[str], only: Collection[str] = ()) -> str:
    """Hand one backfill of everything that the sections need to the daemon; returns a sentence about it.

    Raises
    ------
    PlanError
        Also when no daemon runs on this home: nothing would ever start.
    """
    with dg.DagsterInstance.get() as instance:
        needed = plan(home, instance, keys, only)
        require_daemon(instance)
        backfill_id = submit(instance, build_defs(home=home), needed, title=f"fill {', '.join(keys)}")
        notes = left_out(home, instance, keys, only)
    total = sum(len(each) for each in needed.values())
    said = f"backfill {backfill_id}: {total} partitions of {len(needed)} assets; see /runs?view=backfills in the UI"
    return "\n".join([*notes, said])


def fill_here(home: Home, keys: Sequence[str], only: Collection[str], say: Say) -> bool:
    """Materialise everything that the sections need in this process; returns whether all of it succeeded."""
    with dg.DagsterInstance.get() as instance:
        needed = plan(home, instance, keys, only)
        for note in left_out(home, instance, keys, only):
            say(note)
        return run_here(home, instance, needed, say, takes_what_there_is={BENCHMARK})


def run_demo(home: Home, say: Say) -> bool:
    """Simulate two sections, fill them in, and print the benchmark; returns whether all of it succeeded."""
    from registry import register_section
    from science.spatial.simulate import simulate_cortex
    from science.spatial.simulated_files import write_annotated

    folder = home.root / "simulated"
    for key, seed in DEMO_SECTIONS.items():
        path = folder / f"{key}.h5ad"
        image = write_annotated(simulate_cortex(key, seed=seed), path)
        say(register_section(home, key, path, image=image, replace=True))
    succeeded = fill_here(home, list(DEMO_SECTIONS), (), say)
    if succeeded:
        store = TableStore(home.tables)
        board = store.partition(*partition_key(BENCHMARK.to_user_string(), "")).frame().filter(pl.col("simulated"))
        say("\nSpatial benchmark, all layers, mean over both directions (SIMULATED sections):\n")
        say(board_markdown(board, superseded_methods(home, store.scan("niche_query"))))
        say("\nLook at it: `make ui`, then http://127.0.0.1:3000/assets (group spatial_demo).")
    return succeeded
