"""The curve of a training as PNG: loss, and success on the selection seeds, over steps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def training_figure(curve: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw points ``{step, loss}`` and ``{step, selection_successes, selection_n}``; returns PNG bytes, 800 px wide."""
    figure = Figure(figsize=(8, 3), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    losses = [(point["step"], point["loss"]) for point in curve if point.get("loss") is not None]
    axes.plot(*zip(*losses, strict=True), color="tab:blue") if losses else None
    axes.set_xlabel("training step")
    axes.set_ylabel("loss (negative log-likelihood)", color="tab:blue")
    rates = [
        (point["step"], point["selection_successes"] / point["selection_n"])
        for point in curve
        if point.get("selection_n")
    ]
    if rates:
        success = axes.twinx()
        success.plot(*zip(*rates, strict=True), color="tab:orange", marker="o")
        success.set_ylim(-0.05, 1.05)
        success.set_ylabel("success on selection seeds", color="tab:orange")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
