"""Which table and folders a partition of an asset has: `spatial/embedding/pca` [a] is in table embedding, in pca/a."""

from __future__ import annotations


def table_of(asset: str) -> tuple[str, tuple[str, ...]]:
    """The table of an asset key and the folders that its variant adds: `spatial/embedding/pca` -> embedding, (pca,).

    A registration (`section_source`) has no group: its key is the table's name.
    """
    group, *rest = asset.split("/")
    if not rest:
        return group, ()
    name, *variant = rest
    return (f"{group}_{name}" if group == "benchmark" else name), tuple(variant)


def partition_folders(partition: str) -> tuple[str, ...]:
    """`source|target` -> (source, target); no partition -> (all,)."""
    return tuple(partition.split("|")) if partition else ("all",)


def partition_key(asset: str, partition: str) -> tuple[str, tuple[str, ...]]:
    """The table of an asset, and the key of one of its partitions there."""
    name, variant = table_of(asset)
    return name, (*variant, *partition_folders(partition))
