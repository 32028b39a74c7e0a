"""Episodes that were run are kept, so an evaluation that was killed goes on with the missing ones.

    <root>/<evaluation>/evaluation.json      what the evaluation is
    <root>/<evaluation>/<arm>-<seed>.npz     one episode: `record` (JSON), states, actions, milestones

An evaluation's id is a hash of all that decides an episode beside its seed and arm, so nothing is ever found under it
that another policy, checkpoint, environment or perturbation made. The engine is not part of it: a task names an engine
only where its episodes are robosuite's bit for bit; every episode records its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from files import write_whole
from science.robots import perturbations
from science.robots.policies.registry import find_policy
from science.robots.rollouts.episode import ARRAYS, ERROR, Episode, hash_trajectory
from science.robots.rollouts.pool import TIME_LIMIT_S, RolloutPool, RolloutRequest, run_rollouts
from science.robots.tasks.registry import environment_hash, find_task

_LOG = logging.getLogger(__name__)
_SUFFIX = ".npz"
# What reading a damaged archive raises; RuntimeError where its bit "encrypted" is set.
_NOT_WHOLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)

OnProgress = Callable[[int, int, Episode], None]


class EpisodeDamaged(ValueError):
    """A stored episode whose bytes are not those that were written."""


@dataclass(frozen=True)
class Evaluation:
    """All that decides an episode beside its seed and arm.

    Attributes
    ----------
    task : key ``<suite>.<name>``.
    environment_hash : of simulator, robosuite and task version.
    policy, policy_version : the policy's name and its code's version.
    checkpoint_hash : SHA-256 of the checkpoint file; None for a policy that is not trained.
    horizon_steps : after which an episode ends.
    perturbations : version of the perturbed arms.
    load : what made the simulation in place of the task's own; None normally.
    """

    task: str
    environment_hash: str
    policy: str
    policy_version: str
    checkpoint_hash: str | None
    horizon_steps: int
    perturbations: str
    load: str | None = None

    @classmethod
    def of(cls, request: RolloutRequest) -> Evaluation:
        """The evaluation that a request's episodes belong to.

        Raises
        ------
        TaskError, PolicyError
            For a task or policy that does not exist, or a task that cannot run here.
        OSError
            When the checkpoint cannot be read.
        """
        task = find_task(request.task)
        spec = request.policy_spec or find_policy(request.policy)
        return cls(
            task=task.key,
            environment_hash=environment_hash(task),
            policy=spec.name,
            policy_version=spec.version,
            checkpoint_hash=_file_hash(request.checkpoint) if request.checkpoint else None,
            horizon_steps=request.horizon_steps or task.horizon_steps,
            perturbations=perturbations.version(),
            load=request.load,
        )

    @cached_property
    def id(self) -> str:
        """SHA-256 (hex) of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class EpisodeStore:
    """Stored episodes under one folder. Several processes may write to it at once."""

    root: Path

    def path(self, evaluation: Evaluation, seed: int, arm: str) -> Path:
        """Where an episode lies, whether or not it is there."""
        return self.root / evaluation.id / f"{arm}-{seed}{_SUFFIX}"

    def save(self, evaluation: Evaluation, episode: Episode) -> Path:
        """Keep an episode, in place of one of the same seed and arm; it appears whole or not at all."""
        described = self.root / evaluation.id / "evaluation.json"
        if not described.exists():
            text = json.dumps(asdict(evaluation), indent=1)
            write_whole(described, lambda draft: draft.write_text(text))
        path = self.path(evaluation, episode.seed, episode.arm)
        write_whole(path, lambda draft: _write(draft, episode))
        return path

    def load(self, evaluation: Evaluation, seed: int, arm: str) -> Episode:
        """A stored episode, after it was held against the hashes that it was stored with.

        Raises
        ------
        FileNotFoundError
            When it is not there.
        EpisodeDamaged
            When its bytes are not those that were written.
        """
        path = self.path(evaluation, seed, arm)
        episode = read_episode(path)
        if (episode.seed, episode.arm) != (seed, arm):
            raise EpisodeDamaged(
                f"{path} holds the episode of seed {episode.seed}, arm {episode.arm}: it was renamed; delete it"
            )
        return episode

    def present(self, evaluation: Evaluation) -> set[tuple[int, str]]:
        """Seed and arm of every file of an evaluation, sound or not; drafts are not among them."""
        names = [path.stem for path in (self.root / evaluation.id).glob(f"[!.]*{_SUFFIX}")]
        return {(int(seed), arm) for arm, _, seed in (name.rpartition("-") for name in names)}

    def sound(self, evaluation: Evaluation, wanted: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Episode]:
        """Those of the wanted episodes that are there and whole; a damaged one is named in the log and left out."""
        found: dict[tuple[int, str], Episode] = {}
        present = self.present(evaluation)
        for seed, arm in wanted:
            if (seed, arm) not in present:
                continue
            try:
                found[seed, arm] = self.load(evaluation, seed, arm)
            except EpisodeDamaged as damaged:
                _LOG.warning("%s; it is run again", damaged)
        return found


