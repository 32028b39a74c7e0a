"""The one place where assets, checks, resources, sensors and jobs meet.

`build_defs` takes overrides so that tests (and other homes) use the same assembly. Loading it imports no torch, jax,
scanpy or mujoco: those belong to workloads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from assets.operations.audit import audit
from assets.operations.incident import incident
from assets.operations.jobs import jobs
from assets.operations.sensors import build_reconcile_runs
from assets.policy.base_checkpoint import build_base_checkpoint
from assets.policy.base_weights import build_base_weights
from assets.policy.benchmark import build_benchmarks
from assets.policy.checkpoint import build_checkpoint
from assets.policy.demonstrations import demonstrations
from assets.policy.diagnosis import build_diagnosis
from assets.policy.rollouts import build_rollouts
from assets.policy.success_rate import build_success_rate
from assets.policy.videos import build_videos
from assets.spatial.benchmark import build_benchmark
from assets.spatial.encoders import build_encoder_assets
from assets.spatial.niche_figure import build_niche_figure
from assets.spatial.niche_query import build_niche_query, niche_query_controls
from assets.spatial.rm_ideal import rm_ideal
from assets.spatial.sections import section, section_as_target
from assets.spatial.sensors import mirror_section_keys
from assets.spatial.variants import load_variants
from home import ROOT, Home
from io_managers.catalog import ensure_catalog
from io_managers.table_io_manager import TableIOManager
from provenance.weights.bases import Base, BaseError, bases_file, load_bases
from resources.compute.compute import Compute
from science.robots.policies.base import PolicySpec
from science.robots.policies.registry import policy_specs


def encoders_file() -> Path:
    """`$TRACEBED_ENCODERS`, or `encoders.toml` beside this file."""
    return Path(os.environ.get("TRACEBED_ENCODERS") or ROOT / "encoders.toml")


def build_defs(*, home: Home | None = None, encoders: Path | None = None, **resources: Any) -> dg.Definitions:
    """Assemble the platform.

    Parameters
    ----------
    home : where everything is stored; default `$TRACEBED_HOME`.
    encoders : the file of encoder variants; default `encoders_file()`.
    resources : replacements for resources, by key (`tables`, `compute`).
    """
    home = home or Home.from_env()
    ensure_catalog(home)
    variants = load_variants(encoders or encoders_file())
    per_variant = [
        asset
        for variant in variants
        for asset in (*build_encoder_assets(variant), build_niche_query(variant), build_niche_figure(variant))
    ]
    policies = policy_specs()
    bases = load_bases(bases_file())
    assets = [
        section,
        section_as_target,
        rm_ideal,
        niche_query_controls,
        *per_variant,
        build_benchmark(variants),
        demonstrations,
        *(asset for policy in policies.values() for asset in policy_assets(policy, bases)),
        *build_benchmarks(tuple(policies.values())),
        *(asset for base in bases for asset in base_assets(base, policies)),
        jobs,
        incident,
        audit,
    ]
    return dg.Definitions(
        assets=assets,
        sensors=[mirror_section_keys, build_reconcile_runs(assets)],
        resources={
            "tables": TableIOManager(home=str(home.root)),
            "compute": Compute(home=str(home.root)),
            **resources,
        },
    )


def policy_assets(policy: PolicySpec, bases: Sequence[Base]) -> list[dg.AssetsDefinition]:
    """The assets of one policy: a checkpoint where it is trained, a diagnosis where it is no control."""
    assets = [build_rollouts(policy), build_success_rate(policy), build_videos(policy)]
    if policy.trained:
        assets.append(build_checkpoint(policy, [base for base in bases if base.policy == policy.name]))
    if not policy.control:
        assets.append(build_diagnosis(policy))
    return assets


def base_assets(base: Base, policies: Mapping[str, PolicySpec]) -> list[dg.AssetsDefinition]:
    """The assets of one base: its fingerprints, and its checkpoint where it is pre-trained here.

    Raises
    ------
    BaseError
        For a base of a policy that cannot be trained here.
    """
    if base.policy is None:
        return [build_base_weights(base)]
    policy = policies.get(base.policy)
    if policy is None or policy.train is None:
        trainable = sorted(name for name, each in policies.items() if each.train is not None)
        raise BaseError(
            f"{bases_file()}: found [base.{base.name}] policy = {base.policy!r}, expected one that is trained here: "
            f"{', '.join(trainable)}"
        )
    return [build_base_checkpoint(base, policy), build_base_weights(base)]


defs = build_defs()
