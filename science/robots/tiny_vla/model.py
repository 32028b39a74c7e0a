"""The network: a transformer that reads words, state and pictures, and one of actions that attends to it.

It is pi0's (Black et al. 2024): the observation is encoded once and its keys and values are kept, while the actions'
own weights move a chunk of noise along a learned flow (Lipman et al., Flow Matching for Generative Modeling, 2023).
Beside frozen matrices stand products of two thin ones (Hu et al., LoRA, 2022). Weights are a flat mapping, name ->
array; a linear map is ``<name>/kernel`` ``[in, out]``, ``<name>/bias`` ``[out]``, ``<name>/lora_a`` ``[in, rank]`` and
``<name>/lora_b`` ``[rank, out]``, of which only the first is always there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from science.robots.tiny_vla.config import TinyVlaConfig
from science.robots.tiny_vla.inputs import MAX_WORDS, VOCABULARY
from science.robots.tiny_vla.jax_runtime import jax, jnp

Weights = dict[str, Any]

STATE_TOKENS = 4
_TIME_FREQUENCIES = 16
_ATTENTION = ("q", "k", "v", "o")
_MLP = 4
_EPSILON = 1e-6


def shapes(config: TinyVlaConfig, action_dim: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights by name, those of LoRA among them where there is a rank."""
    return dict(_shapes(config, action_dim))


