"""Regular expressions that may take for ever on a short line: found before they are used. Pure.

A match cannot be interrupted, and holds up the whole program.  What takes exponential time is a
repetition of what can be split in several ways, `(a+)+` or `(a|ab)*`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

if sys.version_info >= (3, 11):
    from re import _parser as parser  # type: ignore[attr-defined]
else:
    import sre_parse as parser

FEW = 8
"""So few repetitions take no time."""

_ASCII = frozenset(range(128))
_CATEGORIES = {
    "DIGIT": r"\d", "NOT_DIGIT": r"\D", "SPACE": r"\s", "NOT_SPACE": r"\S", "WORD": r"\w",
    "NOT_WORD": r"\W",
}  # fmt: skip
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")


def is_slow(pattern: str) -> bool:
    """Returns whether a match may take exponential time, as far as can be seen.

    It is not when every turn of the outer repetition has a sign that the inner ones cannot take,
    as the comma in `(\\d+,)+`.

    :raises re.error: it is no regular expression
    """
    return any(_can_be_split(body) for body in _repeated(parser.parse(pattern, re.MULTILINE)))


def _inside(item: Any) -> Iterator[Any]:
    """Yields the sequences of items in an item."""
    name, value = str(item[0]), item[1]
    if name in (*_REPEATS, "POSSESSIVE_REPEAT"):
        yield value[2]
    elif name == "SUBPATTERN":
        yield value[-1]
    elif name == "BRANCH":
        yield from value[1]
    elif name in ("ASSERT", "ASSERT_NOT"):
        yield value[1]
    elif name == "ATOMIC_GROUP":
        yield value
    elif name == "GROUPREF_EXISTS":
        yield from (one for one in value[1:] if one is not None)


def _all(items: Any) -> Iterator[Any]:
    for item in items:
        yield item
        for sequence in _inside(item):
            yield from _all(sequence)


def _repeated(items: Any) -> Iterator[Any]:
    """Yields what is repeated often, at any depth."""
    for item in _all(items):
        if str(item[0]) in _REPEATS and item[1][1] > FEW:
            yield item[1][2]


def _can_be_split(body: Any) -> bool:
    inner = [one for one in _all(body) if str(one[0]) in _REPEATS and one[1][0] != one[1][1]]
    branches = [one[1][1] for one in _all(body) if str(one[0]) == "BRANCH"]
    if any(_starts_alike(branch) for branch in branches):
        return True
    if not inner:
        return False
    taken = [frozenset().union(*map(_signs, _all(one[1][2]))) for one in inner]
    every = frozenset().union(*taken)
    if sum(map(len, taken)) > len(every):
        return True  # two of them may share a sign, and each other's part
    there = list(_flat(body))
    if any(_signs(one) and not _signs(one) & every for one in there):
        return False
    return len(inner) < 2 or not all(one in there and one[1][0] for one in inner)


def _starts_alike(branch: Any) -> bool:
    starts = [str(one[0][0]) if one else "" for one in branch]
    first = [one[0][1] for one in branch if one and str(one[0][0]) == "LITERAL"]
    return set(starts) != {"LITERAL"} or len(set(first)) < len(first)


def _flat(body: Any) -> Iterator[Any]:
    """Yields what is there in every turn."""
    for item in body:
        if str(item[0]) == "SUBPATTERN":
            yield from _flat(item[1][-1])
        else:
            yield item


def _signs(item: Any) -> frozenset[int]:
    """Returns the ASCII characters that an item may be; none when it is no single character."""
    name, value = str(item[0]), item[1]
    if name == "LITERAL":
        return frozenset({value})
    if name == "NOT_LITERAL":
        return _ASCII - {value}
    if name == "ANY":
        return _ASCII - {10}
    if name == "RANGE":
        return frozenset(range(value[0], min(value[1], 127) + 1))
    if name == "CATEGORY":
        pattern = _CATEGORIES[str(value).removeprefix("CATEGORY_")]
        return frozenset(code for code in _ASCII if re.match(pattern, chr(code)))
    if name == "IN":
        signs: frozenset[int] = frozenset().union(*(_signs(one) for one in value))
        return _ASCII - signs if str(value[0][0]) == "NEGATE" else signs
    return frozenset()
