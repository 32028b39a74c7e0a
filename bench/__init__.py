"""Measurements, a module each; `__main__.py` runs them. What begins with `_` is shared."""
