"""Shows a run's progress: below the cursor of a terminal, in a notebook, or as plain lines.

On a terminal the cursor stays where the program's own output goes on.  The display hangs below that
line and is drawn anew there, so that what the program and its processes print is never overwritten,
whoever prints it; and since nothing is hidden and no mode of the terminal is changed, there is
nothing to put back when the program dies.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from gridmap.report import wording
from gridmap.report.wording import SEPARATOR, Field, Flow

if TYPE_CHECKING:
    from rich.text import Text

    from gridmap.monitor.tally import Note
    from gridmap.run_status import RunStatus

log = logging.getLogger(__name__)

TOLD_BY = "gridmap.monitor.perform"
"""The logger that tells of what is noteworthy."""

STYLES = {"": "", "good": "green", "bad": "bold red", "odd": "yellow"}
SHORTEST_BAR = 10
LONGEST_BAR = 40

# Control functions of ECMA-48, and of the VT100, which every terminal since knows.
ERASE_BELOW = "\x1b[J"
DOWN_OR_SCROLL = "\x1bD"
UP = "\x1b[{}A"
NEXT_ROW = "\x1b[B\r"
SAVE, RESTORE = "\x1b7", "\x1b8"


class View(Protocol):
    """Shows one run to a person."""

    every_s: float

    def show(self, status: RunStatus, notes: Sequence[Note], now: float) -> None: ...

    def hide(self) -> None:
        """Takes away what is shown, for now."""

    def end(self, status: RunStatus, notes: Sequence[Note], elapsed_s: float) -> None:
        """Leaves a line that says what came of it, if anything was shown."""


def kind_of_view(forced: bool) -> str:
    """Returns where a run can be shown: "terminal", "notebook", "lines", or "" for nowhere.

    :param forced: it is to be shown in any case
    """
    if in_notebook():
        return "notebook"
    stream = sys.stderr
    try:
        terminal = stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return ""
    if terminal and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown"):
        return "terminal"
    return "lines" if forced and stream is not None else ""


def in_notebook() -> bool:
    """Returns whether a kernel of Jupyter runs this program; loads nothing."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def open_view(kind: str, run: str, local: bool, expected: int | None) -> View:
    """Returns a view of one kind."""
    words = _Words(run, local, expected)
    if kind == "notebook":
        return _Notebook(words)
    return _Terminal(words, sys.stderr) if kind == "terminal" else _Lines(words, sys.stderr)


class _Words:
    """What all views have in common.

    :param expected: how many jobs there will be, where the input says so
    """

    def __init__(self, run: str, local: bool, expected: int | None) -> None:
        self.run = run
        self.local = local
        self.expected = expected

    def lines(self, status: RunStatus, width: int, utf8: bool) -> list[Text]:
        """Returns the display, in lines of at most so many columns."""
        first = self._first(status, width, utf8)
        below = wording.flow(wording.details(status, self.local), width - 1)
        return [*first, *(_styled(line, " ") for line in below)]

    def _first(self, status: RunStatus, width: int, utf8: bool) -> list[Text]:
        from rich.text import Text

        done = wording.fraction_done(status, self.expected)
        head = wording.headline(status, self.expected)
        if done is None:
            return [_styled(line, " ") for line in wording.flow(head, width - 1)]
        percent = f" {int(100 * done)}%".ljust(6)
        room = width - len(percent) - sum(len(f.text) for f in head) - len(SEPARATOR) - 1
        if room < SHORTEST_BAR:
            lines = wording.flow([Field(percent.strip()), *head], width - 1)
            return [_styled(line, " ") for line in lines]
        bar = min(room, LONGEST_BAR)
        full, signs = int(bar * done), "━─" if utf8 else "#-"
        return [
            Text.assemble(
                percent, (signs[0] * full, "green"), (signs[1] * (bar - full), "dim"), " ",
                _styled(head),
            )
        ]  # fmt: skip

    def last(self, status: RunStatus, elapsed_s: float, width: int) -> list[Text]:
        """Returns what came of the run, in lines of at most so many columns."""
        fields = wording.summary(status, self.run, elapsed_s)
        return [_styled(line) for line in wording.flow(fields, width)]


def _styled(fields: list[Field], before: str = "") -> Text:
    from rich.text import Text

    text = Text(before, no_wrap=True)
    for number, field in enumerate(fields):
        text.append(SEPARATOR if number else "")
        text.append(field.text, STYLES[field.style])
    return text


