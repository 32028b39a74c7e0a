"""ONE episode of a rollout again, with the recorded checkpoint, engine and arm, held against its states and actions.

It is run by a worker of the pool, as the evaluation did it, on this host; nothing is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from home import Home
from io_managers.addresses import partition_key, table_of
from io_managers.artifacts import ArtifactError
from io_managers.tables import DamagedPartition, MissingPartition, TableStore
from provenance.lineage import Record
from provenance.records import Records
from provenance.selection import Ambiguous, matching
from replay.artifacts import VOLATILE_LEAVES
from replay.environment import differing_versions
from replay.refusals import ReplayFailed, ReplayRefused
from replay.target import Target, find_target
from replay.trajectory import Arrays, Parting, part
from replay.values import same_bits
from replay.verdict import Difference, Verdict
from science.robots.rollouts.episode import ARRAYS, Episode
from science.robots.rollouts.pool import TIME_LIMIT_S, RolloutError, RolloutPool, RolloutRequest
from science.robots.rollouts.store import Evaluation

TABLE = "rollouts"
_VOLATILE = {name.removeprefix("record.") for name in VOLATILE_LEAVES[".npz"]}


@dataclass(frozen=True)
class EpisodeTarget:
    """One published episode.

    Attributes
    ----------
    target : the version of the table that holds it.
    row : its row of table `rollouts`.
    record : lineage of the run that published it first; later versions carry it on.
    stored : file of its trajectory.
    arrays, said : what that file holds.
    damage : why that file is not what was published; empty where it is.
    request : what runs it again.
    differs : what is not as it was, a line each.
    """

    target: Target
    row: Mapping[str, Any]
    record: Record
    stored: Path
    arrays: Arrays
    said: Mapping[str, Any]
    damage: str
    request: RolloutRequest
    differs: tuple[str, ...]


@dataclass(frozen=True)
class EpisodeReplayed:
    """An episode that was run again.

    Attributes
    ----------
    episode : what happened now.
    parting : where the trajectories part; None where all steps that both have are equal.
    differences : fields of the episode's record that differ, each the first and only.
    """

    target: EpisodeTarget
    episode: Episode
    parting: Parting | None
    differences: tuple[Difference, ...]

    @property
    def verdict(self) -> Verdict:
        """Bit-equal or different: nothing is tolerated."""
        return Verdict.DIFFERENT if self.parting or self.differences else Verdict.BIT_EQUAL


def find_episode(
    home: Home,
    asset: str,
    partition: str,
    *,
    seed: int,
    arm: str,
    evaluation: str | None = None,
    step: int | None = None,
    at: str | None = None,
) -> EpisodeTarget:
    """The episode of a seed and arm, and all that is needed to run it again.

    Raises
    ------
    ReplayRefused
        For another table than rollouts, an episode that is not there or without a trajectory, or a checkpoint that is
        not kept.
    Ambiguous
        When several evaluations ran it; lists them.
    """
    if table_of(asset)[0] != TABLE:
        raise ReplayRefused(
            f"found asset {asset!r} with a seed, expected policy/rollouts/<policy>: only it has episodes"
        )
    target = find_target(home, asset, partition, at)
    row = _row(target, seed, arm, evaluation, step)
    stored, arrays, said, damage = _stored(target, row)
    request = RolloutRequest(
        task=partition,
        policy=row["policy"],
        checkpoint=_checkpoint(target, row),
        engine=row["engine"] or None,
    )
    record = _first_record(target, row)
    return EpisodeTarget(
        target, row, record, stored, arrays, said, damage, request, tuple(_differs(record, row, request))
    )


def _row(target: Target, seed: int, arm: str, evaluation: str | None, step: int | None) -> Mapping[str, Any]:
    where = {"seed": str(seed), "arm": arm}
    where |= {} if evaluation is None else {"evaluation": evaluation}
    where |= {} if step is None else {"step": str(step)}
    rows = matching(TABLE, target.rows, where)
    if rows.is_empty():
        arms = ", ".join(sorted(target.rows["arm"].unique()))
        seeds = sorted(target.rows["seed"].unique())
        raise ReplayRefused(
            f"no episode of {target.title} has {_told(where)}; there are seeds {seeds[0]} to {seeds[-1]} and arms "
            f"{arms}"
        )
    if rows.height > 1:
        listed = "\n".join(
            f"  - evaluation {each['evaluation'][:12]}, step {each['step']}" for each in rows.iter_rows(named=True)
        )
        raise Ambiguous(f"{rows.height} evaluations ran {_told(where)}; give --evaluation or --step:\n{listed}")
    return rows.row(0, named=True)


def _told(where: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in where.items())


def _stored(target: Target, row: Mapping[str, Any]) -> tuple[Path, Arrays, Mapping[str, Any], str]:
    """The stored trajectory, also where its file was changed: where it was is what the replay shows then."""
    if row["episode_artifact"] is None:
        raise ReplayRefused(f"seed {row['seed']}, arm {row['arm']} of {target.title} has no trajectory: {row['error']}")
    path, damage = target.artifacts.path(row["episode_artifact"]), ""
    try:
        target.artifacts.verified(row["episode_artifact"])
    except ArtifactError as error:
        damage = str(error)
    try:
        with np.load(path, allow_pickle=False) as content:
            return path, {name: content[name] for name in ARRAYS}, json.loads(str(content["record"])), damage
    except (OSError, ValueError, KeyError) as error:
        raise ReplayRefused(f"the trajectory cannot be read: {damage or path} ({error})") from error


def _checkpoint(target: Target, row: Mapping[str, Any]) -> Path | None:
    """The file of the row's checkpoint: artifacts are named by their hash."""
    digest = row["checkpoint_hash"]
    if digest is None:
        return None
    found = sorted(target.artifacts.path(digest).parent.glob(f"{digest}.*"))
    if not found:
        raise ReplayRefused(f"checkpoint {digest} of {target.title} is not kept (expected in {target.artifacts.root})")
    return target.artifacts.verified(found[0].name)


