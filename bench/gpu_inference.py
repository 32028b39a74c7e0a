"""What batching buys in the inference of a VLA on a GPU, and whether a row's answer depends on its batch.

    python bench/gpu_inference.py [--runs pi05:gpu pi05_dummy:gpu tiny_vla:gpu tiny_vla:cpu] [--openpi FOLDER]
                                  [--checkpoint DIR] [--task TASK] [--batches 1 2 4 8 16 32 64] [--repeats 15]

`pi05` is openpi's pi0.5 as its configuration `pi05_libero` has it (three pictures of 224 x 224 px, 200 tokens, chunks
of 10 actions, 10 flow steps), with random weights in bfloat16; `pi05_dummy` has openpi's `dummy` language models in it.
openpi is the installed package, or that in `--openpi` (else $TRACEBED_OPENPI), a folder that holds `openpi/`, such as
`src/` of a checkout; what openpi imports must be there. `tiny_vla` is tracebed's own, with its `--checkpoint`.

Every run has a process of its own. Milliseconds are those of `infer` on rows in host memory: packing, copies to and
from the GPU, inference. Of one size, an answer is compared with itself, with that beside other rows, and with that in
another slot, bit by bit; of two sizes, with that of a batch of 1. The digest is of the first 8 rows' answers, to hold
two processes side by side. Runs that cannot be made here are named and left out, unless `--runs` asked for them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from science.robots.policies.batched import BatchedPolicy, Row, example_row, image_key

RUNS = ("pi05:gpu", "pi05_dummy:gpu", "tiny_vla:gpu", "tiny_vla:cpu")
PACKAGES = ("jax", "flax", "rlinf-openpi", "openpi")
OPENPI_VARIANTS = {"pi05": ("gemma_2b", "gemma_300m"), "pi05_dummy": ("dummy", "dummy")}
OPENPI_CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
PIXELS = 224
FLOW_STEPS = 10
ALONE = 8  # rows whose answers are compared across sizes
NOT_HERE = 3
COLUMNS = {
    "batch": "---:",
    "ms": "---:",
    "slowest, ms": "---:",
    "rows/s": "---:",
    "rows/s over batch 1": "---:",
    "compile, s": "---:",
    "memory, GB": "---:",
    "same bits: again / beside others / other slot": "---",
    "largest difference from batch 1": "---:",
    "digest": "---",
}


class NotHere(RuntimeError):
    """A run for which something is missing on this machine."""


class OpenpiPi05(BatchedPolicy):
    """openpi's pi0.5 with random weights; prompts are tokens drawn from the seed of a row."""

    observation: Mapping[str, int] = {"state": 8}
    cameras = dict.fromkeys(OPENPI_CAMERAS, (PIXELS, PIXELS))
    action_dim = 32
    horizon_steps = 10
    noise_shape = (horizon_steps, action_dim)

    def __init__(self, paligemma: Any, expert: Any) -> None:
        import jax
        import jax.numpy as jnp
        from flax import nnx
        from openpi.models.model import Observation
        from openpi.models.pi0_config import Pi0Config

        config: Any = Pi0Config(
            pi05=True,
            action_horizon=self.horizon_steps,
            paligemma_variant=paligemma,
            action_expert_variant=expert,
            discrete_state_input=False,
        )
        self._n_tokens = config.max_token_len
        graph = nnx.graphdef(nnx.eval_shape(config.create, jax.random.key(0)))

        def random_weights(key: Any) -> Any:
            """openpi's initial weights, and noise where those are 0 (adaptive norms, SigLIP's head) and hide inputs."""
            leaves, tree = jax.tree.flatten(nnx.state(config.create(key)))
            keys = jax.random.split(key, len(leaves))
            noise = [0.02 * jax.random.normal(each, leaf.shape) for each, leaf in zip(keys, leaves, strict=True)]
            filled = [jnp.where(jnp.any(leaf != 0), leaf, fill) for leaf, fill in zip(leaves, noise, strict=True)]
            return jax.tree.unflatten(tree, [leaf.astype(jnp.bfloat16) for leaf in filled])

        def answer(weights: Any, inputs: dict[str, Any], noise: Any) -> Any:
            model = nnx.merge(graph, weights)
            seen: Any = Observation.from_dict(inputs)
            return model.sample_actions(jax.random.key(0), seen, num_steps=FLOW_STEPS, noise=noise)

        self.weights = jax.block_until_ready(jax.jit(random_weights)(jax.random.key(0, impl="unsafe_rbg")))
        self._answer = jax.jit(answer)
        self._programs: dict[int, Any] = {}

    def infer(self, rows: Sequence[Row]) -> np.ndarray:
        tokens = [np.random.default_rng(row.seed).integers(0, 257_152, self._n_tokens) for row in rows]
        state = np.zeros((len(rows), self.action_dim), np.float32)
        state[:, : self.observation["state"]] = [row.observation["state"] for row in rows]
        inputs = {
            "image": {each: np.stack([row.observation[image_key(each)] for row in rows]) for each in self.cameras},
            "image_mask": {each: np.ones(len(rows), bool) for each in self.cameras},
            "state": state,
            "tokenized_prompt": np.stack(tokens).astype(np.int32),
            "tokenized_prompt_mask": np.ones((len(rows), self._n_tokens), bool),
        }
        arguments = self.weights, inputs, np.stack([row.noise for row in rows])
        if len(rows) not in self._programs:
            self._programs[len(rows)] = self._answer.lower(*arguments).compile()
        return np.asarray(self._programs[len(rows)](*arguments))

    def memory_gb(self, n_rows: int) -> float:
        """What XLA reserves for a batch: weights, inputs, temporaries and results."""
        found = self._programs[n_rows].memory_analysis()
        return (found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes) / 1e9