# --- on a terminal --------------------------------------------------------------------------------

_screen: list[_Terminal] = []
"""Whose turn it is: one run is shown at a time."""


class _Terminal:
    """Draws below the cursor."""

    every_s = 0.25

    def __init__(self, words: _Words, stream: TextIO) -> None:
        from rich.console import Console

        self._words = words
        self._stream = stream
        self._flow = Flow()
        self._shown = False
        self._begun = False
        utf8 = "utf" in (getattr(stream, "encoding", None) or "").lower()
        self._utf8 = utf8
        self._console = Console(
            file=io.StringIO(), force_terminal=True, force_jupyter=False, legacy_windows=False,
            markup=False, emoji=False, highlight=False,
        )  # fmt: skip

    def show(self, status: RunStatus, notes: Sequence[Note], now: float) -> None:
        if not self._begun:
            self._begun = True
            self._flow.skip(notes)
        columns, rows = self._size()
        if not self._turn() or rows < 3 or columns < 20:
            return
        said = self._said(self._flow.through(notes, now, known=_seen_in_log))
        lines = self._words.lines(status, columns - 1, self._utf8)[: rows - 2]
        texts = [self._rendered(line, columns, wrap=False) for line in lines]
        drawn = ERASE_BELOW
        drawn += DOWN_OR_SCROLL * len(texts) + UP.format(len(texts)) + SAVE
        drawn += "".join(NEXT_ROW + text for text in texts) + RESTORE
        self._write(said + drawn)
        self._shown = True

    def hide(self) -> None:
        if self._shown:
            self._shown = False
            if self._in_foreground():
                self._write(ERASE_BELOW)
        if self in _screen:
            _screen.remove(self)

    def make_room(self) -> None:
        """Takes away what would stand in the way of lines that are about to be written."""
        if self._shown and self._in_foreground():
            self._write(ERASE_BELOW)

    def end(self, status: RunStatus, notes: Sequence[Note], elapsed_s: float) -> None:
        if self._shown and self._in_foreground():
            columns, _ = self._size()
            late = self._flow.through(notes, elapsed_s, last=True, known=_seen_in_log)
            lines = self._words.last(status, elapsed_s, columns - 1)
            last = "".join(self._rendered(line, columns) + "\n" for line in lines)
            # an interrupt's ^C may stand here; the display below it goes before the cursor does
            start = f"{ERASE_BELOW}\n" if status.canceled else ""
            self._write(start + self._said(late) + ERASE_BELOW + last)
            self._shown = False
        self.hide()

    def _turn(self) -> bool:
        """Returns whether this run may be shown, and the program has the terminal."""
        if not _screen:
            _screen.append(self)
        return _screen[0] is self and self._in_foreground()

    def _in_foreground(self) -> bool:
        with contextlib.suppress(OSError, ValueError):  # no terminal that controls the program
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        return True

    def _said(self, texts: list[str]) -> str:
        from rich.text import Text

        columns, _ = self._size()
        lines = [Text(text, STYLES["odd"]) for text in texts]
        return "".join(f"{ERASE_BELOW}{self._rendered(line, columns)}\n" for line in lines)

    def _rendered(self, text: Text, columns: int, wrap: bool = True) -> str:
        with self._console.capture() as captured:
            self._console.print(text, width=columns, soft_wrap=wrap, end="")
        signs = captured.get()
        if not self._utf8:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            signs = signs.replace(SEPARATOR, ", ").encode(encoding, "replace").decode(encoding)
        return signs

    def _size(self) -> tuple[int, int]:
        with contextlib.suppress(OSError, ValueError):
            columns, rows = os.get_terminal_size(self._stream.fileno())
            if columns and rows:  # some terminals do not say
                return columns, rows
        import shutil  # with its compressors it takes milliseconds, and most terminals do say

        return shutil.get_terminal_size()

    def _write(self, signs: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is gone
            self._stream.write(signs)
            self._stream.flush()


def _new_process() -> None:
    _screen.clear()  # what the parent shows is the parent's


os.register_at_fork(after_in_child=_new_process)


# --- what the log has said already ----------------------------------------------------------------


def _handlers() -> Iterator[logging.Handler]:
    """Yields whatever takes a note that is logged, ours left out."""
    logger: logging.Logger | None = logging.getLogger(TOLD_BY)
    while logger is not None:
        yield from (handler for handler in logger.handlers if handler is not _echo)
        logger = logger.parent if logger.propagate else None


def _seen_in_log(note: Note) -> bool:
    """Returns whether whoever sees the display sees the log there, and a note in it."""
    level = logging.getLevelName(note.level.upper())
    return logging.getLogger(TOLD_BY).isEnabledFor(level) and any(
        handler.level <= level and _in_sight(getattr(handler, "stream", None))
        for handler in _handlers()
    )


def _in_sight(stream: Any) -> bool:
    if stream is None or stream is sys.stderr or stream is sys.stdout:
        return stream is not None
    with contextlib.suppress(Exception):
        return bool(stream.isatty())
    return False


class _Echo(logging.Handler):
    """Stands in for the handler of last resort, but for the notes of runs that are shown.

    What else GridMap has to say may be longer than a line of the terminal: where it goes on, there
    must be nothing left of a display.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        of_run = record.args[0] if isinstance(record.args, tuple) and record.args else ""
        last = logging.lastResort
        if last is None or record.levelno < last.level or any(_handlers()):
            return
        if record.name == TOLD_BY and of_run in self.runs:
            return
        for shown in _screen[:1]:
            shown.make_room()
        last.handle(record)


_echo = _Echo()
_echoing = threading.Lock()


@contextlib.contextmanager
def instead_of_log(run: str) -> Iterator[None]:
    """Keeps the warnings of a run, which its display shows, from being printed a second time where
    nobody has configured logging."""
    logger = logging.getLogger("gridmap")
    with _echoing:
        _echo.runs.append(run)
        logger.addHandler(_echo)
    try:
        yield
    finally:
        with _echoing:
            _echo.runs.remove(run)
            if not _echo.runs:
                logger.removeHandler(_echo)


# --- elsewhere ------------------------------------------------------------------------------------


class _Lines:
    """Writes a line now and then, where nothing can be drawn."""

    every_s = 1.0
    LINE_EVERY_S = 30.0

    def __init__(self, words: _Words, stream: TextIO) -> None:
        self._words = words
        self._stream = stream
        self._flow = Flow()
        self._due_s: float | None = None

    def show(self, status: RunStatus, notes: Sequence[Note], now: float) -> None:
        if self._due_s is None:
            self._due_s = now
            self._flow.skip(notes)
        self._say(self._flow.through(notes, now, known=_seen_in_log))
        if now >= self._due_s:
            self._due_s = now + self.LINE_EVERY_S
            fields = wording.headline(status, self._words.expected)
            fields += wording.details(status, self._words.local)
            self._say([f"run {self._words.run}: {wording.plain(fields)}"])

    def hide(self) -> None:
        """What was written stays."""

    def end(self, status: RunStatus, notes: Sequence[Note], elapsed_s: float) -> None:
        if self._due_s is not None:
            self._say(self._flow.through(notes, elapsed_s, last=True, known=_seen_in_log))
            self._say([wording.plain(wording.summary(status, self._words.run, elapsed_s))])

    def _say(self, texts: list[str]) -> None:
        with contextlib.suppress(OSError, ValueError):
            for text in texts:
                self._stream.write(text + "\n")
            self._stream.flush()


class _Notebook:
    """Updates an output of the cell in place."""

    every_s = 0.5
    WIDTH = 96
    LATEST = 8

    def __init__(self, words: _Words) -> None:
        self._words = words
        self._flow = Flow()
        self._said: list[str] = []
        self._handle: Any = None

    def show(self, status: RunStatus, notes: Sequence[Note], now: float) -> None:
        if self._handle is None:
            self._flow.skip(notes)
        self._add(self._flow.through(notes, now, known=_seen_in_log))
        self._put(self._words.lines(status, self.WIDTH, True))

    def hide(self) -> None:
        """It stays in its cell."""

    def end(self, status: RunStatus, notes: Sequence[Note], elapsed_s: float) -> None:
        if self._handle is not None:
            self._add(self._flow.through(notes, elapsed_s, last=True, known=_seen_in_log))
            self._put(self._words.last(status, elapsed_s, self.WIDTH))

    def _add(self, texts: list[str]) -> None:
        self._said = [*self._said, *texts][-self.LATEST :]

    def _put(self, lines: list[Text]) -> None:
        from IPython.display import display
        from rich.text import Text

        text = Text("\n").join([*lines, *(Text(said, STYLES["odd"]) for said in self._said)])
        if self._handle is None:
            self._handle = display(text, display_id=True)
        else:
            self._handle.update(text)
