"""What is known of a policy's training, checkpoint and evaluation, and what a fault among that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """Whether a fault alone can explain a rate near 0."""

    FATAL = "fatal"
    SUSPICIOUS = "suspicious"


@dataclass(frozen=True)
class Facts:
    """What is known of training, checkpoint, demonstrations and evaluation; None is unknown.

    Attributes
    ----------
    rnn : whether the policy is recurrent. seq_length : control steps of a training sequence.
    rnn_horizon : control steps after which the hidden state is reset while acting.
    normalised : whether the policy was trained on normalised observations.
    evaluation_normalises : whether observations are normalised before the policy in evaluation.
    checkpoint_observation, evaluation_observation : keys and lengths that the checkpoint reads and the task gives.
    checkpoint_observation_order, evaluation_observation_order : order of the keys, ONLY where observations are handed
        over as one concatenated vector; leave both None where they are handed over by key.
    checkpoint_frame_stack, evaluation_frame_stack : observations that are stacked, 1 for none.
    checkpoint_action_dim, evaluation_action_dim : lengths of an action.
    actions_normalised : the policy was trained on normalised actions.
    evaluation_unnormalises_actions : its actions are brought back to their units in evaluation.
    demonstration_action_limit : largest absolute element of a demonstrated action.
    checkpoint_task, evaluation_task : `<suite>.<name>` of both.
    horizon_steps : control steps of an evaluated episode. demonstration_steps : control steps of each demonstration.
    demonstration_env_args, evaluation_env_args : robomimic's `env_args` of the file and of the running simulation.
    demonstration_versions, evaluation_versions : versions by package, such as mujoco and robosuite.
    training_steps, batch_size : gradient steps of the checkpoint and sequences a step; they decide no fault.
    """

    rnn: bool | None = None
    seq_length: int | None = None
    rnn_horizon: int | None = None
    normalised: bool | None = None
    evaluation_normalises: bool | None = None
    checkpoint_observation: Mapping[str, int] | None = None
    evaluation_observation: Mapping[str, int] | None = None
    checkpoint_observation_order: Sequence[str] | None = None
    evaluation_observation_order: Sequence[str] | None = None
    checkpoint_frame_stack: int | None = None
    evaluation_frame_stack: int | None = None
    checkpoint_action_dim: int | None = None
    evaluation_action_dim: int | None = None
    actions_normalised: bool | None = None
    evaluation_unnormalises_actions: bool | None = None
    demonstration_action_limit: float | None = None
    checkpoint_task: str | None = None
    evaluation_task: str | None = None
    horizon_steps: int | None = None
    demonstration_steps: Sequence[int] | None = None
    demonstration_env_args: Mapping[str, Any] | None = None
    evaluation_env_args: Mapping[str, Any] | None = None
    demonstration_versions: Mapping[str, str] | None = None
    evaluation_versions: Mapping[str, str] | None = None
    training_steps: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes
    ----------
    name : of the setting.
    severity : fatal, where it alone can explain a rate near 0.
    found, expected, do : in words.
    explains : pieces of evidence against the evaluator that it would explain (values of `reasons.Piece`), so
        that these no longer speak of a broken evaluator.
    refuted_by : pieces of evidence which, where ALL of them pass, show that the fault does no harm here.
    """

    name: str
    severity: Severity
    found: str
    expected: str
    do: str
    explains: frozenset[str] = frozenset()
    refuted_by: frozenset[str] = frozenset()


# What a fault explains, where several explain the same.
POLICY_INPUT = frozenset({"errors", "consistency", "starts"})
OTHER_WORLD = frozenset({"errors", "replays", "starts"})
ACTIONS = frozenset({"replays"})


def fatal_fault(
    name: str, found: str, expected: str, do: str, explains: Iterable[str] = (), refuted_by: Iterable[str] = ()
) -> Fault:
    """A fatal fault."""
    return Fault(name, Severity.FATAL, found, expected, do, frozenset(explains), frozenset(refuted_by))
