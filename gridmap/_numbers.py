"""Times, speeds and counts, as people read them."""

from __future__ import annotations

import math

_DAY_S = 86400


def duration(seconds: float) -> str:
    """Returns "0.027 ms", "39 ms", "0.25 s", "42 s", "5 min 03 s", "3 h 12 min" or "2 d 4 h"."""
    seconds = max(0.0, seconds)
    if 1e-6 <= seconds < 0.0995:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 9.95:
        return f"{seconds:.{1 if seconds >= 0.995 else 2}f} s"
    return _whole(round(seconds))


def time_left(seconds: float) -> str:
    """Returns the same in whole seconds, and at least one: it is a guess, and there is a rest."""
    return _whole(max(1, math.ceil(seconds)))


def _whole(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    if seconds < _DAY_S:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
    return f"{seconds // _DAY_S} d {seconds % _DAY_S // 3600} h"


def rate(per_s: float, what: str = "") -> str:
    """Returns "1,234 calls/s", "3.1 calls/min" or "6.0 calls/h": the first that gives one or more.

    :param what: ended so often
    """
    number, unit = per_s, "s"
    if number < 1:
        number, unit = number * 60, "min"
    if number < 1:
        number, unit = number * 60, "h"
    figure = f"{number:,.0f}" if number >= 10 or not number else f"{number:.1f}"
    return f"{figure} {what}/{unit}".replace(" /", "/")


def counted(number: int, noun: str, plural: str = "") -> str:
    """Returns "1 worker", "1,200 workers" or "2 classes"."""
    more = plural or f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{number:,} {noun if number == 1 else more}"
