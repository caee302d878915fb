"""Backends by name: our own, those that TOML files describe, and those of entry points."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridmap.backends.base import Backend
from gridmap.backends.options import Words, words_from, words_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP = "gridmap.backends"
BUILT_IN = {
    "drmaa": "gridmap.backends.drmaa:drmaa_backend",
    "slurm": "gridmap.backends.slurm:SlurmBackend",
}


_FOLDER = Path(__file__).with_name("schedulers")


def backend_names() -> list[str]:
    """Returns the names that `open_backend` knows, without paths of descriptions."""
    described = (path.stem for path in _FOLDER.glob("*.toml"))
    return sorted({*BUILT_IN, *described, *(entry.name for entry in _entry_points())})


def description_of(name: str) -> Path | None:
    """Returns the file that describes a backend: a shipped one, or the one that its name is."""
    if name.endswith(".toml"):
        return Path(name).expanduser().absolute()
    path = _FOLDER / f"{name}.toml"
    return path if name.isidentifier() and path.is_file() else None


def takes_settings(name: str) -> bool:
    """Returns whether a backend is GridMap's own, and takes its settings: `use_mem_free`."""
    return name in BUILT_IN or description_of(name) is not None


def _entry_points() -> EntryPoints:
    from importlib import metadata  # 30 ms, for names that are not our own

    return metadata.entry_points(group=GROUP)


def open_backend(name: str, **settings: Any) -> Backend:
    """Returns a new backend, connected to its scheduler.

    A name that ends in ".toml" is the path of a scheduler's description. An entry point of the
    group "gridmap.backends" names a callable that takes `settings` as keyword arguments and returns
    a Backend. GridMap's own names, and those of the descriptions
    that come with it, cannot be taken over by one, nor by a configuration file.

    :raises ValueError: no backend of that name
    :raises ConfigError: a description that cannot be used, or that somebody else could have written
    :raises BackendError: the scheduler does not answer, or not as it should
    :raises DRMAANotPresentException: no DRMAA library
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        factory = getattr(importlib.import_module(module), attribute)
    elif (path := description_of(name)) is not None:
        from gridmap.backends.command import DescribedBackend

        return DescribedBackend(path, **settings)
    else:
        entries = [entry for entry in _entry_points() if entry.name == name]
        if not entries:
            known = ", ".join(backend_names())
            raise ValueError(f"no backend is called {name!r}; there are: {known}")
        factory = entries[0].load()
    backend: Backend = factory(**settings)
    return backend


def words_for(name: str) -> Words | None:
    """Returns how the scheduler behind a backend is asked for resources; None: only it knows.

    Nothing is connected to.

    :param name: as for `open_backend`
    """
    if name == "drmaa":
        from gridmap.backends.drmaa import words_here

        return words_here()
    if name in BUILT_IN:
        return words_of(name)
    path = description_of(name)
    if path is None:
        return None
    from gridmap.backends.description import table_of  # takes a while, and is seldom needed

    return words_from(table_of(path), str(path))
