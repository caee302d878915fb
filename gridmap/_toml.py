"""Reads TOML, with an error that names the file and the line."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from gridmap.errors import ConfigError
from gridmap.trust import why_not

_LINE = re.compile(r"at line (\d+)")


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a TOML file says.

    :raises ConfigError: it cannot be read, or is no TOML
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
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
                text = file.read()
        finally:
            os.close(number)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is no UTF-8 ({error})"
        raise ConfigError(f"{name} cannot be read: {reason}", name) from None
    return parse(text, path)


def parse(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a text in TOML says.

    :param path: where it comes from
    :raises ConfigError: it is no TOML
    """
    if sys.version_info >= (3, 11):
        import tomllib  # takes 10 ms, and most programs read no such file
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = _LINE.search(str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        where = f"{os.fspath(path)}:{line}"
        raise ConfigError(f"{where} is no TOML: {error}", os.fspath(path), line) from None
