"""Ends of logs, which others wrote: bounded, and harmless on a terminal or a page."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

MOST_BYTES = 65_536

_HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Piece(NamedTuple):
    """Some of a log.

    :param end: where in the file it ends: not within a character
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
    if (begun := _begun(content)) < len(content):
        content = content[: len(content) - begun]
    end = at + len(content)
    if begin < 0 < at and b"\n" in content[:-1]:
        content = content.split(b"\n", 1)[1]
    return Piece(harmless(content.decode("utf-8", "replace")), end)


def size(path: str | os.PathLike[str]) -> int:
    """Returns where a log ends by now; 0 where that cannot be seen."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


def _begun(content: bytes) -> int:
    """Returns how many bytes at the end begin a character whose other bytes have yet to come."""
    for back in range(1, min(3, len(content)) + 1):
        byte = content[-back]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:  # the first one of a character
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if byte <= 0xF4 and length > back else 0
    return 0


def harmless(text: str) -> str:
    """Returns a text of lines and tabs in which nothing else does anything."""
    # not by a pattern: in a line without an end it would look for its end from each place
    lines = (one.rstrip("\r").rpartition("\r")[2] for one in text.split("\n"))
    return _HARMFUL.sub(_shown, "\n".join(lines))


def _shown(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
