"""Runs a stored episode again, from its seed and its actions, and holds every state against the stored one."""

from __future__ import annotations

from science.robots.perturbations import Perturbation, find_perturbation
from science.robots.rollouts.episode import Episode
from science.robots.tasks.base import Simulation


def replay(simulation: Simulation, episode: Episode, perturbation: Perturbation | None = None) -> int | None:
    """The index of the first state that differs from the stored one in any bit; None where all are equal.

    The stored actions are those that were taken, so no policy is asked; what a perturbation does to the simulation
    itself is done again. ``perturbation`` is that of the episode's arm unless another is given.

    Raises
    ------
    ValueError
        For an episode without states.
    """
    if not len(episode.states):
        raise ValueError(f"episode of seed {episode.seed}, arm {episode.arm}, has no states: {episode.error}")
    perturbation = perturbation or find_perturbation(episode.arm)
    disturbance = perturbation.begin(episode.seed) if perturbation else None
    simulation.reset(episode.seed)
    for step, stored in enumerate(episode.states):
        if simulation.state().tobytes() != stored.tobytes():
            return step
        if step < len(episode.actions):
            action = episode.actions[step]
            if disturbance is not None:
                disturbance.before_step(simulation, action, step)
            simulation.step(action)
    return None