def evaluate(
    store: EpisodeStore,
    request: RolloutRequest,
    seeds: Sequence[int],
    arms: Sequence[str],
    *,
    workers: int = 1,
    pool: RolloutPool | None = None,
    on_progress: OnProgress | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    retry_errors: bool = False,
) -> list[Episode]:
    """Run the episodes that are missing, keep each as it ends, and return all of them, arm after arm in seed order.

    Parameters
    ----------
    workers
        Processes that are started for this call, unless a warm ``pool`` is given.
    on_progress
        Called as ``on_progress(n_done, n_all, episode)`` after each episode that was run; stored ones count as done.
    retry_errors
        Run episodes again that are stored as errors. Otherwise an error is kept like any other outcome.

    Raises
    ------
    RolloutError
        When no episode can be run; what was stored stays.
    PerturbationError
        For an arm that does not exist.
    """
    evaluation = Evaluation.of(request)
    wanted = list(dict.fromkeys((seed, arm) for arm in arms for seed in seeds))
    done = stored(store, evaluation, wanted, retry_errors=retry_errors)
    # Seed by seed, so that the arms of a seed are paired however early this ends.
    missing = list(dict.fromkeys((seed, arm) for seed in seeds for arm in arms if (seed, arm) not in done))

    def keep(episode: Episode) -> None:
        store.save(evaluation, episode)
        done[episode.seed, episode.arm] = episode
        if on_progress:
            on_progress(len(done), len(wanted), episode)

    if missing and pool:
        pool.run(request, missing, keep, time_limit_s=time_limit_s)
    elif missing:
        run_rollouts(request, missing, workers=workers, on_episode=keep, time_limit_s=time_limit_s)
    return [done[key] for key in wanted]


def stored(
    store: EpisodeStore, evaluation: Evaluation, wanted: Sequence[tuple[int, str]], *, retry_errors: bool = False
) -> dict[tuple[int, str], Episode]:
    """The wanted episodes, by seed and arm, that need not be run: without errors where those are run again."""
    done = store.sound(evaluation, wanted)
    return {key: each for key, each in done.items() if not (retry_errors and each.outcome == ERROR)}


def read_episode(path: Path) -> Episode:
    """The episode in a file, wherever it lies.

    Raises
    ------
    FileNotFoundError
        When it is not there.
    EpisodeDamaged
        When it is no such file, or its bytes are not those that were written.
    """
    stored = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(stored) as archive:
            if (torn := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"bad checksum of {torn}")
        stored.seek(0)
        with np.load(stored, allow_pickle=False) as content:
            record: dict[str, Any] = json.loads(str(content["record"]))
            episode = Episode.from_record(record, {name: content[name] for name in ARRAYS})
    except _NOT_WHOLE as error:
        raise EpisodeDamaged(f"{path} is no whole episode ({error}): it was damaged after it was written") from error
    if episode.trajectory_hash is not None:
        found = hash_trajectory(episode.states, episode.actions)
        if found != episode.trajectory_hash:
            raise EpisodeDamaged(f"{path} holds a trajectory of hash {found}, expected {episode.trajectory_hash}")
    return episode


def _write(draft: Path, episode: Episode) -> None:
    # A file object, because savez adds a suffix to names. Names and dates in the archive are fixed, so that the bytes
    # depend on the episode only.
    with draft.open("wb") as stream:
        arrays = {name: getattr(episode, name) for name in ARRAYS}
        np.savez_compressed(stream, record=np.array(json.dumps(episode.record(), sort_keys=True)), **arrays)


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
