"""Pictures of numbers: they are well-formed, tell the truth, and have a table beside them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from markupsafe import Markup

from gridmap.views import SampleView, Tick
from gridmap.web import charts

TICKS = [Tick(1000.0 + 10 * n, completed=n, failed=n % 2) for n in range(60)]
MB = 1 << 20


def points_of(drawing: Markup, look: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(drawing)
    (path,) = (one for one in root.iter("path") if one.get("class") == f"line {look}")
    found = re.findall(r"[ML]([\d.]+) ([\d.]+)", path.get("d", ""))
    return [(float(x), float(y)) for x, y in found]


def test_progress_ends_where_all_have_ended() -> None:
    total = sum(tick.completed + tick.failed for tick in TICKS)
    chart = charts.progress(TICKS, total, 1600.0)
    assert chart is not None
    points = points_of(chart.drawing, "ended")
    assert points[0] == (0.0, 199.0) and points[-1] == (1000.0, 1.0)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert chart.summary == "1,800 of 1,800 jobs had ended, 30 of them failed."
    assert chart.table[0] == ["time", "ended", "of these failed"]
    assert chart.table[-1][1:] == ["1,800", "30"]
    assert len(chart.table) <= charts.MOST_LINES + 2


def test_progress_does_not_reach_the_top_before_the_end() -> None:
    chart = charts.progress(TICKS, 3600, 1600.0)
    assert chart is not None
    assert abs(points_of(chart.drawing, "ended")[-1][1] - 100) < 1


def test_throughput_keeps_the_number_of_jobs() -> None:
    chart = charts.throughput([Tick(0.0, 10), Tick(5.0, 0, 20), Tick(10.0)], 15.0)
    assert chart is not None
    assert chart.summary == "At most 4.0/s, 2.0/s on average."
    assert points_of(chart.drawing, "rate")[0] == (0.0, 100.0)


def test_a_stretch_that_has_just_begun_is_no_break_down() -> None:
    ticks = [Tick(10.0 * n, 100) for n in range(5)] + [Tick(50.0, 10)]
    chart = charts.throughput(ticks, 51.0)
    assert chart is not None
    assert chart.summary == "At most 10/s, 10/s on average."
    assert {y for _, y in points_of(chart.drawing, "rate")} == {1.0}
    shown = charts.progress(ticks, 510, 51.0)
    assert shown is not None
    (before, _), (last, _) = points_of(shown.drawing, "ended")[-2:]
    assert (round(before), last) == (980, 1000.0)


def test_memory_shows_what_was_asked_for() -> None:
    samples = [SampleView(100.0 + n, n * MB, 0.5) for n in range(1, 5)]
    chart = charts.memory(samples, 8 * MB)
    assert chart is not None
    assert chart.summary == "At most 4.0 MB of the 8.0 MB that were asked for."
    assert points_of(chart.drawing, "limit") == [(0.0, 1.0), (1000.0, 1.0)]
    assert dict(chart.legend) == {"used": "memory", "asked for": "limit"}
    cpu = charts.cpu(samples)
    assert cpu is not None and cpu.summary == "0.50 cores on average."


def test_nothing_and_a_single_number() -> None:
    assert charts.progress([], 0, 0.0) is charts.throughput([], 0.0) is charts.memory([], 1) is None
    assert charts.cpu([]) is None
    for chart in (charts.cpu([SampleView(1.0, 1, 0.0)]), charts.progress([Tick(1.0)], 0, 1.0)):
        assert chart is not None
        ElementTree.fromstring(chart.drawing)
        assert "nan" not in chart.drawing and "inf" not in chart.drawing


def widths_of(drawing: Markup) -> dict[str, float]:
    rects = ElementTree.fromstring(drawing).iter("rect")
    return {one.get("class", ""): float(one.get("width", "nan")) for one in rects}


def test_bars() -> None:
    assert widths_of(charts.bar(1, 4)) == {"rest": 100, "part": 25}
    assert widths_of(charts.bar(9, 4)) == {"rest": 100, "part": 100}
    assert widths_of(charts.bar(1, 0)) == {"rest": 100, "part": 0}
    parts = [("good", 1), ("none", 0), ("busy", 1)]
    assert widths_of(charts.stack(parts, 4)) == {"rest": 100, "good": 25, "busy": 25}
    assert widths_of(charts.stack(parts, 0)) == {"rest": 100}


def test_what_failed_can_be_seen_however_little_it_is() -> None:
    widths = widths_of(charts.stack([("good", 999_999), ("bad", 1)], 10**6))
    assert 0.4 < widths["bad"] < 1
    assert widths["good"] + widths["bad"] <= 100