def _first_record(target: Target, row: Mapping[str, Any]) -> Record:
    """The record of the run that published a row first."""
    store, record = TableStore(target.home.tables), target.record
    where = {name: str(row[name]) for name in ("evaluation", "seed", "arm")}
    for each in Records(store).of(record.asset, record.partition):
        try:
            version = store.version(*partition_key(each.asset, each.partition), each.content_hash, each.run_id)
            rows = matching(TABLE, version.frame(), where)
        except (MissingPartition, DamagedPartition, Ambiguous):
            continue
        if row["trajectory_hash"] in rows["trajectory_hash"].to_list():
            return each
    return record


def _differs(record: Record, row: Mapping[str, Any], request: RolloutRequest) -> list[str]:
    now = Evaluation.of(request)
    found = []
    if now.environment_hash != row["environment_hash"]:
        found.append(
            f"environment (simulator, robosuite, task): {row['environment_hash']} then, {now.environment_hash} now"
        )
    elif now.id != row["evaluation"]:
        found.append(f"evaluation (policy's version, horizon, perturbations): {row['evaluation']} then, {now.id} now")
    return found + differing_versions(record.versions)


def replay_episode(target: EpisodeTarget) -> EpisodeReplayed:
    """Run the episode again and compare.

    Raises
    ------
    ReplayFailed
        When it cannot be run.
    """
    limit_s = float((target.record.config or {}).get("time_limit_s", TIME_LIMIT_S))
    found: list[Episode] = []
    try:
        with RolloutPool(1) as pool:
            pool.run(target.request, [(target.row["seed"], target.row["arm"])], found.append, time_limit_s=limit_s)
    except RolloutError as error:
        raise ReplayFailed(str(error)) from error
    (episode,) = found
    replayed = {name: getattr(episode, name) for name in ARRAYS}
    return EpisodeReplayed(
        target, episode, part(target.arrays, replayed), tuple(_fields(target.said, episode.record(), episode.seed))
    )


def _fields(recorded: Mapping[str, Any], replayed: Mapping[str, Any], seed: int) -> list[Difference]:
    return [
        Difference(f"seed {seed}", name, recorded[name], replayed.get(name), 1, 1)
        for name in recorded
        if name not in _VOLATILE and not same_bits(recorded[name], replayed.get(name))
    ]
