"""`gridmap report`: what was asked for against what was used, and what it cost."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from gridmap._numbers import counted
from gridmap.commands.advising import Advice, advices
from gridmap.commands.common import OK, observed
from gridmap.commands.printing import (
    console,
    duration,
    in_short,
    lost,
    put_facts,
    put_json,
    put_line,
    safe,
    state_of,
    text,
)
from gridmap.commands.runs import took
from gridmap.errors import LedgerError
from gridmap.views import FailureGroup, RunView


def main(options: argparse.Namespace) -> int:
    """Prints the report."""
    with observed(options) as observer:
        view = observer.run()
        if view.error:
            raise LedgerError(view.error)
        failures = observer.failures()
    advice = advices(view, failures)
    if options.json:
        put_json({"run": view, "failures": failures, "advice": advice})
        return OK
    _print(console(), view, failures, advice)
    return OK


def _print(out: Console, view: RunView, failures: list[FailureGroup], advice: list[Advice]) -> None:
    put_facts(out, [("run", f"{view.id}  {safe(view.name)}"), ("state", state_of(view)),
                    *_times(view), *_losses(view, failures)])  # fmt: skip
    for pool in view.pools:
        mine = [one for one in advice if one.pool == pool.pool]
        asked = " ".join(f"{name}={value}" for name, value in pool.asked) or "nothing"
        put_line(out, "")
        out.print(Text(f"asked for: {safe(asked)}", "bold"), soft_wrap=True)
        put_facts(out, [(one.what, one.text) for one in mine] or [("jobs", "none has ended")])
    lines = [(one.line, one.pool) for one in advice if one.line]
    if lines:
        put_line(out, "")
        put_line(out, "To be changed in the call:")
        for line, number in lines:
            put_line(out, f"    {line}" + (f"  # pool {number}" if len(view.pools) > 1 else ""))


def _times(view: RunView) -> Iterator[tuple[str, str | Text]]:
    if (seconds := took(view)) is not None:
        yield "took", duration(seconds)
    if view.completed:
        mean = duration(view.busy_s / view.completed)
        longest = duration(max((pool.longest_s for pool in view.pools), default=0.0))
        yield (
            "jobs",
            f"{counted(view.completed, 'job')} completed, {mean} on average, {longest} at most",
        )
        yield "work", f"{duration(view.busy_s)} of all jobs together"


def _losses(view: RunView, failures: list[FailureGroup]) -> Iterator[tuple[str, str | Text]]:
    for group in failures:
        error = safe(in_short(group.cause, group.error))
        told = f"{group.cause}: {error}" if group.cause == "exception" else error
        yield "failed", text(f"{counted(group.count, 'job')}, {told}")
    if view.canceled:
        yield "canceled", counted(view.canceled, "job")
    if view.resubmitted:
        yield "tried again", lost(view)
