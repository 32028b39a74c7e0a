"""The entry of tiny_vla among the policies. Light: what it names is imported where the policy is loaded."""

from __future__ import annotations

from science.robots.policies.base import PolicySpec

SPEC = PolicySpec(
    name="tiny_vla",
    description="a compact vision-language-action policy: flow matching over action chunks, fine-tuned with LoRA",
    load="science.robots.tiny_vla.policy:load",
    trained=True,
    train="workloads.train_tiny_vla",
    settings="science.robots.tiny_vla.config:resolve",
    inspect="science.robots.tiny_vla.facts:inspect",
    frozen="science.robots.tiny_vla.config:frozen",
    facts="science.robots.tiny_vla.facts:facts",
    framework="jax",
    packages=("jax", "optax", "orbax"),
    served=True,
)
