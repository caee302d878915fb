"""Draws what jobs used and what happened in a run; matplotlib is loaded only here and only then.

Figures are made by hand: pyplot and the style sheets keep global state, which belongs to the user's
own plots and may not be touched in a thread beside theirs.  Colors are those of Okabe and Ito,
which people tell apart whatever colors they see; what failed differs in shape, too.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gridmap._numbers import duration
from gridmap.report.letter import line
from gridmap.report.story import CANCELED, COMPLETED, FAILED, Story, Usage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, SKY, ORANGE, VERMILION, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#8C8C8C"
INK, LINES = "#222222", "#D9D9D9"
MOST_BARS = 1500
"""Of more jobs than these each is no bar of its own any more."""
MOST_LANES = 40
"""More workers than these share lanes."""
BINS = 400
NEXT_TO_NOTHING = 1e-6
"""Less than this is what is left over where floats are added and taken away again."""
MOST_MARKS = 2000
TICKS_S = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 259_200)
"""Where a scale of durations over several powers of ten has its ticks."""
MISSING = "this needs matplotlib: pip install gridmap[plots]"


def available() -> bool:
    """Returns whether matplotlib is installed, without loading it."""
    return importlib.util.find_spec("matplotlib") is not None


def _figure(width: float, height: float) -> Figure:
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


def _png(figure: Figure, dpi: float = 110) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi)
    return png.getvalue()


def _bare(axes: Any, title: str, grid: str = "y") -> None:
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


def _literal(figure: Figure) -> None:
    """Sees to it that names which jobs brought along are no formulas."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_usetex(False)
        text.set_parse_math(False)


def _unit(largest_bytes: float) -> tuple[float, str]:
    """Returns the unit to draw memory in; those of the messages."""
    for power, name in ((40, "TB"), (30, "GB"), (20, "MB")):
        if largest_bytes >= 1 << power:
            return float(1 << power), name
    return 1024.0, "kB"


# --- one job, for mails ---------------------------------------------------------------------------


def memory_png(samples: Sequence[Usage], limit_bytes: float = 0) -> bytes:
    """Returns a PNG of the memory that a job used.

    :param samples: oldest first
    :param limit_bytes: drawn as a line; 0 where none is known
    """
    values = [sample.rss_bytes for sample in samples]
    size, unit = _unit(max(limit_bytes, *values, 1))
    title = f"Memory [{unit}], at most {max(values) / size:.3g} {unit}"
    return _usage_png(samples, [value / size for value in values], title, limit_bytes / size, unit)


def cpu_png(samples: Sequence[Usage]) -> bytes:
    """Returns a PNG of the processors that a job kept busy."""
    values = [sample.cpu_fraction for sample in samples]
    return _usage_png(samples, values, "Processors kept busy", 0, "")


def _usage_png(
    samples: Sequence[Usage], values: Sequence[float], title: str, limit: float, unit: str
) -> bytes:
    figure = _figure(6.4, 2.8)
    axes = figure.add_subplot()
    last_s = samples[-1].at_s
    scale, name = _time_unit(last_s - samples[0].at_s)
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
    _bare(axes, title)
    axes.set_ylim(0, 1.12 * max(limit, *values, 1e-9 if unit else 1.0))
    if len(samples) > 1 and times[0] < 0:
        axes.set_xlim(times[0], 0)
    else:
        axes.set_xlim(-1, 1)
        axes.set_xticks([0])
    axes.set_xlabel(f"{name} before it was last measured", fontsize=9, color=INK)
    return _png(figure)


def _time_unit(seconds: float) -> tuple[float, str]:
    for size, name in ((172_800, "days"), (7200, "hours"), (120, "minutes")):
        if seconds >= size:
            return {"days": 86_400.0, "hours": 3600.0, "minutes": 60.0}[name], name
    return 1.0, "seconds"


# --- a run ----------------------------------------------------------------------------------------