def load(model: str, options: argparse.Namespace) -> BatchedPolicy:
    """The policy of a run.

    Raises
    ------
    NotHere
        Without its package, or without a checkpoint.
    """
    if model in OPENPI_VARIANTS:
        try:
            importlib.import_module("openpi.models.pi0")
        except (ImportError, AttributeError) as error:  # the latter with a jaxtyping that is newer than openpi's
            raise NotHere(f"openpi cannot be imported ({error}); name one that can be with --openpi") from error
        return OpenpiPi05(*OPENPI_VARIANTS[model])
    from science.robots.policies.registry import find_policy
    from science.robots.tasks.registry import find_task

    if options.checkpoint is None:
        raise NotHere("found no checkpoint of tiny_vla; name one with --checkpoint")
    return find_policy(model).make_batched(find_task(options.task), options.checkpoint)


@dataclass(frozen=True)
class Size:
    """What was measured of one batch size."""

    ms: list[float]
    compile_s: float
    answers: np.ndarray
    again: bool
    beside_others: bool
    other_slot: bool

    def row(self, alone: np.ndarray, alone_ms: float, memory: str) -> str:
        """A row of the table, beside the answers ``alone`` that the first rows get alone, each in ``alone_ms``."""
        n, ms = len(self.answers), statistics.median(self.ms)
        compared = min(n, len(alone))
        first = alone if n == 1 else self.answers[:compared]
        cells = [
            str(n),
            f"{ms:.2f}",
            f"{max(self.ms):.2f}",
            f"{n / ms * 1000:.1f}",
            f"{n * alone_ms / ms:.2f}",
            f"{self.compile_s:.1f}",
            memory,
            " / ".join(("no", "yes")[same] for same in (self.again, self.beside_others, self.other_slot)),
            f"{np.abs(self.answers[:compared] - alone[:compared]).max():.2g}",
            hashlib.sha256(first.tobytes()).hexdigest()[:8],
        ]
        return f"| {' | '.join(cells)} |"


