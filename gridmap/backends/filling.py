"""Variables in the words of a described scheduler's commands. Pure.

`{name}` stands for a value.  A word with a variable that has several values is there once for each
of them, `{ids:,}` joins them by what follows the colon; in a text each is a line.  `${NAME}` is
left to the shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_PLACE = re.compile(r"(?<!\$)\{([a-z_]+)(?::([^{}]*))?\}")

Values = Mapping[str, str | Sequence[str]]


def variables(text: str) -> list[str]:
    """Returns the names of the variables in a text."""
    return [found[1] for found in _PLACE.finditer(text)]


def fill(text: str, values: Values) -> str:
    """Returns a text with its variables filled in."""

    def value(found: re.Match[str]) -> str:
        one = values[found[1]]
        return one if isinstance(one, str) else ("\n" if found[2] is None else found[2]).join(one)

    return _PLACE.sub(value, text)


def fill_words(words: Iterable[str], values: Values) -> list[str]:
    """Returns words with their variables filled in."""
    filled: list[str] = []
    for word in words:
        repeated = {
            found[1]
            for found in _PLACE.finditer(word)
            if found[2] is None and not isinstance(values[found[1]], str)
        }
        if repeated:
            (name,) = repeated
            filled += [fill(word, {**values, name: one}) for one in values[name]]
        else:
            filled.append(fill(word, values))
    return filled
