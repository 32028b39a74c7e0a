"""What the network reads: words as tokens, and observations and actions as normalised numbers, alike for all tasks."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

VOCABULARY = 512
MAX_WORDS = 16

_LEAST_STATE_STD, _LEAST_ACTION_STD = 1e-2, 5e-2
_FARTHEST = 5.0


@dataclass(frozen=True)
class TaskInputs:
    """One task as the network knows it.

    Attributes
    ----------
    observation : keys that are read, in this order, and their lengths.
    instruction : what is to be done, in words.
    state_mean, state_std : of the demonstrated observation, ``[sum of lengths]``.
    action_mean, action_std : of the demonstrated actions, ``[action_dim]``.
    """

    observation: Mapping[str, int]
    instruction: str
    state_mean: np.ndarray
    state_std: np.ndarray
    action_mean: np.ndarray
    action_std: np.ndarray

    @classmethod
    def of(
        cls, observation: Mapping[str, int], instruction: str, states: np.ndarray, actions: np.ndarray
    ) -> TaskInputs:
        """With the statistics of demonstrated states ``[n, sum of lengths]`` and actions ``[n, action_dim]``."""
        return cls(
            dict(observation),
            instruction,
            states.mean(axis=0),
            np.maximum(states.std(axis=0), _LEAST_STATE_STD),
            actions.mean(axis=0),
            np.maximum(actions.std(axis=0), _LEAST_ACTION_STD),
        )

    def state(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Observations key -> ``[..., k]``, side by side: ``[..., sum of lengths]`` float64."""
        return np.concatenate([np.asarray(observation[key], dtype=np.float64) for key in self.observation], axis=-1)

    def normalised_state(self, state: np.ndarray, width: int) -> np.ndarray:
        """States ``[..., sum of lengths]`` as the network reads them, ``[..., width]`` float32."""
        normalised = np.clip((state - self.state_mean) / self.state_std, -_FARTHEST, _FARTHEST).astype(np.float32)
        return np.pad(normalised, [(0, 0)] * (state.ndim - 1) + [(0, width - state.shape[-1])])

    def normalised_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``[..., action_dim]`` as the network learns them, float32."""
        return ((actions - self.action_mean) / self.action_std).astype(np.float32)

    def actions(self, normalised: np.ndarray) -> np.ndarray:
        """What the network gave, as actions in [-1, 1], float64."""
        return np.clip(np.asarray(normalised, np.float64) * self.action_std + self.action_mean, -1.0, 1.0)

    def record(self) -> dict[str, Any]:
        """As JSON types; the observation as a list, because its order counts."""
        statistics = ("state_mean", "state_std", "action_mean", "action_std")
        kept = {name: getattr(self, name).tolist() for name in statistics}
        return {"observation": [*map(list, self.observation.items())], "instruction": self.instruction, **kept}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TaskInputs:
        """What `record` gave."""
        arrays = {name: np.array(value) for name, value in record.items() if name.endswith(("_mean", "_std"))}
        return cls(observation=dict(record["observation"]), instruction=record["instruction"], **arrays)


def tokens(texts: Sequence[str]) -> np.ndarray:
    """Words as numbers, ``[n, MAX_WORDS]`` int32, by a hash that needs no vocabulary; 0 where there is none."""
    found = np.zeros((len(texts), MAX_WORDS), np.int32)
    for row, text in enumerate(texts):
        words = re.findall(r"[a-z0-9]+", text.lower())[:MAX_WORDS]
        found[row, : len(words)] = [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in words]
    return found
