"""Methods as plain numerical code: NumPy in, NumPy out.

Nothing here knows Dagster, DuckDB or the file layout of the platform; every function can be used from a notebook.
"""
