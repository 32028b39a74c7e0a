"""Storage: table partitions in Parquet, content-addressed artifacts, and the DuckDB catalog over both.

Read in this order: `columns.py` and `schemas.py` (what each table means), `content.py` (what a data version is),
`tables.py` (publishing and reading), `artifacts.py`, `catalog.py`, `table_io_manager.py` (how assets meet them).
"""
