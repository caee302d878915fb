"""How what a monitor takes grows with the number of its agents, as a picture."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.record import Row, figure

KINDS = {
    "with a job each": "processor [% of a core]",
    "memory": "memory [MB]",
    "all have come": "until all have come [s]",
}


def draw(rows: list[Row], file: Path) -> None:
    """Draws what was measured, and dotted what follows from it on paper."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gridmap"
    from matplotlib import pyplot

    figures, axes = pyplot.subplots(1, len(KINDS), figsize=(9, 2.8), layout="constrained")
    for axis, (kind, label) in zip(axes, KINDS.items(), strict=True):
        points = sorted(_points(rows, kind))
        solid = [point for point in points if not point[2]]
        axis.loglog([x for x, _, _ in points], [y for _, y, _ in points], ":", color="0.5")
        axis.loglog([x for x, _, _ in solid], [y for _, y, _ in solid], "o-", color="C0")
        axis.set_xlabel("agents")
        axis.set_title(label, fontsize=10)
        axis.grid(True, which="major", linewidth=0.3)
    figures.savefig(file, metadata={"Date": None})
    pyplot.close(figures)


def _points(rows: list[Row], kind: str) -> list[tuple[int, float, bool]]:
    """Returns (agents, figure, on paper) of the rows of a kind."""
    points = []
    for entry in rows:
        found = re.match(r"([\d,]+) agents(, on paper)?:? (.*)", entry["what"])
        value = figure(entry)
        if found and found[3] == kind and value:
            points.append((int(found[1].replace(",", "")), value, bool(found[2])))
    return points