class _Table:
    """A story as arrays: so many jobs are only drawn when they have been added up."""

    def __init__(self, story: Story) -> None:
        import numpy

        self.np = numpy
        jobs = story.jobs
        nan = float("nan")

        def numbers(values: Any) -> Any:
            return numpy.fromiter(values, dtype=float, count=len(jobs))

        self.end = numbers(nan if job.ended_s is None else job.ended_s for job in jobs)
        self.seconds = numbers(nan if job.seconds is None else job.seconds for job in jobs)
        self.peak = numbers(job.peak_rss_bytes or nan for job in jobs)
        self.failed = numbers(job.state == FAILED for job in jobs).astype(bool)
        self.canceled = numbers(job.state == CANCELED for job in jobs).astype(bool)
        self.completed = numbers(job.state == COMPLETED for job in jobs).astype(bool)
        self.begin = self.end - self.seconds
        self._lay_out(story)

    def _lay_out(self, story: Story) -> None:
        """Finds out which workers there were, and when the run began and ended."""
        np = self.np
        names: dict[str, int] = {}
        self.hosts: list[str] = []
        for worker in story.workers:
            names.setdefault(worker.id, len(names))
            if len(self.hosts) < len(names):
                self.hosts.append(worker.host)
        lanes = []
        for job in story.jobs:
            key = job.worker or job.host
            lane = -1 if not key else names.setdefault(key, len(names))
            if lane == len(self.hosts):
                self.hosts.append(job.host)
            lanes.append(lane)
        self.workers = list(names)
        self.lane = np.array(lanes, dtype=int)
        count = len(names)
        self.up, self.gone = np.full(count, np.inf), np.full(count, -np.inf)
        for worker in story.workers:
            number = names[worker.id]
            if worker.up_s is not None:
                self.up[number] = worker.up_s
            if worker.gone_s is not None:
                self.gone[number] = worker.gone_s
        on = self.lane >= 0
        begins = on & np.isfinite(self.begin)
        np.minimum.at(self.up, self.lane[begins], self.begin[begins])
        ends = on & np.isfinite(self.end)
        np.maximum.at(self.gone, self.lane[ends], self.end[ends])
        sampled = [sample.at_s for job in story.jobs for sample in job.samples]
        times = [self.begin, self.end, self.up, self.gone, np.array(sampled)]
        known = np.concatenate([part[np.isfinite(part)] for part in times])
        self.first = float(known.min()) if known.size else 0.0
        self.last = float(known.max()) if known.size else 1.0
        self.last = max(self.last, self.first + 1e-3)
        self.up = np.where(np.isfinite(self.up), self.up, self.first)
        still = {worker.id for worker in story.workers if worker.gone_s is None}
        stays = np.array([name in still for name in self.workers], dtype=bool)
        self.gone = np.where(np.isfinite(self.gone) & ~stays, self.gone, self.last)

    def busy(self, low: Any, high: Any, lane: Any, lanes: int) -> Any:
        """Returns in how much of each bin of time jobs ran, summed, for each lane."""
        np = self.np
        step = (self.last - self.first) / BINS
        left, right = (low - self.first) / step, (high - self.first) / step
        # The integral of a step function: what begins adds from there on, what ends takes it away.
        grid = np.zeros((lanes, BINS + 2))
        for edge, sign in ((left, 1.0), (right, -1.0)):
            number = np.clip(edge.astype(int), 0, BINS - 1)
            inside = edge - number
            np.add.at(grid, (lane, number), sign * (1 - inside))
            np.add.at(grid, (lane, number + 1), sign * inside)
        return np.cumsum(grid, axis=1)[:, :BINS]


def plot(story: Story, width: float = 9.0) -> Figure:
    """Returns a figure of a run: its workers, what its jobs used, how long they took.

    :param width: inches
    :raises ImportError: there is no matplotlib
    """
    figure = _figure(width, 8.6)
    table = _Table(story)
    top, cpu, memory, hist = figure.subplots(
        4, 1, gridspec_kw={"height_ratios": [2.6, 1.3, 1.3, 1.5]}
    )
    scale, name = _time_unit(table.last - table.first)
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
    _literal(figure)
    figure._repr_png_ = functools.partial(_png, figure)  # type: ignore[attr-defined]  # notebooks
    return figure


def _summary(table: _Table, story: Story) -> str:
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


def _timeline(axes: Any, table: _Table, scale: float) -> None:
    """Draws a lane for each worker: when it was up, and what it ran."""
    count = len(table.workers)
    _bare(axes, "Workers", grid="")
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


def _lane_names(table: _Table) -> list[str]:
    """Returns the hosts, and the workers where a host had several."""
    names = []
    for worker, host in zip(table.workers, table.hosts, strict=True):
        alone = host and table.hosts.count(host) == 1
        name = host if alone or worker == host else f"{host} {worker}".strip()
        names.append(line(name, 28))
    return names


def _draw_bars(axes: Any, table: _Table, scale: float) -> None:
    """Draws each job as a bar; those of one worker that ran at once below each other."""
    from matplotlib.collections import PolyCollection

    np = table.np
    first = table.first
    for lane in range(len(table.workers)):
        left, right = table.up[lane] - first, table.gone[lane] - first
        axes.barh(lane, (right - left) / scale, left=left / scale, height=0.82, color="#EDEDED")
    drawn = np.flatnonzero((table.lane >= 0) & np.isfinite(table.begin))
    rows, depth = _side_by_side(table, drawn)
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


