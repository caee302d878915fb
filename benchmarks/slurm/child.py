"""Measures one system with so many calls, once, in this process, which is fresh.

python -m benchmarks.slurm.child SYSTEM COUNT
writes to answer.json, again and again, {"first_s", "last_s", "count": results that have come,
"import_s", "note": what went wrong}; seconds since before the system's import
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter

from benchmarks.slurm.systems import SYSTEMS

WRITTEN_EVERY_S = 0.5


def nothing(number: int) -> int:
    """Returns what it was given, so that the results can be checked."""
    return number


def main(system: str, count: int) -> None:
    answer: dict[str, object] = {"note": "", "count": 0}
    results: list[int] = []
    written = 0.0
    started = perf_counter()
    try:
        run = SYSTEMS[system]()
        answer["import_s"] = perf_counter() - started
        for result in run(nothing, list(range(count))):
            results.append(result)
            last_s = perf_counter() - started
            if last_s > written + WRITTEN_EVERY_S or len(results) in (1, count):
                answer.setdefault("first_s", last_s)
                _write({**answer, "last_s": last_s, "count": len(results)})
                written = last_s
        if sorted(results) != list(range(count)):
            _write({**answer, "note": "wrong results"})
    except ModuleNotFoundError as error:
        _write({**answer, "note": f"not installed: {error.name}"})
    except Exception as error:
        text = {"note": f"fails: {type(error).__name__}", "text": str(error)}
        _write({**answer, "count": len(results), **text})
        raise


def _write(answer: dict[str, object]) -> None:
    with open("answer.new", "w") as file:
        json.dump(answer, file)
    os.replace("answer.new", "answer.json")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
