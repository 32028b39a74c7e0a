"""Policies: `base.py` is the interface, `registry.py` finds them, one module a policy."""
