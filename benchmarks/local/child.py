"""Measures one system with one workload, once, in this process, which is fresh.

python -m benchmarks.local.child SYSTEM WORKLOAD full|small
writes to answer.json: {"seconds": ..., "import_s": ..., "note": what went wrong}
"""

from __future__ import annotations

import sys
from time import perf_counter

from benchmarks.local.systems import SYSTEMS
from benchmarks.local.workloads import WORKLOADS


def main(system: str, workload: str, size: str) -> None:
    chosen = WORKLOADS[workload]
    task = chosen.small() if size == "small" else chosen.make()
    answer: dict[str, object] = {}
    started = perf_counter()
    try:
        run = SYSTEMS[system]()
        imported = perf_counter()
        results = run(task.function, task.arguments, task.workers)
        ended = perf_counter()
    except ModuleNotFoundError as error:
        answer["note"] = f"not installed: {error.name}"
    except Exception as error:
        answer["note"] = f"fails: {type(error).__name__}"
        answer["text"] = str(error)
    else:
        answer["note"] = "" if task.check(results) else "wrong results"
        answer["seconds"] = ended - started
        answer["import_s"] = imported - started
    import json

    with open("answer.json", "w") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
