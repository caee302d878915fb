"""Runs one function in a process of its own: `python -m benchmarks.scale.fresh MODULE NAME JSON`.

What it returns is printed as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


if __name__ == "__main__":
    module, name, arguments = sys.argv[1:]
    print(json.dumps(getattr(import_module(module), name)(*json.loads(arguments))))
