"""What the evidence about the evaluator says, each piece by itself: can it say yes and no, and what feeds the policy.

The expert and replayed demonstrations show that success is possible, the random policy that it is not given away;
repeated actions and first observations show faults that meet a trained policy only.
"""

from __future__ import annotations

from science.robots.diagnosis.evidence import Counts, Evidence
from science.robots.diagnosis.reasons import (
    HEALTHY_RATE,
    MIN_ROLLOUTS,
    Piece,
    Reason,
    State,
    Verdict,
    counted,
    missing,
    said,
)
from science.robots.statistics import wilson

CHANCE_RATE = 0.05
"""The most that a random policy may succeed at. Tasks of several milestones are not solved by chance even once in 20
episodes; a success test that passes at random, or that is inverted, is far above."""


ERROR_SHARE = 0.5
"""From this share of errors on, what is measured is the crash and not the policy."""


ACTION_TOLERANCE = 0.01
"""Largest difference between a repeated and a recorded action, action units. The same weights on another machine differ
by 1e-5; a stale hidden state or a changed observation by a tenth and more."""


SELECTION_GAP = 0.2
"""How far the rate at the choice of the checkpoint must lie above the evaluated one, interval to interval, to be no
luck of choosing: the best of many checkpoints looks better than it is."""


def read_evaluator(evidence: Evidence) -> list[Reason]:
    """Every piece of evidence about the evaluator."""
    return [
        _errors(evidence.rollouts),
        _solved_at_reset(evidence),
        _random(evidence.random),
        _expert(evidence),
        _replays(evidence),
        _consistency(evidence),
        _starts(evidence),
        _selection(evidence),
    ]


def _errors(rollouts: Counts) -> Reason:
    share = wilson(rollouts.errors, rollouts.total)
    text = f"{rollouts.errors} of {rollouts.total} episodes ended in an error"
    if rollouts.messages:
        message, count = max(rollouts.messages.items(), key=lambda item: (item[1], item[0]))
        text += f", {count} of them `{message}`"
    value = share.value or 0.0
    state = State.PASSES if not rollouts.errors else State.UNCLEAR
    if value >= ERROR_SHARE and rollouts.total >= MIN_ROLLOUTS:
        state = State.FAILS
    speaks = Verdict.EVALUATION if state is State.FAILS else None
    return Reason(Piece.ERRORS, state, text, share, rollouts.total, value, speaks_for=speaks)


def _solved_at_reset(evidence: Evidence) -> Reason:
    counts = [each for each in (evidence.rollouts, evidence.expert, evidence.random) if each is not None]
    solved, total = sum(each.solved_at_reset for each in counts), sum(each.total for each in counts)
    share = wilson(solved, total)
    text = f"{solved} of {total} episodes were solved before anything was done"
    if share.low > CHANCE_RATE:
        return Reason(
            Piece.SOLVED_AT_RESET,
            State.FAILS,
            f"{text}: the success test or the reset is wrong",
            share,
            total,
            share.value,
            speaks_for=Verdict.EVALUATION,
        )
    return Reason(Piece.SOLVED_AT_RESET, State.UNCLEAR if solved else State.PASSES, text, share, total, share.value)


def _random(random: Counts | None) -> Reason:
    if random is None or not random.total:
        return missing(Piece.RANDOM, "no random control: it would show a success test that passes whatever is done")
    text = f"the random policy succeeded in {said(random)} through the same evaluator"
    if random.rate.low > CHANCE_RATE:
        text += ": the success test passes whatever is done"
        return counted(Piece.RANDOM, State.FAILS, text, random, speaks_for=Verdict.EVALUATION)
    if random.rate.high < HEALTHY_RATE:
        return counted(Piece.RANDOM, State.PASSES, text, random, speaks_against=Verdict.EVALUATION)
    return counted(Piece.RANDOM, State.UNCLEAR, f"{text}: too few to tell", random)


def _expert(evidence: Evidence) -> Reason:
    expert, recording = evidence.expert, evidence.expert_recording
    if expert is None or not expert.total:
        return missing(
            Piece.EXPERT, "no expert through this evaluator: it would show whether success is possible in it"
        )
    text = f"the scripted expert succeeded in {said(expert)} through the same evaluator"
    if recording is not None:
        text += f"; while recording, in {said(recording)}"
    crashes = expert.errors >= ERROR_SHARE * expert.total
    below = expert.rate.high < recording.rate.low if recording is not None else expert.rate.high < HEALTHY_RATE
    if crashes or below:
        why = "it crashes" if crashes else "below its rate while recording" if recording else "it fails"
        return counted(Piece.EXPERT, State.FAILS, f"{text}: {why}", expert, speaks_for=Verdict.EVALUATION)
    if expert.rate.low >= HEALTHY_RATE:
        return counted(Piece.EXPERT, State.PASSES, text, expert, speaks_against=Verdict.EVALUATION)
    return counted(Piece.EXPERT, State.UNCLEAR, f"{text}: no proof that the evaluator works", expert)


