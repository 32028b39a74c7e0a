"""BC-RNN as a `Policy`. For worker processes: imports torch and robomimic.

The network is robomimic's, built and filled by its own code, and a step computes what its `RolloutPolicy` computes
without recording gradients, bit for bit; left out is what does not change the result (copies, conversions of nested
dictionaries, checked distribution objects), half of the time of a step. Two things differ on purpose: the mixture is
sampled from a generator of the policy's own, seeded by the episode, so that nothing else in the process can change an
action; and observations of length one may come as scalars, on which robomimic's `to_tensor` fails.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from science.robots.bc_rnn.checkpoint import CheckpointError, CheckpointInfo, describe, read_checkpoint
from science.robots.bc_rnn.robomimic_imports import BC_RNN_GMM, algo_factory, config_factory, obs_utils, quiet
from science.robots.demonstration_checks import DemonstrationError, check_environment
from science.robots.policies.base import Policy, PolicyError
from science.robots.tasks.base import Observation, Task

LOW_NOISE_STD = 1e-4
"""robomimic's standard deviation of a component while acting with `low_noise_eval`."""


def load(task: Task, checkpoint: Path | None, *, trusted: bool = False) -> BcRnnPolicy:
    """The policy of a checkpoint, for a task.

    Parameters
    ----------
    trusted : see `checkpoint.read_checkpoint`; runs code in the file.

    Raises
    ------
    PolicyError
        For no checkpoint, or one of another task or observation.
    CheckpointError
        For a file that cannot be read, or weights that do not fit its configuration or are not finite.
    """
    if checkpoint is None:
        raise PolicyError("policy 'bc_rnn' needs a checkpoint and was given none; train one first")
    content = read_checkpoint(checkpoint, trusted=trusted)
    info = describe(content, str(checkpoint))
    _check_task(info, task, str(checkpoint))
    torch.set_num_threads(1)
    return BcRnnPolicy(content, info, str(checkpoint))


def _check_task(info: CheckpointInfo, task: Task, where: str) -> None:
    if info.task is not None and (info.task, info.task_version) != (task.key, task.version):
        raise PolicyError(
            f"found a checkpoint of task {info.task} version {info.task_version} in {where}, expected {task.key} "
            f"version {task.version}; give a checkpoint that was trained on it"
        )
    if info.task is None:
        try:
            check_environment(info.env_args, task, where)
        except DemonstrationError as error:
            raise PolicyError(f"a checkpoint of another task: {error}") from error
    unfit = {key: length for key, length in info.observation.items() if task.observation.get(key) != length}
    if unfit or info.action_dim != task.action_dim:
        raise PolicyError(
            f"found a checkpoint in {where} that reads {dict(info.observation)} and gives {info.action_dim} actions, "
            f"expected observations of task {task.key}, {dict(task.observation)}, and {task.action_dim} actions"
        )


