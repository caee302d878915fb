"""Measures GridMap, and writes docs/performance.rst.

python -m benchmarks PART ...   measures local, cluster or scale; --help says how
python -m benchmarks smoke      every part with small sizes; fails where something is wrong
python -m benchmarks report     writes the tables of docs/performance.rst; --check compares them
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks import report

PARTS = sorted(file.parent.name for file in Path(__file__).parent.glob("*/main.py"))
"""Each is a package whose `main.main` takes arguments and returns an exit status.

Among the arguments are --smoke and --record FILE (benchmarks.record.add_option).
"""


def main(arguments: list[str]) -> int:
    name, *others = arguments or [""]
    if name in PARTS:
        return int(import_module(f"benchmarks.{name}.main").main(others))
    if name == "report":
        return report.main(others)
    if name == "smoke" and not others:
        return smoke()
    print(__doc__, file=sys.stderr)
    return 2


def smoke() -> int:
    """Runs every part, and makes a page of what they recorded, which is not kept."""
    print("Small sizes: does it run, are its results right. Titles name the full sizes.")
    with tempfile.TemporaryDirectory() as folder:
        measured, page = f"{folder}/performance.json", f"{folder}/performance.rst"
        status = max([main([part, "--smoke", "--record", measured]) for part in PARTS])
        shutil.copy(report.PAGE, page)
        return max(status, report.main(["--from", measured, "--page", page]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
