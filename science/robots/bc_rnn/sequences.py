"""Batches of training sequences: robomimic's `SequenceDataset`, assembled for all sequences at once.

robomimic reads the file, computes the statistics and decides which steps make a sequence (one begins at every step; the
last step is repeated beyond the end). Its loader then gathers one sequence at a time in Python, half of the time of a
gradient step; here one index gathers a batch. The order is a function of the seed and the step alone, so that training
resumed from a checkpoint sees what uninterrupted training would have seen. For worker processes: imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from science.robots.bc_rnn.config import BcRnnConfig
from science.robots.bc_rnn.robomimic_imports import SequenceDataset, obs_utils, quiet


class TrainingSequences:
    """All sequences of the demonstrations in ``mask/train``.

    Attributes
    ----------
    n : number of sequences.
    observation_statistics, action_statistics : robomimic's normalization statistics (the first None where off).
    """

    def __init__(self, path: Path, config: BcRnnConfig, robomimic_config: Any) -> None:
        """Read the file; `obs_utils` must have been initialised with the configuration."""
        train = robomimic_config.train
        with quiet():
            dataset = SequenceDataset(
                hdf5_path=str(path),
                obs_keys=list(robomimic_config.all_obs_keys),
                action_keys=train.action_keys,
                dataset_keys=train.dataset_keys,
                action_config=train.action_config,
                seq_length=config.seq_length,
                hdf5_cache_mode="low_dim",
                hdf5_use_swmr=False,
                hdf5_normalize_obs=config.normalise,
                filter_by_attribute=train.hdf5_filter_key,
                load_next_obs=False,
            )
            self.action_statistics = dataset.get_action_normalization_stats()
        self.observation_statistics = dataset.get_obs_normalization_stats() if config.normalise else None
        self.n = len(dataset)
        self._seed, self._batch_size = config.seed, config.batch_size
        cache = [dataset.hdf5_cache[name] for name in dataset.demos]
        self._index = _steps_of_sequences([len(demo["actions"]) for demo in cache], config.seq_length)
        self._observations = self._normalised(
            {
                key: torch.from_numpy(np.concatenate([demo["obs"][key] for demo in cache]).astype(np.float32))
                for key in dataset.obs_keys
            }
        )
        actions = torch.from_numpy(np.concatenate([demo["actions"] for demo in cache]))
        statistics = _as_tensors({"actions": self.action_statistics["actions"]})
        self._actions = obs_utils.normalize_dict({"actions": actions}, statistics)["actions"]

    def _normalised(self, observations: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.observation_statistics is None:
            return observations
        return obs_utils.normalize_dict(observations, _as_tensors(self.observation_statistics))

    def indices(self, step: int) -> np.ndarray:
        """Sequences ``[batch_size]`` of gradient step ``step``: every epoch a new permutation, its rest left out."""
        batches = self.n // self._batch_size
        epoch, batch = divmod(step, batches)
        order = np.random.default_rng((self._seed, epoch)).permutation(self.n)
        return order[batch * self._batch_size : (batch + 1) * self._batch_size]

    def batch(self, step: int) -> dict[str, Any]:
        """The normalised batch of a gradient step: ``obs`` key -> ``[batch, seq_length, k]`` and ``actions``."""
        return self.gather(self.indices(step))

    def gather(self, sequences: np.ndarray) -> dict[str, Any]:
        """The sequences of the given numbers, normalised."""
        steps = self._index[torch.from_numpy(sequences)]
        return {
            "obs": {key: values[steps] for key, values in self._observations.items()},
            "actions": self._actions[steps],
        }


def _steps_of_sequences(lengths: list[int], seq_length: int) -> torch.Tensor:
    """Row of each step of each sequence in the concatenated demonstrations, ``[n_sequences, seq_length]``."""
    rows, start = [], 0
    for length in lengths:
        within = np.arange(length)[:, None] + np.arange(seq_length)[None, :]
        rows.append(start + np.minimum(within, length - 1))
        start += length
    return torch.from_numpy(np.concatenate(rows))


def _as_tensors(statistics: Any) -> dict[str, dict[str, torch.Tensor]]:
    return {
        key: {name: torch.from_numpy(np.asarray(values, dtype=np.float32)) for name, values in entry.items()}
        for key, entry in statistics.items()
    }
