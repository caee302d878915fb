"""The end of what a worker wrote."""

from __future__ import annotations

import os
import re
import stat

MOST_BYTES = 65536

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def tail(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> str:
    """Returns the last lines of a file, without what would act on a terminal.

    :param most_bytes: what is read of it; a line that begins before that is left out
    :raises OSError: it cannot be read, or is no file
    """
    # not blocked by a pipe that somebody has put there
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no file", str(path))
        begin = max(0, status.st_size - most_bytes)
        file.seek(begin)
        text = file.read(most_bytes).decode("utf-8", "replace")
    if begin and "\n" in text:
        text = text.split("\n", 1)[1]
    return _CONTROL.sub("\ufffd", _ANSI.sub("", text.replace("\r\n", "\n")))
