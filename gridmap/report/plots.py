"""Draws what a job used; needs matplotlib, which is loaded only here and only then."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence


def available() -> bool:
    """Returns whether matplotlib is installed, without loading it."""
    return importlib.util.find_spec("matplotlib") is not None


def memory_png(memory_mb: Sequence[float], period_s: float) -> bytes:
    """Returns a PNG of the memory that a job used.

    :param memory_mb: one value a heartbeat, oldest first [MB]
    :param period_s: time between two heartbeats [s]
    """
    return _png(memory_mb, period_s, "memory [MB]")


def cpu_png(cpu_percent: Sequence[float], period_s: float) -> bytes:
    """Returns a PNG of the processor time that a job used.

    :param cpu_percent: one value a heartbeat, oldest first; 100 is one processor [%]
    :param period_s: time between two heartbeats [s]
    """
    return _png(cpu_percent, period_s, "CPU [%]")


def _png(values: Sequence[float], period_s: float, label: str) -> bytes:
    # Figure and canvas by hand: pyplot keeps global state, which belongs to the user's own plots,
    # and may not be used in a thread beside theirs.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([period_s * (i + 1) for i in range(len(values))], values, marker=".")
    axes.set_xlabel("time [s]")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()
