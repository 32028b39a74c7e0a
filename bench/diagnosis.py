"""Planted faults, and what the diagnosis says of them: a confusion table.

    python bench/diagnosis.py [--stack]

Real demonstrations, trainings and rollouts on `open.Lift`. Four cases were there while the rules of the diagnosis were
written; four variants were planted when they were final, and no rule was changed for them; four more explore where
verdicts border on each other. `--stack` adds the 0 % that began it all: a policy of Stack_D0 whose loss is excellent
and that never solves the task.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import _planted
from science.robots.bc_rnn.config import BcRnnConfig
from science.robots.bc_rnn.training import train
from science.robots.demonstrations import record_demonstrations, write_demonstrations
from science.robots.diagnosis import Diagnosis, Verdict, diagnose
from science.robots.diagnosis.gathering import Trained, gather
from science.robots.policies.base import PolicySpec
from science.robots.policies.registry import find_policy
from science.robots.policies.scripted import make_expert
from science.robots.rollouts.episode import Episode
from science.robots.rollouts.pool import RolloutPool, RolloutRequest
from science.robots.seeds import DEMONSTRATION, EVALUATION, take
from science.robots.tasks.base import ROBOSUITE
from science.robots.tasks.registry import find_task

N_ROLLOUTS = 20


@dataclass(frozen=True)
class Planted:
    """A case: what was planted, the verdict that is true, and how it is made.

    ``policy_spec`` replaces how BC-RNN is handled, ``load`` the evaluator's simulation, ``edit`` changes the
    checkpoint's content after training, ``settings`` are the training's.
    """

    what: str
    truth: Verdict
    n_demonstrations: int = 40
    steps: int = 600
    load: str | None = None
    policy_spec: PolicySpec | None = None
    edit: Callable[[dict[str, Any]], None] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    task: str = "open.Lift"
    noise: float = 0.06
    tail_steps: int = 10


DEVELOPMENT = [
    Planted("a good policy", Verdict.HEALTHY),
    Planted("an evaluator that never says solved", Verdict.EVALUATION, load="bench._planted:never_solved_evaluator"),
    Planted("a checkpoint without its normalisation", Verdict.CONFIGURATION, edit=_planted.without_normalisation),
    Planted("3 demonstrations", Verdict.TRAINING, n_demonstrations=3),
]
VARIANTS = [
    Planted("another good policy: seed 1, no noise", Verdict.HEALTHY, noise=0.0, settings={"seed": 1}),
    Planted(
        "an evaluator that inverts the gripper",
        Verdict.EVALUATION,
        load="bench._planted:inverted_gripper_evaluator",
    ),
    Planted(
        "normalisation statistics of another scale",
        Verdict.CONFIGURATION,
        edit=_planted.with_other_statistics,
    ),
    Planted("a network of 4 hidden units", Verdict.TRAINING, settings={"hidden": 4, "layers": 1}),
]
BORDERS = [
    Planted(
        "an adapter that shows only the first observation",
        Verdict.EVALUATION,
        policy_spec=_planted.STALE_OBSERVATION,
    ),
    Planted(
        "a controller of a fifth of the displacement",
        Verdict.CONFIGURATION,
        load="bench._planted:weak_controller_evaluator",
    ),
    Planted(
        "a controller of a twentieth of the displacement",
        Verdict.CONFIGURATION,
        load="bench._planted:feeble_controller_evaluator",
    ),
    Planted("20 gradient steps", Verdict.TRAINING, steps=20),
]
STACK = Planted(
    "Stack_D0 from 3 demonstrations: excellent loss",
    Verdict.TRAINING,
    n_demonstrations=3,
    steps=1500,
    task="open.Stack_D0",
    noise=0.0,
    tail_steps=0,
)


def examined(case: Planted, folder: Path, pool: RolloutPool) -> tuple[Diagnosis, Sequence[Episode]]:
    """Make a case for real, roll it out, and diagnose it."""
    trained = _trained(case, folder)
    request = RolloutRequest(case.task, "bc_rnn", trained.checkpoint, load=case.load, policy_spec=case.policy_spec)

    def evaluate(wanted: RolloutRequest, seeds: Sequence[int]) -> list[Episode]:
        episodes: list[Episode] = []
        pool.run(wanted, [(seed, "control") for seed in seeds], episodes.append)
        return episodes

    rollouts = evaluate(request, take(EVALUATION, N_ROLLOUTS))
    # The diagnosis asks the policy itself as its own spec makes it, whatever adapter the evaluator used.
    evidence = gather(
        evaluate,
        replace(request, policy_spec=None),
        rollouts,
        trained,
        expert_seeds=N_ROLLOUTS,
        random_seeds=5,
        replayed=min(10, case.n_demonstrations),
    )
    return diagnose(evidence), rollouts


def _trained(case: Planted, folder: Path) -> Trained:
    task = find_task(case.task)
    named = f"{case.task}-{case.n_demonstrations}-{case.noise}-{case.tail_steps}"
    dataset = folder / f"{named}.hdf5"
    if not dataset.exists():
        simulation = task.make(ROBOSUITE)
        expert = make_expert(task)
        recorded = record_demonstrations(
            simulation, expert, DEMONSTRATION, case.n_demonstrations, noise=case.noise, tail_steps=case.tail_steps
        )
        write_demonstrations(
            dataset, recorded.demonstrations, simulation.env_args(), seed=0, attributes=recorded.attributes
        )
        simulation.close()
    directory = folder / f"{named}-{case.steps}-{sorted(case.settings.items())}"
    checkpoint = directory / f"step-{case.steps:06d}.pth"
    curve = directory / "losses.json"
    if not checkpoint.exists():
        losses: list[tuple[int, float]] = []
        config = BcRnnConfig(steps=case.steps, checkpoint_every=case.steps, schedule="cosine", **case.settings)
        train(config, dataset, task, directory, on_step=partial(_keep_loss, losses))
        curve.write_text(json.dumps(losses))
    if case.edit is not None:
        checkpoint = _planted.edited(checkpoint, directory / "edited.pth", case.edit)
    return Trained(checkpoint, case.steps, dataset, loss_curve=json.loads(curve.read_text()))


def _keep_loss(losses: list[tuple[int, float]], step: int, loss: float, _: float) -> None:
    if step % 10 == 0 or step == 1:
        losses.append((step, loss))


def main() -> None:
    """Print a row a case, and the confusion table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stack", action="store_true", help="also the 0 %% of Stack_D0")
    options = parser.parse_args()
    find_policy("bc_rnn")
    groups = {"development": DEVELOPMENT, "variant": VARIANTS, "border": BORDERS}
    cases = [(group, case) for group, planted in groups.items() for case in planted]
    cases += [("the 0 % case", STACK)] if options.stack else []
    confusion: Counter[tuple[Verdict, Verdict]] = Counter()
    print("| case | planted | success | true | verdict | cause | stage |")
    print("|---|---|---:|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, RolloutPool(2) as pool:
        for group, case in cases:
            diagnosis, _ = examined(case, Path(folder), pool)
            if group in ("development", "variant"):
                confusion[case.truth, diagnosis.verdict] += 1
            rollouts = diagnosis.evidence.rollouts
            solved = f"{rollouts.successes}/{rollouts.n}"
            told = (str(case.truth), str(diagnosis.verdict), str(diagnosis.cause), str(diagnosis.stage or ""))
            cells = (group, case.what, solved, *told)
            print("| " + " | ".join(cells) + " |", flush=True)
    print(
        "\nDevelopment and variants:\n\n| true \\ verdict | "
        + " | ".join(Verdict)
        + " |\n|---" * 1
        + "|"
        + "---:|" * len(Verdict)
    )
    for truth in Verdict:
        print(f"| {truth} | " + " | ".join(str(confusion[truth, verdict]) for verdict in Verdict) + " |")


if __name__ == "__main__":
    main()
