"""The dashboard as a web application: pages, their streams of changes, actions, assets."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gridmap._numbers import counted, rate, time_left
from gridmap._version import __version__
from gridmap.errors import GridMapError
from gridmap.views import JOB_STATES
from gridmap.web import actions, charts, pages, text
from gridmap.web.events import Streams
from gridmap.web.hosts import is_there
from gridmap.web.pages import Context, Page
from gridmap.web.security import session_of
from gridmap.web.watch import Watches

HERE = Path(__file__).parent

STATES = {
    "completed": "\u2713",
    "failed": "\u2715",
    "canceled": "\u2298",
    "running": "\u25b6",
    "queued": "\u25cb",
    "under way": "\u25b6",
    "ended": "\u2713",
    "interrupted": "\u2016",
    "damaged": "\u26a0",
}
"""A sign for each state, for those to whom colors say nothing."""


def make(run_dir: str, profile: str | None = None) -> Starlette:
    """Returns the application; a Gate has to stand before it.

    :param run_dir: where runs are kept
    """
    environment = _environment()

    def answer(request: Request, status: int, message: str) -> Response:
        page = environment.get_template("error.html")
        context = {"title": f"Error {status}", "message": message, "status": status}
        return HTMLResponse(page.render(_common(request, environment) | context), status)

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return answer(request, error.status_code, error.detail)
        return answer(request, 500, f"{type(error).__name__}: {error}")

    app = Starlette(
        routes=_routes(environment),
        exception_handlers={HTTPException: refuse, GridMapError: refuse, 500: refuse},
    )
    app.state.watches = Watches(run_dir)
    app.state.retries = actions.Retries(app.state.watches.run_dir, profile)
    app.state.streams = Streams(lambda *asked: regions(environment, *asked))
    app.state.answer = answer
    return app


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        finalize=text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
    )
    for function in (
        text.count, counted, text.size, text.duration, time_left, rate, text.percent, text.stamp,
        text.since, charts.bar, charts.stack, is_there,
    ):  # fmt: skip
        environment.globals[function.__name__] = function
    environment.globals.update(
        states=STATES, job_states=JOB_STATES, version=__version__, notices=actions.NOTICES
    )
    return environment


def _common(request: Request, environment: jinja2.Environment) -> Context:
    """Returns what every template may show."""

    def with_query(**changed: Any) -> str:
        """Returns the query of this page with some of it changed; None leaves a part out."""
        kept = {**request.query_params, "done": None, **changed}
        return "?" + urlencode({name: value for name, value in kept.items() if value})

    return {
        "request": request,
        "here": request.url.path.removesuffix("/events").rstrip("/"),
        "form_token": session_of(request).form_token,
        "with_query": with_query,
        "host": pages.HOST,
        "now_s": time.time(),
        "run_dir": str(request.app.state.watches.run_dir),
        "notice": actions.NOTICES.get(request.query_params.get("done", ""), ""),
    }


def regions(
    environment: jinja2.Environment, request: Request, page: Page, context: Context
) -> dict[str, str]:
    """Returns the parts of a page that change, by name."""
    full = _common(request, environment) | context
    name = page.template.removesuffix(".html")
    return {
        region: environment.get_template(f"parts/{name}_{region}.html").render(full).strip()
        for region in page.regions
    }


def _routes(environment: jinja2.Environment) -> list[Any]:
    routes: list[Any] = []
    for path, page in (
        ("/", pages.RUNS),
        ("/runs/{run}", pages.RUN),
        ("/runs/{run}/jobs", pages.JOBS),
        ("/runs/{run}/jobs/{job:int}", pages.JOB),
    ):
        routes.append(Route(path, _shown(environment, page)))
        routes.append(Route(f"{path.rstrip('/')}/events", _told(page)))
    return [
        *routes,
        Route("/runs/{run}/cancel", actions.cancel, methods=["POST"]),
        Route("/runs/{run}/jobs/{job:int}/cancel", actions.cancel, methods=["POST"]),
        *(
            Route(f"/runs/{{run}}/{kind}", _of_kind(kind), methods=["POST"])
            for kind in actions.COMMANDS
        ),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]


def _of_kind(kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def go_on(request: Request) -> Response:
        request.path_params["kind"] = kind
        return await actions.go_on(request)

    return go_on


def _shown(environment: jinja2.Environment, page: Page) -> Callable[..., Awaitable[Response]]:
    async def show(request: Request) -> Response:
        context = await page.collect(request)
        parts = regions(environment, request, page, context)
        full = _common(request, environment) | context
        marked = {name: Markup(html) for name, html in parts.items()}
        return HTMLResponse(environment.get_template(page.template).render(full, parts=marked))

    return show


def _told(page: Page) -> Callable[..., Awaitable[Response]]:
    async def tell(request: Request) -> Response:
        streams: Streams = request.app.state.streams
        return streams.open(request, page)

    return tell
