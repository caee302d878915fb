"""One call of a door: its options checked, its jobs laid out as a plan, and what runs it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from msgspec.structs import replace

from gridmap import data
from gridmap.conf import (
    LATELY_S,
    Settings,
    backend_file,
    backend_files,
    settings,
    tell_of_variables,
)
from gridmap.core.spec import Resources, for_worker
from gridmap.engine import Engine
from gridmap.errors import DRMAANotPresentException
from gridmap.inline import run_inline
from gridmap.launch import LOCAL
from gridmap.options import ON_ERROR, Options, shown_by
from gridmap.plan import Plan, Segment, client_sys_path
from gridmap.report.endings import Endings
from gridmap.report.progress import Progress, Shown
from gridmap.run import Run
from gridmap.stories import JobWatcher, MapWatcher, as_jobs
from gridmap.stream import stream
from gridmap.work import Job, whole_number

log = logging.getLogger(__name__)

BACKENDS = ("auto", "drmaa", "slurm", "local")

_said: set[str] = set()


class Call:
    """One call of a door, its options checked."""

    def __init__(
        self, options: Options, white_list: list[str], progress: Progress, completion_mail: bool
    ) -> None:
        self.options = options
        self.white_list = white_list
        self.progress = progress
        self.completion_mail = completion_mail

    @classmethod
    def checked(
        cls,
        temp_dir: str | None = None,
        white_list: Iterable[str] | None = None,
        quiet: bool = True,
        max_processes: int = 1,
        local: bool = False,
        require_cluster: bool = False,
        max_workers: int | None = None,
        on_error: str = "raise",
        reuse: bool = True,
        backend: str = "auto",
        completion_mail: bool = False,
        profile: str | None = None,
        children: int = 1,
        progress: Shown = None,
    ) -> Call:
        """Returns a Call; these are all options of the doors that are not those of a Job."""
        config = settings(profile, LATELY_S)  # whoever applied the profile has just looked
        tell_of_variables()
        if isinstance(white_list, str) or not isinstance(white_list, Iterable | None):
            raise TypeError(f"white_list is a list of host names, not {white_list!r}")
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error is {on_error!r}; it must be one of {', '.join(ON_ERROR)}")
        max_processes = whole_number("max_processes", max_processes, 1)
        workers = config.max_workers if max_workers is None else max_workers
        chosen = _choose_backend(backend, local, require_cluster)
        options = Options(
            settings=config,
            backend=chosen,
            processes=max_processes,
            max_workers=whole_number("max_workers", workers, 1),
            on_error=on_error,
            reuse=reuse,
            log_dir=None if chosen == LOCAL else _log_folder(temp_dir, config.default_temp_dir),
            durable=config.ledger == "always" or (config.ledger == "cluster" and chosen != LOCAL),
            children=whole_number("children", children, 1),
        )
        shown = shown_by(progress, config, quiet and "quiet" in getattr(profile, "given", ()))
        each = 1 if chosen == LOCAL else options.children
        of_run = Progress(chosen, quiet, each, shown)
        return cls(options, list(white_list or []), of_run, completion_mail)

    def map(self, job: Job, elements: Iterable[Any]) -> list[Any]:
        """Returns the values of a function's calls."""
        self.progress.jobs = _length(elements)
        if self._is_inline([job]):
            endings = Endings()
            with self._mailing_the_end(job, endings):
                return list(self._inline(as_jobs(job, elements), endings))
        plan, options, watcher = self._laid_out(job, elements)
        with self._mailing_the_end(job, watcher.endings):
            return Run(Engine(plan, options, watcher), [job], self.progress).results()

    def stream(
        self, job: Job, elements: Iterable[Any], window: int, ordered: bool
    ) -> Iterator[Any]:
        """Returns an iterator over the values of a function's calls, which starts when read."""
        self.progress.jobs = _length(elements)
        if self._is_inline([job]):
            endings = Endings()
            return self._to_the_end(job, self._inline(as_jobs(job, elements), endings), endings)
        plan, options, watcher = self._laid_out(job, elements)
        values = stream(plan, options, watcher, window, ordered, self.progress)
        return self._to_the_end(job, values, watcher.endings)

    def _to_the_end(self, job: Job, values: Iterator[Any], endings: Endings) -> Iterator[Any]:
        with self._mailing_the_end(job, endings):
            yield from values

    def process(self, jobs: list[Job]) -> list[Any]:
        """Returns the values of jobs."""
        self.progress.jobs = len(jobs)
        if self._is_inline(jobs):
            return list(self._inline(self._noted(jobs)))
        return self.start(jobs).results()

    def start(self, jobs: list[Job]) -> Run:
        """Starts jobs."""
        name = jobs[0].name if jobs else "gridmap"
        segments = list(_segments(jobs, self.white_list, self._threads(len(jobs))))
        self._check([segment.resources for segment in segments])
        plan = Plan(
            segments,
            name,
            lambda number: f"job {number} ({jobs[number].name})",
            self.options.reuse,
            [job.name for job in jobs],
            one_by_one=True,
            num_resubmits=self.options.settings.num_resubmits,
        )
        options = self._with_cleanup(all(job.cleanup for job in jobs))
        watcher = JobWatcher(self._noted(jobs), self._mail_settings())
        run = Run(Engine(plan, options, watcher), jobs, self.progress)
        for job in jobs:
            job.home_address = run.id
        return run

    def _is_inline(self, jobs: list[Job]) -> bool:
        """Returns whether jobs run one after the other in this process, which no limit may end."""
        options = self.options
        if options.backend == LOCAL and any(job.gpu for job in jobs):
            _say_once("on this machine nothing gives out GPUs: every job sees all of them")
        alone = options.backend == LOCAL and options.processes == 1 and options.reuse
        return alone and not any(job.max_rss_bytes for job in jobs)

    def _inline(self, jobs: Iterable[Job], endings: Endings | None = None) -> Iterator[Any]:
        resubmits = self.options.settings.num_resubmits
        return run_inline(jobs, self.options.on_error, self.progress, resubmits, endings)

    @contextlib.contextmanager
    def _mailing_the_end(self, job: Job, endings: Endings) -> Iterator[None]:
        """Mails how the jobs ended, also where a failure of theirs is raised."""
        try:
            yield
        except Exception:
            if endings.failed:
                self._tell_completion(job, endings)
            raise
        self._tell_completion(job, endings)

    def _tell_completion(self, job: Job, endings: Endings) -> None:
        if self.completion_mail:
            from gridmap.report import mail  # takes a while, and is seldom needed

            mail.send_completion_mail(job.name, self.options.settings, endings)

    def _noted(self, jobs: list[Job]) -> list[Job]:
        """Makes the jobs ready to tell of a new run."""
        for number, job in enumerate(jobs):
            job.start_anew()
            job.uniq_id = str(number)
        return jobs

    def _laid_out(self, job: Job, elements: Iterable[Any]) -> tuple[Plan, Options, MapWatcher]:
        """Returns the plan of a map, and how to run and whom to tell of it."""
        wanted = job.resources_wanted(self.white_list or None)
        self._check([wanted])
        plan = Plan(
            [_segment(job, wanted, elements, self._threads(_length(elements)))],
            job.name,
            lambda number: f"call {number}",
            self.options.reuse,
            [job.name],
            num_resubmits=self.options.settings.num_resubmits,
        )
        watcher = MapWatcher(job, self._mail_settings())
        return plan, self._with_cleanup(job.cleanup), watcher

    def _check(self, wanted: Iterable[Resources]) -> None:
        """Makes sure that the scheduler has words for what is wanted; says what it leaves out.

        :raises ValueError: it has none; nothing was started
        """
        if self.options.backend == LOCAL:
            return
        from gridmap.backends.options import left_out, render
        from gridmap.backends.registry import words_for

        words, use_mem_free = words_for(self.options.backend), self.options.settings.use_mem_free
        if words is None:
            return
        for job in dict.fromkeys(wanted):
            resources = for_worker(job, self.options.children)
            render(words, resources, use_mem_free)
            for text in left_out(words, resources, use_mem_free):
                _say_once(f"{words.name} cannot be asked for {text}, which is left out")

    def _with_cleanup(self, cleanup: bool) -> Options:
        return replace(self.options, keep_logs=not cleanup)

    def _threads(self, jobs: int | None) -> int | None:
        """Returns how many threads a job's libraries start: on this machine the processes share the
        processors.

        :param jobs: how many there are, if that is known
        :returns: 0: as many as they like; None: as many as the job has slots
        """
        if self.options.backend != LOCAL:
            return None
        processes = min(self.options.processes, jobs or self.options.processes)
        return 0 if processes < 2 else max(1, len(os.sched_getaffinity(0)) // processes)

    def _mail_settings(self) -> Settings | None:
        """Returns the settings to send error mails with; None where none are wanted."""
        wanted = self.options.backend != LOCAL and self.options.settings.send_error_mail
        return self.options.settings if wanted else None


def _say_once(text: str) -> None:
    """Logs a warning the first time."""
    if text not in _said:
        _said.add(text)
        log.warning("%s", text)


def _segments(jobs: list[Job], white_list: list[str], threads: int | None) -> Iterator[Segment]:
    """Cuts a list of jobs where the function, the context or the resources change.

    :param threads: see `_segment`
    """
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
            and (job.retry, job.retry_on) == (before.retry, before.retry_on)
            and job.max_rss_bytes == before.max_rss_bytes
        )
        if same and segment is not None:
            assert isinstance(segment.elements, list)
            segment.elements.append(element)
        else:
            if segment is not None:
                yield segment
            segment = _segment(job, wanted, [element], threads)
        before = job
    if segment is not None:
        yield segment


