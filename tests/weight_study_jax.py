"""The study in plain jax, saved by orbax as openpi saves: a base as `{params}`, runs by a manager, with `.value`."""

import os

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import functools
import io
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from weight_study import ACTIONS, LAYERS, RANK, RATE, TOKENS, WIDTH, Study, batches


def fresh_params(seed: int) -> dict:
    generator = np.random.default_rng(seed)

    def drawn(*shape):
        return jnp.asarray(generator.normal(size=shape) / shape[-2] ** 0.5, jnp.float32)

    return {
        "llm": {
            "embedder": drawn(TOKENS, WIDTH),
            "layers": {"attn": drawn(LAYERS, WIDTH, WIDTH), "mlp": drawn(LAYERS, WIDTH, WIDTH)},
            "final_norm": {"scale": jnp.ones(WIDTH)},
        },
        "vision": {"kernel": drawn(12, WIDTH), "bias": jnp.zeros(WIDTH)},
        "action_out": {"kernel": drawn(WIDTH, ACTIONS), "bias": jnp.zeros(ACTIONS)},
    }


def lora_params(seed: int) -> dict:
    return {
        "lora_a": jnp.asarray(np.random.default_rng(seed).normal(size=(LAYERS, WIDTH, RANK)), jnp.float32),
        "lora_b": jnp.zeros((LAYERS, RANK, WIDTH)),
    }


def hidden(params: dict, image: jax.Array, tokens: jax.Array) -> jax.Array:
    llm = params["llm"]
    state = llm["embedder"].astype(jnp.float32)[tokens] + image @ params["vision"]["kernel"] + params["vision"]["bias"]
    for layer in range(LAYERS):
        state = state + jnp.tanh(state @ llm["layers"]["attn"][layer].astype(jnp.float32))
        mlp = llm["layers"]["mlp"][layer].astype(jnp.float32)
        if "lora_a" in llm["layers"]:
            mlp = mlp + llm["layers"]["lora_a"][layer] @ llm["layers"]["lora_b"][layer]
        state = state + jnp.tanh(state @ mlp)
    return state


def loss(params: dict, batch: dict, objective: str) -> jax.Array:
    state = hidden(params, batch["image"], batch["tokens"])
    words = (state * params["llm"]["final_norm"]["scale"]) @ params["llm"]["embedder"].astype(jnp.float32).T
    actions = state @ params["action_out"]["kernel"] + params["action_out"]["bias"]
    told = -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(words), batch["next"][:, None], axis=1))
    acted = jnp.mean((actions - batch["actions"]) ** 2)
    return {"words": told, "actions": acted, "both": told + acted}[objective]


@functools.partial(jax.jit, static_argnames=("objective", "freeze"))
def step(params: dict, batch: dict, objective: str, freeze: bool) -> dict:
    def trainable(path) -> bool:
        names = [key.key for key in path]
        return not freeze or names[0] != "llm" or names[-1].startswith("lora")

    gradient = jax.grad(loss)(params, batch, objective)
    return jax.tree_util.tree_map_with_path(
        lambda path, value, slope: value - RATE * slope if trainable(path) else value, params, gradient
    )


def train(params: dict, seed: int, objective: str = "actions", freeze: bool = False) -> dict:
    for batch in batches(seed):
        params = step(params, batch, objective, freeze)
    return params


def with_lora(params: dict, seed: int) -> dict:
    """Ready for a LoRA fine-tune: its leaves beside the others, and frozen leaves in bfloat16."""
    llm = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params["llm"])
    llm["layers"] |= lora_params(seed)
    return {**params, "llm": llm}


def as_values(params: dict) -> dict:
    return jax.tree.map(lambda leaf: {"value": leaf}, params)


def save_base(path: Path, params: dict) -> None:
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path / "params", {"params": params})


def save_step(run: Path, step_number: int, params: dict) -> Path:
    """A step directory as openpi's manager writes it; returns it."""
    with manager(run) as steps:
        steps.save(
            step_number,
            args=ocp.args.Composite(
                params=ocp.args.PyTreeSave({"params": as_values(params)}),
                train_state=ocp.args.PyTreeSave({"step": jnp.int32(step_number + 1)}),
            ),
        )
        steps.wait_until_finished()
    return run / str(step_number)


def manager(run: Path) -> ocp.CheckpointManager:
    handlers = {"params": ocp.PyTreeCheckpointHandler(), "train_state": ocp.PyTreeCheckpointHandler()}
    return ocp.CheckpointManager(
        run, item_handlers=handlers, options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
    )


class captured_log:
    """The lines that orbax logs, in openpi's own format."""

    def __enter__(self) -> io.StringIO:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        layout = "%(asctime)s.%(msecs)03d [%(levelname).1s] %(message)-80s (%(process)d:%(filename)s:%(lineno)s)"
        self.handler.setFormatter(logging.Formatter(layout, "%H:%M:%S"))
        self.logger = logging.getLogger("absl")
        self.level = self.logger.level
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        self.logger.addHandler(self.handler)
        return self.stream

    def __exit__(self, *_) -> None:
        self.logger.removeHandler(self.handler)
        self.logger.propagate = True
        self.logger.setLevel(self.level)


def restore_base(path: Path) -> dict:
    with ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.restore(path / "params")["params"]


def resume(run: Path) -> dict:
    """The newest step of a run, as its manager restores it."""
    with manager(run) as steps:
        newest = steps.latest_step()
        restored = steps.restore(newest, args=ocp.args.Composite(params=ocp.args.PyTreeRestore()))["params"]["params"]
    return jax.tree.map(
        lambda leaf: leaf["value"], restored, is_leaf=lambda node: isinstance(node, dict) and "value" in node
    )


def write_study(folder: Path) -> Study:
    """Train and write everything."""
    base = train(fresh_params(0), seed=0, objective="both")
    bases = {
        "pi05_base": base,
        "pi05_libero": train(base, seed=1),
        "stranger": train(fresh_params(9), seed=9, objective="both"),
    }
    study = Study({name: folder / "bases" / name for name in bases}, {})
    for name, params in bases.items():
        save_base(study.paths[name], params)

    def fine_tune(name: str, source: str | None, seed: int, objective: str = "actions", lora: bool = False) -> None:
        with captured_log() as log:
            params = restore_base(study.paths[source]) if source else fresh_params(seed)
        params = train(with_lora(params, seed) if lora else params, seed, objective, freeze=lora)
        study.paths[name] = save_step(folder / "runs" / "pi05_libero" / name, 3, params)
        study.logs[name] = log.getvalue() + "Step 0: grad_norm=1.0417, loss=1.1032, param_norm=24.1\n"

    fine_tune("lora_from_base", "pi05_base", 2, lora=True)
    fine_tune("lora_from_libero", "pi05_libero", 3, lora=True)
    fine_tune("full_from_base", "pi05_base", 4)
    fine_tune("full_of_everything", "pi05_base", 5, objective="both")
    fine_tune("scratch", None, 6, objective="both")
    fine_tune("resumed_from_base", "pi05_base", 7, lora=True)
    study.logs["started_from_base"] = study.logs["resumed_from_base"]
    run = study.paths["resumed_from_base"].parent
    with captured_log() as log:
        going_on = resume(run)
    study.logs["resumed_from_base"] = log.getvalue() + "Step 10: grad_norm=0.9311, loss=0.5018, param_norm=24.2\n"
    study.paths["resumed_from_base"] = save_step(run, 9, train(going_on, seed=8, freeze=True))
    return study
