"""Commands about weights: `tracebed weights show`, `compare` and `origin`, of paths and of names in `bases.toml`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from home import Home
from terminal import Group, print_frame

if TYPE_CHECKING:
    from provenance.weights.bases import Base
    from provenance.weights.candidates import Candidate
    from provenance.weights.chain import AttemptEvidence
    from provenance.weights.origin import OriginVerdict

_SHOWN = 10


class _SeveralAfterCandidates(click.Command):
    """Reads `--candidates A B C` as `--candidates A --candidates B --candidates C`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        open_list = False
        for each in args:
            option = each.startswith("-")
            if open_list and not option and spread[-1] != "--candidates":
                spread.append("--candidates")
            open_list = each == "--candidates" or (open_list and not option)
            spread.append(each)
        return super().parse_args(ctx, spread)


@click.group(name="weights", cls=Group)
def weights_group() -> None:
    """What checkpoints hold, leaf by leaf, and which base their weights come from: `bases.toml`."""


@weights_group.command(name="show")
@click.argument("which", metavar="PATH_OR_BASE")
@click.pass_obj
def weights_show(home: Home, which: str) -> None:
    """The leaves of a checkpoint and their fingerprints. Orbax, torch and safetensors are told by content."""
    import polars as pl

    found = _candidate(home, which).fingerprint
    short = found.frame().with_columns(
        pl.col("shape").cast(pl.List(pl.String)).list.join(" x "), pl.col("sha256_bf16").str.head(16)
    )
    print_frame(short)
    elements = sum(leaf.elements for leaf in found.values())
    constant = sum(leaf.constant for leaf in found.values())
    click.echo(f"{len(found)} leaves, {elements:,} elements, {constant} leaves constant")
    click.echo(f"fingerprint {found.digest}")


@weights_group.command(name="compare")
@click.argument("a", metavar="PATH_OR_BASE")
@click.argument("b", metavar="PATH_OR_BASE")
@click.option("--all", "every", is_flag=True, help="Print every leaf.")
@click.pass_obj
def weights_compare(home: Home, a: str, b: str, every: bool) -> None:
    """How many leaves of two checkpoints are equal, which differ, and by how much."""
    from provenance.weights.differences import differences

    one, other = _candidate(home, a).fingerprint, _candidate(home, b).fingerprint
    found = differences(one, other)
    told = {
        "equal": f"equal ({sum(one[name].constant for name in found['equal'])} of them constant)",
        "differ": "differ",
        "other_shape": "have another shape",
        "only_a": f"only in {a}",
        "only_b": f"only in {b}",
    }
    sizes = _greatest_differences(a, b, found["differ"] if every else found["differ"][:_SHOWN])
    for kind, names in found.items():
        click.echo(f"{len(names):5d} {told[kind]}")
        shown = names if every else names[:_SHOWN] if kind != "equal" else []
        for name in shown:
            click.echo(f"        {name}{sizes.get(name, '')}")
        if kind != "equal" and len(shown) < len(names):
            click.echo(f"        ... and {len(names) - len(shown)} more (--all)")
    if one.digest == other.digest:
        click.echo("the same weights")


@weights_group.command(name="origin", cls=_SeveralAfterCandidates)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--candidates",
    required=True,
    multiple=True,
    metavar="NAME_OR_PATH ...",
    help="Bases, paths, or NAME=PATH; several, after CHECKPOINT.",
)
@click.option("--claimed", metavar="NAME", help="The candidate that it is said to come from, or scratch.")
@click.option(
    "--config",
    "configs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Resolved configuration (JSON, TOML) of an attempt, key weight_loader; once for each, oldest first.",
)
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Log of an attempt; as --config, in its order.",
)
@click.option("--untouched", multiple=True, metavar="PATTERN", help="Leaves that were frozen, such as 'llm/*'.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_obj
def weights_origin(
    home: Home,
    checkpoint: Path,
    candidates: tuple[str, ...],
    claimed: str | None,
    configs: tuple[Path, ...],
    logs: tuple[Path, ...],
    untouched: tuple[str, ...],
    as_json: bool,
) -> None:
    """Which of several bases the weights of CHECKPOINT come from. Exit status 1: the claim is CONTRADICTED."""
    from provenance.weights.evidence import Verdict
    from provenance.weights.fingerprint import fingerprint
    from provenance.weights.origin import judge_origin
    from provenance.weights.readers import open_weights

    found = judge_origin(
        fingerprint(open_weights(checkpoint)),
        [_candidate(home, each) for each in candidates],
        _attempts(configs, logs),
        claimed=claimed,
        untouched=untouched,
    )
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=1))
    else:
        _print_origin(found)
    if claimed and found.verdict is Verdict.CONTRADICTED:
        sys.exit(1)


