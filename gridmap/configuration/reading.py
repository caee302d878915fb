"""Reads one configuration file, if nobody else could have written it."""

from __future__ import annotations

import logging
import os
import time
from typing import Any, NamedTuple

from gridmap import _toml
from gridmap.errors import ConfigError
from gridmap.trust import why_not

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 20
SETTLED_S = 2.0
"""A file that was written so shortly ago may be written again without a change of its times."""

MOST_LINES = 2000
MOST_LINES_OF_VALUE = 200
"""Of a longer file no lines are told, nor of what stands behind a longer value: to find them takes
a while, with the square of a value's length."""


class Document:
    """A file that was read.

    :param data: what it says
    """

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.data: dict[str, Any] = _toml.parse(text, path)
        self._lines: dict[tuple[str, ...], int] | None = None

    @property
    def folder(self) -> str:
        """The folder that relative paths in it start from."""
        return os.path.dirname(self.path)

    def line(self, keys: tuple[str, ...]) -> int:
        """Returns the line in which a value begins, the first is 1; 0: not known.

        :param keys: the names of the tables that it is in, and its own
        """
        if self._lines is None:
            self._lines = lines_of(self.text, self.path)
        return self._lines.get(keys, 0)

    def where(self, keys: tuple[str, ...]) -> str:
        """Returns file and line."""
        line = self.line(keys)
        return f"{self.path}:{line}" if line else self.path


def lines_of(text: str, path: str) -> dict[tuple[str, ...], int]:
    """Returns the lines in which tables and values begin.

    A parser that told them would be a second one.  This asks the one parser what the first line
    says, the first two lines, and so on, until these are TOML; then it goes on behind them, for a
    statement means the same alone.
    """
    lines = [line + "\n" for line in text.removeprefix("\ufeff").split("\n")]
    found: dict[tuple[str, ...], int] = {}
    if len(lines) > MOST_LINES:
        return found
    table: tuple[str, ...] = ()
    begin = 0
    for end in range(1, len(lines) + 1):
        if end - begin > MOST_LINES_OF_VALUE:
            break
        try:
            data = _toml.parse("".join(lines[begin:end]), path)
        except ConfigError:
            continue  # in the middle of a value
        if lines[begin].lstrip().startswith("["):
            table = _header(data)
            told = [table[:count] for count in range(1, len(table) + 1)]
        else:
            told = [(*table, *keys) for keys in _keys(data, ())]
        for keys in told:
            found.setdefault(keys, begin + 1)
        begin = end
    return found


def _header(data: Any) -> tuple[str, ...]:
    """Returns the name of a table, of which nothing else is there; that of a list of tables, too"""
    keys: tuple[str, ...] = ()
    while isinstance(data, dict) and data:
        ((name, data),) = data.items()
        keys = (*keys, name)
    return keys


def _keys(table: dict[str, Any], above: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = []
    for name, value in table.items():
        keys = (*above, name)
        found.append(keys)
        if isinstance(value, dict):
            found += _keys(value, keys)
    return found


class _Kept(NamedTuple):
    """What was read of a file.

    :param settled: its times would tell if it had been written since
    :param what: the file, or why it is not read
    """

    signature: tuple[int, ...]
    settled: bool
    what: Document | str


_kept: dict[str, _Kept] = {}


def read(path: str, status: os.stat_result) -> Document | str:
    """Returns a file, or why it is not to be read, which is also logged, once.

    :param status: as os.stat gives it now
    :returns: the same Document as long as the file says the same
    :raises ConfigError: it cannot be read, or is no TOML
    """
    kept = _kept.get(path)
    if kept is not None and kept.settled and kept.signature == _signature(status):
        return kept.what
    reason, text, status = _contents(path, status)
    what: Document | str = reason
    if reason:
        if kept is None or kept.what != reason:
            log.warning("%s is not read: %s", path, reason)
    elif kept is not None and isinstance(kept.what, Document) and kept.what.text == text:
        what = kept.what
    else:
        what = Document(path, text)
    settled = abs(time.time() - status.st_mtime) > SETTLED_S
    _kept[path] = _Kept(_signature(status), settled, what)
    return what


def _contents(path: str, status: os.stat_result) -> tuple[str, str, os.stat_result]:
    """Returns why a file is not to be read, or its text; and its status.

    It is judged before it is opened: what a stranger put there may be closed to us, or no file at
    all, and must not be an error.  What was opened is judged again: it may be another one by now.
    """
    reason = why_not(path, status)
    if reason:
        return reason, "", status
    try:
        # a pipe of that name must not hold us up
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(number)
            reason = why_not(path, status)
            if not reason and status.st_size > MOST_BYTES:
                raise ConfigError(f"{path} is too long for a configuration file", path)
            return reason, "" if reason else _text(number), status
        finally:
            os.close(number)
    except OSError as error:
        reason, status = _exchanged(path, status)
        if reason:
            return reason, "", status
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8: {error}", path) from None


def _exchanged(path: str, status: os.stat_result) -> tuple[str, os.stat_result]:
    """Returns why what is there now, in place of a file that was trusted, is not to be read."""
    try:
        status = os.stat(path)
    except OSError:
        return "it was taken away just now", status
    return why_not(path, status), status


def _text(number: int) -> str:
    with open(number, "rb", closefd=False) as file:
        return file.read(MOST_BYTES).decode()


def _signature(status: os.stat_result) -> tuple[int, ...]:
    # the last of them changes with owner and mode, too
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
