"""Keys of the assets that several modules name."""

import dagster as dg

DEMONSTRATIONS = dg.AssetKey(["policy", "demonstrations"])
BENCHMARK = dg.AssetKey(["benchmark", "policy"])
BENCHMARK_PAIRS = dg.AssetKey(["benchmark", "policy_pairs"])


def policy_key(asset: str, policy: str) -> dg.AssetKey:
    """The key of a policy's asset: `policy/<asset>/<policy>`."""
    return dg.AssetKey(["policy", asset, policy])
