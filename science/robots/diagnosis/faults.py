"""Settings that are known to bring a success rate to 0, found by holding training, checkpoint and evaluation together.

Nothing here knows a rate: whether a fault explains one is decided in `verdict.py`, which may also find it refuted by
a measurement (`Fault.refuted_by`). What is None in the facts is unknown and is never compared.
"""

from __future__ import annotations

from statistics import median

from science.robots.diagnosis.environment_faults import environment_faults
from science.robots.diagnosis.facts import ACTIONS, OTHER_WORLD, POLICY_INPUT, Facts, Fault, Severity, fatal_fault


def config_faults(facts: Facts) -> list[Fault]:
    """Every fault that the facts show, fatal ones first."""
    found = [*_recurrence(facts), *_inputs(facts), *_outputs(facts), *_task(facts), *environment_faults(facts)]
    return sorted(found, key=lambda fault: fault.severity is not Severity.FATAL)


def _recurrence(facts: Facts) -> list[Fault]:
    if not facts.rnn:
        return []
    seq, horizon, found = facts.seq_length, facts.rnn_horizon, []
    if seq == 1:
        found.append(
            Fault(
                "seq_length",
                Severity.FATAL,
                "an RNN trained on sequences of 1 step: its hidden state was never used",
                "sequences as long as the RNN's horizon, usually 10",
                "set train.seq_length to the RNN's horizon (10) and train again",
            )
        )
    elif seq is not None and horizon is not None and horizon != seq:
        longer = horizon > seq
        found.append(
            Fault(
                "rnn_horizon",
                Severity.FATAL if longer else Severity.SUSPICIOUS,
                f"hidden state kept for {horizon} steps while acting, trained on sequences of {seq}: "
                + ("it meets states that training never saw" if longer else "it is reset more often than in training"),
                "both equal",
                "set the RNN's horizon and train.seq_length to the same number and train again",
            )
        )
    return found


def _inputs(facts: Facts) -> list[Fault]:
    found = []
    if facts.normalised and facts.evaluation_normalises is False:
        found.append(
            fatal_fault(
                "normalisation",
                "a policy trained on normalised observations is given raw ones",
                "the training statistics applied in evaluation",
                "read the statistics from the checkpoint and apply them",
                explains={"consistency"},
            )
        )
    elif facts.normalised is False and facts.evaluation_normalises:
        found.append(
            fatal_fault(
                "normalisation",
                "a policy trained on raw observations is given normalised ones",
                "raw observations",
                "hand the observations over as they are",
                explains={"consistency"},
            )
        )
    elif facts.normalised is False:
        found.append(
            fatal_fault(
                "normalised",
                "observations were not normalised in training",
                "each element by the training demonstrations' mean and standard deviation",
                "set train.hdf5_normalize_obs and train again",
                refuted_by={"train_error"},
            )
        )
    found += _observation(facts)
    stacks = (facts.checkpoint_frame_stack, facts.evaluation_frame_stack)
    if None not in stacks and stacks[0] != stacks[1]:
        found.append(
            fatal_fault(
                "frame_stack",
                f"{stacks[1]} stacked observations",
                f"{stacks[0]} as in training",
                "stack as many observations as the checkpoint was trained on",
                explains=POLICY_INPUT,
            )
        )
    return found


def _observation(facts: Facts) -> list[Fault]:
    found = []
    reads, gives = facts.checkpoint_observation, facts.evaluation_observation
    if reads is not None and gives is not None:
        unfit = {key: length for key, length in reads.items() if gives.get(key) != length}
        if unfit:
            found.append(
                fatal_fault(
                    "observation",
                    f"the task gives {dict(gives)}",
                    f"what the checkpoint reads: {dict(reads)} (missing or of another length: {sorted(unfit)})",
                    "evaluate on the task of the demonstrations, or rename the keys as robomimic names them",
                    explains=POLICY_INPUT,
                )
            )
    order, given = facts.checkpoint_observation_order, facts.evaluation_observation_order
    if order is not None and given is not None and list(order) != list(given):
        found.append(
            fatal_fault(
                "observation_order",
                f"the observation vector is made of {list(given)}",
                f"the order of training, {list(order)}",
                "concatenate the observation in the checkpoint's order",
                explains=POLICY_INPUT,
                refuted_by={"train_error", "consistency"},
            )
        )
    return found


def _outputs(facts: Facts) -> list[Fault]:
    found = []
    dims = (facts.checkpoint_action_dim, facts.evaluation_action_dim)
    if None not in dims and dims[0] != dims[1]:
        found.append(
            fatal_fault(
                "action_dim",
                f"the checkpoint gives {dims[0]} numbers",
                f"an action of {dims[1]}",
                "evaluate with the robot and controller of the demonstrations",
                explains={"errors"},
            )
        )
    normalised, undone = facts.actions_normalised, facts.evaluation_unnormalises_actions
    if normalised is not None and undone is not None and normalised != undone:
        found.append(
            fatal_fault(
                "action_normalisation",
                "normalised actions are executed as they are"
                if normalised
                else "raw actions are scaled as if normalised",
                "actions in the units of the demonstrations",
                "undo in evaluation exactly what training did to the actions",
                explains={"errors", "consistency"},
                refuted_by={"train_error", "consistency"},
            )
        )
    limit = facts.demonstration_action_limit
    if limit is not None and limit > 1 + 1e-6:
        found.append(
            fatal_fault(
                "action_limits",
                f"demonstrated actions reach {limit:.3g}",
                "[-1, 1], the controller's input: what is beyond was clipped when it was executed",
                "convert the demonstrations to controller inputs and train again",
                explains=ACTIONS,
                refuted_by={"replays"},
            )
        )
    return found


def _task(facts: Facts) -> list[Fault]:
    found = []
    tasks = (facts.checkpoint_task, facts.evaluation_task)
    if None not in tasks and tasks[0] != tasks[1]:
        found.append(
            fatal_fault(
                "task",
                f"a checkpoint of {tasks[0]}",
                f"one of {tasks[1]}, the task that is evaluated",
                "evaluate it on its own task, or train one on this task",
                explains=OTHER_WORLD,
            )
        )
    steps, horizon = facts.demonstration_steps, facts.horizon_steps
    if steps and horizon is not None and max(steps) > horizon:
        typical = median(steps)
        found.append(
            Fault(
                "horizon",
                Severity.FATAL if typical > horizon else Severity.SUSPICIOUS,
                f"episodes end after {horizon} steps, and demonstrations take {typical:g} (median) to {max(steps)}",
                "a horizon longer than every demonstration",
                "raise the task's horizon",
                explains=ACTIONS,
                refuted_by=ACTIONS,
            )
        )
    return found
