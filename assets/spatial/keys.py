"""Keys of the assets that several modules name."""

import dagster as dg

SECTION = dg.AssetKey(["spatial", "section"])
SECTION_AS_TARGET = dg.AssetKey(["spatial", "section_as_target"])
RM_IDEAL = dg.AssetKey(["spatial", "rm_ideal"])
CONTROLS = dg.AssetKey(["spatial", "niche_query", "controls"])


def variant_key(asset: str, variant: str) -> dg.AssetKey:
    """The key of a variant's asset: `spatial/<asset>/<variant>`."""
    return dg.AssetKey(["spatial", asset, variant])
