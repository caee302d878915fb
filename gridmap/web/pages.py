"""What there is to be seen: for each page what it asks, and which parts of it change."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gridmap.errors import GridMapError
from gridmap.views import (
    INTERRUPTED,
    JOB_STATES,
    SORTS,
    UNDER_WAY,
    JobPage,
    JobsAsked,
    JobView,
    RunView,
    WorkerView,
)
from gridmap.watching.logs import MOST_BYTES, read
from gridmap.web import charts
from gridmap.web.hosts import by_host
from gridmap.web.text import count, percent
from gridmap.web.watch import NotYet, Watch, Watches, gathered, in_thread

RUNS_A_PAGE, JOBS_A_PAGE = 25, 50
MOST_WORKERS = 200
"""Of one host that are listed."""

MOST_JOBS = 1 << 48
"""Numbers beyond are no jobs, and no numbers for a ledger."""

Context = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """A page.

    :param collect: asks what it shows
    :param regions: its parts that change, each a template in `parts/`
    """

    template: str
    regions: tuple[str, ...]
    collect: Callable[[Request], Awaitable[Context]]


def watches_of(request: Request) -> Watches:
    watches: Watches = request.app.state.watches
    return watches


async def watch_of(request: Request) -> Watch:
    """Returns the run that an address names.

    :raises HTTPException: there is none
    """
    run = request.path_params["run"]
    watch = await watches_of(request).find(run)
    if watch is None:
        raise HTTPException(404, f"There is no run {run} in {watches_of(request).run_dir}.")
    return watch


# --- all runs -------------------------------------------------------------------------------------


async def runs(request: Request) -> Context:
    """Asks the runs of a page, the latest first."""
    watches = watches_of(request)
    search = request.query_params.get("q", "").strip()
    paths = await watches.folders()
    if search:  # by id only what is asked for, or all would have to be asked for their names
        paths = [path for path in paths if search in path.name]
    pages = max(1, -(-len(paths) // RUNS_A_PAGE))
    page = min(_number(request, "page", 1), pages)
    shown = paths[(page - 1) * RUNS_A_PAGE : page * RUNS_A_PAGE]
    views = await asyncio.gather(*(_glance(watches.watch(path)) for path in shown))
    return {
        "runs": views,
        "all": len(paths),
        "page": page,
        "pages": pages,
        "search": search,
        "live": any(view.state == UNDER_WAY for view in views),
        "title": "Runs",
        "say": _say_runs(views),
    }


def _say_runs(views: list[RunView]) -> str:
    working = sum(view.state == UNDER_WAY for view in views)
    return f"{working or 'no'} {'run is' if working == 1 else 'runs are'} under way."


async def _glance(watch: Watch) -> RunView:
    try:
        view: RunView = await watch.ask("run")
        return view
    except GridMapError as error:
        known = watch.last("run") or RunView(
            watch.path.name, state=UNDER_WAY if isinstance(error, NotYet) else "damaged"
        )
        return msgspec.structs.replace(known, error=str(error))


# --- a run ----------------------------------------------------------------------------------------


async def run(request: Request) -> Context:
    """Asks all about a run."""
    watch = await watch_of(request)
    names = ("workers", "failures", "timeline", "notes")
    answers = await gathered(run=_glance(watch), **{name: watch.ask(name) for name in names})
    context, trouble = _settled(watch, answers)
    view: RunView = context["run"]
    workers: list[WorkerView] = context["workers"] or []
    ticks = context["timeline"] or []
    until_s = view.ended_s or (time.time() if view.state == UNDER_WAY else 0.0)
    return {
        **context,
        **_of_run(request, watch, view, trouble),
        "charts": [
            chart
            for chart in (
                charts.progress(ticks, view.total, until_s),
                charts.throughput(ticks, until_s),
            )
            if chart is not None
        ],
        "hosts": by_host(workers, view.state == UNDER_WAY),
        "most_workers": MOST_WORKERS,
        "values": f"gridmap-{view.id}.pkl in {os.getcwd()}",
        "retries": await in_thread(lambda: request.app.state.retries.of(watch.path)),
        "title": _title(view),
    }


def _settled(watch: Watch, answers: Context) -> tuple[Context, str]:
    """Returns the answers, in the place of an error what was known before; and the first error."""
    trouble = ""
    for name, answer in answers.items():
        if isinstance(answer, GridMapError):
            trouble = trouble or str(answer)
            answers[name] = watch.last(name)
    return answers, trouble


def _of_run(request: Request, watch: Watch, view: RunView, trouble: str = "") -> Context:
    """Returns what all pages of a run show."""
    return {
        "run": view,
        "trouble": view.error or trouble,
        "silent_since": watch.silent_since,
        "live": view.state == UNDER_WAY,
        "ended": view.completed + view.failed + view.canceled,
        "elapsed_s": max(0.0, (view.ended_s or time.time()) - view.created_s),
        "can_retry": view.state != UNDER_WAY
        and view.kept
        and (view.state == INTERRUPTED or view.completed < view.total),
        "interrupted": view.state == INTERRUPTED,
        "say": _say(view),
    }


def _title(view: RunView) -> str:
    name = view.name or view.id
    if view.state != UNDER_WAY or not view.total:
        return name
    return f"{percent(view.completed + view.failed + view.canceled, view.total)} {name}"


def _say(view: RunView) -> str:
    """Returns what is read out: it changes with each tenth, and with what goes wrong."""
    ended = view.completed + view.failed + view.canceled
    tenths = 10 * (10 * ended // view.total) if view.total else 0
    failed = f", {count(view.failed)} failed" if view.failed else ""
    return f"Run {view.name or view.id} is {view.state}: {tenths} percent done{failed}."


# --- its jobs -------------------------------------------------------------------------------------


async def jobs(request: Request) -> Context:
    """Asks a page of the table of jobs."""
    watch = await watch_of(request)
    given = request.query_params
    sort, state = given.get("sort", "job"), given.get("state", "")
    before = _cursor(given.get("before", "")) if sort == "job" else ""
    after = _cursor(given.get("after", ""))
    asked = JobsAsked(
        state=state if state in JOB_STATES else "",
        search=given.get("q", "").strip()[:200],
        sort=sort if sort in SORTS else "job",
        descending=(given.get("desc") == "1") != bool(before),
        after=before or after,
        most=JOBS_A_PAGE,
    )
    answers = await gathered(run=_glance(watch), jobs=watch.ask("jobs", asked))
    if isinstance(answers["jobs"], GridMapError) and not isinstance(answers["jobs"], NotYet):
        answers["jobs"] = JobPage([])
    context, trouble = _settled(watch, answers)
    page: JobPage = context["jobs"] or JobPage([])
    rows = page.rows[::-1] if before else page.rows
    more = _around(rows, page, bool(before), after, sort)
    return {
        **_of_run(request, watch, context["run"], trouble),
        "asked": msgspec.structs.replace(asked, descending=given.get("desc") == "1"),
        "rows": rows,
        "unknown": context["jobs"] is None,
        **more,
        "title": f"Jobs of {context['run'].name or context['run'].id}",
    }


def _cursor(text: str) -> str:
    """Returns where a page begins; nothing where it is not said so that it can be understood."""
    try:
        _, job = msgspec.json.decode(text, type=tuple[float | None, int])
    except (msgspec.MsgspecError, ValueError):
        return ""
    return text if 0 <= job < MOST_JOBS else ""


def _around(rows: list[Any], page: JobPage, back: bool, after: str, sort: str) -> Context:
    """Returns where the pages around this one begin."""
    by_number = sort == "job" and bool(rows)
    previous = f"[{rows[0].job}, {rows[0].job}]" if by_number else ""
    following = f"[{rows[-1].job}, {rows[-1].job}]" if by_number else ""
    if back:
        return {"previous": previous if page.next else "", "next": following, "first": True}
    return {"previous": previous if after else "", "next": page.next, "first": bool(after)}


# --- one of them ----------------------------------------------------------------------------------


async def job(request: Request) -> Context:
    """Asks all about a job."""
    watch = await watch_of(request)
    number = request.path_params["job"]
    if number >= MOST_JOBS:
        raise HTTPException(404, f"There is no job {number}.")
    answers = await gathered(run=_glance(watch), job=watch.ask("job", number))
    if isinstance(answers["job"], GridMapError) and number >= answers["run"].total > 0:
        raise HTTPException(404, str(answers["job"]))
    context, trouble = _settled(watch, answers)
    view: JobView | None = context["job"]
    shown: Context = {"logs": [], "charts": []}
    if view is not None:
        asked = view.pool.memory_bytes if view.pool is not None else None
        both = charts.memory(view.samples, asked), charts.cpu(view.samples)
        shown["charts"] = [chart for chart in both if chart is not None]
        shown["logs"] = await in_thread(lambda: _logs(view))
    return {
        **_of_run(request, watch, context["run"], trouble),
        "job": view,
        "number": number,
        **shown,
        "title": f"Job {number} of {context['run'].name or context['run'].id}",
        "say": f"Job {number} is {view.row.state}." if view is not None else "",
    }


def _logs(view: JobView) -> list[tuple[str, str]]:
    """Returns the paths of what the job's worker wrote, and the end of each."""
    found = []
    for path in dict.fromkeys((view.log_stdout, view.log_stderr)):
        if path:
            piece = read(path, -MOST_BYTES)
            found.append((path, "(it cannot be read here)" if piece is None else piece.text))
    return found


def _number(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name, "")
    return max(1, int(given)) if given.isdecimal() and len(given) < 9 else default


RUNS = Page("runs.html", ("runs",), runs)
RUN = Page(
    "run.html",
    ("head", "progress", "failures", "hosts", "resources", "notes", "actions"),
    run,
)
JOBS = Page("jobs.html", ("head", "jobs"), jobs)
JOB = Page("job.html", ("head", "job"), job)

HOST = os.uname().nodename
