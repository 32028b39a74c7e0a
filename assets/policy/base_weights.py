"""Weights of one base, fingerprinted once: what the origin of a checkpoint is judged against."""

from dataclasses import replace

import dagster as dg

from assets.policy.keys import policy_key
from io_managers.content import file_hash
from io_managers.table_io_manager import materialised
from io_managers.tables import TablePartition
from provenance.lineage import Input
from provenance.weights.bases import CHECKPOINT_TABLE, TABLE, Base
from resources.compute.compute import Compute
from resources.compute.interface import Needs

_NEEDS = Needs(memory_gb=12, packages=("ml_dtypes", "tensorstore"))


def build_base_weights(base: Base) -> dg.AssetsDefinition:
    """The asset `policy/base_weights/<base>`."""
    key = policy_key(TABLE, base.name)
    trained_here = {"checkpoint": dg.AssetIn(policy_key(CHECKPOINT_TABLE, base.name))} if base.path is None else {}

    @dg.asset(
        key=key,
        ins=trained_here,
        io_manager_key="tables",
        group_name="policy",
        kinds={"numpy"},
        code_version="1",
        description=(
            f"Fingerprint of every leaf of the base `{base.name}` ({base.description or base.source or base.path}). "
            "Checkpoints are held against it to tell where their weights come from."
        ),
        check_specs=[
            dg.AssetCheckSpec("tells_apart", asset=key, description="some leaf is not one constant throughout")
        ],
    )
    def base_weights(context: dg.AssetExecutionContext, compute: Compute, **checkpoint: TablePartition):
        path = None if base.path is None else str(base.path)
        result = yield from compute.run(
            context,
            "workloads.base_weights",
            inputs=checkpoint,
            params={"base": base.name, "path": path},
            needs=_NEEDS,
        )
        files = []
        if base.path is not None:
            # A folder, or a file that only the node has, is named by what it holds.
            digest = file_hash(base.path) if base.path.is_file() else result.rows.frame["fingerprint"][0]
            files = [Input("file", str(path), digest, None, str(path))]
        yield materialised(replace(result.rows, files=files), result.metadata, result.checks)

    return base_weights
