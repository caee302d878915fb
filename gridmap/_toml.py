"""Reads TOML, with an error that names the file and the line."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from gridmap.errors import ConfigError
from gridmap.trust import why_not

MOST_BYTES = 1 << 20
"""More is no configuration file, nor a description, and would take minutes to read."""

MOST_DEPTH = 32
"""Tables in tables."""

_LINE = re.compile(r"at line (\d+)")
_DIGITS = re.compile(r"[0-9][0-9_]{4000}")


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a TOML file says.

    :raises ConfigError: it cannot be read, or is no TOML
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is no UTF-8 ({error})"
        raise ConfigError(f"{path} cannot be read: {reason}", os.fspath(path)) from None
    return parse(text, path)


def load_trusted(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a TOML file says that nobody else could have written.

    It is judged by the descriptor that it is read from, so it cannot be exchanged in between.

    :raises ConfigError: somebody else could have written it, it cannot be read, or is no TOML
    """
    name = os.fspath(path)
    try:
        # a pipe of that name must not hold us up
        number = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            refused = why_not(name, os.fstat(number))
            if refused:
                raise ConfigError(f"{name} is not used: {refused}", name)
            with open(number, encoding="utf-8", newline="", closefd=False) as file:
                text = file.read(MOST_BYTES + 1)
        finally:
            os.close(number)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is no UTF-8 ({error})"
        raise ConfigError(f"{name} cannot be read: {reason}", name) from None
    return parse(text, path)


def parse(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a text in TOML says; a byte order mark, as some editors put there, says nothing.

    :param path: where it comes from
    :raises ConfigError: it is no TOML, too long, or nested too deeply
    """
    if sys.version_info >= (3, 11):
        import tomllib  # takes 10 ms, and most programs read no such file
    else:
        import tomli as tomllib

    name = os.fspath(path)
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{name} is not read: it has more than {MOST_BYTES >> 20} MiB", name)
    try:
        data: dict[str, Any] = tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:  # ValueError: also of a number of 5,000 digits
        found = _LINE.search(str(error))
        digits = None if found else _DIGITS.search(text)
        at = digits.start() if digits else len(text)
        line = int(found[1]) if found else text.count("\n", 0, at) + 1
        reason = "a number has too many digits" if digits else str(error)
        if isinstance(error, RecursionError):
            reason = "values are nested too deeply"
        raise ConfigError(f"{name}:{line} is no TOML: {reason}", name, line) from None
    if _is_deep(data):
        raise ConfigError(f"{name} has tables nested more than {MOST_DEPTH} deep", name)
    return data


def _is_deep(data: dict[str, Any]) -> bool:
    """Returns whether values are nested so deeply that who walks through them would fail."""
    level: list[Any] = [data]
    for _ in range(MOST_DEPTH):
        inside = (value.values() if isinstance(value, dict) else value for value in level)
        level = [one for values in inside for one in values if isinstance(one, (dict, list))]
        if not level:
            return False
    return True