class BcRnnPolicy(Policy):
    """A trained BC-RNN-GMM.

    Actions are clipped to [-1, 1]: the components' means are inside, but sampling leaves it by about 1e-4.

    Attributes
    ----------
    info : facts of its checkpoint.
    """

    def __init__(self, content: Mapping[str, Any], info: CheckpointInfo, where: str) -> None:
        """Build robomimic's network from a checkpoint's content; ``where`` names it in messages."""
        self.info = info
        self.observation = dict(info.observation)
        self.action_dim = info.action_dim
        algo = _algorithm(content, where)
        network = algo.nets["policy"]
        if algo._rnn_is_open_loop or network._is_goal_conditioned or network.use_tanh:
            raise CheckpointError(
                f"found an open-loop, goal-conditioned or tanh-squashed policy in {where}, expected robomimic's plain "
                "BC-RNN-GMM"
            )
        self._network = network
        self._rnn = network.nets["rnn"].nets
        self._decoder = network.nets["rnn"].per_step_net
        self._horizon = int(algo._rnn_horizon)
        self._keys = tuple(algo.obs_shapes)
        self._offset, self._scale = _observation_statistics(content, self._keys, self.observation)
        self._action_statistics = _action_statistics(content, self.action_dim, where)
        self._generator = torch.Generator()
        self._hidden: Any = None
        self._steps: int | None = None

    def start(self, seed: int) -> None:
        self._generator.manual_seed(seed)
        self._hidden = None
        self._steps = 0

    def fork(self) -> Self:
        other = copy.copy(self)  # the weights are shared: no step changes them
        other._generator = torch.Generator()
        other._hidden, other._steps = None, None
        return other

    def act(self, observation: Observation) -> np.ndarray:
        if self._steps is None:
            raise PolicyError("found act before start, expected start(seed) at the beginning of every episode")
        if self._steps % self._horizon == 0:
            self._hidden = None
        self._steps += 1
        with torch.inference_mode():
            action = self._sample(torch.from_numpy(self._input(observation)))
        if self._action_statistics is not None:
            offset, scale = self._action_statistics
            action = action * scale + offset
        return np.clip(action.astype(np.float64), -1.0, 1.0)

    def _input(self, observation: Observation) -> np.ndarray:
        """The normalised input of the network, ``[1, 1, k]`` float32, keys in robomimic's order."""
        parts = []
        for key in self._keys:
            if key not in observation:
                raise PolicyError(
                    f"found observations {sorted(observation)}, expected {list(self._keys)}: {key} missing"
                )
            part = np.atleast_1d(np.asarray(observation[key], np.float32))
            if part.shape != (self.observation[key],):
                raise PolicyError(f"found {key} of shape {part.shape}, expected ({self.observation[key]},)")
            parts.append(part)
        return ((np.concatenate(parts) - self._offset) / self._scale)[None, None, :]

    def _sample(self, inputs: torch.Tensor) -> np.ndarray:
        """One step of the network and a sample of its mixture, in the order of torch's `MixtureSameFamily.sample`."""
        network = self._network
        features, self._hidden = self._rnn(inputs, self._hidden)
        outputs = self._decoder(features[:, 0])
        logits = outputs["logits"] - outputs["logits"].logsumexp(dim=-1, keepdim=True)
        mode = torch.multinomial(torch.softmax(logits, dim=-1), 1, True, generator=self._generator)
        means = torch.tanh(outputs["mean"])
        if network.low_noise_eval:
            scales = torch.full_like(means, LOW_NOISE_STD)
        else:
            scales = network.activations[network.std_activation](outputs["scale"]) + network.min_std
        samples = torch.normal(means, scales, generator=self._generator)
        return samples[0, int(mode)].numpy()


def _algorithm(content: Mapping[str, Any], where: str) -> Any:
    """robomimic's algorithm with the checkpoint's weights, in evaluation mode."""
    config = config_factory("bc", dic=json.loads(content["config"]))
    config.lock()
    try:
        with quiet(), torch.random.fork_rng(devices=[]):  # initial weights are drawn: not from a running training's
            obs_utils.initialize_obs_utils_with_config(config)
            algo = algo_factory(
                "bc",
                config,
                obs_key_shapes=content["shape_metadata"]["all_shapes"],
                ac_dim=content["shape_metadata"]["ac_dim"],
                device=torch.device("cpu"),
            )
        if not isinstance(algo, BC_RNN_GMM):
            raise CheckpointError(f"found {type(algo).__name__} in {where}, expected BC_RNN_GMM")
        algo.deserialize(content["model"])
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"found weights in {where} that do not fit its own configuration ({error}); train it again"
        ) from error
    broken = [name for name, values in algo.nets.state_dict().items() if not torch.isfinite(values).all()]
    if broken:
        raise CheckpointError(f"found weights that are NaN or infinite in {where}: {broken[:3]}; train it again")
    algo.set_eval()
    return algo


def _observation_statistics(
    content: Mapping[str, Any], keys: tuple[str, ...], lengths: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Offset and scale of the concatenated observation, float32 as robomimic computes with."""
    statistics = content.get("obs_normalization_stats")
    if statistics is None:
        total = sum(lengths[key] for key in keys)
        return np.zeros(total, np.float32), np.ones(total, np.float32)
    offset, scale = (
        np.concatenate([np.asarray(statistics[key][name], np.float32).reshape(-1) for key in keys])
        for name in ("offset", "scale")
    )
    return offset, scale


def _action_statistics(content: Mapping[str, Any], action_dim: int, where: str) -> tuple[np.ndarray, np.ndarray] | None:
    statistics = content.get("action_normalization_stats")
    if statistics is None:
        return None
    if list(statistics) != ["actions"]:
        raise CheckpointError(f"found actions made of {list(statistics)} in {where}, expected one key 'actions'")
    offset, scale = (np.asarray(statistics["actions"][name], np.float32).reshape(-1) for name in ("offset", "scale"))
    if offset.shape != (action_dim,) or scale.shape != (action_dim,):
        raise CheckpointError(f"found action statistics of length {offset.size} in {where}, expected {action_dim}")
    return offset, scale