def _segment(job: Job, wanted: Resources, elements: Iterable[Any], threads: int | None) -> Segment:
    """Returns jobs that differ from this one in their arguments.

    :param threads: how many their libraries start, see `Call._threads`
    """
    context = data.Context(
        job.environment,
        job.working_dir,
        client_sys_path(),
        job.add_env,
        data.pack_exceptions(job.retry_on) if job.retry_on else b"",
        wanted.num_slots if threads is None else threads,
        wanted.gpu,
    )
    return Segment(
        job.function, context, wanted, elements, job.retry, job.retry_on, job.max_rss_bytes
    )


def _length(elements: Iterable[Any]) -> int | None:
    return len(elements) if isinstance(elements, Sized) else None


def checked_elements(args_list: Any) -> Iterable[Any]:
    """Returns what can be iterated.

    :raises TypeError: it cannot
    """
    if not isinstance(args_list, Iterable):
        kind = type(args_list).__name__
        raise TypeError(f"args_list must be iterable, one element a call; it is a {kind}")
    return args_list


def _log_folder(temp_dir: str | os.PathLike[str] | None, default: str) -> str | None:
    """Returns the folder chosen for the workers' output; None stands for the run directory.

    :param default: DEFAULT_TEMP_DIR; its historic value, /scratch/, is nobody's choice
    :raises OSError: it cannot be written here
    """
    name, given = ("DEFAULT_TEMP_DIR", default) if temp_dir is None else ("temp_dir", temp_dir)
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"{name} is a path, not {given!r}")
    chosen = os.fspath(given)
    if not chosen or os.path.normpath(chosen) == os.path.normpath(Settings().default_temp_dir):
        return None
    folder = os.path.abspath(os.path.expanduser(chosen))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(
            f"{name} {chosen!r} is no folder that can be written here; name one that the nodes "
            "share, or none: the output then goes to the run directory"
        )
    return folder


