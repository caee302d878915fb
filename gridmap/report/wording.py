"""A run at a glance, in words: numbers with their units, and lines that fit a width."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gridmap._numbers import counted, duration, rate, time_left
from gridmap.core.memory import human

if TYPE_CHECKING:
    from gridmap.monitor.tally import Note
    from gridmap.run_status import RunStatus

SEPARATOR = " · "
NOTE_LINES = 12
"""So many lines of one note are shown at most."""


class Field(NamedTuple):
    """A part of a line, which is not broken.

    :param style: "", "good", "bad" or "odd"
    """

    text: str
    style: str = ""


def fraction_done(status: RunStatus, expected: int | None) -> float | None:
    """Returns how much of all jobs has ended, 0 to 1; None where nobody knows how many there are.

    :param expected: how many there will be, where the input says so
    """
    if expected is None and not status.input_ended:
        return None
    total = max(status.total, expected or 0)
    return (status.completed + status.failed + status.canceled) / total if total else 1.0


def headline(status: RunStatus, expected: int | None) -> list[Field]:
    """Returns what comes first: how much is done, and how long the rest takes."""
    done = f"{status.completed:,}"
    if expected is None and not status.input_ended:
        fields = [Field(f"{done} done of {status.total:,} read so far")]
    else:
        fields = [Field(f"{done} of {max(status.total, expected or 0):,} done")]
    if status.left_s is not None and not status.ended:
        fields.append(Field(f"{time_left(status.left_s)} left"))
    return fields


def details(status: RunStatus, local: bool) -> list[Field]:
    """Returns the rest, what is nothing left out.

    :param local: there are no workers of a cluster, but processes of this machine
    """
    fields = []
    if status.failed:
        died = f" ({status.died:,} died)" if status.died else ""
        fields.append(Field(f"{status.failed:,} failed{died}", "bad"))
    if status.canceled:
        fields.append(Field(f"{status.canceled:,} canceled", "odd"))
    if not status.ended:
        fields.append(Field(f"{status.running:,} running"))
        fields.append(Field(f"{status.queued:,} queued"))
        fields += [Field(counted(status.children_up, "process"))] if local else workers(status)
    if status.calls_per_s:
        fields.append(Field(rate(status.calls_per_s, "calls")))
    if status.peak_rss_bytes:
        fields.append(Field(f"peak memory {human(status.peak_rss_bytes)}"))
    if status.resubmitted:
        fields.append(Field(f"{status.resubmitted:,} resubmitted", "odd"))
    return fields


def workers(status: RunStatus) -> list[Field]:
    """Returns how many work, and how many wait in which queue of the scheduler."""
    fields = [Field(f"{counted(status.workers_up, 'worker')} up")]
    rest = status.workers_pending - sum(status.queues.values())
    waiting = [*status.queues.items(), ("", rest)]
    for queue, number in waiting:
        if number > 0:
            where = f" in {printable(queue)}" if queue else ""
            fields.append(Field(f"{number:,} pending{where}", "" if status.workers_up else "odd"))
    return fields


def summary(status: RunStatus, run: str, elapsed_s: float) -> list[Field]:
    """Returns what a run that has ended comes to."""
    jobs = f"{counted(status.total, 'job')} in {duration(elapsed_s)}"
    good = "good" if status.completed == status.total else ""
    fields = [Field(f"run {run}: {jobs}"), Field(f"{status.completed:,} completed", good)]
    ended = [field for field in details(status, True) if "calls/" not in field.text]
    return fields + ended if status.ended else [*fields, Field("interrupted", "odd")]


def plain(fields: Iterable[Field]) -> str:
    """Returns fields as one line of text."""
    return ", ".join(field.text for field in fields)


def flow(fields: Sequence[Field], width: int) -> list[list[Field]]:
    """Puts fields into lines of at most so many columns; one that is longer is cut."""
    lines: list[list[Field]] = []
    room = 0
    for field in fields:
        if len(field.text) > width:
            field = field._replace(text=field.text[: max(0, width - 1)] + "…")
        needed = len(SEPARATOR) + len(field.text)
        if lines and needed <= room:
            lines[-1].append(field)
            room -= needed
        else:
            lines.append([field])
            room = width - len(field.text)
    return lines


def told(note: Note) -> str:
    """Returns a note with its time; what could move a terminal's cursor is replaced."""
    lines = printable(note.text).rstrip().split("\n")
    if len(lines) > NOTE_LINES:
        lines = [*lines[: NOTE_LINES - 1], f"... and {len(lines) - NOTE_LINES + 1} more lines"]
    clock = time.strftime("%H:%M:%S", time.localtime(note.at_s))
    return f"{clock} {chr(10).join(lines)}"


def printable(text: str) -> str:
    """Returns a text without control characters; ends of lines stay."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in text)


class Flow:
    """Lets notes through, but no flood: a few at once, then one in a while.

    :param burst: how many may come at once
    :param every_s: how long it takes until one more may come
    """

    def __init__(self, burst: int = 5, every_s: float = 5.0) -> None:
        self._burst = burst
        self._every_s = every_s
        self._credit = float(burst)
        self._at_s = -math.inf
        self._seen = 0
        self._held = 0

    def skip(self, notes: Sequence[Note]) -> None:
        """These have been told by others."""
        if notes:
            self._seen = max(self._seen, notes[-1].number)

    def through(
        self,
        notes: Sequence[Note],
        now: float,
        last: bool = False,
        known: Callable[[Note], bool] = lambda note: False,
    ) -> list[str]:
        """Returns what is to be said now.

        :param notes: the latest of all that there were, old ones among them
        :param last: there will be no other chance to say how many were left out
        :param known: says of which ones the reader has heard
        """
        new = [note for note in notes if note.number > self._seen]
        if new:  # some may have come and gone
            self._held += new[0].number - self._seen - 1
            self._seen = new[-1].number
        self._credit = min(self._burst, self._credit + (now - self._at_s) / self._every_s)
        self._at_s = now
        texts = []
        for note in new:
            if known(note):
                continue
            if self._credit < 1:
                self._held += 1
                continue
            self._credit -= 1
            texts += [*self._left_out(), told(note)]
        return texts + self._left_out() if last or self._credit >= 1 else texts

    def _left_out(self) -> list[str]:
        held, self._held = self._held, 0
        return [f"         ... and {counted(held, 'note')} more"] if held else []
