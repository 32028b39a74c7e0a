"""When robosuite's observables are sampled, kept as one clock between samples. Light import."""

from __future__ import annotations

from typing import Any

from science.robots.engine import EngineError


class SamplingClock:
    """The common clock of an environment's observables during one control step.

    robosuite counts the time of each observable by itself, in floating point; those of one rate agree to the bit.

    Raises
    ------
    EngineError
        If the observables do not share one clock.
    """

    def __init__(self, env: Any) -> None:
        self._env, self._timestep = env, env.model_timestep
        self._observables = [seen for seen in env._observables.values() if seen._enabled]
        self._look()

    def _look(self) -> None:
        clocks = {
            (seen._time_since_last_sample, seen._sampled, seen._sampling_timestep, seen._current_delay)
            for seen in self._observables
        }
        if len(clocks) != 1:
            raise EngineError(f"engine exact: found observables on {len(clocks)} sampling clocks, expected one")
        self._elapsed, self._sampled, self._period, self._delay = clocks.pop()

    def advance(self, at_most: int) -> tuple[int, bool]:
        """Substeps to run until robosuite samples after the last of them, and whether it does within ``at_most``."""
        for substep in range(1, at_most + 1):
            elapsed = self._elapsed + self._timestep
            period_ends = elapsed >= self._period
            if not self._sampled and (self._period - self._delay >= elapsed or period_ends):
                return substep, True
            self._elapsed = elapsed
            if period_ends:
                self._elapsed, self._sampled = elapsed % self._period, False
        return at_most, False

    def sample(self) -> None:
        """The substep at which robosuite samples has passed: let it."""
        self.leave()
        self._env._update_observables()
        self._look()

    def leave(self) -> None:
        """Give every observable the time that has passed."""
        for seen in self._observables:
            seen._time_since_last_sample, seen._sampled = self._elapsed, self._sampled
