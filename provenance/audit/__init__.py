"""Holding the lineage records against Dagster's event log, the tables, and the bytes on disk.

`audit.py` says what is held against what; each other file is one of the sides. Nothing here changes what it looks at:
an audit writes only its own memory, under the home's `audit/`.
"""
