"""Writes the tables of docs/performance.rst from docs/performance.json.

Each stands between two comments, `.. begin PART` and `.. end PART`; what is around them is written
by hand.  The part `summary` is made of the goals of all others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.local.workloads import WORKLOADS
from benchmarks.record import FILE, ROOT, Row, figure, met, read
from benchmarks.slurm.main import AHEAD
from benchmarks.slurm.systems import COUNTS

PAGE = ROOT / "docs" / "performance.rst"
GRIDMAP, REFERENCE = "GridMap", "serial"
SUMMARY = "summary"
GOALS = ("first", "noop20k", "noop1m", "skewed", "bulk", "broadcast", "crash")
GROUPS = {
    "Goals": GOALS,
    "Length of the calls": ("1ms", "10ms", "100ms"),
    "Size of the arguments": ("1KB", "100KB", "1MB", "10MB", "100MB"),
    "More workers than processors, and a mixed load": (
        "noop20k-8",
        "sleep-8",
        "mixed",
    ),
}
"""The tables of the local part; each row is a system, each column a workload."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where it would change the page")
    parser.add_argument("--from", dest="file", type=Path, default=FILE)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    before = options.page.read_text()
    after = page(before, read(options.file))
    if options.check:
        if before != after:
            print(f"{options.page} is out of date: run make bench-report", file=sys.stderr)
            return 1
        return 0
    options.page.write_text(after)
    return 0


def page(text: str, parts: dict[str, Any]) -> str:
    """Returns the page with the tables of all parts in their places.

    :raises ValueError: a part has no place in it
    """
    written = {name: _part(name, part) for name, part in parts.items()}
    if f".. begin {SUMMARY}\n" in text:
        written[SUMMARY] = _summary(parts)
    for name, tables in written.items():
        begin, end = f".. begin {name}\n", f".. end {name}\n"
        if begin not in text or end not in text:
            raise ValueError(f"the page has no place for {name!r}: {begin.strip()}, {end.strip()}")
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{tables}\n\n{end}{tail}"
    return text


def _summary(parts: dict[str, Any]) -> str:
    """Returns a table of all goals."""
    lines = [
        [name, entry["what"], f"{_figure(entry, marked=False)} {entry['unit']}", _goal(entry)]
        for name, part in parts.items()
        for rows in part["tables"].values()
        for entry in rows
        if entry["goal"] is not None
    ]
    reached = sum("**missed**" not in line[-1] for line in lines)
    head = ["part", "what", "measured", "goal"]
    return f"{reached} of {len(lines)} goals are met.\n\n" + _table(head, lines, [8, 44, 18, 30])


def _part(name: str, part: dict[str, Any]) -> str:
    machine = part["machine"]
    blocks = [
        f"Measured with ``{part['command']}`` on {part['date']}: {machine['cores']} cores "
        f"({machine['cpu']}), {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}."
    ]
    if part["versions"]:
        versions = [f"{system} {version}" for system, version in part["versions"].items()]
        blocks.append(f"Versions: {', '.join(versions)}.")
    tables = part["tables"]
    if name == "local":
        blocks.append(_against_best(tables))
        blocks += [_side_by_side(title, names, tables) for title, names in GROUPS.items()]
    elif name == "slurm":
        blocks.append(_list(tables.get(AHEAD, [])))
        for kind in ("first", "all"):
            calls = {f"{count:,} calls: {kind}": f"{count:,} calls" for count in COUNTS}
            title = f"Seconds to {'the first result' if kind == 'first' else 'all results'}"
            blocks.append(_side_by_side(title, tuple(calls), tables, calls))
    else:
        blocks += [_title(title) + _list(rows) for title, rows in tables.items()]
    return "\n\n".join(block for block in blocks if block)


# --- GridMap beside others --------------------------------------------------------------------


def _against_best(tables: dict[str, list[Row]]) -> str:
    """Returns a table of GridMap's figures, its goals, and the best of the others."""
    lines = []
    for names in GROUPS.values():
        for name in names:
            ours = _of(tables.get(name, []), GRIDMAP)
            if ours is None:
                continue
            best = _best(tables[name])
            lines.append(
                [
                    ours["what"],
                    _with_best(ours),
                    _goal(ours),
                    _at_speed(name, tables[name]),
                    _of_ideal(name, ours),
                    f"{best['system']}, {_with_best(best)}" if best else "none",
                    _ratio(best, ours) if best else "",
                ]
            )
    head = [
        *("workload", "GridMap [s]", "goal [s]", "goal at this run's speed [s]", "of ideal"),
        *("best other [s]", "other / GridMap"),
    ]
    widths = [30, 12, 16, 16, 8, 20, 10]
    return _title("GridMap and the best of the others") + _table(head, lines, widths)


