"""Runs one function in a process of its own: `python -m benchmarks.scale.fresh MODULE NAME JSON`.

What it returns is printed as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def measured(
    function: Callable[..., dict[str, Any]],
    *arguments: float,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns what a function of this package returns in a fresh process."""
    command = [sys.executable, "-m", __name__, function.__module__, function.__name__]
    done = subprocess.run(
        [*command, json.dumps(arguments)],
        stdout=subprocess.PIPE, check=True, timeout=600,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _give_up(failure: threading.ExceptHookArgs) -> None:
    """Ends the process: what a thread that failed was to do, others may wait for."""
    traceback.print_exception(failure.exc_type, failure.exc_value, failure.exc_traceback)
    os._exit(1)


if __name__ == "__main__":
    threading.excepthook = _give_up
    module, name, arguments = sys.argv[1:]
    print(json.dumps(getattr(import_module(module), name)(*json.loads(arguments))))
