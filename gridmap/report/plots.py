"""Draws what a job used, in the style of all pictures; matplotlib is loaded when one is drawn.

Figures are made by hand: pyplot and the style sheets keep global state, which belongs to the user's
own plots and may not be touched in a thread beside theirs.  Colors are those of Okabe and Ito,
which people tell apart whatever colors they see; what failed differs in shape, too.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gridmap.report.story import Usage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, SKY, ORANGE, VERMILION, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#8C8C8C"
INK, LINES = "#222222", "#D9D9D9"
MISSING = "this needs matplotlib: pip install gridmap[plots]"


def available() -> bool:
    """Returns whether matplotlib is installed, without loading it."""
    return importlib.util.find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure that belongs to nobody else.

    :raises ImportError: there is no matplotlib
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(MISSING) from error
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Figure, dpi: float = 110) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi)
    return png.getvalue()


def bare(axes: Any, title: str, grid: str = "y") -> None:
    """Takes away what is no data."""
    axes.set_facecolor("white")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.tick_params(axis="x", length=3, color=GREY)
    axes.set_axisbelow(True)
    axes.grid(visible=False)
    if grid:
        axes.grid(axis=grid, color=LINES, linewidth=0.8)


def literal(figure: Figure) -> None:
    """Sees to it that names which jobs brought along are no formulas."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_usetex(False)
        text.set_parse_math(False)


def memory_unit(largest_bytes: float) -> tuple[float, str]:
    """Returns the unit to draw memory in; those of the messages."""
    for power, name in ((40, "TB"), (30, "GB"), (20, "MB")):
        if largest_bytes >= 1 << power:
            return float(1 << power), name
    return 1024.0, "kB"


def memory_png(samples: Sequence[Usage], limit_bytes: float = 0) -> bytes:
    """Returns a PNG of the memory that a job used.

    :param samples: oldest first
    :param limit_bytes: drawn as a line; 0 where none is known
    """
    values = [sample.rss_bytes for sample in samples]
    size, unit = memory_unit(max(limit_bytes, *values, 1))
    title = f"Memory [{unit}], at most {max(values) / size:.3g} {unit}"
    return _usage_png(samples, [value / size for value in values], title, limit_bytes / size, unit)


def cpu_png(samples: Sequence[Usage]) -> bytes:
    """Returns a PNG of the processors that a job kept busy."""
    values = [sample.cpu_fraction for sample in samples]
    return _usage_png(samples, values, "Processors kept busy", 0, "")


def _usage_png(
    samples: Sequence[Usage], values: Sequence[float], title: str, limit: float, unit: str
) -> bytes:
    figure = new_figure(6.4, 2.8)
    axes = figure.add_subplot()
    last_s = samples[-1].at_s
    scale, name = time_unit(last_s - samples[0].at_s)
    times = [(sample.at_s - last_s) / scale for sample in samples]
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    color = BLUE if unit else ORANGE
    marker = "o" if len(values) < 60 else ""
    axes.plot(times, values, color=color, linewidth=1.8, marker=marker, markersize=4, clip_on=False)
    axes.fill_between(times, values, color=color, alpha=0.15, linewidth=0)
    if limit:
        axes.axhline(limit, color=VERMILION, linewidth=1.5, linestyle=(0, (5, 3)))
        axes.annotate(
            f"limit {limit:.3g} {unit}", (0, limit), xycoords=("axes fraction", "data"),
            xytext=(4, -4), textcoords="offset points", va="top", color=VERMILION, fontsize=9,
        )  # fmt: skip
    bare(axes, title)
    axes.set_ylim(0, 1.12 * max(limit, *values, 1e-9 if unit else 1.0))
    if len(samples) > 1 and times[0] < 0:
        axes.set_xlim(times[0], 0)
    else:
        axes.set_xlim(-1, 1)
        axes.set_xticks([0])
    axes.set_xlabel(f"{name} before it was last measured", fontsize=9, color=INK)
    return png_of(figure)


def time_unit(seconds: float) -> tuple[float, str]:
    for size, name in ((172_800, "days"), (7200, "hours"), (120, "minutes")):
        if seconds >= size:
            return {"days": 86_400.0, "hours": 3600.0, "minutes": 60.0}[name], name
    return 1.0, "seconds"
