"""Measures GridMap on a real Slurm beside its peers: ``make bench-slurm``.

A function that does nothing, called so many times: until the first result is in the caller's
hands, and until all are. Every measurement is made by a fresh process, in turn with the other
systems, when the cluster has come to rest; the results are checked.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from benchmarks.cluster.schedulers import Slurm
from benchmarks.record import FILE, Row, add_option, figure, record, row
from benchmarks.slurm.measure import Measurement, measure
from benchmarks.slurm.systems import COUNTS, DISTRIBUTIONS, SYSTEMS

COMMAND = "make bench-slurm"
GRIDMAP = "GridMap"
QUICK_S, REPEAT = 20.0, 3
AHEAD = "ahead"
"""The table that says in how many of the others GridMap is ahead."""

Measured = dict[str, list[Measurement]]


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    # Whoever ends this ends what is being measured, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not Slurm().present:
        print("SKIPPED slurm: no Slurm here; PEERS=1 tools/cluster_bench brings one up")
        return 0
    tables: dict[str, list[Row]] = {}
    for count, measured in _measure(options.only, options.systems, options.repeat):
        tables |= dict(_tables(count, measured))
    if not options.partly:
        tables[AHEAD] = [in_how_many_ahead(tables)]
    for name, rows in tables.items():
        if options.record:
            record("slurm", name, rows, COMMAND, _versions(), options.record)
    wrong = any(entry["note"] for rows in tables.values() for entry in rows)
    return 1 if options.smoke and wrong else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks slurm", description=__doc__)
    parser.add_argument("--only", type=int, nargs="+", help="so many calls", metavar="CALLS")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, metavar="SYSTEM", help=", ".join(SYSTEMS)
    )
    parser.add_argument(
        "--repeat", type=int, default=REPEAT, help=f"how often at most (default: {REPEAT})"
    )
    parser.add_argument("--smoke", action="store_true", help="GridMap alone, few calls")
    add_option(parser)
    options = parser.parse_args(arguments)
    options.partly = bool(options.only or options.systems or options.smoke)
    if options.record == FILE and options.partly:
        parser.error("what is recorded there is all systems, at full size")
    if options.smoke:
        options.only, options.systems, options.repeat = [8, 100], [GRIDMAP], 1
    options.only = options.only or list(COUNTS)
    options.systems = options.systems or list(SYSTEMS)
    return options


def _measure(counts: list[int], systems: list[str], repeat: int) -> Iterator[tuple[int, Measured]]:
    """Measures in turns, so that what else the machine does hits all alike."""
    for count in counts:
        found: Measured = {system: [] for system in systems}
        for turn in range(repeat):
            for system, before in found.items():
                if turn == 0 or all(
                    one.all_s is not None and one.all_s < QUICK_S for one in before
                ):
                    before.append(measure(system, count))
                    _print(system, count, before[-1])
        yield count, found


def _print(system: str, count: int, one: Measurement) -> None:
    seconds = [
        f"{s:.2f} s" if s is not None else "-" for s in (one.import_s, one.first_s, one.all_s)
    ]
    words = "import {}, first {}, all {}".format(*seconds)
    print(f"{count:6,} calls  {system:20} {words}  {one.note}", flush=True)


def _tables(count: int, measured: Measured) -> Iterator[tuple[str, list[Row]]]:
    """Yields a table of the first results, and one of all, with a row for each system."""
    what = f"{count:,} calls"
    for kind in ("first", "all"):
        yield f"{what}: {kind}", [_row(f"{what}: {kind}", kind, *one) for one in measured.items()]


def _row(what: str, kind: str, system: str, measured: list[Measurement]) -> Row:
    values = [one.first_s if kind == "first" else one.all_s for one in measured]
    note = next((one.note for one in measured if one.note), "")
    seconds = [value for value in values if value is not None]
    return row(what, "s", seconds, system, note="" if seconds and kind == "first" else note)


def in_how_many_ahead(tables: Mapping[str, list[Row]]) -> Row:
    """Returns in how many tables GridMap is faster than everybody else."""
    ahead = 0
    for rows in tables.values():
        seconds = {entry["system"]: figure(entry) for entry in rows if not entry["note"]}
        ours = seconds.pop(GRIDMAP, None)
        ahead += ours is not None and all(
            other is None or ours < other for other in seconds.values()
        )
    calls, others = f"{COUNTS[0]} to {COUNTS[-1]:,} calls", len(SYSTEMS) - 1
    what = f"first and all results of {calls}, beside {others} others"
    return row(
        what, f"of {len(tables)} cells", [ahead],
        goal={"at_least": len(tables)}, goal_text="ahead in every cell",
    )  # fmt: skip


def _versions() -> dict[str, str]:
    found = {"Slurm": Slurm().version()}
    for system, distribution in DISTRIBUTIONS.items():
        try:
            found[system] = version(distribution)
        except PackageNotFoundError:
            found[system] = "not installed"
    return found
