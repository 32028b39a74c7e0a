"""Two trainings side by side: what differs, and what that can and cannot explain.

Another person's run is a comparison group only where all else is equal: each difference that alone could make two
policies differ is named, and a difference of rates is held against chance before anything is said about it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from home import Home
from io_managers.schemas import table
from io_managers.tables import TableStore
from provenance.trainings.training import Training

_DECIDES_NOTHING = frozenset({"checkpoint_every", "selection_n", "exp_name", "name", "wandb_enabled", "log_interval"})
_UNKNOWN = "not known"


@dataclass(frozen=True)
class Difference:
    """One thing that differs, or that is known of one side only."""

    what: str
    a: str
    b: str

    @property
    def known(self) -> bool:
        """Whether both sides are known: what is known of one alone proves no difference."""
        return _UNKNOWN not in (self.a, self.b)


@dataclass(frozen=True)
class RunsComparison:
    """What two trainings share and what not.

    Attributes
    ----------
    differences : settings, origin, data, code, and how they ended.
    curve : table of both losses at the steps that both logged: step, a, b.
    rates : table of success rates: side, step, arm, n, successes, rate, ci_low, ci_high, environment_hash.
    conclusions : in words, what the differences can and cannot explain.
    """

    a: Training
    b: Training
    differences: tuple[Difference, ...]
    curve: pl.DataFrame
    rates: pl.DataFrame
    conclusions: tuple[str, ...]


def compare_trainings(home: Home, a: Training, b: Training) -> RunsComparison:
    """Hold two trainings against each other."""
    differences = tuple(_differences(a, b))
    curve = pl.DataFrame(
        [(step, a.curve[step], b.curve[step]) for step in sorted(set(a.curve) & set(b.curve))],
        schema={"step": pl.Int64, "a": pl.Float64, "b": pl.Float64},
        orient="row",
    )
    rates = pl.concat([_rates("a", a), _rates("b", b)])
    conclusions = (*_of_settings(differences, a, b), *_of_curves(a, b, curve), *_of_rates(home, a, b, rates))
    return RunsComparison(a, b, differences, curve, rates, conclusions)


def _differences(a: Training, b: Training) -> Iterator[Difference]:
    for what in ("policy", "task", "began", "demonstrations_hash", "git_commit", "ending"):
        one, other = getattr(a, what), getattr(b, what)
        if one != other:
            yield Difference(what.replace("_", " "), one or _UNKNOWN, other or _UNKNOWN)
    for kind, one, other in (("setting", a.settings, b.settings), ("version of", a.versions, b.versions)):
        for name, (left, right) in _unequal(_flat(one), _flat(other)).items():
            yield Difference(f"{kind} {name}", left, right)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    def told(tree: Mapping[str, Any], name: str) -> str:
        return repr(tree[name]) if name in tree else _UNKNOWN

    pairs = {name: (told(a, name), told(b, name)) for name in sorted({*a, *b})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _of_settings(differences: tuple[Difference, ...], a: Training, b: Training) -> Iterator[str]:
    named = {each.what: each for each in differences}
    if not a.settings or not b.settings:
        yield f"the configuration of {(a if not a.settings else b).name} is not known: nothing can be excluded"
    if any(named[what].known for what in ("policy", "task") if what in named):
        yield "these are different policies or tasks: no comparison group for each other"
    data = named.get("demonstrations hash")
    if data is not None and not data.known:
        yield "whether they were trained on the same demonstrations is not known"
    elif data is not None:
        yield "they were trained on DIFFERENT demonstrations: that alone can explain a difference"
    elif a.demonstrations_hash:
        yield "the same demonstrations, byte for byte: the data explains no difference"
    beginning = [each for each in differences if "weight_loader" in each.what or each.what == "began"]
    if loaders := [each for each in beginning if each.known]:
        told = "; ".join(f"{each.what}: {each.a} against {each.b}" for each in loaders)
        yield f"they began from different weights or in another way ({told}): that alone can explain a difference"
    elif beginning:
        yield "which weights one of them began from is not known"
    deciding = [
        each.what.removeprefix("setting ")
        for each in differences
        if each.known
        and each.what.startswith("setting ")
        and each.what.removeprefix("setting ") not in _DECIDES_NOTHING
        and "weight_loader" not in each.what
    ]
    if deciding == ["seed"]:
        yield "only the training seed differs among the settings: what is left is chance of initial weights and order"
    elif deciding:
        yield f"settings that decide weights differ: {', '.join(deciding)}"
    elif a.settings and b.settings:
        yield "no setting that decides weights differs"
    versions = [each for each in differences if each.what.startswith("version of ")]
    if known := [each.what.removeprefix("version of ") for each in versions if each.known]:
        yield f"library versions differ: {', '.join(known)}"
    if one_sided := [
        each.what for each in differences if not each.known and each.what.startswith(("setting", "version"))
    ]:
        yield f"known of one side only: {', '.join(one_sided[:12])}{' and more' if len(one_sided) > 12 else ''}"


def _of_curves(a: Training, b: Training, curve: pl.DataFrame) -> Iterator[str]:
    if curve.is_empty():
        have = [each.name for each in (a, b) if each.curve]
        yield f"no step's loss is known of both (there is a curve of {', '.join(have) or 'neither'})"
        return
    same = curve.filter(pl.col("a") == pl.col("b"))
    last = curve.row(curve.height - 1, named=True)
    if same.height == curve.height:
        yield f"the losses are identical at all {curve.height} shared steps"
        return
    first = curve.filter(pl.col("a") != pl.col("b"))["step"][0]
    yield (
        f"of {curve.height} shared steps the losses first differ at step {first}; at step {last['step']}, the last "
        f"shared one, {last['a']:.4g} against {last['b']:.4g}"
    )
    if max(a.curve) != max(b.curve):
        yield f"one was trained longer: to step {max(a.curve)} against {max(b.curve)}"


def _rates(side: str, training: Training) -> pl.DataFrame:
    columns = ("step", "arm", "n", "successes", "rate", "ci_low", "ci_high", "environment_hash", "evaluation")
    rates = training.rates if training.rates.width else table("success_rate").empty()
    return rates.select(pl.lit(side).alias("side"), *columns).sort("step", "arm")


def _of_rates(home: Home, a: Training, b: Training, rates: pl.DataFrame) -> Iterator[str]:
    from science.robots.statistics import StatisticsError, mcnemar

    one, other = (_shown(rates.filter((pl.col("side") == side) & (pl.col("arm") == "control"))) for side in "ab")
    if one is None or other is None:
        without = [training.name for training, rate in ((a, one), (b, other)) if rate is None]
        yield f"no success rate is known of {', '.join(without)}: evaluate it on the same seeds to compare"
        return
    if one["environment_hash"] != other["environment_hash"]:
        yield "their rates were measured in DIFFERENT environments: they do not compare"
        return
    episodes = TableStore(home.tables).scan("rollouts").filter(pl.col("arm") == "control")
    first, second = (_solved(episodes, row["evaluation"]) for row in (one, other))
    told = f"{one['successes']}/{one['n']} against {other['successes']}/{other['n']}"
    try:
        test = mcnemar(first, second)
    except StatisticsError as error:
        yield f"success {told}; no paired test: {error}"
        return
    if test.only_a == test.only_b == 0:
        yield f"success {told}: on {test.n_shared} shared seeds nothing tells them apart"
        return
    verdict = "more than chance explains" if test.p < 0.05 else "which chance explains"
    yield (
        f"success {told}: on {test.n_shared} shared seeds only the first solved {test.only_a} and only the second "
        f"{test.only_b} (McNemar's exact p = {test.p:.3g}), {verdict}"
    )


def _solved(episodes: pl.DataFrame, evaluation: str) -> dict[Hashable, bool]:
    """Seed -> solved, of the episodes of an evaluation that ended in success or failure."""
    ended = (pl.col("evaluation") == evaluation) & pl.col("outcome").is_in(["success", "failure"])
    return {
        seed: outcome == "success" for seed, outcome in episodes.filter(ended).select("seed", "outcome").iter_rows()
    }


def _shown(rates: pl.DataFrame) -> dict[str, Any] | None:
    """The rate that stands for a training: of its last checkpoint that was rolled out."""
    rated = rates.filter(pl.col("rate").is_not_null())
    return rated.row(rated.height - 1, named=True) if rated.height else None
