"""`gridmap show`: all that is known of one job."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from gridmap.commands.common import OK, number_of, observed
from gridmap.commands.printing import (
    STYLES,
    console,
    duration,
    memory,
    moment,
    put_facts,
    put_json,
    put_line,
    put_table,
    safe,
    sparkline,
    text,
)
from gridmap.views import JobView, SampleView, TryView
from gridmap.watching.logs import tail

LOG_BYTES = 4096

_ADVICE = {
    "exception": "its own exception, in the traceback below",
    "preempted": "the scheduler took its place away; it is no fault of the job",
    "canceled": "somebody ended it",
    "unpicklable": "what it was given, or gave back, cannot travel",
    "refused": "the node's Python or gridmap is another one: gridmap doctor",
    "never_started": "no worker came up: gridmap doctor",
}
"""What to think of a cause of which the error does not say what to do."""


def main(options: argparse.Namespace) -> int:
    """Prints a job."""
    with observed(options) as observer:
        view = observer.job(number_of(options.job, observer))
    run = observer.path.name
    logs = {
        name: tail(path, LOG_BYTES)
        for name, path in (("stdout", view.log_stdout), ("stderr", view.log_stderr))
        if path
    }
    if options.json:
        put_json({"run": run, "job": view, "logs": logs})
        return OK
    _print(console(), run, view, logs)
    return OK


def _print(out: Console, run: str, view: JobView, logs: dict[str, str]) -> None:
    put_facts(out, list(_lines(run, view)))
    if len(view.tries) > 1:
        _headline(out, "tries")
        headings = ("TRY", "WORKER", "HOST", "TOOK", "ENDED", "CAUSE", "WHAT HAPPENED")
        put_table(
            out, headings, [_cells(one) for one in view.tries], ("TRY", "TOOK"), ("ENDED", "TOOK")
        )
    if view.samples:
        _headline(out, "resources used")
        put_facts(out, list(_used(view, view.samples)))
    if view.details:
        is_traceback = view.row.cause == "exception"
        _headline(out, "traceback on the node" if is_traceback else "end of its log at its death")
        _block(out, view.details)
    for name, content in logs.items():
        if name == "stderr" and view.log_stderr == view.log_stdout:
            continue
        if content.strip() and content.strip() not in view.details:
            _headline(
                out, f"end of {name}: {view.log_stdout if name == 'stdout' else view.log_stderr}"
            )
            _block(out, content)


def _headline(out: Console, title: str) -> None:
    put_line(out, "")
    out.print(Text(safe(title), "bold"), soft_wrap=True)


def _block(out: Console, content: str) -> None:
    for line in content.rstrip("\n").split("\n"):
        put_line(out, f"  {safe(line, lines=True)}")


def _lines(run: str, view: JobView) -> Iterator[tuple[str, Text | str]]:
    row = view.row
    yield "job", f"{row.job}  {safe(row.name)}"
    yield "run", run
    state = text(row.state, STYLES.get(row.state, ""))
    if row.attempts:
        state.append(f", {'attempt' if row.state == 'running' else 'attempts:'} {row.attempts}")
    if row.seconds:
        state.append(f", {'for' if row.state == 'running' else 'took'} {duration(row.seconds)}")
    if row.ended_s:
        state.append(f", ended {moment(row.ended_s)}")
    yield "state", state
    if row.worker:
        yield "where", f"worker {row.worker}" + (f" on {row.host}" if row.host else "")
    if row.cause:
        yield "cause", row.cause
    if view.error:
        yield "error", view.error
    if advice := _ADVICE.get(row.cause) or _advice_on_death(view):
        yield "advice", advice
    pool = view.pool
    if pool is not None and pool.asked:
        yield "asked for", " ".join(f"{name}={value}" for name, value in pool.asked)
    if row.peak_rss_bytes:
        asked = f" of {memory(pool.memory_bytes)}" if pool and pool.memory_bytes else ""
        yield "memory", f"at most {memory(row.peak_rss_bytes)}{asked}"


def _advice_on_death(view: JobView) -> str:
    if view.row.cause != "died":
        return ""
    has_log = bool(view.details or view.log_stdout or view.log_stderr)
    log = "the end of its log" if has_log else "what it wrote, which is where its program writes"
    if "SIGKILL" in view.error:
        return (
            "it was killed from outside: by the kernel where memory was short (dmesg), or by "
            f"somebody; see {log}"
        )
    return f"its process ended by itself: see {log}"


def _used(view: JobView, samples: Sequence[SampleView]) -> Iterator[tuple[str, str]]:
    """Yields the curves, whose highest block is what was asked for, or the most that was used."""
    asked = view.pool.memory_bytes if view.pool and view.pool.memory_bytes else 0
    slots = view.pool.slots_of_job if view.pool else 1
    rss, cpu = [s.rss_bytes for s in samples], [s.cpu_fraction for s in samples]
    told = f"{memory(max(rss))} at most" + (f", {memory(asked)} asked for" if asked else "")
    yield "memory", f"{sparkline(rss, asked)}  {told}"
    mean = sum(cpu) / len(cpu)
    yield "processors", f"{sparkline(cpu, slots)}  {mean:.1f} on average, {slots} asked for"
    length_s = samples[-1].at_s - samples[0].at_s
    yield "time", f"{len(samples)} measurements in {duration(length_s)}"


def _cells(one: TryView) -> Sequence[Text | str]:
    return (
        str(one.attempt + 1),
        one.worker or "-",
        one.host or "-",
        duration(one.seconds) if one.seconds else "-",
        moment(one.ended_s),
        one.cause or "-",
        one.text.strip().partition("\n")[0],
    )