def _choose_backend(backend: str, local: bool, require_cluster: bool) -> str:
    """Returns the backend to use; running locally for want of a cluster is said.

    Where SGE_ROOT names a Grid Engine it comes first, else Slurm.

    :raises DRMAANotPresentException: a cluster is required and there is none
    :raises ConfigError: the backend is a description that cannot be used
    """
    if backend not in BACKENDS:
        backend = _described_or_other(backend)
    if local and backend not in ("auto", "local"):
        raise ValueError(f"local=True contradicts backend={backend!r}")
    if backend == "local" or local:
        if require_cluster:
            what = "local=True" if local else f"backend={backend!r}"
            raise ValueError(f"require_cluster=True contradicts {what}")
        return "local"
    if backend not in ("auto", "drmaa"):
        return backend
    from gridmap.backends import drmaa, slurm

    # Debian's DRMAA library can be there without its scheduler, which has to be named
    named = any(map(os.environ.get, ("SGE_ROOT", "DRMAA_LIBRARY_PATH")))
    if backend == "auto" and not named and slurm.present():
        return "slurm"
    reason = drmaa.why_not()
    if not reason:
        # Slurm's own commands tell more than its DRMAA library does
        other = backend == "auto" and not drmaa.is_grid_engine() and slurm.present()
        return "slurm" if other else "drmaa"
    if backend == "auto" and named and slurm.present():
        return "slurm"
    if require_cluster or backend == "drmaa":
        raise DRMAANotPresentException(reason)
    _say_once(f"no cluster, running on this machine: no Slurm, and {reason}")
    return "local"


def _described_or_other(backend: str) -> str:
    """Returns a backend that is none of BACKENDS; that of a file by its whole path.

    :param backend: the path of a description, a name of the configuration files, or one of ours
    :raises ValueError: there is no such backend
    :raises ConfigError: the file cannot be used
    """
    from gridmap.backends.registry import backend_names, description_of

    if isinstance(backend, str):
        backend = backend_file(backend) or backend
        path = description_of(backend)
        if path is not None:
            from gridmap.backends.description import read

            read(path)  # for its ConfigError, before anything is made ready
            return str(path) if backend.endswith(".toml") else backend
    known = sorted({*BACKENDS, *backend_files(), *backend_names()})
    if backend not in known:
        raise ValueError(
            f"backend is {backend!r}; it must be one of {', '.join(known)}, or the path of a "
            "scheduler's description, which ends in .toml"
        )
    return backend