def _side_by_side(
    title: str,
    names: tuple[str, ...],
    tables: dict[str, list[Row]],
    heads: Mapping[str, str] | None = None,
) -> str:
    """Returns a table of all systems, a column for each workload, and how they compare.

    :param heads: what stands above the columns, where that is not the workload's name
    """
    names = tuple(name for name in names if name in tables)
    if not names:
        return ""
    systems = [entry["system"] for entry in tables[names[0]]]
    with_import = names[0] == "first" and "import" in tables
    lines = []
    for system in systems:
        cells = [system]
        if with_import:
            entry = _of(tables["import"], system)
            cells.append(_figure(entry, marked=False) if entry else "")
        for name in names:
            entry = _of(tables[name], system)
            cells.append(_cell(entry, tables[name]) if entry else "not measured")
        lines.append(cells)
    columns = [(heads or {}).get(name, name) for name in names]
    head = ["system", *(["import"] if with_import else []), *columns]
    return _title(title) + _table(head, lines)


def _cell(entry: Row, rows: list[Row]) -> str:
    ours, best = _of(rows, GRIDMAP), _best(rows)
    text = _figure(entry, marked=entry is best)
    if figure(entry) is None or ours is None or entry is ours:
        return text
    ratio = _ratio(entry, ours)
    return f"{text} ({ratio})" if ratio else text


def _best(rows: list[Row]) -> Row | None:
    """Returns the fastest of the others that gave right results."""
    others = [
        entry
        for entry in rows
        if entry["values"] and not entry["note"] and entry["system"] not in (GRIDMAP, REFERENCE)
    ]
    return min(others, key=lambda entry: figure(entry) or 0.0, default=None)


def _of(rows: list[Row], system: str) -> Row | None:
    return next((entry for entry in rows if entry["system"] == system), None)


def _at_speed(name: str, rows: list[Row]) -> str:
    """Returns what the goal would be had it been set in the hour of this run.

    The hour's speed is the median of how many times what they took then the others take now.
    """
    ours, goal_s = _of(rows, GRIDMAP), WORKLOADS[name].at_most_s
    then_s = WORKLOADS[name].others_s
    slower = [
        value / before
        for entry in rows
        if (value := figure(entry)) is not None
        and not entry["note"]
        and (before := then_s.get(entry["system"])) is not None
    ]
    if ours is None or goal_s is None or not slower:
        return ""
    limit_s = goal_s * median(slower)
    reached = met({**ours, "goal": {"at_most": limit_s}})
    return f"{_number(limit_s)}: {'met' if reached else '**missed**'}"


def _of_ideal(name: str, ours: Row) -> str:
    """Returns how many times as long it took as the calls themselves, shared evenly."""
    value, ideal_s = figure(ours), WORKLOADS[name].ideal_s
    return f"{value / ideal_s:.2f}x" if value is not None and ideal_s else ""


def _ratio(entry: Row, ours: Row) -> str:
    value, our_value = figure(entry), figure(ours)
    if value is None or not our_value:
        return ""
    times = value / our_value
    return f"{times:,.0f}x" if times >= 10 else f"{times:.1f}x" if times >= 1 else f"{times:.2f}x"


# --- tables -----------------------------------------------------------------------------------


def _list(rows: list[Row]) -> str:
    """Returns a table with a row for each thing measured."""
    if not rows:
        return ""
    others = any(entry["system"] != GRIDMAP for entry in rows)
    lines = [
        [
            entry["what"],
            *([entry["system"]] if others else []),
            f"{_figure(entry, marked=False)} {entry['unit']}" if entry["values"] else entry["note"],
            _goal(entry),
        ]
        for entry in rows
    ]
    return _table(["what", *(["system"] if others else []), "measured", "goal"], lines)


def _figure(entry: Row, marked: bool) -> str:
    """Returns the median, or what went wrong."""
    value = figure(entry)
    if value is None:
        return entry["note"]
    text = _number(value)
    if marked:
        text = f"**{text}**"
    return f"{text}, {entry['note']}" if entry["note"] else text


def _with_best(entry: Row) -> str:
    """Returns the median, with the best in brackets."""
    text = _figure(entry, marked=False)
    return f"{text} ({_number(min(entry['values']))})" if len(entry["values"]) > 1 else text


def _number(value: float) -> str:
    """Returns three digits, and whole numbers whole."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3f}" if value < 1 else f"{value:#.3g}"


def _goal(entry: Row) -> str:
    if entry["goal"] is None:
        return entry["goal_text"]
    text = entry["goal_text"]
    if not text and "at_most" in entry["goal"]:
        text = f"at most {_number(entry['goal']['at_most'])}"
    elif not text:
        text = f"at least {_number(entry['goal']['at_least'])}"
    return f"{text}: {'met' if met(entry) else '**missed**'}"


def _title(text: str) -> str:
    return f"{text}\n{'~' * len(text)}\n\n"


def _table(head: list[str], lines: list[list[str]], widths: list[int] | None = None) -> str:
    text = [".. list-table::", "   :header-rows: 1"]
    if widths:
        text.append(f"   :widths: {' '.join(map(str, widths))}")
    text.append("")
    for line in [head, *lines]:
        text.append(f"   * - {line[0]}".rstrip())
        text += [f"     - {cell}".rstrip() for cell in line[1:]]
    return "\n".join(text)
