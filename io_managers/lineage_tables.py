"""The table of lineage records."""

from __future__ import annotations

from io_managers.columns import TableSchema, text, time

LINEAGE_TABLES = (
    TableSchema(
        "lineage",
        "one input of one materialisation (one row with null inputs where there was none)",
        (
            text("asset", "asset that was materialised"),
            text("partition", "its partition; empty for none"),
            text("content_hash", "its data version"),
            text("code_version", "code version of the asset"),
            text("address", "file that holds it"),
            text("input_asset", "asset, or `file` for a source file", nullable=True),
            text("input_partition", "partition that was read; empty for none", nullable=True),
            text("input_hash", "content hash of what was read", nullable=True),
            text("input_run_id", "run that had published it", nullable=True),
            text("input_address", "file that was read", nullable=True),
            text("job_key", "job that computed it; null where the run itself did", nullable=True),
            text("node", "host that computed it"),
            text("git_commit", "commit of the code, `+dirty` where files differed; null outside git", nullable=True),
            text("versions", "JSON: what decides the numbers on the node: versions of libraries, model of the CPU"),
            text("config", "JSON: the asset's configuration in that run; null where it is not known", nullable=True),
            time("recorded_at", "when the record was written, just before publication"),
        ),
        identity=("asset", "partition", "content_hash"),
        versioned=False,
    ),
)
