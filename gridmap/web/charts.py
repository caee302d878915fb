"""Pictures of numbers: SVG without words, which stand beside it as text of the page.

So the words keep their size on a phone, and a screen reader has a table of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from gridmap._numbers import counted, rate
from gridmap.views import SampleView, Tick
from gridmap.web import text

WIDTH, HEIGHT = 1000.0, 200.0
"""Units of the drawing, which is stretched to its place."""
MOST_BARS = 50
MOST_LINES = 24
"""Lines of the table beside a chart."""

LEAST_SEEN = 0.5
"""Percent of a bar that a part has at least, however little it is."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line, or bars, of a chart.

    :param look: names the class that gives it its color
    :param points: x and y, from left to right
    """

    name: str
    look: str
    points: Sequence[Point]
    filled: bool = False


@dataclass(frozen=True)
class Chart:
    """What a template needs of a chart.

    :param summary: what there is to be seen, in a sentence
    :param table: lines of cells of text, the first one names the columns
    :param marks: labels of the y axis, each with its height in percent
    """

    title: str
    summary: str
    drawing: Markup
    begin: str
    end: str
    marks: list[tuple[str, int]]
    table: list[list[str]]
    legend: list[tuple[str, str]] = field(default_factory=list)


def progress(ticks: Sequence[Tick], total: int, until_s: float) -> Chart | None:
    """Returns how many jobs had ended when.

    :param until_s: now, or when the last job ended; the last stretch may be over later
    """
    if not ticks:
        return None
    done: list[Point] = [(ticks[0].at_s, 0.0)]
    failed: list[Point] = [(ticks[0].at_s, 0.0)]
    for tick, end_s in zip(ticks, _ends(ticks, until_s), strict=True):
        done.append((end_s, done[-1][1] + tick.completed + tick.failed))
        failed.append((end_s, failed[-1][1] + tick.failed))
    ended, bad = int(done[-1][1]), int(failed[-1][1])
    series = [Series("ended", "ended", done, True)]
    if bad:
        series.append(Series("of these failed", "failed", failed, True))
    jobs = counted(total, "job")
    summary = f"{text.count(ended)} of {jobs} had ended, {text.count(bad)} of them failed."
    return _chart("Jobs ended over time", summary, series, text.count, total or ended)


def throughput(ticks: Sequence[Tick], until_s: float) -> Chart | None:
    """Returns how many jobs ended a second."""
    if not ticks:
        return None
    ends = _ends(ticks, until_s)
    together = max(1, math.ceil(len(ticks) / MOST_BARS))
    firsts = list(range(0, len(ticks), together))
    if len(firsts) > 1 and ends[-1] - ticks[firsts[-1]].at_s < together * _width(ticks) / 2:
        firsts.pop()  # what has just begun says little
    points: list[Point] = []
    for first, stop in zip(firsts, [*firsts[1:], len(ticks)], strict=True):
        jobs = sum(tick.completed + tick.failed for tick in ticks[first:stop])
        points.append((ticks[first].at_s, jobs / (ends[stop - 1] - ticks[first].at_s)))
    most = max(y for _, y in points)
    jobs = sum(tick.completed + tick.failed for tick in ticks)
    mean = jobs / (ends[-1] - ticks[0].at_s)
    points.append((ends[-1], points[-1][1]))
    series = [Series("jobs ended", "rate", points)]
    summary = f"At most {rate(most)}, {rate(mean)} on average."
    return _chart("Throughput", summary, series, rate, steps=True)


def memory(samples: Sequence[SampleView], asked_bytes: int | None) -> Chart | None:
    """Returns the memory that a job had when its worker's heart beat."""
    if not samples:
        return None
    series = [Series("used", "memory", [(s.at_s, float(s.rss_bytes)) for s in samples], True)]
    most = max(sample.rss_bytes for sample in samples)
    summary = f"At most {text.size(most)}"
    if asked_bytes:
        ends = samples[0].at_s, samples[-1].at_s
        series.append(Series("asked for", "limit", [(at, float(asked_bytes)) for at in ends]))
        summary += f" of the {text.size(asked_bytes)} that were asked for"
    return _chart("Memory", summary + ".", series, text.size)


def cpu(samples: Sequence[SampleView]) -> Chart | None:
    """Returns the processor time that a job took when its worker's heart beat."""
    if not samples:
        return None
    series = [Series("used", "cpu", [(s.at_s, s.cpu_fraction) for s in samples], True)]
    mean = sum(sample.cpu_fraction for sample in samples) / len(samples)
    return _chart("Processors", f"{mean:.2f} cores on average.", series, cores, least=1.0)


def cores(value: float) -> str:
    return f"{value:.3g}"


def _width(ticks: Sequence[Tick]) -> float:
    return (ticks[1].at_s - ticks[0].at_s) if len(ticks) > 1 else 1.0


