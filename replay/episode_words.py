"""The replay of one episode in words."""

from __future__ import annotations

from collections.abc import Iterator

from replay.episode import EpisodeReplayed, EpisodeTarget
from replay.trajectory import ACTION, STATE, Parting
from replay.words import differing

_MEANING = {
    ACTION: "all states before it are equal: the policy acted otherwise on the same state",
    STATE: "all actions before it are equal: the simulator went elsewhere",
}


def begun(target: EpisodeTarget) -> Iterator[str]:
    """What is replayed, and what is not as it was."""
    row, record = target.row, target.record
    when = f"{record.recorded_at:%Y-%m-%d %H:%M:%S} UTC"
    yield f"{target.target.title}, seed {row['seed']}, arm {row['arm']}, published {when} by run {record.run_id}"
    checkpoint = "no checkpoint" if row["checkpoint_hash"] is None else f"checkpoint {row['checkpoint_hash'][:12]}"
    step = "" if row["step"] is None else f" of step {row['step']}"
    then = f"{row['outcome']} ({row['stage']}) after {row['steps']} steps"
    yield f"  then: {then}; {checkpoint}{step}, engine {row['engine']}"
    if target.damage:
        yield f"  the stored trajectory is not what was published: {target.damage}"
    yield from differing(target.differs)


def ended(replayed: EpisodeReplayed) -> Iterator[str]:
    """The verdict, and the first step that differs."""
    episode, arrays = replayed.episode, replayed.target.arrays
    yield f"  now: {episode.outcome} ({episode.stage}) after {episode.steps} steps, in {episode.wall_s:.1f} s"
    states, actions = arrays["states"], arrays["actions"]
    yield f"  compared: {len(states)} states of {states.shape[-1]} numbers, {len(actions)} actions"
    yield str(replayed.verdict)
    if replayed.parting is not None:
        yield from parted(replayed.parting)
        # Of a file that was changed afterwards, this would blame who did not do it.
        if not replayed.target.damage and replayed.parting.what in _MEANING:
            yield f"  {_MEANING[replayed.parting.what]}"
    for each in replayed.differences:
        yield f"  {each.column}: {each.recorded!r} then, {each.replayed!r} now"


def parted(parting: Parting) -> Iterator[str]:
    """Where two trajectories part."""
    yield (
        f"  first at control step {parting.step}: {parting.what}, element {parting.element} of {parting.of} is "
        f"{parting.recorded!r} then, {parting.replayed!r} now (by {abs(parting.recorded - parting.replayed):.3g}); "
        f"{parting.count} of its elements differ"
    )
    yield f"  {parting.steps_differing} steps differ in all, states by at most {parting.largest:.3g}"
