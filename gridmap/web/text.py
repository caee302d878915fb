"""Numbers, times and foreign text, as people read them."""

from __future__ import annotations

import re
import time
import unicodedata

from markupsafe import Markup

from gridmap import _numbers

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[@-Z\\-_])")
_KEPT = "\n\t"

LONGEST = 100_000
"""Characters of a text that are shown."""


def visible(text: str) -> str:
    """Returns foreign text with nothing in it that acts: what colors a terminal is left out, other
    control characters, and those that turn the direction of writing, are shown by their names."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} ... ({len(text) - LONGEST:,} more characters)"
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, _ANSI.sub("", text).replace("\r\n", "\n")))


def _shown(character: str) -> str:
    if character in _KEPT or character.isprintable():
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    category = unicodedata.category(character)
    return character if category == "Zs" else f"\\u{code:04x}"


def finalize(value: object) -> object:
    """What each value goes through on its way into a page."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return "" if value is None else value


def count(number: float) -> str:
    return f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """Returns "39 ms", "42 s", "5 min 03 s" or "2 d 4 h"; a dash for what nobody knows."""
    return "\u2013" if seconds is None else _numbers.duration(seconds)


def size(nbytes: float | None) -> str:
    """Returns "1.2 GB", of 1024 MB; a dash for what nobody knows."""
    if not nbytes:
        return "\u2013"
    value = float(nbytes)
    units = iter(("B", "KB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 1000 and unit != "TB":
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if value >= 100 or unit in ("B", "KB") else f"{value:.1f} {unit}"


def percent(part: float, whole: float) -> str:
    """Returns "43 %"; "100 %" is all, and "0 %" is none."""
    if whole <= 0:
        return "0 %"
    share = 100 * part / whole
    if 0 < share < 1:
        return "< 1 %"
    return f"{100 if part >= whole else min(99, int(share))} %"


def clock(at_s: float | None, now_s: float | None = None) -> str:
    """Returns "14:02:31" of today, "Nov 27, 14:02" of another day."""
    if at_s is None:
        return "\u2013"
    then, now = time.localtime(at_s), time.localtime(now_s)
    if then[:3] == now[:3]:
        return time.strftime("%H:%M:%S", then)
    return time.strftime("%b %d, %H:%M" if then[0] == now[0] else "%Y-%m-%d %H:%M", then)


def stamp(at_s: float | None) -> Markup:
    """Returns a time for people and for programs."""
    if at_s is None:
        return Markup("\u2013")
    iso = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at_s))
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        f"{iso[:-2]}:{iso[-2:]}", iso[:19].replace("T", " "), clock(at_s)
    )


def since(at_s: float | None) -> str:
    """Returns "42 s ago"."""
    return "\u2013" if at_s is None else f"{duration(max(1.0, time.time() - at_s))} ago"
