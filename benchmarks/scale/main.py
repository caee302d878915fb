"""Measures what one monitor carries, prints a table, and keeps the figures where it is asked to."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from benchmarks.record import FILE, ROOT, Row, add_option, figure, met, record, row
from benchmarks.scale import client, plot, real
from benchmarks.scale.fresh import measured

COMMAND = "make bench-scale"
PAPER = 100_000
MB = 1e6


class Size(NamedTuple):
    """How much of everything.

    :param agents: numbers of simulated agents
    :param window_s: how long the use of processors is measured
    :param repeat: how often to measure what is compared
    """

    agents: tuple[int, ...] = (10, 100, 1_000, 10_000)
    window_s: float = 30.0
    settle_s: float = client.SETTLE_S
    calls: int = 1_000_000
    of_1_kb: int = 100_000
    repeat: int = 5
    jobs: int = 120
    job_s: float = 0.25


SMOKE = Size((50,), 1.0, 1.0, 10_000, 2_000, 1, 12, 0.1)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--only", choices=TABLES, nargs="+", help=", ".join(TABLES))
    parser.add_argument("--smoke", action="store_true", help="small sizes; fails if one is wrong")
    add_option(parser)
    options = parser.parse_args(arguments)
    if options.record == FILE and options.smoke:
        parser.error("what is recorded there is full size")
    size = SMOKE if options.smoke else Size()
    for table in options.only or TABLES:
        rows = TABLES[table](size)
        if options.smoke:
            rows = [
                {**entry, "goal": None, "goal_text": ""} for entry in rows
            ]  # it is for the full size
        _print(table, rows)
        if options.record:
            record("scale", table, rows, COMMAND, file=options.record)
        if options.record == FILE and table == "agents":
            plot.draw(rows, ROOT / "docs" / "scale.svg")
    return 0


def _print(table: str, rows: list[Row]) -> None:
    print(f"\n{table}")
    for entry in rows:
        mark = {True: "met", False: "missed", None: ""}[met(entry)]
        value = figure(entry)
        shown = "" if value is None else f"{value:,.4g}"
        print(f"  {entry['what']:66} {shown:>10} {entry['unit']:12} {entry['goal_text']:14} {mark}")


# --- the tables -----------------------------------------------------------------------------------


def agents(size: Size) -> list[Row]:
    rows, found = [], {}
    for count in size.agents:
        found[count] = one = measured(client.held, count, size.window_s, size.settle_s)
        goal = count == 10_000
        rows += [
            _percent(f"{count:,} agents with a job each", one["held"], 20 if goal else None),
            _percent(f"{count:,} agents with nothing to do", one["idle"], 20 if goal else None),
            row(
                f"{count:,} agents: memory", "MB", [one["rss"] / MB],
                goal={"at_most": 300} if goal else None, goal_text="< 300 MB" if goal else "",
            ),
            row(f"{count:,} agents: descriptors", "descriptors", [one["descriptors"]]),
            row(f"{count:,} agents: all have come", "s", [one["arrival_s"]]),
            row(f"{count:,} agents: for each that comes", "ms of a core",
                [1000 * one["arrival_cpu_s"] / count]),
        ]  # fmt: skip
    return rows + _paper(found)


def _paper(found: dict[int, dict[str, Any]]) -> list[Row]:
    """Returns what ten times as many agents would take as the most that were measured.

    What grows as it did between the two largest numbers goes on growing so.
    """
    if len(found) < 2:
        return []
    fewer, most = sorted(found)[-2:]

    def grown(name: str) -> float:
        slope = (found[most][name] - found[fewer][name]) / (most - fewer)
        return float(found[most][name] + slope * (PAPER - most))

    text = f"{PAPER:,} agents, on paper"
    return [
        _percent(f"{text}: with a job each", grown("held"), None),
        row(f"{text}: memory", "MB", [grown("rss") / MB]),
        row(f"{text}: descriptors", "descriptors", [grown("descriptors")]),
        row(f"{text}: all have come", "s", [grown("arrival_s")]),
    ]


def calls(size: Size) -> list[Row]:
    repeat, count = size.repeat, size.calls
    through_200 = [measured(client.calls, 200, count) for _ in range(repeat)]
    rows = [
        row(
            f"{count:,} empty calls through 200 agents", "calls/s",
            [count / one["seconds"] for one in through_200],
            goal={"at_least": 50_000}, goal_text=">= 50,000",
        )
    ]  # fmt: skip
    for most in size.agents:
        used = [measured(client.calls, most, count)["cpu_s"] for _ in range(min(3, repeat))]
        what = f"a call of {count:,} through {most:,} agents"
        rows.append(row(what, "us of a core", [1e6 * one / count for one in used]))
    waiting = [measured(client.queued, count, 0)["bytes"] for _ in range(min(3, repeat))]
    rows.append(
        row(f"{count:,} jobs that wait: each", "bytes/job", waiting,
            goal={"at_most": 300}, goal_text="< 300")
    )  # fmt: skip
    modules = measured(client.queued, count, 1)["modules"]
    rows += [
        row(f"of that, in {name}.py", "bytes/job", [each])
        for name, each in modules.items()
        if each > 0.1
    ]
    return rows


def ledger(size: Size) -> list[Row]:
    seconds: dict[str, list[float]] = {"always": [], "never": []}
    for turn in range(size.repeat):
        for kept in sorted(seconds, reverse=bool(turn % 2)):
            one = measured(
                client.calls, 200, size.of_1_kb, 1024, environment={"GRIDMAP_LEDGER": kept}
            )
            seconds[kept].append(one["seconds"])
    ratio = median(seconds["always"]) / median(seconds["never"])
    what = f"{size.of_1_kb:,} calls of 1 KB"
    return [
        row(f"{what}, with the ledger", "s", seconds["always"]),
        row(f"{what}, without", "s", seconds["never"]),
        row("with / without", "times", [ratio], goal={"at_most": 1.2}, goal_text="<= 1.2"),
    ]


def idle(size: Size) -> list[Row]:
    kept = {"IDLE_THRESHOLD": "0"}  # a call that only waits is not stopped
    window_s = size.window_s
    pending, busy, workless = (
        measured(function, window_s, environment=kept)
        for function in (real.pending, real.busy, real.workless)
    )
    memory = measured(real.local_memory)
    rows = [
        _percent("a client whose workers are pending", pending["client"], 0.5),
        _percent("a client whose worker has one long call", busy["client"], 0.5),
        _percent("a worker with one long call", busy["agent"], 0.5),
        _percent("a worker with nothing to do", workless["agent"], 0.5),
    ]
    names = {"rss": "resident, shared pages too", "pss": "its share", "uss": "its own pages alone"}
    for name, words in names.items():
        goal: Any = {"at_most": 15} if name == "rss" else None
        what = f"a local worker, more than a bare interpreter: {words}"
        rows.append(
            row(what, "MB", [memory[name] / MB], goal=goal, goal_text="< 15 MB" if goal else "")
        )
    return rows


def tail(size: Size) -> list[Row]:
    found = [measured(real.tail, size.jobs, size.job_s) for _ in range(min(3, size.repeat))]
    return [
        row("four workers, one of them stopped half of the time", "s",
            [one["seconds"] for one in found]),
        row("the least that is possible", "s", [one["ideal"] for one in found]),
        row("of the least", "times", [one["seconds"] / one["ideal"] for one in found],
            goal={"at_most": 1.3}, goal_text="<= 1.3"),
    ]  # fmt: skip


def _percent(what: str, cores: float, most: float | None) -> Row:
    goal: Any = None if most is None else {"at_most": most}
    text = "" if most is None else f"< {most} %"
    return row(what, "% of a core", [100 * cores], goal=goal, goal_text=text)


TABLES: dict[str, Callable[[Size], list[Row]]] = {
    "agents": agents,
    "calls": calls,
    "ledger": ledger,
    "idle": idle,
    "tail": tail,
}
