"""Every setting that decides a BC-RNN policy, and robomimic's configuration made of them. Importing this is light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

OBSERVATION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object")
CONSTANT, COSINE = "constant", "cosine"

_POSITIVE = ("seq_length", "rnn_horizon", "hidden", "layers", "gmm_modes", "batch_size", "steps", "checkpoint_every")


class ConfigError(ValueError):
    """Settings that no policy can be trained with."""


@dataclass(frozen=True)
class BcRnnConfig:
    """Settings of a training run.

    Attributes
    ----------
    observation : keys that the policy reads, robomimic's names.
    seq_length : control steps of each training sequence.
    rnn_horizon : control steps after which the hidden state is reset while acting. It should equal ``seq_length``:
        one that is longer meets hidden states that training never saw, the classic cause of a success rate of 0.
    hidden, layers : size and number of LSTM layers.
    gmm_modes : components of the Gaussian mixture.
    gmm_min_std : least standard deviation of a component. robomimic's default 1e-4 lets dimensions that hardly vary
        (roll and pitch of a scripted expert) dominate the likelihood and its gradients.
    normalise : whether observations are normalised by the training demonstrations' mean and standard deviation.
    batch_size : sequences a step.
    learning_rate : of Adam, at the start.
    schedule : ``constant``, or ``cosine`` down to 0 at ``steps``.
    max_grad_norm : gradients are clipped to this norm; None for not.
    steps : gradient steps.
    checkpoint_every : gradient steps between checkpoints; decides no weight.
    seed : of initial weights and of the order of sequences.
    """

    observation: tuple[str, ...] = OBSERVATION
    seq_length: int = 10
    rnn_horizon: int = 10
    hidden: int = 200
    layers: int = 2
    gmm_modes: int = 5
    gmm_min_std: float = 0.01
    normalise: bool = True
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: str = CONSTANT
    max_grad_norm: float | None = None
    steps: int = 2000
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = {name: getattr(self, name) for name in _POSITIVE if getattr(self, name) < 1}
        if wrong:
            raise ConfigError(f"found {wrong}, expected at least 1")
        if not self.observation or len(set(self.observation)) != len(self.observation):
            raise ConfigError(f"found observation keys {self.observation}, expected at least one and each once")
        if not self.learning_rate > 0 or not self.gmm_min_std > 0:
            raise ConfigError(f"found learning_rate={self.learning_rate}, gmm_min_std={self.gmm_min_std}, expected > 0")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"found max_grad_norm={self.max_grad_norm}, expected above 0, or None for no clipping")
        if self.schedule not in (CONSTANT, COSINE):
            raise ConfigError(f"found schedule {self.schedule!r}, expected {CONSTANT!r} or {COSINE!r}")

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, JSON types only."""
        return {**asdict(self), "observation": list(self.observation)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> BcRnnConfig:
        """The configuration that gave ``settings()``."""
        return cls(**{**settings, "observation": tuple(settings["observation"])})

    def robomimic(self) -> Any:
        """robomimic's locked configuration of algorithm `bc`. Imports robomimic: for worker processes.

        What robomimic decides by itself and nobody reads here (rollouts, logging, output folders) stays as it is.
        """
        from science.robots.bc_rnn.robomimic_imports import config_factory

        config = config_factory("bc")
        with config.values_unlocked():
            config.experiment.name = "bc_rnn"
            config.experiment.rollout.enabled = False
            config.train.cuda = False
            config.train.seed = self.seed
            config.train.batch_size = self.batch_size
            config.train.seq_length = self.seq_length
            config.train.hdf5_cache_mode = "low_dim"
            config.train.hdf5_filter_key = "train"
            config.train.hdf5_normalize_obs = self.normalise
            config.train.dataset_keys = ["actions"]
            config.train.max_grad_norm = self.max_grad_norm
            config.train.num_epochs = 1
            config.algo.actor_layer_dims = []
            config.algo.gmm.enabled = True
            config.algo.gmm.num_modes = self.gmm_modes
            config.algo.gmm.min_std = self.gmm_min_std
            config.algo.rnn.enabled = True
            config.algo.rnn.horizon = self.rnn_horizon
            config.algo.rnn.hidden_dim = self.hidden
            config.algo.rnn.num_layers = self.layers
            config.observation.modalities.obs.low_dim = list(self.observation)
        with config.unlocked():
            policy = config.algo.optim_params.policy
            policy.learning_rate.initial = self.learning_rate
            policy.num_train_batches = self.steps
            policy.num_epochs = 1
            if self.schedule == COSINE:
                policy.learning_rate.scheduler_type = "cosine"
                policy.learning_rate.step_every_batch = True
        config.lock()
        return config


SELECTION = "selection_n"
"""Episodes on the selection seeds at each checkpoint: a setting of the training job, not of the network."""


def resolve(configured: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """All settings of a training, defaults included, and the names of those that a resume may change.

    The number of steps is one of them only under a constant learning rate: a cosine ends where it was meant to end.

    Raises
    ------
    ConfigError
        For unknown names, values of another type, or settings that no policy can be trained with.
    """
    known = {**BcRnnConfig().settings(), SELECTION: 10}
    if unknown := sorted(set(configured) - set(known)):
        raise ConfigError(f"found settings {unknown} of bc_rnn, expected some of {sorted(known)}")
    for name, value in configured.items():
        default = known[name]
        fits = isinstance(value, type(default)) or default is None or (type(default) is float and type(value) is int)
        if not fits or (isinstance(value, bool) and not isinstance(default, bool)):
            raise ConfigError(
                f"found {name} = {value!r} for bc_rnn, expected {type(default).__name__} like {default!r}"
            )
    settings = {**known, **configured}
    config = BcRnnConfig.from_settings({name: value for name, value in settings.items() if name != SELECTION})
    if settings[SELECTION] < 0:
        raise ConfigError(f"found {SELECTION} = {settings[SELECTION]}, expected at least 0")
    free = {"checkpoint_every", SELECTION} | ({"steps"} if config.schedule == CONSTANT else set())
    return {**config.settings(), SELECTION: settings[SELECTION]}, frozenset(free)
