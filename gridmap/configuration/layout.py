"""What may stand in a configuration file: `[settings]`, `[profiles.NAME]`, `[backends.NAME]`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from gridmap import kinds
from gridmap.configuration.arguments import ARGUMENTS, Shape
from gridmap.configuration.reading import Document
from gridmap.errors import ConfigError

Keys = tuple[str, ...]
Kind = Callable[[object], Any]

TABLES = ("settings", "profiles", "backends")
OF_BACKENDS = {"file": Shape((str,), kinds.text, path=lambda value: True)}
BUILT_IN_BACKENDS = ("auto", "drmaa", "local", "slurm")
PROFILE_SETTING = "GRIDMAP_PROFILE"

_TYPES_OF_KINDS: dict[Kind, tuple[type, ...]] = {
    kinds.flag: (bool,),
    kinds.count: (int,),
    kinds.positive: (int,),
    kinds.seconds: (int, float),
    kinds.percent: (int, float),
    kinds.days: (int, float),
    kinds.ports: (int, str),
}
_PATH_KINDS = (kinds.folder, kinds.temp_dir, kinds.optional_file)
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    list: "a list of texts",
    dict: "a table",
}
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


class Entry(NamedTuple):
    """A value, checked, and where it stands.

    :param keys: the names of the tables that it is in, and its own
    """

    value: Any
    document: Document
    keys: Keys

    @property
    def where(self) -> str:
        """The file, and the line where it is known."""
        return self.document.where(self.keys)

    @property
    def name(self) -> str:
        """As TOML would name it, from the top."""
        return ".".join(self.keys)


class Layer(NamedTuple):
    """What one file says.

    :param profiles: by name; the keys start below it: ("resources", "memory")
    :param backends: paths
    :param variables: those of the environment that its paths have, as they were
    """

    document: Document
    settings: dict[str, Entry]
    profiles: dict[str, dict[Keys, Entry]]
    backends: dict[str, Entry]
    variables: dict[str, str | None]

    def still_holds(self, document: Document) -> bool:
        """Returns whether this is what a file says now."""
        return self.document is document and all(
            os.environ.get(name) == value for name, value in self.variables.items()
        )


def layer_of(document: Document, settings: Mapping[str, Kind]) -> Layer:
    """Returns what a file says.

    :param settings: the settings that there are, and what checks and converts each
    :raises ConfigError: something that may not stand there; names it and what may
    """
    return _Checker(document, settings).layer()


def _is_path(value: str) -> bool:
    return value not in ("", kinds.NONE)


class _Checker:
    def __init__(self, document: Document, settings: Mapping[str, Kind]) -> None:
        self._document = document
        self._settings = settings
        self._variables: dict[str, str | None] = {}

    def layer(self) -> Layer:
        for name in self._document.data:
            if name not in TABLES:
                self._fail((name,), "there is no such table", TABLES)
        settings = self._settings_in(("settings",))
        profiles = {name: self._profile(name) for name in self._names("profiles")}
        backends = {name: self._backend(name) for name in self._names("backends")}
        return Layer(self._document, settings, profiles, backends, self._variables)

    def _settings_in(self, keys: Keys) -> dict[str, Entry]:
        entries = {}
        for name, value in self._table(keys).items():
            kind = self._settings.get(name)
            if kind is None:
                self._fail((*keys, name), "there is no such setting", self._settings)
            types = _TYPES_OF_KINDS.get(kind, (str,))
            path = _is_path if kind in _PATH_KINDS else None
            entries[name] = self._entry((*keys, name), value, Shape(types, kind, path=path), kind)
        return entries

    def _profile(self, name: str) -> dict[Keys, Entry]:
        if name == kinds.NO_PROFILE:
            self._fail(("profiles", name), "this name stands for no profile; choose another")
        keys = ("profiles", name)
        entries: dict[Keys, Entry] = {}
        for argument, value in self._table(keys).items():
            if argument == "settings":
                of_settings = self._settings_in((*keys, argument))
                if PROFILE_SETTING in of_settings:
                    self._fail((*keys, argument, PROFILE_SETTING), "a profile names no other")
                entries |= {(argument, each): entry for each, entry in of_settings.items()}
            elif argument not in ARGUMENTS:
                self._fail((*keys, argument), "a profile has no such key", (*ARGUMENTS, "settings"))
            else:
                shape = ARGUMENTS[argument]
                entries |= self._argument((*keys, argument), value, shape)
        return entries

    def _argument(self, keys: Keys, value: Any, shape: Shape) -> dict[Keys, Entry]:
        entry = self._entry(keys, value, shape)
        if not isinstance(value, dict):
            return {keys[2:]: entry}
        entries: dict[Keys, Entry] = {}
        for name, part in value.items():
            if shape.fields is not None and name not in shape.fields:
                self._fail((*keys, name), "there is no such key", shape.fields)
            of_part = Shape((str,)) if shape.fields is None else shape.fields[name]
            below = (*keys[2:], name)
            entries[below] = self._entry((*keys, name), part, of_part)
        return entries

    def _backend(self, name: str) -> Entry:
        keys = ("backends", name)
        from gridmap.backends.registry import description_of  # only where there are any

        if name.endswith(".toml"):
            self._fail(keys, "this would be the path of a description; choose another name")
        if name in BUILT_IN_BACKENDS or description_of(name) is not None:
            self._fail(keys, "GridMap has a backend of this name; choose another")
        table = self._table(keys)
        for key in table:
            if key not in OF_BACKENDS:
                self._fail((*keys, key), "there is no such key", OF_BACKENDS)
        if "file" not in table:
            self._fail(keys, 'it has no file, as in file = "mycluster.toml"')
        entry = self._entry((*keys, "file"), table["file"], OF_BACKENDS["file"])
        if not entry.value.endswith(".toml"):
            self._fail(entry.keys, f"is {_shown(entry.value)}; its name must end in .toml")
        return entry

    def _names(self, table: str) -> list[str]:
        return list(self._table((table,)))

    def _table(self, keys: Keys) -> dict[str, Any]:
        table: Any = self._document.data
        for key in keys:
            table = table.get(key, {})
            if not isinstance(table, dict):
                self._fail(keys, f"is {_shown(table)}; it must be a table")
        return dict(table)

    def _entry(self, keys: Keys, value: Any, shape: Shape, convert: Kind | None = None) -> Entry:
        if type(value) not in shape.types:  # a bool is no int here
            wanted = " or ".join(_WORDS[each] for each in shape.types)
            self._fail(keys, f"is {_shown(value)}; it must be {wanted}")
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            self._fail(keys, f"is {_shown(value)}; it must be a list of texts")
        try:
            if shape.path is not None and shape.path(value):
                value = self._absolute(value)
            if shape.check is not None:
                shape.check(value)
            if convert is not None:
                value = convert(value)
        except ValueError as error:
            self._fail(keys, f"is {_shown(value)}, but {error}")
        return Entry(value, self._document, keys)

    def _absolute(self, path: str) -> str:
        """Returns a path that starts from the file's folder, with ~ and $VARIABLE replaced."""

        def variable(match: re.Match[str]) -> str:
            name = match[1].strip("{}")
            value = self._variables[name] = os.environ.get(name)
            if value is None:
                raise ValueError(f"there is no environment variable {name}")
            return value

        path = _VARIABLE.sub(variable, path)
        if path.startswith("~"):
            self._variables["HOME"] = os.environ.get("HOME")
            path = os.path.expanduser(path)
        return os.path.join(self._document.folder, path)

    def _fail(self, keys: Keys, what: str, allowed: Any = ()) -> NoReturn:
        from difflib import get_close_matches

        if allowed:
            near = get_close_matches(keys[-1], list(allowed), 1)
            what += f"; did you mean {near[0]}?" if near else "."
            what += f" There are: {', '.join(allowed)}"
        path, line = self._document.path, self._document.line(keys)
        where = f"{path}:{line}" if line else path
        raise ConfigError(f"{where}: {'.'.join(keys)}: {what}", path, line)


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
