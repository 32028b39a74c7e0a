"""Views that the catalog computes from tables: every version that was ever published, and which metrics are superseded.

`<table>_versions` has the rows of all versions, with `newest`. `<metric>_status` has the rows of a metric with
`superseded`: why it is not what would be computed now, null where it is. Nothing is stored for either: what supersedes
a number is published after it.
"""

from __future__ import annotations

from collections.abc import Mapping

_CHECKPOINT = """
CASE WHEN r.checkpoint_hash IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM checkpoint c
    WHERE c.chosen AND c.checkpoint_hash = r.checkpoint_hash
      AND c.suite = r.suite AND c.task = r.task AND c.policy = r.policy
) THEN 'another checkpoint is chosen now'"""

_NICHE_QUERY = """
CASE WHEN EXISTS (
    SELECT 1 FROM lineage l
    WHERE l.run_id = r.run_id AND l.content_hash = r.data_version AND l.input_asset LIKE 'spatial/niche_query/%'
      AND NOT EXISTS (SELECT 1 FROM niche_query q WHERE q.data_version = l.input_hash)
)"""

SUPERSEDED: Mapping[str, str] = {
    "success_rate": f"{_CHECKPOINT} WHEN NOT r.chosen THEN 'another evaluation is chosen now' END",
    "benchmark_policy": f"{_CHECKPOINT} END",
    "videos": f"{_CHECKPOINT} END",
    "diagnosis": f"{_CHECKPOINT} END",
    "niche_query": """
CASE WHEN r.encoder_artifact IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM encoder e
    WHERE e.method = r.method AND e.seed = r.seed AND e.encoder_artifact = r.encoder_artifact
) THEN 'its encoder was fitted again' END""",
    "benchmark_spatial": f"{_NICHE_QUERY} THEN 'a niche query that it averages was computed again' END",
    "niche_figure": f"{_NICHE_QUERY} THEN 'the niche query that it shows was computed again' END",
}

"""Metric -> the SQL expression, over a row `r` of it, that says why it is superseded."""

STATUS_VIEWS: Mapping[str, str] = {
    f"{name}_status": f'SELECT r.*, {reason} AS superseded FROM "{name}" r' for name, reason in SUPERSEDED.items()
}
"""View -> query, over the tables by name."""


def versions_view(every: str) -> str:
    """The query of `<table>_versions`; ``every`` scans all Parquet files of the table, with column `tracebed_file`.

    What was published before versions were kept has its newest rows only.
    """
    return f"""
WITH every AS (
    SELECT * FROM {every}
), newest AS (
    SELECT DISTINCT data_version, run_id FROM every WHERE tracebed_file LIKE '%/data.parquet'
)
SELECT * EXCLUDE tracebed_file, true AS newest FROM every WHERE tracebed_file LIKE '%/data.parquet'
UNION ALL
SELECT * EXCLUDE tracebed_file, false AS newest FROM every
WHERE tracebed_file NOT LIKE '%/data.parquet'
  AND (data_version, run_id) NOT IN (SELECT (data_version, run_id) FROM newest)"""
