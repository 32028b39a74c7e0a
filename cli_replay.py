"""The command that computes a published value again and compares: `tracebed replay`."""

from __future__ import annotations

import sys

import click

from home import Home


@click.command(name="replay")
@click.argument("asset")
@click.argument("partition", default="")
@click.option("--at", metavar="TIME|RUN", help="The value at a moment (ISO 8601) or of a run; default: the newest.")
@click.option("--site", default="", help="Where its job runs; default: as sites.toml says.")
@click.option("--config-from-run", is_flag=True, help="Of an old record: read the configuration from Dagster's run.")
@click.option("--keep", is_flag=True, help="Leave the scratch home behind.")
@click.option("--seed", type=int, help="Of policy/rollouts: ONE episode again, state by state.")
@click.option("--arm", default="control", show_default=True, help="Arm of that episode.")
@click.option("--evaluation", help="Evaluation of that episode (its hash, or the beginning of it).")
@click.option("--step", type=int, help="Training step of the checkpoint of that episode.")
@click.pass_obj
def replay_command(
    home: Home,
    asset: str,
    partition: str,
    at: str | None,
    site: str,
    config_from_run: bool,
    keep: bool,
    seed: int | None,
    arm: str,
    evaluation: str | None,
    step: int | None,
) -> None:
    """Compute the value of ASSET [PARTITION] again from its record, in a scratch home, and compare.

    Exit status 0 where the two are bit-equal or equal within declared tolerances, 1 where they are different.
    """
    from replay.verdict import Verdict

    if seed is None:
        if evaluation is not None or step is not None:
            raise click.UsageError("--evaluation and --step choose one episode: give --seed too")
        verdict = _value(home, asset, partition, at, site, config_from_run, keep)
    else:
        if site or keep or config_from_run:
            raise click.UsageError("one episode is run here and keeps nothing: leave out --site, --keep and the like")
        verdict = _episode(home, asset, partition, at, seed, arm, evaluation, step)
    if verdict is Verdict.DIFFERENT:
        sys.exit(1)


def _value(home: Home, asset: str, partition: str, at: str | None, site: str, config_from_run: bool, keep: bool):
    from replay.run import replay
    from replay.words import begun, ended

    found = replay(
        home,
        asset,
        partition,
        at=at,
        site=site,
        config_from_run=config_from_run,
        keep=keep,
        on_prepared=lambda prepared: _say(begun(prepared)),
        on_progress=lambda line: click.echo(f"    {line[:150]}", err=True),
    )
    _say(ended(found))
    return found.comparison.verdict


def _episode(
    home: Home,
    asset: str,
    partition: str,
    at: str | None,
    seed: int,
    arm: str,
    evaluation: str | None,
    step: int | None,
):
    from replay.episode import find_episode, replay_episode
    from replay.episode_words import begun, ended

    target = find_episode(home, asset, partition, seed=seed, arm=arm, evaluation=evaluation, step=step, at=at)
    _say(begun(target))
    found = replay_episode(target)
    _say(ended(found))
    return found.verdict


def _say(lines) -> None:
    for line in lines:
        click.echo(line)
