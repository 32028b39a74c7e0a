"""Tasks by suite: `base.py` is the interface, `registry.py` finds them, one module a suite."""
