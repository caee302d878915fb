"""What all configuration files say together, now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gridmap.configuration.places import VARIABLES, Place, places

if TYPE_CHECKING:
    from gridmap.configuration.layout import Entry, Keys, Layer

NOT_THERE = "not there"


class Configuration:
    """What the files say; of two the later one has won, value by value.

    :param files: where they were looked for, and why one was not read; "" when it was
    :param profiles: by name; the keys start below it: ("resources", "memory")
    :param backends: paths
    """

    __slots__ = ("backends", "files", "profiles", "settings")

    def __init__(
        self,
        files: tuple[tuple[Place, str], ...],
        settings: Mapping[str, Entry],
        profiles: Mapping[str, Mapping[Keys, Entry]],
        backends: Mapping[str, Entry],
    ) -> None:
        self.files = files
        self.settings = settings
        self.profiles = profiles
        self.backends = backends


def current(
    settings: Mapping[str, Callable[[object], Any]], within_s: float = 0.0
) -> Configuration:
    """Returns what the files say.

    Where there is none this costs some calls of stat().

    :param settings: the settings that there are, and what checks and converts each
    :param within_s: what was found so shortly ago, from the same folder, will do
    :raises ConfigError: a file cannot be used, or one that a variable names is not there
    """
    global _latest
    now_s = time.monotonic()
    asked = (_folder(), *map(os.environ.get, VARIABLES))
    if _latest is not None and _latest[1] == asked and now_s - _latest[0] < within_s:
        return _latest[2]
    found = places()
    if any(place.status is not None or place.variable for place in found):
        configuration = _read(found, settings)
    else:
        configuration = Configuration(tuple((place, NOT_THERE) for place in found), {}, {}, {})
    _latest = (now_s, asked, configuration)
    return configuration


_latest: tuple[float, Any, Configuration] | None = None
_layers: dict[str, Layer] = {}


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _read(found: list[Place], settings: Mapping[str, Callable[[object], Any]]) -> Configuration:
    from gridmap.configuration.layout import layer_of
    from gridmap.configuration.reading import read
    from gridmap.errors import ConfigError

    files: list[tuple[Place, str]] = []
    layers = []
    for place in found:
        if place.status is None:
            if place.variable:
                raise ConfigError(
                    f"{place.variable} names {place.path}, and there is no such file", place.path
                )
            files.append((place, NOT_THERE))
            continue
        document = read(place.path, place.status)
        if isinstance(document, str):
            files.append((place, document))
            continue
        layer = _layers.get(place.path)
        if layer is None or not layer.still_holds(document):
            layer = _layers[place.path] = layer_of(document, settings)
        files.append((place, ""))
        layers.append(layer)
    return Configuration(tuple(files), *_merged(layers))


def _merged(layers: list[Layer]) -> tuple[Any, Any, Any]:
    settings: dict[str, Entry] = {}
    profiles: dict[str, dict[Keys, Entry]] = {}
    backends: dict[str, Entry] = {}
    for layer in layers:
        settings |= layer.settings
        backends |= layer.backends
        for name, entries in layer.profiles.items():
            _overlay(profiles.setdefault(name, {}), entries)
    return settings, profiles, backends


def _overlay(below: dict[Keys, Entry], above: Mapping[Keys, Entry]) -> None:
    """Puts the entries of a later file over those of the earlier ones.

    A table and a value cannot both stand at one place: `retry = 3` replaces all of a table.
    """
    for keys in above:
        for other in list(below):
            shorter = min(len(keys), len(other))
            if keys[:shorter] == other[:shorter]:
                del below[other]
    below.update(above)