def _side_by_side(table: _Table, drawn: Any) -> tuple[list[int], dict[int, int]]:
    """Returns the row of each job in its worker's lane, and how many rows each lane has."""
    ends: dict[int, list[float]] = {}
    rows = [0] * len(drawn)
    tolerance = (table.last - table.first) / 1000
    for place in sorted(range(len(drawn)), key=lambda place: table.begin[drawn[place]]):
        job = drawn[place]
        taken = ends.setdefault(int(table.lane[job]), [])
        for row, end in enumerate(taken):
            if table.begin[job] >= end - tolerance:
                rows[place], taken[row] = row, table.end[job]
                break
        else:
            rows[place] = len(taken)
            taken.append(table.end[job])
    return rows, {lane: len(taken) for lane, taken in ends.items()}


def _draw_load(axes: Any, table: _Table, scale: float, lanes: int) -> None:
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


def _mark_failures(axes: Any, table: _Table, scale: float, lanes: int) -> None:
    np = table.np
    marked = np.flatnonzero(table.failed & (table.lane >= 0) & np.isfinite(table.end))
    if marked.size > MOST_MARKS:
        marked = marked[:: marked.size // MOST_MARKS + 1]
    count = max(1, len(table.workers))
    lane = table.lane[marked] * lanes // count if count > lanes else table.lane[marked]
    _crosses(axes, (table.end[marked] - table.first) / scale, lane)


def _legend(axes: Any, table: _Table, few: bool) -> None:
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


def _over_time(table: _Table, story: Story, field: str, running: Any) -> Any:
    """Returns the sum over all jobs of what they used, in bins of time; None: nothing was measured.

    A job counts as using what was measured last until it is measured again, or ends.  Where jobs
    ran and none was measured, nothing is known, which is not 0: NaN, a gap in the line.
    """
    np = table.np
    low, high, value = [], [], []
    for number, job in enumerate(story.jobs):
        ended = table.end[number] if np.isfinite(table.end[number]) else table.last
        for at, sample in enumerate(job.samples):
            following = job.samples[at + 1].at_s if at + 1 < len(job.samples) else ended
            low.append(sample.at_s)
            high.append(max(following, sample.at_s))
            value.append(getattr(sample, field))
    if not low:
        return None
    step = (table.last - table.first) / BINS
    total, known = np.zeros(BINS + 2), np.zeros(BINS + 2)
    for edges, sign in ((low, 1.0), (high, -1.0)):
        edge = (np.array(edges) - table.first) / step
        number = np.clip(edge.astype(int), 0, BINS - 1)
        inside = edge - number
        for sums, amount in ((total, np.array(value)), (known, 1.0)):
            np.add.at(sums, number, sign * (1 - inside) * amount)
            np.add.at(sums, number + 1, sign * inside * amount)
    unknown = (np.cumsum(known)[:BINS] < NEXT_TO_NOTHING) & (running > NEXT_TO_NOTHING)
    return np.where(unknown, np.nan, np.maximum(np.cumsum(total)[:BINS], 0))


def _running(table: _Table) -> Any:
    """Returns how many jobs ran, in bins of time."""
    np = table.np
    drawn = np.isfinite(table.begin)
    zero = np.zeros(int(drawn.sum()), dtype=int)
    return np.maximum(table.busy(table.begin[drawn], table.end[drawn], zero, 1)[0], 0)


def _bins(table: _Table, scale: float) -> Any:
    step = (table.last - table.first) / BINS
    return (table.np.arange(BINS) + 0.5) * step / scale


def _processors(axes: Any, table: _Table, story: Story, scale: float) -> None:
    running = _running(table)
    measured = _over_time(table, story, "cpu_fraction", running)
    times = _bins(table, scale)
    _bare(axes, "Processors")
    axes.fill_between(
        times, running, step="mid", color=SKY, alpha=0.35, linewidth=0,
        label="jobs that ran",
    )  # fmt: skip
    if measured is not None:
        axes.plot(times, measured, color=ORANGE, linewidth=1.8, label="processors kept busy")
    axes.set_ylim(bottom=0)
    _small_legend(axes)


def _memory(axes: Any, table: _Table, story: Story, scale: float) -> None:
    np = table.np
    measured = _over_time(table, story, "rss_bytes", _running(table))
    peaks = np.flatnonzero(np.isfinite(table.peak) & np.isfinite(table.end))
    largest = float(table.peak[peaks].max()) if peaks.size else 0.0
    most = max(largest, float(np.nan_to_num(measured).max()) if measured is not None else 0.0)
    size, unit = _unit(most)
    _bare(axes, f"Memory [{unit}]" if most else "Memory")
    if measured is not None:
        axes.plot(
            _bins(table, scale), measured / size, color=BLUE, linewidth=1.8,
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


def _durations(axes: Any, table: _Table) -> None:
    np = table.np
    known = np.isfinite(table.seconds) & (table.seconds > 0)
    seconds = table.seconds[known]
    _bare(axes, "How long jobs took")
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
    scale, name = _time_unit(high)
    axes.xaxis.set_major_formatter(FuncFormatter(functools.partial(_in_units, scale)))
    axes.set_xlabel(name, fontsize=9, color=INK)