def _shapes(config: TinyVlaConfig, action_dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = config.width
    yield "language/embedding", (VOCABULARY, width)
    yield "language/position", (MAX_WORDS, width)
    yield from _linear_shapes("state/in", config.state_width, _MLP * width)
    yield from _linear_shapes("state/out", _MLP * width, STATE_TOKENS * width)
    if config.cameras:
        yield from _linear_shapes("image/patch", config.patch_px**2 * 3, width)
        yield "image/position", (len(config.cameras), (config.camera_px // config.patch_px) ** 2, width)
    for part in ("prefix", "expert"):
        for layer in range(config.layers):
            name = f"{part}/layer_{layer}"
            yield f"{name}/attention_norm/scale", (width,)
            yield f"{name}/mlp_norm/scale", (width,)
            for each in _ATTENTION:
                yield from _lora_shapes(f"{name}/{each}", width, width, config.lora_rank)
            yield from _lora_shapes(f"{name}/up", width, _MLP * width, config.lora_rank)
            yield from _lora_shapes(f"{name}/down", _MLP * width, width, config.lora_rank)
    yield "expert/norm/scale", (width,)
    yield from _linear_shapes("action/in", action_dim, width)
    yield "action/position", (config.horizon_steps, width)
    yield from _linear_shapes("action/time_in", 2 * _TIME_FREQUENCIES, width)
    yield from _linear_shapes("action/time_out", width, width)
    yield from _linear_shapes("action/out", width, action_dim)


def _linear_shapes(name: str, n_in: int, n_out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}/kernel", (n_in, n_out)
    yield f"{name}/bias", (n_out,)


def _lora_shapes(name: str, n_in: int, n_out: int, rank: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}/kernel", (n_in, n_out)
    if rank:
        yield f"{name}/lora_a", (n_in, rank)
        yield f"{name}/lora_b", (rank, n_out)


def initial_weights(config: TinyVlaConfig, action_dim: int) -> Weights:
    """Random weights of the configuration's seed, NumPy float32; LoRA's second matrix is 0, so nothing changes yet."""
    generator = np.random.default_rng((config.seed, 0))
    found: Weights = {}
    for name, shape in shapes(config, action_dim).items():
        leaf = name.rpartition("/")[2]
        if leaf in ("bias", "lora_b"):
            found[name] = np.zeros(shape, np.float32)
        elif leaf == "scale":
            found[name] = np.ones(shape, np.float32)
        else:
            deviation = 0.02 if leaf in ("embedding", "position") else 1 / math.sqrt(shape[0])
            found[name] = (deviation * generator.standard_normal(shape)).astype(np.float32)
    return found


def trainable(name: str, config: TinyVlaConfig) -> bool:
    """Whether a training changes a weight: with LoRA only its matrices, and what reads states, pictures and actions.

    openpi draws the same line: LoRA freezes the language model alone.
    """
    if not config.lora_rank or name.startswith(("state/", "image/", "action/")):
        return True
    return name.rpartition("/")[2] in ("lora_a", "lora_b")


def flow_loss(weights: Weights, batch: Mapping[str, Any], config: TinyVlaConfig) -> Any:
    """Mean squared error of the flow, over elements that are not padding.

    Parameters
    ----------
    batch : ``tokens`` ``[n, MAX_WORDS]``, ``state`` ``[n, state_width]``, where there are cameras ``pictures``
        ``[n, cameras, px, px, 3]`` uint8; ``actions`` ``[n, horizon_steps, action_dim]`` normalised, ``valid``
        ``[n, horizon_steps]``; ``noise`` ``[n, draws, horizon_steps, action_dim]``, ``time`` ``[n, draws]`` in [0, 1],
        1 is noise.
    """
    keys_values, mask = encode(weights, batch, config)
    time = batch["time"][..., None, None]
    actions = batch["actions"][:, None]
    noisy = time * batch["noise"] + (1 - time) * actions
    wanted = batch["noise"] - actions
    n, draws = batch["time"].shape
    repeated = [(jnp.repeat(key, draws, axis=0), jnp.repeat(value, draws, axis=0)) for key, value in keys_values]
    flow = velocity(
        weights,
        repeated,
        jnp.repeat(mask, draws, axis=0),
        noisy.reshape(n * draws, *noisy.shape[2:]),
        batch["time"].reshape(-1),
        config,
    ).reshape(noisy.shape)
    valid = batch["valid"][:, None, :, None]
    return jnp.sum(valid * (flow - wanted) ** 2) / jnp.sum(valid * jnp.ones_like(flow))


def sample_actions(weights: Weights, batch: Mapping[str, Any], config: TinyVlaConfig) -> Any:
    """Normalised actions ``[n, horizon_steps, action_dim]`` from ``noise`` of that shape, by Euler's method."""
    keys_values, mask = encode(weights, batch, config)
    actions, step = batch["noise"], 1 / config.flow_steps
    for number in range(config.flow_steps):
        time = jnp.full(actions.shape[0], 1 - number * step)
        actions = actions - step * velocity(weights, keys_values, mask, actions, time, config)
    return actions


def encode(weights: Weights, batch: Mapping[str, Any], config: TinyVlaConfig) -> tuple[list[tuple[Any, Any]], Any]:
    """Keys and values ``[n, heads, tokens, k]`` of each layer, and which tokens are any, ``[n, tokens]``."""
    tokens = batch["tokens"]
    n = tokens.shape[0]
    words = weights["language/embedding"][tokens] + weights["language/position"]
    state = jax.nn.gelu(_linear(weights, "state/in", batch["state"]))
    parts = [words, _linear(weights, "state/out", state).reshape(n, STATE_TOKENS, config.width)]
    if config.cameras:
        parts.append(_patches(weights, batch["pictures"], config))
    hidden = jnp.concatenate(parts, axis=1)
    mask = jnp.concatenate([tokens > 0, jnp.ones((n, hidden.shape[1] - MAX_WORDS), bool)], axis=1)
    kept = []
    for layer in range(config.layers):
        name = f"prefix/layer_{layer}"
        query, key, value = _queries_keys_values(weights, name, hidden, config)
        kept.append((key, value))
        hidden = _mlp(weights, name, hidden + _attend(weights, name, query, key, value, mask))
    return kept, mask


def velocity(
    weights: Weights, keys_values: list[tuple[Any, Any]], mask: Any, actions: Any, time: Any, config: TinyVlaConfig
) -> Any:
    """The flow ``[n, horizon_steps, action_dim]`` at noisy actions of that shape and times ``[n]``."""
    moment = _linear(weights, "action/time_in", _waves(time))
    moment = _linear(weights, "action/time_out", jax.nn.silu(moment))
    hidden = _linear(weights, "action/in", actions) + weights["action/position"] + moment[:, None]
    all_of_it = jnp.concatenate([mask, jnp.ones(actions.shape[:2], bool)], axis=1)
    for layer, (seen_key, seen_value) in enumerate(keys_values):
        name = f"expert/layer_{layer}"
        query, key, value = _queries_keys_values(weights, name, hidden, config)
        key = jnp.concatenate([seen_key, key], axis=2)
        value = jnp.concatenate([seen_value, value], axis=2)
        hidden = _mlp(weights, name, hidden + _attend(weights, name, query, key, value, all_of_it))
    return _linear(weights, "action/out", _norm(weights, "expert/norm", hidden))


def _linear(weights: Weights, name: str, values: Any) -> Any:
    found = values @ weights[f"{name}/kernel"]
    if f"{name}/lora_a" in weights:
        found = found + (values @ weights[f"{name}/lora_a"]) @ weights[f"{name}/lora_b"]
    return found + weights[f"{name}/bias"] if f"{name}/bias" in weights else found


def _norm(weights: Weights, name: str, values: Any) -> Any:
    scale = jax.lax.rsqrt(jnp.mean(values**2, axis=-1, keepdims=True) + _EPSILON)
    return values * scale * weights[f"{name}/scale"]


def _queries_keys_values(weights: Weights, name: str, hidden: Any, config: TinyVlaConfig) -> list[Any]:
    """Each ``[n, heads, tokens, width / heads]``."""
    normed = _norm(weights, f"{name}/attention_norm", hidden)
    n, tokens, width = normed.shape
    split = (n, tokens, config.heads, width // config.heads)
    return [_linear(weights, f"{name}/{each}", normed).reshape(split).swapaxes(1, 2) for each in "qkv"]


def _attend(weights: Weights, name: str, query: Any, key: Any, value: Any, mask: Any) -> Any:
    scores = query @ key.swapaxes(2, 3) / math.sqrt(query.shape[-1])
    shares = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e9), axis=-1)
    seen = (shares @ value).swapaxes(1, 2)
    return _linear(weights, f"{name}/o", seen.reshape(*seen.shape[:2], -1))


def _mlp(weights: Weights, name: str, hidden: Any) -> Any:
    inner = jax.nn.gelu(_linear(weights, f"{name}/up", _norm(weights, f"{name}/mlp_norm", hidden)))
    return hidden + _linear(weights, f"{name}/down", inner)


def _waves(time: Any) -> Any:
    """Sines and cosines of times ``[n]`` in periods from 4e-3 to 4, as pi0 has them: ``[n, 2 * frequencies]``."""
    periods = 4e-3 * 1000 ** jnp.linspace(0, 1, _TIME_FREQUENCIES)
    angles = 2 * math.pi * time[:, None] / periods
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def _patches(weights: Weights, pictures: Any, config: TinyVlaConfig) -> Any:
    """Pictures ``[n, cameras, px, px, 3]`` uint8 as tokens ``[n, cameras * patches, width]``."""
    n, cameras = pictures.shape[:2]
    side, patch = config.camera_px // config.patch_px, config.patch_px
    cut = pictures.reshape(n, cameras, side, patch, side, patch, 3).swapaxes(3, 4).reshape(n, cameras, side**2, -1)
    seen = _linear(weights, "image/patch", cut.astype(jnp.float32) / 127.5 - 1) + weights["image/position"]
    return seen.reshape(n, cameras * side**2, config.width)
