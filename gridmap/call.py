"""One call of a door: its options checked, its jobs laid out as a plan, and what runs it."""

from __future__ import annotations

import dataclasses
import logging
import operator
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gridmap import conf, data
from gridmap.conf import Settings, settings
from gridmap.engine import ON_ERROR, Options
from gridmap.errors import DRMAANotPresentException
from gridmap.inline import run_inline
from gridmap.plan import Plan, Segment, client_sys_path
from gridmap.run import Run
from gridmap.stories import JobWatcher, MapWatcher, as_jobs
from gridmap.stream import stream

if TYPE_CHECKING:
    from gridmap.job import Job

log = logging.getLogger(__name__)

BACKENDS = ("auto", "drmaa", "local")


class Call:
    """One call of a door, its options checked."""

    def __init__(self, options: Options, white_list: list[str]) -> None:
        self.options = options
        self.white_list = white_list
        self.inline = False

    @classmethod
    def checked(
        cls,
        temp_dir: str | None = None,
        white_list: Iterable[str] | None = None,
        local: bool = False,
        max_processes: int = 1,
        require_cluster: bool = False,
        max_workers: int | None = None,
        on_error: str = "raise",
        reuse: bool = True,
        backend: str = "auto",
        quiet: bool = True,
    ) -> Call:
        config = settings()
        if isinstance(white_list, str) or not isinstance(white_list, Iterable | None):
            raise TypeError(f"white_list is a list of host names, not {white_list!r}")
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error is {on_error!r}; it must be one of {', '.join(ON_ERROR)}")
        max_processes = at_least_one("max_processes", max_processes)
        workers = config.max_workers if max_workers is None else max_workers
        chosen = _choose_backend(backend, local, require_cluster)
        options = Options(
            settings=config,
            backend=chosen,
            processes=max_processes,
            max_workers=at_least_one("max_workers", workers),
            on_error=on_error,
            reuse=reuse,
            log_dir=_checked_folder(temp_dir) if chosen != "local" else None,
        )
        call = cls(options, list(white_list or []))
        call.inline = chosen == "local" and max_processes == 1 and reuse
        return call

    def run_map(self, job: Job, elements: Iterable[Any]) -> Run:
        watcher = MapWatcher(job, self._mail_settings())
        return Run(self._plan_map(job, elements), self._with_cleanup(job.cleanup), watcher, [job])

    def stream(
        self, job: Job, elements: Iterable[Any], window: int, ordered: bool
    ) -> Iterator[Any]:
        if self.inline:
            return run_inline(as_jobs(job, elements), self.options.on_error)
        options = self._with_cleanup(job.cleanup)
        return stream(self._plan_map(job, elements), options, window, ordered)

    def run_jobs(self, jobs: list[Job]) -> Run:
        name = jobs[0].name if jobs else "gridmap"
        plan = Plan(
            list(_segments(jobs, self.white_list)),
            name,
            lambda number: f"job {number} ({jobs[number].name})",
            self.options.reuse,
        )
        options = self._with_cleanup(all(job.cleanup for job in jobs))
        run = Run(plan, options, JobWatcher(self.noted(jobs), self._mail_settings()), jobs)
        for job in jobs:
            job.home_address = run.id
        return run

    def noted(self, jobs: list[Job]) -> list[Job]:
        """Makes the jobs ready to tell of a new run."""
        for number, job in enumerate(jobs):
            job._start_anew()
            job.uniq_id = str(number)
            if self.white_list:
                job.white_list = list(self.white_list)
        return jobs

    def _plan_map(self, job: Job, elements: Iterable[Any]) -> Plan:
        wanted = job.resources_wanted(self.white_list)
        segment = Segment(job.function, _context(job), wanted, elements)
        return Plan([segment], job.name, lambda number: f"call {number}", self.options.reuse)

    def _with_cleanup(self, cleanup: bool) -> Options:
        return dataclasses.replace(self.options, keep_logs=not cleanup)

    def _mail_settings(self) -> Settings | None:
        """Returns the settings to send error mails with; None where none are wanted."""
        wanted = self.options.backend != "local" and self.options.settings.send_error_mail
        return self.options.settings if wanted else None


def _segments(jobs: list[Job], white_list: list[str]) -> Iterator[Segment]:
    """Cuts a list of jobs where the function, the context or the resources change."""
    segment: Segment | None = None
    before: Job | None = None
    for job in jobs:
        wanted = job.resources_wanted(white_list or None)
        element = data.Arguments(job.args, job.kwlist) if job.kwlist else job.args
        same = (
            segment is not None
            and before is not None
            and job.function is before.function
            and wanted == segment.resources
            and (job.working_dir, job.add_env) == (before.working_dir, before.add_env)
            and job.environment == before.environment
        )
        if same and segment is not None:
            assert isinstance(segment.elements, list)
            segment.elements.append(element)
        else:
            if segment is not None:
                yield segment
            segment = Segment(job.function, _context(job), wanted, [element])
        before = job
    if segment is not None:
        yield segment


def _context(job: Job) -> data.Context:
    return data.Context(job.environment, job.working_dir, client_sys_path(), job.add_env)


def checked_elements(args_list: Any) -> Iterable[Any]:
    """Returns what can be iterated.

    :raises TypeError: it cannot
    """
    if not isinstance(args_list, Iterable):
        kind = type(args_list).__name__
        raise TypeError(f"args_list must be iterable, one element a call; it is a {kind}")
    return args_list


def at_least_one(name: str, value: Any) -> int:
    """Returns a whole number of 1 or more.

    :raises TypeError: it is no whole number
    :raises ValueError: it is less than 1
    """
    try:
        number = operator.index(value)  # NumPy's whole numbers are some, too
    except TypeError:
        number = None
    if isinstance(value, bool) or number is None:
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if number < 1:
        raise ValueError(f"{name} is {number}; it must be 1 or more")
    return number


def _checked_folder(temp_dir: str | None) -> str | None:
    """Returns a folder of the user's choice if it can be written; the default is not needed."""
    if temp_dir is None or temp_dir == conf.DEFAULT_TEMP_DIR:
        return None
    folder = os.path.abspath(os.path.expanduser(temp_dir))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"temp_dir {temp_dir!r} is no folder that can be written here")
    return folder


def _choose_backend(backend: str, local: bool, require_cluster: bool) -> str:
    """Returns the backend to use; running locally for want of a cluster is said.

    :raises DRMAANotPresentException: a cluster is required and there is none
    """
    if backend not in BACKENDS:
        from gridmap.backends.registry import backend_names

        known = sorted({*BACKENDS, *backend_names()})
        if backend not in known:
            raise ValueError(f"backend is {backend!r}; it must be one of {', '.join(known)}")
    if local and backend not in ("auto", "local"):
        raise ValueError(f"local=True contradicts backend={backend!r}")
    if backend == "local" or local:
        if require_cluster:
            what = "local=True" if local else f"backend={backend!r}"
            raise ValueError(f"require_cluster=True contradicts {what}")
        return "local"
    if backend not in BACKENDS:
        return backend
    from gridmap.backends.drmaa import why_not

    reason = why_not()
    if not reason:
        return "drmaa"
    if require_cluster or backend == "drmaa":
        raise DRMAANotPresentException(reason)
    log.warning("no cluster, running on this machine: %s", reason)
    return "local"
