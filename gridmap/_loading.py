"""Imports modules when they are needed."""

from __future__ import annotations

import gc
from importlib import import_module
from types import ModuleType


def load(name: str) -> ModuleType:
    """Imports a module.

    What a hundred modules make would wake the garbage collector several times, and each time it
    looks through all that the user's program has made: with a list of a million numbers that takes
    as long as the import itself.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if collects:
            gc.enable()
