"""Ends of logs, which others wrote: bounded, and harmless on a terminal or a page."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

MOST_BYTES = 65_536

_HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# From the beginning of a line: or each character of a long line would be one to begin at.
_PROGRESS = re.compile(r"^[^\n]*\r(?=[^\n])", re.MULTILINE)


class Piece(NamedTuple):
    """Some of a log.

    :param end: where in the file it ends
    """

    text: str
    end: int


def tail(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> str:
    """Returns the end of a log, in whole lines where it has some; "" where it cannot be read.

    Only regular files are read.  What would move a cursor or change colors is shown, and not done;
    of a line that was written over and over the last state is shown.
    """
    found = read(path, -most_bytes, most_bytes)
    return "" if found is None else found.text


def read(path: str | os.PathLike[str], begin: int, most_bytes: int = MOST_BYTES) -> Piece | None:
    """Returns what a log has from there on; None where it cannot be read.

    :param begin: a place in the file; one before 0 counts from its end, and begins with a line
    """
    try:
        handle = os.open(Path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return None
        at = max(0, status.st_size + begin) if begin < 0 else begin
        content = os.pread(handle, max(0, most_bytes), at)
    except OSError:
        return None
    finally:
        os.close(handle)
    end = at + len(content)
    if begin < 0 < at and b"\n" in content[:-1]:
        content = content.split(b"\n", 1)[1]
    return Piece(harmless(content.decode("utf-8", "replace")), end)


def harmless(text: str) -> str:
    """Returns a text of lines and tabs in which nothing else does anything."""
    text = _PROGRESS.sub("", text.replace("\r\n", "\n"))
    return _HARMFUL.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    char = match[0]
    return "" if char == "\r" else char.encode("unicode_escape").decode()
