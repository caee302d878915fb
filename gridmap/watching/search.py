"""Where values came from: workers and hosts that are looked for by a part of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MOST_NAMED = 500
"""Places of a condition that names them one by one."""

Place = tuple[str, str, int]
"""A worker, its host, and how many values came from there."""


def places(search: str, known: Iterable[Place]) -> list[Place]:
    """Returns those whose worker or host has this in its name, as LIKE finds it."""
    wanted = _small(search)
    return [one for one in known if wanted in _small(one[0]) or wanted in _small(one[1])]


def condition(search: str, found: Sequence[Place], few: bool) -> str:
    """Returns the condition of the values that come from these places.

    :param found: at least one
    :param few: they are looked for by their workers, else in the order of whoever asks: there they
        are met soon
    """
    if len(found) > MOST_NAMED:
        pattern = _quoted(like(search))
        return f"(worker LIKE {pattern} ESCAPE '\\' OR host LIKE {pattern} ESCAPE '\\')"
    pairs = ", ".join(f"({_quoted(worker)}, {_quoted(host)})" for worker, host, _ in found)
    exact = f"(+worker, host) IN (VALUES {pairs})"
    if not few:
        return exact
    return f"worker IN ({', '.join(_quoted(worker) for worker, *_ in found)}) AND {exact}"


def like(text: str) -> str:
    """Returns a pattern for whatever has this text in it."""
    escaped = re.sub(r"([%_\\])", r"\\\1", text)
    return f"%{escaped}%"


def _small(text: str) -> str:
    """Returns text without large letters of ASCII, which are the same as small ones for LIKE."""
    return text.lower() if text.isascii() else re.sub("[A-Z]+", lambda m: m[0].lower(), text)


def _quoted(text: str) -> str:
    """Returns text as SQL has it, whatever is in it."""
    return f"CAST(x'{text.encode('utf-8', 'surrogatepass').hex()}' AS TEXT)"