def _ends(ticks: Sequence[Tick], until_s: float) -> list[float]:
    """Returns when each stretch ends."""
    at_s, width = ticks[-1].at_s, _width(ticks)
    last = min(max(until_s, at_s + width / 100), at_s + width) if until_s else at_s + width
    return [*(tick.at_s for tick in ticks[1:]), last]


# --- drawing --------------------------------------------------------------------------------------


def _chart(
    title: str,
    summary: str,
    series: Sequence[Series],
    unit: Callable[[float], str],
    least: float = 0.0,
    steps: bool = False,
) -> Chart:
    """Returns a chart from zero up.

    :param least: what is seen reaches so high at least
    """
    left, right = series[0].points[0][0], series[0].points[-1][0]
    top = max(least, *(y for one in series for _, y in one.points)) or 1.0
    pieces = [Markup('<line class="grid" x1="0" x2="1000" y1="{0}" y2="{0}"/>').format(_y(at))
              for at in (0.0, 0.5, 1.0)]  # fmt: skip
    for one in series:
        points = [((x - left) / (right - left or 1.0), y / top) for x, y in one.points]
        pieces.append(_line(points, one, steps))
    drawing = Markup(
        '<svg viewBox="0 0 1000 200" preserveAspectRatio="none" aria-hidden="true" '
        'focusable="false">{}</svg>'
    ).format(Markup("").join(pieces))
    marks = [(unit(top), 0), (unit(top / 2), 50), ("0", 100)]
    legend = [(one.name, one.look) for one in series] if len(series) > 1 else []
    clocks = text.clock(left), text.clock(right)
    return Chart(title, summary, drawing, *clocks, marks, _table(series, unit), legend)


def _y(share: float) -> str:
    return f"{HEIGHT - 1 - share * (HEIGHT - 2):.1f}"


def _line(points: Sequence[Point], series: Series, steps: bool) -> Markup:
    path = _path(points, steps)
    pieces = []
    if series.filled or steps:
        ends = points[0][0] * WIDTH, points[-1][0] * WIDTH
        area = f"{path} L{ends[1]:.1f} {_y(0)} L{ends[0]:.1f} {_y(0)} Z"
        pieces.append(Markup('<path class="area {}" d="{}"/>').format(series.look, area))
    pieces.append(Markup('<path class="line {}" d="{}"/>').format(series.look, path))
    if len(points) == 1:  # a dot, or there would be nothing to see
        dot = f"M0 {_y(points[0][1])} L{WIDTH:.0f} {_y(points[0][1])}"
        pieces[-1] = Markup('<path class="line {}" d="{}"/>').format(series.look, dot)
    return Markup("").join(pieces)


def _path(points: Iterable[Point], steps: bool) -> str:
    words: list[str] = []
    last = 0.0
    for x, y in points:
        if steps and words:
            words.append(f"L{x * WIDTH:.1f} {_y(last)}")
        words.append(f"{'L' if words else 'M'}{x * WIDTH:.1f} {_y(y)}")
        last = y
    return " ".join(words)


def _table(series: Sequence[Series], unit: Callable[[float], str]) -> list[list[str]]:
    """Returns some of the numbers, evenly chosen, and the last."""
    points = series[0].points
    step = max(1, math.ceil(len(points) / MOST_LINES))
    chosen = [*range(0, len(points) - 1, step), len(points) - 1]
    table = [["time", *(one.name for one in series)]]
    for number in chosen:
        row = [text.clock(points[number][0])]
        for one in series:
            at = min(number, len(one.points) - 1)
            row.append(unit(one.points[at][1]))
        table.append(row)
    return table


def bar(part: float, whole: float, look: str = "") -> Markup:
    """Returns a small bar, of which a part is full."""
    share = min(1.0, part / whole) if whole > 0 else 0.0
    return Markup(
        '<svg class="bar {}" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" '
        'focusable="false"><rect class="rest" width="100" height="8"/>'
        '<rect class="part" width="{:.2f}" height="8"/></svg>'
    ).format(look, 100 * share)


def stack(parts: Sequence[tuple[str, float]], whole: float) -> Markup:
    """Returns a bar of several parts beside each other; each has its own class."""
    shares = [100 * part / whole if whole > 0 else 0.0 for _, part in parts]
    widths = [max(share, LEAST_SEEN) if share else 0.0 for share in shares]
    shrunk = min(1.0, 100 / (sum(widths) or 1.0))
    pieces, x = [], 0.0
    for (look, _), width in zip(parts, widths, strict=True):
        if width:
            rect = '<rect class="{}" x="{:.3f}" width="{:.3f}" height="8"/>'
            pieces.append(Markup(rect).format(look, x, width * shrunk))
            x += width * shrunk
    return Markup(
        '<svg class="bar stack" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" '
        'focusable="false"><rect class="rest" width="100" height="8"/>{}</svg>'
    ).format(Markup("").join(pieces))
