"""The entry of openpi's served policies. Light: what it names is imported where the policy is loaded."""

from __future__ import annotations

from science.robots.policies.base import PolicySpec

SPEC = PolicySpec(
    name="openpi",
    description="what an openpi server answers, such as Pi0.5; its checkpoint is a description of that server",
    load="science.robots.openpi.policy:load",
    trained=True,
    inspect="science.robots.openpi.policy:inspect",
    weights=False,
    framework="openpi",
    packages=("openpi_client", "websockets"),
)
