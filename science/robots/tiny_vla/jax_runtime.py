"""JAX as it is used here: import this before jax.

On a CPU no operation is shared among threads, so that the same program gives the same bits on a machine with any
number of cores. The compilation cache is off: a program that was read from it gave NaN once. A GPU is used where JAX
finds one.
"""

from __future__ import annotations

import os

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"

os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*os.environ.get("XLA_FLAGS", "").split(), _ONE_THREAD]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

__all__ = ["jax", "jnp"]
