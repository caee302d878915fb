"""What can be done with a run: cancel it or a job of it, go on with it, run again what failed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gridmap.errors import GridMapError
from gridmap.watching.logs import tail
from gridmap.web.pages import MOST_JOBS, watch_of
from gridmap.web.security import read_form

CANCEL_S = 5.0
"""How long a page waits until a run says that it cancels."""
SHOWN_BYTES = 16384

FOLDER = ".web"
"""Beside the runs: what the processes printed. In a run's directory it would be removed with it."""
KEEP_S = 30 * 86400.0

COMMANDS = {"retry": ("--failed",), "attach": ()}
"""Subcommands of `gridmap` that go on with a run, and what comes after the run's id."""

NOTICES = {
    "cancel": "The run was told to cancel all jobs that have not ended.",
    "cancel-job": "The run was told to cancel this job.",
    "asked": "The run was told to cancel, and has not answered yet.",
    "retry": "What failed runs again, in a process of its own.",
    "attach": "The run goes on, in a process of its own.",
}


@dataclass
class Retry:
    """A process that goes on with a run, and what it prints.

    :param kind: one of COMMANDS
    :param process: None where another dashboard has started it
    """

    kind: str
    begun_s: float
    process: subprocess.Popen[bytes] | None
    log: Path
    output: str = ""

    @property
    def status(self) -> int | None:
        """Returns its exit status, None while it works or where that is not known."""
        return None if self.process is None else self.process.poll()

    @property
    def working(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Retries:
    """Starts processes that go on with runs, and remembers them.

    They are their own masters: they live on when the dashboard ends.
    """

    def __init__(self, run_dir: Path, profile: str | None) -> None:
        self._run_dir = run_dir
        self._profile = profile
        self._begun: dict[str, list[Retry]] = {}

    def begin(self, path: Path, kind: str) -> Retry:
        """Starts a process that goes on with a run.

        :raises GridMapError: one does so already
        :raises OSError: it cannot be started
        """
        if any(one.working for one in self._begun.get(path.name, ())):
            raise GridMapError(f"a process that goes on with run {path.name} works already")
        values = Path.cwd() / f"gridmap-{path.name}.pkl"
        words = [kind, path.name, *COMMANDS[kind], "--output", str(values), "--force"]
        environ = {**os.environ, "GRIDMAP_RUN_DIR": str(self._run_dir), "PYTHONUNBUFFERED": "1"}
        if self._profile:
            environ["GRIDMAP_PROFILE"] = self._profile
        log = self._new_log(path.name, kind)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(log, flags, 0o600), "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "gridmap", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,
            )
        retry = Retry(kind, time.time(), process, log)
        self._begun.setdefault(path.name, []).append(retry)
        return retry

    def _new_log(self, run: str, kind: str) -> Path:
        """Returns where a process may print, and removes what others printed long ago."""
        folder = self._run_dir / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in folder.iterdir():
            with contextlib.suppress(OSError):
                if old.stat().st_mtime < time.time() - KEEP_S:
                    old.unlink()
        now = time.strftime("%Y%m%d-%H%M%S")
        return folder / f"{run}.{kind}.{now}-{os.urandom(2).hex()}.log"

    def of(self, path: Path) -> list[Retry]:
        """Returns what was started for a run, the latest first, with what it printed last."""
        found = list(self._begun.get(path.name, ()))
        known = {one.log.name for one in found}
        with contextlib.suppress(OSError):  # none was ever started
            for log in (self._run_dir / FOLDER).iterdir():
                run, _, rest = log.name.partition(".")
                kind = rest.partition(".")[0]
                if run == path.name and kind in COMMANDS and log.name not in known:
                    found.append(Retry(kind, log.stat().st_mtime, None, log))
        for one in found:
            one.output = tail(one.log, SHOWN_BYTES)
        return sorted(found, key=lambda one: -one.begun_s)


def back(path: str, notice: str) -> Response:
    return RedirectResponse(f"{path}?done={notice}", 303)


async def cancel(request: Request) -> Response:
    """Cancels a run, or a job of it."""
    watch = await watch_of(request)
    form = await read_form(request)
    if form is None:
        return request.app.state.answer(request, 403, "This form was not one of this session.")
    page = f"/runs/{watch.path.name}"
    job: Sequence[int] | None = None
    if "job" in request.path_params:
        if request.path_params["job"] >= MOST_JOBS:
            raise HTTPException(404, f"There is no job {request.path_params['job']}.")
        job = [request.path_params["job"]]
        page += f"/jobs/{job[0]}"
    reason = "canceled in the dashboard"
    task = asyncio.create_task(watch.do("cancel", job, reason))
    task.add_done_callback(_heard)
    done, _ = await asyncio.wait({task}, timeout=CANCEL_S)
    if not done:
        return back(page, "asked")
    try:
        task.result()
    except GridMapError as error:
        return request.app.state.answer(request, 409, str(error))
    return back(page, "cancel-job" if job else "cancel")


def _heard(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def go_on(request: Request) -> Response:
    """Goes on with a run whose client died, or runs again what failed."""
    watch = await watch_of(request)
    form = await read_form(request)
    if form is None:
        return request.app.state.answer(request, 403, "This form was not one of this session.")
    kind = request.path_params["kind"]
    try:
        await asyncio.to_thread(request.app.state.retries.begin, watch.path, kind)
    except (GridMapError, OSError) as error:
        return request.app.state.answer(request, 409, str(error))
    watch.forget()
    return back(f"/runs/{watch.path.name}", kind)
