"""The verdict on hand-made evidence: every verdict and cause, conflicts and gaps, and what more evidence may not do."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from science.robots.diagnosis import (
    ActionError,
    Cause,
    Consistency,
    Counts,
    Evidence,
    EvidenceError,
    Facts,
    Piece,
    Starts,
    State,
    Verdict,
    diagnose,
    starts_outside,
)

STACK = ("reach", "grasp", "lift", "align", "release")
EXPERT = Counts(20, 20, stages={"success": 20})
RANDOM = Counts(0, 20, stages={"no_reach": 20})
REPLAYED = Counts(10, 10)
SAME_ACTIONS, SAME_STARTS = Consistency(2e-6, 60), Starts(1, 20, 4, 70)
SETTLED = tuple((100 * n, 5.0 - 25 * (1 - 0.6**n)) for n in range(1, 21))
FALLING = tuple((n, 5.0 - 0.15 * n) for n in range(1, 11))
SOUND = Facts(
    rnn=True,
    seq_length=10,
    rnn_horizon=10,
    normalised=True,
    checkpoint_task="open.Stack_D0",
    evaluation_task="open.Stack_D0",
    training_steps=2000,
    batch_size=64,
    horizon_steps=400,
    demonstration_steps=(90, 110, 100),
)


def error(ratio, gripper=0.92, n=20):
    """An action error of this share of the mean action's."""
    return ActionError(0.15 * ratio, gripper, 0.15, 0.52, n, 100 * n)


def failing(stage, n=20, successes=0):
    stages = {stage: n - successes} | ({"success": successes} if successes else {})
    return Counts(successes, n, stages=stages)


GOOD = Evidence(
    rollouts=failing("dropped", successes=18),
    task="open.Stack_D0",
    policy="bc_rnn",
    step=2000,
    milestones=STACK,
    expert=EXPERT,
    expert_recording=Counts(70, 72),
    random=RANDOM,
    replays=REPLAYED,
    train_error=error(0.20),
    valid_error=error(0.23),
    success_curve=((1000, 10, 20), (2000, 17, 20)),
    loss_curve=SETTLED,
    n_demonstrations=63,
    n_samples=6500,
    consistency=SAME_ACTIONS,
    starts=SAME_STARTS,
    facts=SOUND,
)
STUCK = replace(GOOD, rollouts=failing("no_release", n=250), success_curve=((2000, 0, 20),))


def verdict(evidence):
    found = diagnose(evidence)
    return found.verdict, found.cause


def test_a_policy_that_succeeds_is_healthy():
    assert verdict(GOOD) == (Verdict.HEALTHY, Cause.CAPABLE)


def test_none_of_250_with_an_excellent_loss_is_training_and_the_stage_is_named():
    found = diagnose(STUCK)
    assert (found.verdict, found.cause, found.stage) == (Verdict.TRAINING, Cause.STUCK, "no_release")
    for number in ("0 of 250", "0 to 1.5 %", "`no_release`", "20 of 20", "84 to 100 %"):
        assert number in found.summary
    assert not found.speaking_for(Verdict.EVALUATION)


def test_the_expert_and_the_stage_suffice_to_exonerate_the_evaluator():
    few = Evidence(rollouts=failing("no_release", n=250), expert=EXPERT, loss_curve=SETTLED)
    found = diagnose(few)
    assert (found.verdict, found.stage) == (Verdict.TRAINING, "no_release")
    missing = {reason.piece for reason in found.missing}
    assert {Piece.TRAIN_ERROR, Piece.RANDOM, Piece.REPLAYS, Piece.CONSISTENCY, Piece.SETTINGS} <= missing


