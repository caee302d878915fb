"""Templates of options: words with places for values, and parts that drop out. Pure.

A template is cut into words as a shell does, before values go in, so that no value can make two
words of one.  In a word `{name}` stands for a value, `{name:X}` for several with X between them,
and a part in `<...>` drops out when a value in it is missing:

    -l select=1<:ncpus={slots}><:mem={memory_mb}mb>
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

_TOKEN = r"\{(?P<name>[a-z_]+)(?::(?P<between>[^{}]*))?\}|(?P<text>[^{}<>]+)|(?P<sign>.)"


class Place(NamedTuple):
    """Where a value goes; `between` joins several, None takes one only."""

    name: str
    between: str | None


class Part(NamedTuple):
    """Text and places of a word that are there, or drop out, together."""

    optional: bool
    pieces: tuple[str | Place, ...]

    @property
    def names(self) -> list[str]:
        """Returns the names of its values."""
        return [piece.name for piece in self.pieces if isinstance(piece, Place)]


Template = tuple[tuple[Part, ...], ...]
"""The parts of each word."""


@lru_cache(maxsize=512)
def parse(template: str) -> Template:
    """Returns the parts of each word of a template.

    :raises ValueError: a quote, brace or angle bracket is not closed, or not opened
    """
    try:
        return tuple(tuple(_parts(word)) for word in shlex.split(template))
    except ValueError as error:
        raise ValueError(f"{template!r} is no template of options: {error}") from error


def _parts(word: str) -> Iterator[Part]:
    optional = False
    pieces: list[str | Place] = []
    for token in re.finditer(_TOKEN, word):
        sign = token["sign"]
        if sign is None:
            pieces.append(token["text"] or Place(token["name"], token["between"]))
            continue
        if sign != ("><"[not optional]):
            raise ValueError(f"{sign!r} stands alone in {word!r}")
        if pieces:
            yield Part(optional, tuple(pieces))
        optional, pieces = not optional, []
    if optional:
        raise ValueError(f"'<' is not closed in {word!r}")
    yield Part(False, tuple(pieces))


def names(template: str) -> list[str]:
    """Returns the names of all values that a template can take."""
    return [name for word in parse(template) for part in word for name in part.names]


def fill(template: str, values: Callable[[str], Sequence[str]]) -> tuple[list[str], set[str]]:
    """Returns the words of a template, and the names of the values that went in.

    It is used when every value outside `<...>` is there, and, where all its values stand inside,
    when one of them is; else there are no words.

    :param values: gives what a name stands for, nothing when that is missing
    :raises ValueError: there are several values where one is expected
    """
    parts = [part for word in parse(template) for part in word]
    needed = [name for part in parts if not part.optional for name in part.names]
    if not all(map(values, needed)):
        return [], set()
    kept = {part for part in parts if all(map(values, part.names))}
    used = {name for part in kept for name in part.names}
    if not used and any(part.names for part in parts):
        return [], set()
    words = []
    for word in parse(template):
        pieces = [piece for part in word if part in kept for piece in part.pieces]
        words.append("".join(_text(piece, values) for piece in pieces).strip())
    return [word for word in words if word], used


def _text(piece: str | Place, values: Callable[[str], Sequence[str]]) -> str:
    if isinstance(piece, str):
        return piece
    found = values(piece.name)
    if piece.between is None and len(found) > 1:
        raise ValueError(f"{{{piece.name}}} stands for one value, and there are {len(found)}")
    return (piece.between or "").join(found)
