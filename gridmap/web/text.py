"""Numbers, times and foreign text, as people read them."""

from __future__ import annotations

import re
import time
import unicodedata

from markupsafe import Markup

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


def plural(number: int, one: str, many: str = "") -> str:
    """Returns "1 job" or "2 jobs"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


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


def duration(seconds: float | None) -> str:
    """Returns "27 µs", "0.25 s", "42 s", "5 min 03 s", "3 h 12 min" or "2 d 4 h"."""
    if seconds is None:
        return "\u2013"
    if seconds < 0.000995:
        return f"{max(0.0, seconds) * 1e6:.0f} \u00b5s"
    if seconds < 0.0995:
        return f"{seconds * 1000:.{0 if seconds >= 0.00995 else 1}f} ms"
    if seconds < 9.95:
        return f"{seconds:.{1 if seconds >= 0.995 else 2}f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def rate(per_s: float) -> str:
    """Returns "12.5/s", "3/min" or "2/h"."""
    for factor, unit in ((1, "s"), (60, "min"), (3600, "h")):
        value = per_s * factor
        if value >= 1 or unit == "h":
            break
    return f"{value:,.0f}/{unit}" if value >= 100 else f"{value:.3g}/{unit}"


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
