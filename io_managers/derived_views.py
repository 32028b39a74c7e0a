"""Views that the catalog computes from tables: every version that was ever published, and which metrics are superseded.

`<table>_versions` has the rows of all versions, with `newest`. `<metric>_status` has the rows of a metric with
`superseded`: that another checkpoint or evaluation is chosen, an encoder was fitted again, or a niche query computed
again since; null where none of these is so. `tracebed trace` looks at every hop. Nothing is stored: what supersedes a
number is published after it.
"""

from __future__ import annotations

from collections.abc import Mapping

_CHECKPOINT = """
CASE WHEN r.checkpoint_hash IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM checkpoint c
    WHERE c.chosen AND c.checkpoint_hash = r.checkpoint_hash
      AND c.suite = r.suite AND c.task = r.task AND c.policy = r.policy
) THEN 'another checkpoint is chosen now'"""

_REFITTED = """
EXISTS (
    SELECT 1 FROM niche_query q
    WHERE q.method = r.method AND q.encoder_artifact IS NOT NULL AND {same} AND NOT EXISTS (
        SELECT 1 FROM encoder e
        WHERE e.method = q.method AND e.seed = q.seed AND e.encoder_artifact = q.encoder_artifact
    )
)"""

_RECOMPUTED = """
EXISTS (
    SELECT 1 FROM lineage l
    WHERE l.run_id = r.run_id AND l.content_hash = r.data_version AND l.input_asset IN ({queries})
      AND NOT EXISTS (SELECT 1 FROM niche_query q WHERE q.data_version = l.input_hash)
)"""

_BOARD_QUERIES = "'spatial/niche_query/' || CASE WHEN r.control THEN 'controls' ELSE r.method END"
_FIGURE_QUERIES = "'spatial/niche_query/' || r.method, 'spatial/niche_query/controls'"
_SAME_PAIR = "q.source = r.source AND q.target = r.target AND q.seed = r.seed"
_OTHER_EVALUATION = """
WHEN EXISTS (SELECT 1 FROM success_rate s WHERE s.evaluation = r.evaluation AND NOT s.chosen)
THEN 'another evaluation is chosen now'"""

SUPERSEDED: Mapping[str, str] = {
    "success_rate": f"{_CHECKPOINT} WHEN NOT r.chosen THEN 'another evaluation is chosen now' END",
    "benchmark_policy": f"{_CHECKPOINT} END",
    "videos": f"{_CHECKPOINT} {_OTHER_EVALUATION} END",
    "diagnosis": f"{_CHECKPOINT} {_OTHER_EVALUATION} END",
    "niche_query": """
CASE WHEN r.encoder_artifact IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM encoder e
    WHERE e.method = r.method AND e.seed = r.seed AND e.encoder_artifact = r.encoder_artifact
) THEN 'its encoder was fitted again' END""",
    "benchmark_spatial": f"""
CASE WHEN {_REFITTED.format(same="q.simulated = r.simulated")} THEN 'its encoder was fitted again'
     WHEN {_RECOMPUTED.format(queries=_BOARD_QUERIES)} THEN 'a niche query that it averages was computed again' END""",
    "niche_figure": f"""
CASE WHEN {_REFITTED.format(same=_SAME_PAIR)} THEN 'its encoder was fitted again'
     WHEN {_RECOMPUTED.format(queries=_FIGURE_QUERIES)} THEN 'a niche query that it shows was computed again' END""",
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