def _replays(evidence: Evidence) -> Reason:
    replays = evidence.replays
    if replays is None or not replays.total:
        return missing(
            Piece.REPLAYS,
            "no replayed demonstrations: they would show a changed environment, controller or action scale",
        )
    text = f"recorded actions of demonstrations, replayed through the same evaluator, succeeded in {said(replays)}"
    if replays.errors >= ERROR_SHARE * replays.total or replays.rate.high < HEALTHY_RATE:
        if not evidence.replayed_as_executed:
            text += "; but what is recorded is not what was executed, so that proves nothing"
            return counted(Piece.REPLAYS, State.UNCLEAR, text, replays)
        return counted(Piece.REPLAYS, State.FAILS, text, replays, speaks_for=Verdict.EVALUATION)
    if replays.rate.low >= HEALTHY_RATE:
        return counted(Piece.REPLAYS, State.PASSES, text, replays, speaks_against=Verdict.EVALUATION)
    return counted(Piece.REPLAYS, State.UNCLEAR, f"{text}: neither most nor few", replays)


def _consistency(evidence: Evidence) -> Reason:
    found = evidence.consistency
    if found is None or not found.n:
        return missing(
            Piece.CONSISTENCY,
            "recorded actions were not compared with the policy asked again: it would show an evaluator that feeds the "
            "policy something else, keeps its hidden state or changes its actions",
        )
    text = (
        f"asked again for {found.n} recorded observations, the policy's actions differ from the recorded ones by at "
        f"most {found.max_abs_difference:.2g}"
    )
    if not found.max_abs_difference <= ACTION_TOLERANCE:
        return Reason(
            Piece.CONSISTENCY,
            State.FAILS,
            f"{text}: the evaluator feeds it something else, keeps its hidden state or changes its actions",
            n=found.n,
            value=found.max_abs_difference,
            speaks_for=Verdict.EVALUATION,
        )
    return Reason(
        Piece.CONSISTENCY,
        State.PASSES,
        text,
        n=found.n,
        value=found.max_abs_difference,
        speaks_against=Verdict.EVALUATION,
    )


def _starts(evidence: Evidence) -> Reason:
    found = evidence.starts
    if found is None or not found.n:
        return missing(
            Piece.STARTS,
            "first observations were not compared with the demonstrations': it would show another reset range, or "
            "observations that are changed on the way",
        )
    outside, expected = wilson(found.outside, found.n), wilson(found.left_out_outside, found.n_demonstrations)
    text = (
        f"{found.outside} of {found.n} episodes start outside the demonstrations' range; of the demonstrations "
        f"themselves, each against the others, {found.left_out_outside} of {found.n_demonstrations}"
    )
    if outside.low > expected.high:
        text += f" (most often in {', '.join(found.elements)})" if found.elements else ""
        return Reason(Piece.STARTS, State.FAILS, text, outside, found.n, outside.value, speaks_for=Verdict.EVALUATION)
    enough = expected.high < HEALTHY_RATE and found.n >= MIN_ROLLOUTS
    return Reason(
        Piece.STARTS,
        State.PASSES if enough else State.UNCLEAR,
        text if enough else f"{text}: too few demonstrations to tell",
        outside,
        found.n,
        outside.value,
        speaks_against=Verdict.EVALUATION if enough else None,
    )


def _selection(evidence: Evidence) -> Reason:
    at_step = [(k, n) for step, k, n in evidence.success_curve if step == evidence.step and n]
    if not at_step or not evidence.rollouts.n:
        return missing(Piece.SELECTION, "the evaluated checkpoint's rate when it was chosen is not on record")
    successes, n = at_step[-1]
    chosen, rate = wilson(successes, n), evidence.rollouts.rate
    text = f"the same checkpoint succeeded in {successes} of {n} when it was chosen, now in {said(evidence.rollouts)}"
    if chosen.low > rate.high + SELECTION_GAP:
        return Reason(
            Piece.SELECTION,
            State.FAILS,
            f"{text}: both cannot be of the same policy in the same environment",
            chosen,
            n,
            chosen.value,
            speaks_for=Verdict.EVALUATION,
        )
    return Reason(Piece.SELECTION, State.PASSES, text, chosen, n, chosen.value)