def _print_origin(found: OriginVerdict) -> None:
    click.echo(found.sentence)
    if found.conflict:
        click.echo(f"conflict: {found.conflict}")
    click.echo("\n" + "\n".join(f"  {verdict:12} {name}" for name, verdict in found.of_each.items()))
    click.echo("\nevidence")
    for piece in found.evidence:
        click.echo(f"  {piece.line()}")
    click.echo(
        f"\nleaves: {found.leaves.comparable} comparable, of these {found.leaves.constant} constant and "
        f"{found.leaves.small} too small to count; {len(found.leaves.discriminating)} discriminating"
    )
    if found.deciding:
        click.echo("deciding: " + ", ".join(found.deciding[:_SHOWN]) + _more(found.deciding))


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - _SHOWN} more (--json)" if len(names) > _SHOWN else ""


def _place(given: str) -> tuple[str, Path | Base]:
    """A registered base by its name, or a checkpoint at a path (`PATH`, or `NAME=PATH`)."""
    from provenance.weights.bases import bases_file, load_bases

    bases = {base.name: base for base in load_bases(bases_file())}
    if given in bases:
        return given, bases[given]
    name, _, path = given.partition("=") if "=" in given and not Path(given).exists() else (given, "", given)
    if not Path(path).exists():
        raise click.ClickException(
            f"found neither a checkpoint at {path} nor a base of that name, expected a path or one of "
            f"{sorted(bases) or 'the bases of bases.toml, which has none'}"
        )
    return name, Path(path)


def _candidate(home: Home, given: str) -> Candidate:
    from io_managers.tables import TableStore
    from provenance.weights.bases import base_candidate
    from provenance.weights.candidates import Candidate
    from provenance.weights.fingerprint import fingerprint
    from provenance.weights.readers import open_weights

    name, place = _place(given)
    if not isinstance(place, Path):
        return base_candidate(place, TableStore(home.tables))
    return Candidate(name, fingerprint(open_weights(place)), (str(place), str(place.resolve())))


def _attempts(configs: Sequence[Path], logs: Sequence[Path]) -> list[AttemptEvidence]:
    """Attempts oldest first; how each began is told by its log, or by `resume` or `intent` of its configuration."""
    from provenance.weights.chain import AttemptEvidence
    from provenance.weights.openpi_log import read_config, read_log

    if configs and logs and len(configs) != len(logs):
        raise click.ClickException(
            f"found {len(configs)} --config and {len(logs)} --log, expected one of each for every attempt, oldest first"
        )
    pairs = itertools.zip_longest([read_config(each) for each in configs], [read_log(each) for each in logs])
    return [AttemptEvidence(f"attempt {n}", config=config, log=log) for n, (config, log) in enumerate(pairs)]


def _greatest_differences(a: str, b: str, names: Sequence[str]) -> dict[str, str]:
    """By how much leaves differ, of those that can be read and are not large."""
    from provenance.weights.differences import greatest_difference
    from provenance.weights.readers import open_weights

    given = [place if isinstance(place, Path) else place.path for _, place in (_place(a), _place(b))]
    places = [place for place in given if place is not None and place.exists()]
    if not names or len(places) < len(given):
        return {}
    one, other = (open_weights(place) for place in places)
    found = {name: greatest_difference(one.read(name), other.read(name)) for name in names}
    return {name: f"  max |difference| {value:.3g}" for name, value in found.items() if value is not None}
