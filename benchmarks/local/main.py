"""Measures GridMap beside its peers, prints a table, and keeps the figures where it is asked to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from benchmarks.local.measure import Measurement, measure
from benchmarks.local.systems import DISTRIBUTIONS, SYSTEMS
from benchmarks.local.workloads import WORKLOADS
from benchmarks.record import FILE, Row, add_option, figure, met, record, row

SMOKE = ["GridMap", "Pool", "ProcessPoolExecutor", "serial"]
COMMAND = "make bench-local"
QUICK_S, SLOW_S = 3.0, 20.0


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    failed = False
    for name in options.only:
        measured = _measure(name, options)
        rows = [_row(name, system, those) for system, those in measured.items()]
        if options.smoke:
            rows = [
                {**entry, "goal": None, "goal_text": ""} for entry in rows
            ]  # it is for the full size
        _print(rows, measured)
        failed = failed or any(entry["note"] for entry in rows)
        if options.record:
            record("local", name, rows, COMMAND, _versions(), options.record)
            if name == "first":
                record("local", "import", _imports(measured), COMMAND, file=options.record)
    return 1 if options.smoke and failed else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks local", description=__doc__)
    parser.add_argument("--only", type=_names(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--systems", type=_names(SYSTEMS), help=", ".join(SYSTEMS))
    parser.add_argument("--repeat", type=int, default=5, help="how often at most (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="small sizes; fails if one is wrong")
    add_option(parser)
    options = parser.parse_args(arguments)
    if options.record == FILE and (options.systems or options.smoke):
        parser.error("what is recorded there is all systems, at full size")
    options.only = options.only or list(WORKLOADS)
    options.systems = options.systems or (SMOKE if options.smoke else list(SYSTEMS))
    options.repeat = 1 if options.smoke else options.repeat
    return options


class _names:
    """Reads a comma-separated list of names."""

    def __init__(self, known: Mapping[str, object]) -> None:
        self.known = known

    def __call__(self, text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in self.known]:
            raise argparse.ArgumentTypeError(f"no such name: {', '.join(unknown)}")
        return names


def _measure(name: str, options: argparse.Namespace) -> dict[str, list[Measurement]]:
    """Measures in turns, so that what else the machine does hits all alike."""
    workload = WORKLOADS[name]
    wanted = workload.only_small if options.smoke else workload.only
    systems = [system for system in options.systems if system in (wanted or SYSTEMS)]
    found: dict[str, list[Measurement]] = {system: [] for system in systems}
    for turn in range(options.repeat):
        for system, before in found.items():
            if turn < _turns(before):
                before.append(measure(system, name, "small" if options.smoke else "full"))
    return found


def _turns(before: list[Measurement]) -> int:
    """Returns how often it is worth measuring, after what came of it so far."""
    if not before:
        return 1
    if any(one.note or one.seconds is None for one in before):
        return 0
    slowest_s = max(one.seconds or 0.0 for one in before)
    return 5 if slowest_s < QUICK_S else 3 if slowest_s < SLOW_S else 1


def _row(name: str, system: str, measured: list[Measurement]) -> Row:
    limit = WORKLOADS[name].at_most_s
    return row(
        f"{name}: {WORKLOADS[name].title}",
        "s",
        [one.seconds for one in measured if one.seconds is not None],
        system,
        goal={"at_most": limit} if limit and system == "GridMap" else None,
        note=next((one.note for one in measured if one.note), ""),
    )


def _imports(measured: dict[str, list[Measurement]]) -> list[Row]:
    """Returns how long the imports took, which the other figures include."""
    return [
        row("import", "s", [one.import_s for one in those if one.import_s is not None], system)
        for system, those in measured.items()
    ]


def _print(rows: list[Row], measured: dict[str, list[Measurement]]) -> None:
    print(f"\n{rows[0]['what']}" if rows else "", flush=True)
    for entry in rows:
        value, imports = figure(entry), [one.import_s for one in measured[entry["system"]]]
        line = f"  {entry['system']:20}"
        if value is not None:
            line += f" {value:8.3f} s  best {min(entry['values']):.3f}  import {imports[0]:.3f}"
        if entry["goal"]:
            line += f"  goal {entry['goal']['at_most']:g}: {'met' if met(entry) else 'missed'}"
        print(line, entry["note"], flush=True)


def _versions() -> dict[str, str]:
    found = {}
    for system, distribution in DISTRIBUTIONS.items():
        try:
            found[system] = version(distribution)
        except PackageNotFoundError:
            found[system] = "not installed"
    return found
