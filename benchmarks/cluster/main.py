"""Measures GridMap on a real scheduler, with 4 workers on one host: ``make bench-cluster``.

Each measurement is made by a fresh Python process, several times, in turn with what it is compared
with, and each checks its results. Every time is counted from the call.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.cluster import bare
from benchmarks.cluster.schedulers import SCHEDULER
from benchmarks.record import FILE, Row, add_option, figure, record, row

COMMAND = "make bench-cluster"
GRIDMAP, NO_REUSE = "GridMap", "GridMap, reuse=False"
ALONE, ZEROMQ = f"{SCHEDULER.name} alone", "ZeroMQ alone"
WORKERS = 4
NOTICEABLE_S = 0.3
CALLS_PER_S = 20_000


def client(measurement: str, *arguments: Any) -> dict[str, float]:
    """Makes one measurement in a fresh process; returns it.

    :raises RuntimeError: it failed, or its results were wrong
    """
    SCHEDULER.wait_until_idle()
    command = [sys.executable, "-m", "benchmarks.cluster.client", measurement]
    done = subprocess.run(
        [*command, json.dumps(arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{measurement}{arguments}: {done.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def bare_array_job(tasks: int = WORKERS) -> tuple[float, float]:
    """The same for the scheduler alone."""
    SCHEDULER.wait_until_idle()
    return bare.array_job(tasks)


class Table:
    """Rows by what was measured of whom, in the order in which they were first measured."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}

    def add(self, what: str, system: str, unit: str, value: float, **rest: Any) -> None:
        """Adds one measurement.

        :param rest: what else is known of the row: goal, goal_text
        """
        entry = self._rows.setdefault((what, system), row(what, unit, [], system, **rest))
        entry["values"].append(value)
        print(f"{what}, {system}: {value:.4g} {unit}", flush=True)

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def figure(self, what: str, system: str) -> float:
        """Returns the median of a row that has been measured."""
        value = figure(self._rows[what, system])
        assert value is not None
        return value

    def aim(self, what: str, **goal: Any) -> None:
        """Sets a goal that depends on what was measured."""
        self._rows[what, GRIDMAP].update(goal)  # type: ignore[typeddict-item]


def measure_calls(table: Table, counts: list[int]) -> None:
    """Empty calls on four workers, their start included; then the rate at which they go."""
    for count in counts:
        what = f"{count:,} empty calls"
        total_s = client("calls", count)["total_s"]
        table.add(what, GRIDMAP, "s", total_s)
        if count <= 1000:
            total_s = client("calls", count, False)["total_s"]
            table.add(what, NO_REUSE, "s", total_s)
        else:
            seen = client("rate", count)
            per_s = count / (seen["last_s"] - seen["first_s"])
            table.add(
                f"{what}, from the first result to the last", GRIDMAP, "calls/s", per_s,
                goal={"at_least": CALLS_PER_S}, goal_text="20,000 calls/s, encrypted",
            )  # fmt: skip


def measure_one_job_a_call(table: Table) -> None:
    """What an array job with a task for each call takes."""
    last_s = bare_array_job(100)[1]
    table.add("100 empty calls", ALONE, "s", last_s)


def measure_first(table: Table, counts: list[int]) -> None:
    """The first result, in turn with the first line that a job of the scheduler's runs."""
    reference_s, last_s = bare_array_job()
    reference = "first line of the first of 4 tasks"
    table.add(reference, ALONE, "s", reference_s)
    table.add("first line of the last of 4 tasks", ALONE, "s", last_s)
    for count in counts:
        measured = client("first", count)
        what = f"first of {count:,} empty calls"
        table.add(what, GRIDMAP, "s", measured["first_s"])
        at_most = table.figure(reference, ALONE) + NOTICEABLE_S
        text = f"{ALONE} + {NOTICEABLE_S} s, {at_most:.3f} s"
        table.aim(what, goal={"at_most": at_most}, goal_text=text)
        table.add(
            "before that, not counted: from gridmap import grid_map",
            GRIDMAP,
            "s",
            measured["import_s"],
        )


def measure_broadcast(table: Table, kilobytes: int) -> None:
    """An array that goes along with a function, to four workers of one node."""
    size = f"{kilobytes // 1000} MB" if kilobytes >= 1000 else f"{kilobytes} kB"
    seen = client("broadcast", kilobytes)
    what = f"{size} to 4 workers of one node"
    table.add(f"{what}, until all have it", GRIDMAP, "s", seen["all_have_it_s"])
    sent = seen["blob_bytes"] / 1e6
    table.add(
        f"{what}, sent to the node", GRIDMAP, "MB", sent,
        goal={"at_most": 1.01 * kilobytes / 1000 + 0.01}, goal_text="once for each node",
    )  # fmt: skip


def measure_arrays(table: Table, count: int, megabytes: int) -> None:
    """Arrays as arguments and results, in turn with ZeroMQ alone."""
    what = f"{count:,} arrays of {megabytes} MB there and back"
    size = megabytes * 10**6
    plain = bare.zeromq(count, size)
    table.add(what, ZEROMQ, "MB/s", plain)
    seen = client("arrays", count, megabytes)
    moved = 2 * count * megabytes
    table.add(what, GRIDMAP, "MB/s", moved / (seen["last_s"] - seen["all_up_s"]))
    table.add(f"{what}, from the call", GRIDMAP, "MB/s", moved / seen["total_s"])
    at_least = table.figure(what, ZEROMQ) / 2
    table.aim(what, goal={"at_least": at_least}, goal_text=f"half of ZeroMQ alone, {at_least:.0f}")


Measure = Callable[[Table], None]


def measurements(smoke: bool) -> Iterator[tuple[str, int, list[Measure]]]:
    """Yields each table's name, how often to measure it, and what is measured in turn."""
    counts = [100] if smoke else [100, 1000, 10_000, 100_000]
    firsts = counts if smoke else [100, 10_000]
    kilobytes = 1 if smoke else 100_000
    yield "calls", 1 if smoke else 5, [lambda table: measure_calls(table, counts)]
    if not smoke:
        yield "calls", 1, [measure_one_job_a_call]
    yield "first result", 1 if smoke else 7, [lambda table: measure_first(table, firsts)]
    small: Measure = lambda table: measure_broadcast(table, 1)  # noqa: E731
    large: Measure = lambda table: measure_broadcast(table, kilobytes)  # noqa: E731
    yield "broadcast", 1 if smoke else 5, [small] if smoke else [small, large]
    number = 4 if smoke else 1000
    yield "arrays", 1 if smoke else 5, [lambda table: measure_arrays(table, number, 1)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cluster", description=__doc__)
    parser.add_argument("--only", help="only this table: calls, 'first result', broadcast, arrays")
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    add_option(parser)
    options = parser.parse_args(arguments)
    if options.record == FILE and options.smoke:
        parser.error("what is recorded there is at full size")
    if not SCHEDULER.present:
        print(
            "SKIPPED cluster: neither Grid Engine nor Slurm here; tools/cluster_bench brings one up"
        )
        return 0
    tables: defaultdict[str, Table] = defaultdict(Table)
    for name, times, measures in measurements(options.smoke):
        if options.only in (None, name):
            for _ in range(times):
                for measure in measures:
                    measure(tables[name])
    versions = {SCHEDULER.name: SCHEDULER.version(), "with": SCHEDULER.settings()}
    for name, table in tables.items():
        if options.record:
            record(SCHEDULER.part, name, table.rows, COMMAND, versions, options.record)
    return 0
