"""What the value of a setting may be: each function checks one and converts it.

Each takes what was set, or the text of an environment variable, and raises a ValueError that says
what it must be.
"""

from __future__ import annotations

import math
import os

from gridmap.report.addresses import NONE

NO_PROFILE = "none"
"""Stands for no profile, and is no name of one."""

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})


def flag(value: object) -> bool:
    """Returns a yes or a no, given as such or as a word."""
    word = str(value).strip().lower()
    if word not in _YES | _NO:
        raise ValueError("must be one of 1, true, yes, on, 0, false, no, off")
    return word in _YES


def count(value: object) -> int:
    """Returns a whole number, 0 or more."""
    number = _number(value)
    if number < 0 or number != int(number):
        raise ValueError("must be a whole number, 0 or more")
    return int(number)


def positive(value: object) -> int:
    """Returns a whole number, 1 or more."""
    number = count(value)
    if number < 1:
        raise ValueError("must be a whole number, 1 or more")
    return number


def seconds(value: object) -> float:
    """Returns a time; whole seconds stay an int."""
    number = _number(value)
    if number <= 0:
        raise ValueError("must be a number of seconds, more than 0")
    return number


def percent(value: object) -> float:
    number = float(_number(value))
    if number < 0:
        raise ValueError("must be a number of percent, 0 or more")
    return number


def text(value: object) -> str:
    if not isinstance(value, str) or any(sign in value for sign in "\0\r\n"):
        raise ValueError("must be text of one line")
    return value


def temp_dir(value: object) -> str:
    """Returns a path as it was given; "" stands for none."""
    return text(value)


def profile(value: object) -> str:
    """Returns the name of a profile, or none."""
    return text(value).strip() or NO_PROFILE


def folder(value: object) -> str:
    """Returns a path without `~`."""
    path = os.path.expanduser(text(os.fspath(value) if isinstance(value, os.PathLike) else value))
    if not path:
        raise ValueError("must be a path")
    return path


def optional(value: object) -> str:
    """Returns a name, or none."""
    return text(value).strip() or NONE


def optional_file(value: object) -> str:
    """Returns the path of a file without `~`, or none."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    return os.path.expanduser(text(path)) or NONE


def starttls(value: object) -> str:
    if value not in ("auto", "on", "off"):
        raise ValueError("must be auto, on or off")
    return str(value)


def start_method(value: object) -> str:
    if value not in ("auto", "fork", "launch"):
        raise ValueError("must be auto, fork or launch")
    return str(value)


def ledger(value: object) -> str:
    if value not in ("cluster", "always", "never"):
        raise ValueError("must be cluster, always or never")
    return str(value)


def progress(value: object) -> str:
    if value not in ("auto", "on", "off"):
        raise ValueError("must be auto, on or off")
    return str(value)


def days(value: object) -> float:
    number = float(_number(value))
    if number <= 0:
        raise ValueError("must be a number of days, more than 0")
    return number


def interface(value: object) -> str:
    name = text(value).strip()
    if not name:
        raise ValueError("must be a name, an address, a network, or all")
    return name


def ports(value: object) -> str:
    """Returns any, a port or a range of them, as text."""
    from gridmap.wire.address import parse_ports

    words = str(value).strip()
    parse_ports(words)
    return words


def announced(value: object) -> str:
    """Returns the addresses to tell workers, as text."""
    from gridmap.wire.address import parse_announced

    words = text(value).strip()
    parse_announced(words)
    return words


def _number(value: object) -> int | float:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever float() takes
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number") from None
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return int(number) if number == int(number) else number
