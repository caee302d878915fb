"""How commands print: tables on a terminal, tab-separated lines in a pipe, JSON on wish.

Names, errors and logs are written by others: what could move the cursor, or change colors, is shown
and not done.
"""

from __future__ import annotations

import json
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TextIO

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gridmap import _numbers
from gridmap._numbers import counted
from gridmap.core.memory import human
from gridmap.views import DAMAGED, INTERRUPTED, UNDER_WAY, RunView

STYLES = {
    "completed": "green",
    "failed": "bold red",
    "canceled": "yellow",
    "running": "cyan",
    "queued": "dim",
    UNDER_WAY: "cyan",
    INTERRUPTED: "yellow",
    DAMAGED: "bold red",
}
_WHICH = re.compile(r"job \d+ \([^\n]*?\) [^\n]*? after \d+ attempts?: (?=\S)")
_BLOCKS = "▁▂▃▄▅▆▇█"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Categories of characters that are not seen or do something: control, direction, surrogates."""


def console(stream: TextIO | None = None) -> Console:
    """Returns what prints to a stream; stdout when none is given."""
    stream = sys.stdout if stream is None else stream
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return Console(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=False)


def safe(text: object, lines: bool = False) -> str:
    """Returns a text in which nothing does anything.

    :param lines: it may have several lines, and tabs
    """
    kept = "\n\t" if lines else ""
    return "".join(
        char if char in kept or unicodedata.category(char) not in _HIDDEN else _shown(char)
        for char in str(text)
    )


def _shown(char: str) -> str:
    return char.encode("unicode_escape").decode()


def text(value: object, style: str = "") -> Text:
    """Returns a cell that shows a value as it is."""
    return Text(no_wrap=True, overflow="ellipsis").append(safe(value), style)


def in_short(cause: str, error: str) -> str:
    """Returns what a job ended by, without what is said beside it: which job, where, how often."""
    line = error.strip().partition("\n")[0]
    if not line or cause == "exception":
        return line
    return f"{cause}: {_WHICH.sub('', line, count=1)}" if cause else line


# --- numbers --------------------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """Returns a length of time; a dash for what nobody knows."""
    return "-" if seconds is None else _numbers.duration(seconds)


def lost(view: RunView) -> str:
    """Returns what the attempts cost that failed and were followed by another."""
    cost = (
        f"which cost {duration(view.lost_s)}" if view.lost_s else "how long they took is not known"
    )
    return f"{counted(view.resubmitted, 'attempt')} that failed, {cost}"


def moment(at_s: float | None) -> str:
    """Returns a time of this place."""
    try:
        return "-" if not at_s else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
    except (OverflowError, OSError, ValueError):  # some damage is a number like any other
        return "-"


def memory(nbytes: int) -> str:
    """Returns an amount of memory, "-" where it is not known."""
    return human(nbytes) if nbytes else "-"


def sparkline(values: Sequence[float], most: float, width: int = 60) -> str:
    """Returns a curve in one line, each of whose points is the largest of its stretch.

    :param most: what the highest block stands for
    """
    width = max(1, min(width, len(values)))
    stretches = [
        values[len(values) * n // width : max(len(values) * (n + 1) // width, 1)]
        for n in range(width)
    ]
    highest = max(most, *values, 1e-9) if values else 1.0
    return "".join(
        _BLOCKS[min(7, max(0, round(max(stretch) / highest * 7)))] for stretch in stretches
    )


def bar(done: int, total: int, width: int = 30) -> str:
    """Returns how much is done, as a bar and a percentage."""
    fraction = done / total if total else 0.0
    full = int(fraction * width)
    percent = int(fraction * 100)  # 100 only when all is done
    return f"[{'#' * full}{'.' * (width - full)}] {percent} %"


# --- tables ---------------------------------------------------------------------------------------


_GAP = 2
_FLEXIBLE = ("NAME", "ERROR", "WHAT HAPPENED")
_LEAST = 12
"""Characters that a flexible column should have."""

Row = Sequence[Text | str]


def table(
    headings: Sequence[str],
    rows: Iterable[Row],
    width: int,
    right: Iterable[str] = (),
    less: Iterable[str] = (),
) -> Table:
    """Returns a table for a terminal: names and errors are cut where it is narrow.

    :param right: headings of columns of numbers
    :param less: headings of columns that are left out first where it is narrower still
    """
    columns = {
        heading: [cell if isinstance(cell, Text) else text(cell) for cell in cells]
        for heading, *cells in zip(headings, *rows, strict=True)
    }
    widths = {h: max(len(h), *(c.cell_len for c in cells), 0) for h, cells in columns.items()}
    for heading in less:
        if _needed(widths) <= width:
            break
        del widths[heading]
    _share(widths, width)
    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    numbers = set(right)
    for heading, wide in widths.items():
        justify: Literal["left", "right"] = "right" if heading in numbers else "left"
        made.add_column(heading, justify=justify, width=wide, no_wrap=True, overflow="ellipsis")
    for cells in zip(*(columns[heading] for heading in widths), strict=True):
        made.add_row(*cells)
    return made


def _needed(widths: dict[str, int]) -> int:
    wide = sum(min(w, _LEAST) if h in _FLEXIBLE else w for h, w in widths.items())
    return wide + _GAP * (len(widths) - 1)


def _share(widths: dict[str, int], width: int) -> None:
    """Gives flexible columns what is left, those that need less first."""
    flexible = sorted((h for h in widths if h in _FLEXIBLE), key=lambda h: widths[h])
    left = width - _GAP * (len(widths) - 1)
    left -= sum(wide for h, wide in widths.items() if h not in _FLEXIBLE)
    for number, heading in enumerate(flexible):
        widths[heading] = max(1, min(widths[heading], left // (len(flexible) - number)))
        left -= widths[heading]


def put_table(
    out: Console,
    headings: Sequence[str],
    rows: Sequence[Row],
    right: Iterable[str] = (),
    less: Iterable[str] = (),
) -> None:
    """Prints a table; in a pipe, whole values between tabs, after the headings if there are any."""
    if out.is_terminal:
        out.print(table(headings, rows, out.width, right, less))
        return
    for row in (headings, *rows) if headings else rows:
        cells = (cell.plain if isinstance(cell, Text) else safe(cell) for cell in row)
        put_line(out, "\t".join(cells))


def put_line(out: Console, line: str) -> None:
    """Prints a line as it is, however long."""
    out.file.write(line + "\n")


def put_json(value: Any) -> None:
    """Prints a JSON document."""
    print(json.dumps(msgspec.to_builtins(value), indent=2))


def facts(pairs: Iterable[tuple[str, Text | str]]) -> Table:
    """Returns names and values, each in a line or a few."""
    made = Table(box=None, show_header=False, pad_edge=False, show_edge=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, value if isinstance(value, Text) else Text(safe(value, lines=True)))
    return made


def put_facts(out: Console, pairs: Sequence[tuple[str, Text | str]]) -> None:
    """Prints names and values; in a pipe one to a line, with a tab between them."""
    if out.is_terminal:
        out.print(facts(pairs))
        return
    for name, value in pairs:
        plain = value.plain if isinstance(value, Text) else safe(value, lines=True)
        for line in plain.split("\n"):
            put_line(out, f"{name}\t{line}")


def state_of(view: RunView) -> Text:
    """Returns the state of a run, as a cell."""
    word = view.state
    if word == UNDER_WAY and view.error:
        word = "no answer"
    style = STYLES.get(word, "green" if view.completed == view.total else "bold red")
    return text(word, "bold red" if word == "no answer" else style)