def measure(policy: BatchedPolicy, rows: list[Row], others: list[Row], repeats: int) -> Size:
    """``others`` are as many different rows."""
    began_s = time.perf_counter()
    answers = policy.infer(rows)
    compile_s = time.perf_counter() - began_s
    ms, same = [], True
    for _ in range(repeats):
        began_s = time.perf_counter()
        again = policy.infer(rows)
        ms.append((time.perf_counter() - began_s) * 1000)
        same &= again.tobytes() == answers.tobytes()
    beside_others = policy.infer([rows[0], *others[1:]])[0]
    turned = policy.infer([*rows[1:], rows[0]])
    return Size(
        ms=ms,
        compile_s=compile_s - statistics.median(ms) / 1000,
        answers=answers,
        again=same,
        beside_others=beside_others.tobytes() == answers[0].tobytes(),
        other_slot=np.roll(turned, 1, axis=0).tobytes() == answers.tobytes(),
    )


def memory_gb(policy: BatchedPolicy, n_rows: int) -> str:
    """Of one batch, or the most in use at once so far in the process; empty where neither is known."""
    import jax

    if isinstance(policy, OpenpiPi05):
        return f"{policy.memory_gb(n_rows):.2f}"
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return "" if peak is None else f"{peak / 1e9:.2f}"


def heading(policy: BatchedPolicy, model: str, device: Any, loaded_s: float) -> str:
    """What was loaded and on what."""
    import jax

    cores = f" ({os.cpu_count()} cores)" if device.platform == "cpu" else ""
    found = [f"{each} {version}" for each in PACKAGES if (version := installed(each))]
    text = f"\n### {model} on {device.device_kind}{cores}\n\nPython {platform.python_version()}, {', '.join(found)}; "
    text += f"loaded in {loaded_s:.1f} s."
    if isinstance(policy, OpenpiPi05):
        leaves = jax.tree.leaves(policy.weights)
        count, size = sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)
        text += f" {count / 1e9:.3f} billion parameters, {size / 1e9:.2f} GB."
    if policy.batch_sizes is not None:
        text += f" Batches are padded to one of {list(policy.batch_sizes)}."
    return text


def run(name: str, options: argparse.Namespace) -> None:
    """Measure one model on one kind of device and print its table."""
    import jax

    model, _, kind = name.partition(":")
    device = jax.devices()[0]
    if device.platform != kind:
        raise NotHere(f"JAX finds no {kind}")
    began_s = time.perf_counter()
    policy = load(model, options)
    print(heading(policy, model, device, time.perf_counter() - began_s))
    print(f"\nMedians of {options.repeats} repeats.\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'|'.join(COLUMNS.values())}|", flush=True)
    sizes = sorted({1, *options.batches})
    n_most = max(*sizes, ALONE)
    rows = [example_row(policy, number) for number in range(n_most)]
    others = [example_row(policy, n_most + number) for number in range(n_most)]
    alone, alone_ms = np.empty(0), 0.0
    for n in sizes:
        try:
            size = measure(policy, rows[:n], others[:n], options.repeats)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"| {n} | out of memory |" + " |" * (len(COLUMNS) - 2), flush=True)
            break
        if n == 1:
            alone_ms, alone = statistics.median(size.ms), np.concatenate([policy.infer([row]) for row in rows[:ALONE]])
        print(size.row(alone, alone_ms, memory_gb(policy, n)), flush=True)
    print(f"\nThe standard deviation of what a batch of 1 answers is {alone.std():.2f}.", flush=True)


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", metavar="MODEL:DEVICE", choices=[*RUNS, "pi05_dummy:cpu"])
    parser.add_argument("--openpi", type=Path, default=os.environ.get("TRACEBED_OPENPI"))
    parser.add_argument("--checkpoint", type=Path, help="of tiny_vla")
    parser.add_argument("--task", default="open.Stack_D0", help="of tiny_vla's checkpoint")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        if options.openpi:
            sys.path.insert(0, str(options.openpi))
        try:
            run(options.one, options)
        except NotHere as missing:
            print(f"\n{options.one} was not measured: {missing}.", flush=True)
            sys.exit(NOT_HERE)
        return
    failed = []
    for name in options.runs or RUNS:
        environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9", **os.environ}
        if name.endswith(":cpu"):
            environment["JAX_PLATFORMS"] = "cpu"
        ended = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", name], env=environment, check=False)
        if ended.returncode and not (ended.returncode == NOT_HERE and options.runs is None):
            failed.append(name)
    if failed:
        sys.exit(f"these runs failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