PLANTED = {
    "inverted success test, seen at reset": (
        replace(
            STUCK,
            rollouts=Counts(0, 0, solved_at_reset=20, stages={"solved_at_reset": 20}),
            expert=Counts(0, 0, solved_at_reset=20),
            random=Counts(0, 0, solved_at_reset=5),
        ),
        (Verdict.EVALUATION, Cause.SUCCESS_TEST),
    ),
    "inverted success test, seen at the end": (
        replace(STUCK, expert=Counts(0, 20), random=Counts(5, 5), replays=Counts(0, 10)),
        (Verdict.EVALUATION, Cause.SUCCESS_TEST),
    ),
    "success test that always passes": (
        replace(GOOD, rollouts=Counts(20, 20), random=Counts(5, 5)),
        (Verdict.EVALUATION, Cause.SUCCESS_TEST),
    ),
    "actions scaled by 0.1": (
        replace(STUCK, rollouts=failing("no_reach"), expert=failing("no_lift"), replays=Counts(0, 10)),
        (Verdict.EVALUATION, Cause.EXPERT_FAILS),
    ),
    "actions scaled so that only a closed loop copes": (
        replace(STUCK, rollouts=failing("no_grasp"), replays=Counts(0, 10)),
        (Verdict.EVALUATION, Cause.REPLAYS_FAIL),
    ),
    "another reset range": (
        replace(
            STUCK,
            rollouts=failing("no_reach", successes=4),
            starts=Starts(19, 20, 4, 70, ("object[0]",)),
            replays=Counts(0, 10),
        ),
        (Verdict.EVALUATION, Cause.OTHER_STARTS),
    ),
    "another reset range, with which a good policy half copes": (
        replace(GOOD, rollouts=failing("no_reach", successes=14), starts=Starts(19, 20, 2, 70), replays=Counts(0, 10)),
        (Verdict.EVALUATION, Cause.OTHER_STARTS),
    ),
    "hidden state kept over episodes": (
        replace(STUCK, rollouts=failing("no_reach"), consistency=Consistency(0.7, 60)),
        (Verdict.EVALUATION, Cause.POLICY_PATH),
    ),
    "policy crashes in the evaluator": (
        replace(STUCK, rollouts=Counts(0, 0, errors=20, messages={"TypeError: numpy.float64": 20})),
        (Verdict.EVALUATION, Cause.CRASHES),
    ),
    "the chosen checkpoint was far better": (
        replace(STUCK, success_curve=((1000, 15, 20), (2000, 18, 20)), step=2000),
        (Verdict.EVALUATION, Cause.OTHER_THAN_SELECTION),
    ),
    "sequences of one step": (
        replace(
            STUCK,
            rollouts=failing("no_grasp"),
            train_error=error(0.83, 0.79),
            facts=replace(SOUND, seq_length=1),
        ),
        (Verdict.CONFIGURATION, Cause.FAULTY_SETTING),
    ),
    "observations not normalised": (
        replace(
            STUCK,
            rollouts=failing("no_reach", successes=2),
            train_error=error(0.68, 0.64),
            facts=replace(SOUND, normalised=False),
        ),
        (Verdict.CONFIGURATION, Cause.FAULTY_SETTING),
    ),
    "keys in the wrong order, which the settings say": (
        replace(
            STUCK,
            rollouts=failing("no_reach"),
            train_error=error(1.1, 0.5),
            facts=replace(
                SOUND,
                checkpoint_observation_order=("robot0_eef_pos", "object"),
                evaluation_observation_order=("object", "robot0_eef_pos"),
            ),
        ),
        (Verdict.CONFIGURATION, Cause.FAULTY_SETTING),
    ),
    "keys in the wrong order, which no setting says": (
        replace(STUCK, rollouts=failing("no_reach"), train_error=error(1.1, 0.5)),
        (Verdict.CONFIGURATION, Cause.NOT_WHAT_WAS_TRAINED),
    ),
    "keys in the wrong order in the evaluator alone": (
        replace(STUCK, rollouts=failing("no_reach"), consistency=Consistency(1.3, 60)),
        (Verdict.EVALUATION, Cause.POLICY_PATH),
    ),
    "keys that the task does not give": (
        replace(
            STUCK,
            rollouts=Counts(0, 0, errors=20, messages={"PolicyError: object missing": 20}),
            facts=replace(SOUND, checkpoint_observation={"object": 10}, evaluation_observation={"cube": 10}),
        ),
        (Verdict.CONFIGURATION, Cause.FAULTY_SETTING),
    ),
    "another controller, in which an expert copes": (
        replace(
            STUCK,
            replays=Counts(0, 10),
            facts=replace(
                SOUND,
                demonstration_env_args={"env_kwargs": {"controller_configs": {"type": "OSC_POSE"}}},
                evaluation_env_args={"env_kwargs": {"controller_configs": {"type": "IK_POSE"}}},
            ),
        ),
        (Verdict.CONFIGURATION, Cause.FAULTY_SETTING),
    ),
    "five demonstrations": (
        replace(
            STUCK,
            rollouts=failing("no_reach", successes=2),
            train_error=error(0.11),
            valid_error=error(0.58, 0.77, n=1),
            n_demonstrations=4,
            n_samples=450,
            starts=Starts(18, 20, 5, 5),
        ),
        (Verdict.TRAINING, Cause.TOO_LITTLE_DATA),
    ),
    "ten steps of training": (
        replace(
            STUCK,
            rollouts=failing("no_reach"),
            train_error=error(1.05, 0.67),
            valid_error=error(1.05, 0.67),
            loss_curve=((10, 4.3),),
            facts=replace(SOUND, training_steps=10),
            step=10,
            success_curve=((10, 0, 20),),
        ),
        (Verdict.TRAINING, Cause.UNDERFITTED),
    ),
    "training stopped while the loss fell": (
        replace(STUCK, rollouts=failing("no_grasp"), train_error=error(0.9, 0.6), loss_curve=FALLING),
        (Verdict.TRAINING, Cause.UNDERFITTED),
    ),
    "a policy that fits in part": (
        replace(STUCK, train_error=error(0.5, 0.8), valid_error=error(0.5, 0.8)),
        (Verdict.TRAINING, Cause.UNDERFITTED),
    ),
    "a rate that rose and fell again": (
        replace(STUCK, success_curve=((500, 15, 20), (2000, 1, 20))),
        (Verdict.TRAINING, Cause.REGRESSED),
    ),
    "errors that compound": (
        replace(
            STUCK,
            rollouts=Counts(4, 20, stages={"no_grasp": 6, "dropped": 5, "no_align": 5, "success": 4}),
        ),
        (Verdict.TRAINING, Cause.COMPOUNDING_ERROR),
    ),
    "nothing reached though all of the policy's path is checked": (
        replace(STUCK, rollouts=failing("no_reach")),
        (Verdict.TRAINING, Cause.COMPOUNDING_ERROR),
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_named(planted):
    evidence, expected = PLANTED[planted]
    assert verdict(evidence) == expected


UNDECIDED = {
    "nine rollouts": (replace(STUCK, rollouts=failing("no_release", n=9)), Cause.TOO_FEW_ROLLOUTS),
    "no rollouts": (Evidence(Counts(0, 0)), Cause.TOO_FEW_ROLLOUTS),
    "no expert and no replays": (
        Evidence(failing("no_release"), random=RANDOM, train_error=error(0.2), loss_curve=SETTLED, facts=SOUND),
        Cause.UNPROVEN_EVALUATOR,
    ),
    "an expert that is as weak while recording": (
        replace(STUCK, expert=Counts(3, 20), expert_recording=Counts(10, 60), replays=None),
        Cause.UNPROVEN_EVALUATOR,
    ),
    "a rate in the middle": (
        replace(GOOD, rollouts=failing("no_release", 10, 6), expert=Counts(10, 10), success_curve=()),
        Cause.BORDERLINE,
    ),
    "an expert that fails where the policy succeeds": (replace(GOOD, expert=Counts(0, 20)), Cause.CONTRADICTORY),
    "an expert that fails, though replays succeed, and never had a rate": (
        replace(STUCK, expert=Counts(2, 20), expert_recording=None),
        Cause.CONTRADICTORY,
    ),
    "actions that differ in rollouts that succeed": (
        replace(GOOD, consistency=Consistency(0.4, 60)),
        Cause.CONTRADICTORY,
    ),
    "replays that fail on another version where the policy partly succeeds": (
        replace(
            STUCK,
            rollouts=failing("no_release", successes=6),
            replays=Counts(1, 10),
            facts=replace(SOUND, demonstration_versions={"mujoco": "3.3.7"}, evaluation_versions={"mujoco": "3.9.0"}),
        ),
        Cause.CONTRADICTORY,
    ),
    "a good fit that reaches nothing, its path unchecked": (
        replace(STUCK, rollouts=failing("no_reach"), consistency=None),
        Cause.UNMEASURED_POLICY,
    ),
    "no action error and nothing reached": (
        replace(STUCK, rollouts=failing("no_reach"), train_error=None, valid_error=None),
        Cause.UNMEASURED_POLICY,
    ),
    "a bad fit and nothing known of training": (
        replace(STUCK, train_error=error(0.9, 0.6), loss_curve=(), facts=replace(SOUND, batch_size=None)),
        Cause.UNMEASURED_POLICY,
    ),
    "everything succeeds and nothing was seen to fail": (
        replace(GOOD, rollouts=Counts(20, 20), random=None, success_curve=()),
        Cause.NEVER_SAID_NO,
    ),
}


@pytest.mark.parametrize("case", UNDECIDED)
def test_evidence_that_is_thin_or_conflicts_is_left_undetermined_with_a_next_step(case):
    evidence, cause = UNDECIDED[case]
    found = diagnose(evidence)
    assert (found.verdict, found.cause) == (Verdict.UNDETERMINED, cause)
    assert found.next_steps


def test_replays_prove_the_evaluator_where_the_suite_has_no_expert():
    found = diagnose(replace(STUCK, expert=None, expert_recording=None))
    assert found.verdict is Verdict.TRAINING and "10 of 10" in found.summary


def test_replays_of_actions_that_were_not_executed_prove_nothing():
    evidence = replace(STUCK, replays=Counts(0, 10))
    assert verdict(evidence) == (Verdict.EVALUATION, Cause.REPLAYS_FAIL)
    assert verdict(replace(evidence, replayed_as_executed=False)) == (Verdict.TRAINING, Cause.STUCK)


def test_a_rate_far_below_the_experts_is_no_health():
    found = diagnose(replace(GOOD, rollouts=failing("no_release", 40, 20), success_curve=((2000, 10, 20),)))
    assert found.verdict is Verdict.TRAINING


def test_a_policy_as_good_as_its_modest_expert_is_healthy():
    modest = replace(GOOD, expert=Counts(15, 20), expert_recording=Counts(70, 100), rollouts=failing("dropped", 20, 12))
    assert verdict(modest) == (Verdict.HEALTHY, Cause.CAPABLE)


def test_a_policy_that_copes_with_another_environment_is_healthy_and_the_environment_is_told():
    found = diagnose(replace(GOOD, starts=Starts(19, 20, 2, 70)))
    assert found.verdict is Verdict.HEALTHY and "not the demonstrations'" in found.summary
    assert found.speaking_for(Verdict.EVALUATION)


def test_a_fatal_setting_does_not_condemn_a_policy_that_works():
    found = diagnose(replace(GOOD, facts=replace(SOUND, seq_length=1)))
    assert found.verdict is Verdict.HEALTHY
    assert [reason.stance(found.verdict) for reason in found.speaking_for(Verdict.CONFIGURATION)] == ["contradicts"]


def test_a_setting_that_a_measurement_refutes_is_told_and_not_blamed():
    facts = replace(SOUND, normalised=False)
    found = diagnose(replace(STUCK, facts=facts))
    assert (found.verdict, found.cause) == (Verdict.TRAINING, Cause.STUCK)
    assert any("does no harm here: train_error" in reason.text for reason in found.reasons)


def test_a_broken_evaluator_comes_before_a_faulty_setting():
    evidence = replace(STUCK, expert=failing("no_lift"), facts=replace(SOUND, seq_length=1))
    assert verdict(evidence) == (Verdict.EVALUATION, Cause.EXPERT_FAILS)


def test_a_setting_that_explains_the_replays_takes_the_blame_from_the_evaluator():
    evidence, _ = PLANTED["another controller, in which an expert copes"]
    found = diagnose(evidence)
    assert not found.speaking_for(Verdict.EVALUATION)
    assert "controller.type" in found.summary and found.next_steps[0].startswith("controller.type")


def test_selection_luck_is_no_evidence_against_the_evaluator():
    lucky = replace(STUCK, rollouts=failing("no_release", 100, 30), success_curve=((1000, 5, 20), (2000, 11, 20)))
    assert diagnose(lucky).verdict is Verdict.TRAINING


EVALUATOR_PASSES = {
    "expert": EXPERT,
    "random": RANDOM,
    "replays": REPLAYED,
    "consistency": SAME_ACTIONS,
    "starts": SAME_STARTS,
}
EVALUATOR_FAILS = {
    "expert": Counts(0, 20),
    "random": Counts(20, 20),
    "replays": Counts(0, 10),
    "consistency": Consistency(0.9, 60),
    "starts": Starts(20, 20, 1, 70),
}


def counts(n_max=40):
    return st.integers(0, n_max).flatmap(
        lambda n: st.builds(Counts, st.integers(0, n), st.just(n), errors=st.sampled_from([0, 0, 3, 30]))
    )


@st.composite
def evidences(draw):
    n = draw(st.sampled_from([0, 9, 12, 20, 250]))
    successes = draw(st.integers(0, n))
    stage = draw(st.sampled_from(["no_reach", "no_grasp", "no_release", "dropped", "timeout"]))
    rollouts = Counts(
        successes,
        n,
        errors=draw(st.sampled_from([0, 0, 2, 30])),
        stages={stage: n - successes} if n > successes else {},
    )
    errors = st.none() | st.builds(error, st.floats(0.05, 1.2), st.floats(0.5, 1.0))
    known = st.sampled_from([None, SOUND, replace(SOUND, seq_length=1), replace(SOUND, training_steps=10)])
    return Evidence(
        rollouts,
        step=2000,
        milestones=draw(st.sampled_from([(), STACK])),
        expert=draw(st.none() | counts()),
        expert_recording=draw(st.none() | counts()),
        random=draw(st.none() | counts()),
        replays=draw(st.none() | counts()),
        train_error=draw(errors),
        valid_error=draw(errors),
        success_curve=draw(st.sampled_from([(), ((500, 15, 20), (2000, 1, 20)), ((2000, 18, 20),), ((2000, 0, 20),)])),
        loss_curve=draw(st.sampled_from([(), SETTLED, FALLING, ((1, 2.0), (2, float("nan")))])),
        n_demonstrations=draw(st.sampled_from([None, 5, 70])),
        n_samples=7000,
        consistency=draw(st.sampled_from([None, SAME_ACTIONS, Consistency(0.5, 10)])),
        starts=draw(st.sampled_from([None, SAME_STARTS, Starts(20, 20, 4, 70)])),
        facts=draw(known),
    )


@settings(max_examples=200, deadline=None)
@given(evidences())
def test_every_evidence_gets_a_verdict_that_can_be_shown(evidence):
    found = diagnose(evidence)
    shown = json.loads(found.to_json())
    assert shown["verdict"] == found.verdict and shown["evidence"]["rollouts"]["n"] == evidence.rollouts.n
    text = found.markdown()
    assert found.verdict in text and f"{evidence.rollouts.successes} of {evidence.rollouts.n}" in text
    assert {reason.piece for reason in found.reasons} == set(Piece)
    if evidence.rollouts.n < 10:
        assert found.verdict in (Verdict.UNDETERMINED, Verdict.EVALUATION, Verdict.CONFIGURATION)
    if found.verdict is Verdict.TRAINING:
        assert not any(
            reason.state is State.FAILS for reason in found.reasons if reason.piece in (Piece.EXPERT, Piece.RANDOM)
        )


@settings(max_examples=200, deadline=None)
@given(evidences(), st.sampled_from(sorted(EVALUATOR_PASSES)))
def test_evidence_for_the_evaluator_never_makes_it_the_culprit(evidence, piece):
    before = diagnose(replace(evidence, **{piece: None})).verdict
    after = diagnose(replace(evidence, **{piece: EVALUATOR_PASSES[piece]})).verdict
    if before in (Verdict.TRAINING, Verdict.HEALTHY, Verdict.CONFIGURATION):
        assert after is not Verdict.EVALUATION


@settings(max_examples=200, deadline=None)
@given(evidences(), st.sampled_from(sorted(EVALUATOR_FAILS)))
def test_evidence_against_the_evaluator_never_speaks_for_training_or_health(evidence, piece):
    before = diagnose(replace(evidence, **{piece: None})).verdict
    after = diagnose(replace(evidence, **{piece: EVALUATOR_FAILS[piece]})).verdict
    if before not in (Verdict.TRAINING, Verdict.HEALTHY):
        assert after not in (Verdict.TRAINING, Verdict.HEALTHY)


@settings(max_examples=100, deadline=None)
@given(evidences(), st.randoms())
def test_the_order_of_points_and_stages_changes_nothing(evidence, random):
    stages = {"no_reach": 3, "no_grasp": 3, "dropped": 1}
    curve, loss, names = list(evidence.success_curve), list(evidence.loss_curve), list(stages)
    for each in (curve, loss, names):
        random.shuffle(each)
    first = replace(evidence, rollouts=replace(evidence.rollouts, stages=stages))
    other = replace(
        first,
        rollouts=replace(first.rollouts, stages={name: stages[name] for name in names}),
        success_curve=tuple(curve),
        loss_curve=tuple(loss),
    )
    one, two = diagnose(first), diagnose(other)
    assert (one.verdict, one.cause, one.stage, one.summary) == (two.verdict, two.cause, two.stage, two.summary)


def test_the_earlier_of_two_stages_alike_is_the_one_named():
    for stages in itertools.permutations([("no_align", 5), ("no_lift", 5)]):
        found = diagnose(replace(STUCK, rollouts=Counts(0, 10, stages=dict(stages))))
        assert found.stage == "no_lift"


def test_the_markdown_shows_numbers_intervals_gaps_and_steps():
    text = diagnose(replace(STUCK, random=None)).markdown()
    assert text.startswith("## TRAINING, stuck at `no_release`: `bc_rnn` of `open.Stack_D0`")
    for part in (
        "0 of 250",
        "0.000 to 0.015",
        "20 of 20",
        "0.839 to 1.000",
        "20%",
        "Not measured:",
        "- random:",
        "1. ",
    ):
        assert part in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") - line.count("\\|") for line in table} == {7}


def test_the_json_holds_all_of_the_evidence_also_of_numpy():
    evidence = replace(
        STUCK,
        rollouts=Counts(int(np.int64(0)), 20, stages={"no_release": np.int64(20)}),
        consistency=Consistency(np.float32(1e-6), 3),
        loss_curve=((1, float("nan")),),
    )
    shown = json.loads(diagnose(evidence).to_json())
    assert shown["evidence"]["rollouts"]["stages"] == {"no_release": 20}
    assert shown["evidence"]["loss_curve"] == [[1, None]]
    assert shown["evidence"]["facts"]["seq_length"] == 10
    assert {reason["piece"] for reason in shown["reasons"]} == {str(piece) for piece in Piece}


def test_counts_that_contradict_themselves_are_refused():
    for bad in ({"successes": 3, "n": 2}, {"successes": 0, "n": 2, "errors": -1}):
        with pytest.raises(EvidenceError, match="expected"):
            Counts(**bad)


def starts(n, half_range, seed, dims=4):
    """First observations: a robot that hardly moves, and objects drawn from a square."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [0.5 + 1e-9 * rng.normal(size=(n, 3)), rng.uniform(-half_range, half_range, (n, dims))], axis=1
    )


def test_starts_of_the_same_range_pass_and_of_a_wider_one_fail():
    demonstrations = starts(60, 0.08, 0)
    for seed in range(5):
        same = starts_outside(demonstrations, starts(20, 0.08, 1 + seed))
        wider = starts_outside(demonstrations, starts(20, 0.20, 1 + seed), [f"e{index}" for index in range(7)])
        assert diagnose(replace(STUCK, starts=same)).cause is Cause.STUCK
        assert diagnose(replace(STUCK, starts=wider)).cause is Cause.OTHER_STARTS
        assert set(wider.elements) <= {"e3", "e4", "e5", "e6"}


def test_starts_whose_elements_are_permuted_fail():
    demonstrations, rollouts = starts(60, 0.08, 0), starts(20, 0.08, 1)
    found = starts_outside(demonstrations, rollouts[:, ::-1])
    assert (found.outside, found.n) == (20, 20)


def test_few_demonstrations_cannot_show_another_range():
    found = diagnose(replace(STUCK, starts=starts_outside(starts(4, 0.08, 0), starts(20, 0.2, 1))))
    reason = next(reason for reason in found.reasons if reason.piece is Piece.STARTS)
    assert reason.state is State.UNCLEAR


@pytest.mark.parametrize(
    ("demonstrations", "rollouts"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4))),
        (np.zeros((1, 3)), np.zeros((5, 3))),
        (np.full((5, 3), np.nan), np.zeros((5, 3))),
    ],
)
def test_first_observations_that_do_not_fit_are_refused(demonstrations, rollouts):
    with pytest.raises(EvidenceError, match="expected"):
        starts_outside(demonstrations, rollouts)


def test_an_action_error_is_read_from_its_record():
    record = {
        "mask": "train",
        "n_demonstrations": 3,
        "n_samples": 30,
        "arm_mse": 0.01,
        "arm_l1": 0.03,
        "gripper_agreement": 0.9,
        "mean_action": {"arm_mse": 0.1, "arm_l1": 0.15, "gripper_agreement": 0.5},
    }
    found = ActionError.from_record(record)
    assert found.ratio == pytest.approx(0.2) and found.gripper_gain == pytest.approx(0.8)
    assert replace(found, mean_action_l1=0.0).ratio is None
    assert replace(found, mean_action_gripper=1.0).gripper_gain is None
