"""Faster control steps with robosuite's own results: `exact` is the engine. Its modules import only in workers."""


class EngineError(ValueError):
    """A simulation that an engine does not support, or whose state left what the engine relies on."""
