"""Measures GridMap, and writes docs/performance.rst.

python -m benchmarks PART ...   measures local, cluster or scale; --help says how
python -m benchmarks smoke      every part with small sizes; fails where something is wrong
python -m benchmarks report     writes the tables of docs/performance.rst; --check compares them
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

PARTS = sorted(file.parent.name for file in Path(__file__).parent.glob("*/main.py"))
"""Each is a package whose `main.main` takes arguments, --smoke among them, and returns a status."""


def main(arguments: list[str]) -> int:
    name, *others = arguments or [""]
    if name in PARTS:
        return int(import_module(f"benchmarks.{name}.main").main(others))
    if name == "smoke" and not others:
        return max(main([part, "--smoke"]) for part in PARTS)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
