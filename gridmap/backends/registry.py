"""Backends by name: the package's own, and those that others add by entry points."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gridmap.backends.base import Backend
from gridmap.backends.options import Words, words_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP = "gridmap.backends"
BUILT_IN = {
    "drmaa": "gridmap.backends.drmaa:drmaa_backend",
    "slurm": "gridmap.backends.slurm:SlurmBackend",
}


def backend_names() -> list[str]:
    """Returns the names that `open_backend` knows."""
    return sorted({*BUILT_IN, *(entry.name for entry in _entry_points())})


def _entry_points() -> EntryPoints:
    from importlib import metadata  # 30 ms, for names that are not our own

    return metadata.entry_points(group=GROUP)


def open_backend(name: str, **settings: Any) -> Backend:
    """Returns a new backend, connected to its scheduler.

    An entry point of the group "gridmap.backends" names a callable that takes `settings` as keyword
    arguments and returns a Backend. GridMap's own names cannot be taken over by one.

    :raises ValueError: no backend of that name
    :raises BackendError: the scheduler does not answer, or not as it should
    :raises DRMAANotPresentException: no DRMAA library
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        factory = getattr(importlib.import_module(module), attribute)
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
    return words_of(name) if name in BUILT_IN else None
