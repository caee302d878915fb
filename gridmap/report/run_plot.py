"""Draws a run: its workers, what its jobs used, how long they took."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from gridmap._numbers import duration
from gridmap.report.letter import line
from gridmap.report.plots import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    SKY,
    VERMILION,
    bare,
    literal,
    memory_unit,
    new_figure,
    png_of,
    time_unit,
)
from gridmap.report.run_table import BINS, RunTable, bins, over_time, running_of, side_by_side
from gridmap.report.story import Story

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 1500
"""Of more jobs than these each is no bar of its own any more."""
MOST_LANES = 40
"""More workers than these share lanes."""
MOST_MARKS = 2000
TICKS_S = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 259_200)
"""Where a scale of durations over several powers of ten has its ticks."""


def plot(story: Story, width: float = 9.0) -> Figure:
    """Returns a figure of a run: its workers, what its jobs used, how long they took.

    :param width: inches
    :raises ImportError: there is no matplotlib
    """
    figure = new_figure(width, 8.6)
    table = RunTable(story)
    top, cpu, memory, hist = figure.subplots(
        4, 1, gridspec_kw={"height_ratios": [2.6, 1.3, 1.3, 1.5]}
    )
    scale, name = time_unit(table.last - table.first)
    _timeline(top, table, scale)
    _processors(cpu, table, story, scale)
    _memory(memory, table, story, scale)
    for axes in (top, cpu, memory):
        axes.set_xlim(0, (table.last - table.first) / scale)
    memory.set_xlabel(f"{name} since the run began", fontsize=9, color=INK)
    _durations(hist, table)
    figure.suptitle(
        _summary(table, story), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK
    )
    literal(figure)
    figure._repr_png_ = functools.partial(png_of, figure)  # type: ignore[attr-defined]  # notebooks
    return figure


def _summary(table: RunTable, story: Story) -> str:
    counts = [
        (int(table.completed.sum()), "completed"),
        (int(table.failed.sum()), "failed"),
        (int(table.canceled.sum()), "canceled"),
    ]
    told = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    workers = "1 worker" if len(table.workers) == 1 else f"{len(table.workers):,} workers"
    name = line(story.name, 40)
    took = duration(table.last - table.first)
    return f"{name}: {told or 'no jobs have ended'} on {workers} in {took}"


def _timeline(axes: Any, table: RunTable, scale: float) -> None:
    """Draws a lane for each worker: when it was up, and what it ran."""
    count = len(table.workers)
    bare(axes, "Workers", grid="")
    lanes = max(1, min(count, MOST_LANES))
    few = len(table.end) <= MOST_BARS and count <= MOST_LANES
    if few:
        _draw_bars(axes, table, scale)
    else:
        _draw_load(axes, table, scale, lanes)
        _mark_failures(axes, table, scale, lanes)
    axes.set_ylim(lanes - 0.5, -0.5)
    if not count:
        axes.text(0.5, 0.5, "no worker is known", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_yticks([])
    elif count <= 20:
        labels = _lane_names(table)
        axes.set_yticks(range(count), labels, fontsize=8 if count > 10 else 9)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{count:,} workers", fontsize=9, color=INK)
    _legend(axes, table, few)


def _lane_names(table: RunTable) -> list[str]:
    """Returns the hosts, and the workers where a host had several."""
    names = []
    for worker, host in zip(table.workers, table.hosts, strict=True):
        alone = host and table.hosts.count(host) == 1
        name = host if alone or worker == host else f"{host} {worker}".strip()
        names.append(line(name, 28))
    return names


def _draw_bars(axes: Any, table: RunTable, scale: float) -> None:
    """Draws each job as a bar; those of one worker that ran at once below each other."""
    from matplotlib.collections import PolyCollection

    np = table.np
    first = table.first
    for lane in range(len(table.workers)):
        left, right = table.up[lane] - first, table.gone[lane] - first
        axes.barh(lane, (right - left) / scale, left=left / scale, height=0.82, color="#EDEDED")
    drawn = np.flatnonzero((table.lane >= 0) & np.isfinite(table.begin))
    rows, depth = side_by_side(table, drawn)
    thin = 0.0 if drawn.size > 600 else 0.6
    crosses = []
    for chosen, color in ((~table.failed, BLUE), (table.failed, VERMILION)):
        boxes = []
        for place, job in enumerate(drawn):
            if chosen[job]:
                left, right = (table.begin[job] - first) / scale, (table.end[job] - first) / scale
                height = 0.82 / depth[table.lane[job]]
                low = table.lane[job] - 0.41 + rows[place] * height
                high = low + height
                boxes.append([(left, low), (right, low), (right, high), (left, high)])
                if table.failed[job]:
                    crosses.append((right, low + height / 2))
        axes.add_collection(
            PolyCollection(boxes, facecolor=color, edgecolor="white", linewidth=thin)
        )
    _crosses(axes, [x for x, _ in crosses], [y for _, y in crosses])


def _crosses(axes: Any, times: Any, lanes: Any) -> None:
    axes.scatter(
        times, lanes, marker="x", s=28, linewidth=1.6, color="black", zorder=3, clip_on=False
    )


def _draw_load(axes: Any, table: RunTable, scale: float, lanes: int) -> None:
    """Draws how busy workers were: many share a lane, and jobs are added up in bins of time."""
    from matplotlib.colors import LinearSegmentedColormap

    np = table.np
    count = max(1, len(table.workers))
    lane_of = np.arange(count) * lanes // count
    drawn = (table.lane >= 0) & np.isfinite(table.begin)
    there = lane_of[: len(table.workers)]
    up = table.busy(table.up, table.gone, there, lanes)
    of_job = lane_of[table.lane[drawn]]
    busy = table.busy(table.begin[drawn], table.end[drawn], of_job, lanes)
    with np.errstate(divide="ignore", invalid="ignore"):
        load = np.where(up > 1e-6, busy / np.maximum(up, 1e-6), np.nan)
    full = max(1.0, float(np.nanpercentile(load, 98)) if np.isfinite(load).any() else 1.0)
    colors = LinearSegmentedColormap.from_list("load", ["#EDEDED", "#9CCBE8", BLUE])
    axes.imshow(
        load, aspect="auto", cmap=colors, vmin=0, vmax=full, interpolation="nearest",
        extent=(0, (table.last - table.first) / scale, lanes - 0.5, -0.5),
    )  # fmt: skip


def _mark_failures(axes: Any, table: RunTable, scale: float, lanes: int) -> None:
    np = table.np
    marked = np.flatnonzero(table.failed & (table.lane >= 0) & np.isfinite(table.end))
    if marked.size > MOST_MARKS:
        marked = marked[:: marked.size // MOST_MARKS + 1]
    count = max(1, len(table.workers))
    lane = table.lane[marked] * lanes // count if count > lanes else table.lane[marked]
    _crosses(axes, (table.end[marked] - table.first) / scale, lane)


def _legend(axes: Any, table: RunTable, few: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown: list[Any] = [Patch(color=BLUE, label="at work")]
    shown.append(Patch(color="#EDEDED", label="up, idle"))
    if table.failed.any():
        if few:
            shown.append(Patch(color=VERMILION, label="ran a job that failed"))
        cross: dict[str, Any] = {"marker": "x", "linestyle": "", "color": "black", "markersize": 5}
        shown.append(Line2D([], [], label="a job failed", **cross))
    axes.legend(
        handles=shown, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(shown), fontsize=8,
        frameon=False, handlelength=1.2, borderaxespad=0.2, columnspacing=1.2,
    )  # fmt: skip


def _processors(axes: Any, table: RunTable, story: Story, scale: float) -> None:
    running = running_of(table)
    measured = over_time(table, story, "cpu_fraction", running)
    times = bins(table, scale)
    bare(axes, "Processors")
    axes.fill_between(
        times, running, step="mid", color=SKY, alpha=0.35, linewidth=0,
        label="jobs that ran",
    )  # fmt: skip
    if measured is not None:
        axes.plot(times, measured, color=ORANGE, linewidth=1.8, label="processors kept busy")
    axes.set_ylim(bottom=0)
    _small_legend(axes)


def _memory(axes: Any, table: RunTable, story: Story, scale: float) -> None:
    np = table.np
    measured = over_time(table, story, "rss_bytes", running_of(table))
    peaks = np.flatnonzero(np.isfinite(table.peak) & np.isfinite(table.end))
    largest = float(table.peak[peaks].max()) if peaks.size else 0.0
    most = max(largest, float(np.nan_to_num(measured).max()) if measured is not None else 0.0)
    size, unit = memory_unit(most)
    bare(axes, f"Memory [{unit}]" if most else "Memory")
    if measured is not None:
        axes.plot(
            bins(table, scale), measured / size, color=BLUE, linewidth=1.8,
            label="all jobs together",
        )  # fmt: skip
    if peaks.size and largest > most / 25:  # less could not be seen
        if peaks.size > MOST_MARKS:  # the largest of each bin says what there is to say
            number = ((table.end[peaks] - table.first) / (table.last - table.first) * BINS).astype(
                int
            )
            order = np.lexsort((table.peak[peaks], number))
            last = np.append(np.diff(number[order]) > 0, True)
            peaks = peaks[order[last]]
        axes.plot(
            (table.end[peaks] - table.first) / scale, table.peak[peaks] / size, ".", markersize=4,
            color=GREY, label="most that a job had, when it ended",
        )  # fmt: skip
    if not most:
        axes.text(
            0.5, 0.5, "no job was measured", transform=axes.transAxes, ha="center", va="center",
            color=GREY, fontsize=9,
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    _small_legend(axes)


def _small_legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize=8, frameon=False,
            handlelength=1.2, borderaxespad=0.2, columnspacing=1.2,
        )  # fmt: skip


def _durations(axes: Any, table: RunTable) -> None:
    np = table.np
    known = np.isfinite(table.seconds) & (table.seconds > 0)
    seconds = table.seconds[known]
    bare(axes, "How long jobs took")
    axes.set_ylabel("jobs", fontsize=9, color=INK)
    if not seconds.size:
        axes.text(
            0.5, 0.5, "not known", transform=axes.transAxes, ha="center", va="center", color=GREY,
            fontsize=9,
        )  # fmt: skip
        return
    low, high = float(seconds.min()), float(seconds.max())
    wide = high > 30 * low
    if high <= low * 1.001:
        low, high = low * 0.9, high * 1.1
    bins = np.geomspace(low, high, 41) if wide else np.linspace(low, high, 31)
    failed = table.failed[known]
    shown = [(seconds[~failed], BLUE, "completed", "")]
    if failed.any():
        shown.append((seconds[failed], VERMILION, "failed", "////"))
    counts, _, groups = axes.hist(
        [values for values, *_ in shown], bins=bins, stacked=True,
        color=[color for _, color, *_ in shown], label=[label for *_, label, _ in shown],
    )  # fmt: skip
    for group, (*_, hatch) in zip([groups] if len(shown) == 1 else groups, shown, strict=True):
        for patch in group:
            patch.set(hatch=hatch, edgecolor="white", linewidth=0.5)
    if (
        failed.any() and counts[-1].max() > 50 * (counts[-1] - counts[0]).max()
    ):  # too few for bars to be seen
        some = seconds[failed][:MOST_MARKS]
        _crosses(axes, some, [0] * len(some))
    _scale_of_durations(axes, low, high, wide)
    if len(shown) > 1:
        _small_legend(axes)


def _count(value: float, place: int) -> str:
    return f"{value:,.0f}"


def _in_units(unit: float, value: float, place: int) -> str:
    return f"{value / unit:.4g}"


def _scale_of_durations(axes: Any, low: float, high: float, wide: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axes.yaxis.set_major_formatter(FuncFormatter(_count))
    if wide:
        axes.set_xscale("log")
        axes.minorticks_off()
        ticks = [tick for tick in TICKS_S if low <= tick <= high]
        axes.set_xticks(ticks, [duration(tick) for tick in ticks])
        return
    scale, name = time_unit(high)
    axes.xaxis.set_major_formatter(FuncFormatter(functools.partial(_in_units, scale)))
    axes.set_xlabel(name, fontsize=9, color=INK)
