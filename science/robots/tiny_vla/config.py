"""Every setting that decides a tiny_vla policy. Importing this is light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

CONSTANT, COSINE = "constant", "cosine"

_POSITIVE = (
    *("camera_px", "patch_px", "state_width", "width", "layers", "heads", "horizon_steps", "replan_steps"),
    *("flow_steps", "batch_size", "draws", "steps", "checkpoint_every"),
)
_ARCHITECTURE = (*("cameras", "camera_px", "patch_px", "state_width", "width", "layers", "heads", "horizon_steps"),)


class ConfigError(ValueError):
    """Settings that no policy can be trained with."""


@dataclass(frozen=True)
class TinyVlaConfig:
    """Settings of a training run.

    Attributes
    ----------
    weight_loader : the base of `bases.toml` that it begins from; None: from random weights (`scratch` where no None can
        be written).
    lora_rank : rank of the matrices beside the frozen ones; 0 trains every weight.
    cameras : pictures that it reads, beside the low-dimensional observation.
    camera_px, patch_px : side of a picture and of its patches; each patch is one token.
    state_width : the low-dimensional observation of any task is filled up with zeros to this length.
    width, layers, heads : of the transformers, of which the one of actions attends to that of the observation.
    horizon_steps : actions of a chunk.
    replan_steps : actions of it that are executed.
    flow_steps : Euler steps from noise to actions.
    batch_size : observations a step. draws : of noise and flow time for each of them.
    learning_rate : of AdamW at its highest, after ``warmup_steps``.
    schedule : ``constant``, or ``cosine`` down to 0 at ``steps``.
    weight_decay : of AdamW.
    steps : gradient steps.
    checkpoint_every : gradient steps between checkpoints; decides no weight.
    seed : of initial weights, the order of observations, noise and flow time.
    """

    weight_loader: str | None = None
    lora_rank: int = 0
    cameras: tuple[str, ...] = ()
    camera_px: int = 84
    patch_px: int = 14
    state_width: int = 48
    width: int = 64
    layers: int = 3
    heads: int = 4
    horizon_steps: int = 8
    replan_steps: int = 4
    flow_steps: int = 5
    batch_size: int = 64
    draws: int = 2
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    schedule: str = COSINE
    weight_decay: float = 1e-4
    steps: int = 1500
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = {name: getattr(self, name) for name in _POSITIVE if getattr(self, name) < 1}
        wrong |= {
            name: getattr(self, name) for name in ("lora_rank", "warmup_steps", "seed") if getattr(self, name) < 0
        }
        if wrong:
            raise ConfigError(
                f"found {wrong}, expected at least 1, and at least 0 for lora_rank, warmup_steps and seed"
            )
        if self.lora_rank and self.weight_loader is None:
            raise ConfigError(
                f"found lora_rank = {self.lora_rank} without weight_loader, expected the base whose weights are "
                "frozen: name one of bases.toml, or set lora_rank = 0"
            )
        if self.width % self.heads:
            raise ConfigError(f"found width {self.width} and {self.heads} heads, expected a multiple of them")
        if self.replan_steps > self.horizon_steps:
            raise ConfigError(f"found replan_steps {self.replan_steps}, expected at most {self.horizon_steps}")
        if self.cameras and self.camera_px % self.patch_px:
            raise ConfigError(f"found pictures of {self.camera_px} px, expected a multiple of patch_px {self.patch_px}")
        if len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"found cameras {self.cameras}, expected each once")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ConfigError(
                f"found learning_rate={self.learning_rate}, weight_decay={self.weight_decay}, expected > 0 and >= 0"
            )
        if self.schedule not in (CONSTANT, COSINE):
            raise ConfigError(f"found schedule {self.schedule!r}, expected {CONSTANT!r} or {COSINE!r}")

    @property
    def camera_sizes(self) -> dict[str, tuple[int, int]]:
        """Camera -> (height, width) in pixels."""
        return {camera: (self.camera_px, self.camera_px) for camera in self.cameras}

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, JSON types only."""
        return {**asdict(self), "cameras": list(self.cameras)}

    def architecture(self) -> dict[str, Any]:
        """What a base and its fine-tune must have in common."""
        return {name: value for name, value in self.settings().items() if name in _ARCHITECTURE}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> TinyVlaConfig:
        """The configuration that gave ``settings()``."""
        return cls(**{**settings, "cameras": tuple(settings["cameras"])})


_SCRATCH = "scratch"

SELECTION = "selection_n"
"""Episodes on the selection seeds at each checkpoint: a setting of the training job, not of the network."""


def resolve(configured: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """All settings of a training, defaults included, and the names of those that a resume may change.

    Raises
    ------
    ConfigError
        For unknown names, values of another type, or settings that no policy can be trained with.
    """
    known = {**TinyVlaConfig().settings(), SELECTION: 10}
    if unknown := sorted(set(configured) - set(known)):
        raise ConfigError(f"found settings {unknown} of tiny_vla, expected some of {sorted(known)}")
    kinds = {each.name: str(each.type) for each in fields(TinyVlaConfig)} | {SELECTION: "int"}
    for name, value in configured.items():
        if not _is(value, kinds[name]):
            raise ConfigError(f"found {name} = {value!r} for tiny_vla, expected {kinds[name]}, such as {known[name]!r}")
    settings = {**known, **configured}
    if settings["weight_loader"] == _SCRATCH:
        settings["weight_loader"] = None
    if settings[SELECTION] < 0:
        raise ConfigError(f"found {SELECTION} = {settings[SELECTION]}, expected at least 0")
    config = TinyVlaConfig.from_settings({name: value for name, value in settings.items() if name != SELECTION})
    free = {"checkpoint_every", SELECTION} | ({"steps"} if config.schedule == CONSTANT else set())
    return {**config.settings(), SELECTION: settings[SELECTION]}, frozenset(free)


def frozen(settings: Mapping[str, Any]) -> list[str]:
    """Patterns of the leaves that a training with these settings leaves as its base has them."""
    if not settings.get("lora_rank"):
        return []
    return ["language/*", *(f"{part}/*/{leaf}" for part in ("prefix", "expert") for leaf in ("kernel", "scale"))]


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return False
    if kind.startswith("tuple"):
        return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    if kind == "float":
        return isinstance(value, float | int)
    if value is None:
        return kind.endswith("None")
    return isinstance(value, int if kind == "int" else str)
