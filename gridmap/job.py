"""Jobs, and the ways to run them: `grid_map`, `process_jobs`, `grid_imap`, `submit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gridmap import conf
from gridmap.call import Call, checked_elements
from gridmap.errors import DRMAANotPresentException, JobException
from gridmap.profiles import parameters, with_profile
from gridmap.report.progress import Shown
from gridmap.resources import Resources
from gridmap.retry import Retry
from gridmap.run import Run
from gridmap.work import Job, whole_number

if TYPE_CHECKING:
    from gridmap.historic import JobMonitor, handle_resubmit, send_completion_mail, send_error_mail

__all__ = [
    "DRMAANotPresentException",
    "Job",
    "JobException",
    "JobMonitor",
    "grid_imap",
    "grid_imap_unordered",
    "grid_map",
    "handle_resubmit",
    "process_jobs",
    "send_completion_mail",
    "send_error_mail",
    "submit",
]

_HISTORIC = ("JobMonitor", "handle_resubmit", "send_completion_mail", "send_error_mail")

WINDOW = 4096
"""So many elements a stream reads ahead of what it has yielded, at most."""


@with_profile()
def grid_map(
    f: Callable[..., Any],
    args_list: Iterable[Any],
    cleanup: bool = True,
    mem_free: str = "1G",
    name: str = "gridmap_job",
    num_slots: int = 1,
    temp_dir: str | None = None,
    white_list: Iterable[str] | None = None,
    queue: str | None = None,
    quiet: bool = True,
    local: bool = False,
    max_processes: int = 1,
    interpreting_shell: str | None = None,
    copy_env: bool = True,
    add_env: Mapping[str, str] | None = None,
    project: str | None = None,
    validation_level: str | None = None,
    os_distribution: str | None = None,
    os_minor: str | None = None,
    gpu: int = 0,
    h_vmem: str | None = None,
    h_rt: str | int | None = None,
    resources: Resources | Sequence[str] | None = None,
    completion_mail: bool = False,
    require_cluster: bool = False,
    par_env: str | None = None,
    *,
    max_workers: int | None = None,
    on_error: str = "raise",
    reuse: bool = True,
    backend: str = "auto",
    children: int = 1,
    progress: Shown = None,
    retry: Retry | int | None = None,
    retry_on: type[BaseException] | Iterable[type[BaseException]] = (),
    max_rss: str | int | None = None,
    profile: str | None = None,
) -> list[Any]:
    """Returns `[f(x) for x in args_list]`, computed on the cluster, or on this machine.

    :param args_list: one element a call; a list is the call's positional arguments, anything else
        (a tuple too) its one argument
    :param temp_dir: folder for the workers' stdout and stderr, which has to be there on the nodes
        under the same path; DEFAULT_TEMP_DIR when not given.  /scratch/, its historic value, need
        not be there: it stands for the run's own directory
    :param white_list: host names to which the workers of this call are limited
    :param quiet: False logs the begin and the end of the run, at info level, as
        "gridmap.report.progress"
    :param local: run on this machine
    :param max_processes: for local runs; 1 runs the calls one after the other in this process, more
        than 1 uses so many processes
    :param completion_mail: send a mail when all is done
    :param require_cluster: do not run locally where no cluster is: then this is an error
    :param max_workers: most cluster jobs at a time; GRIDMAP_MAX_WORKERS when not given.  On this
        machine max_processes counts
    :param on_error: "raise" stops at the first failure and raises it, "finish" runs all calls and
        raises it then, "return" puts exceptions in the place of values
    :param reuse: a process may run several calls; False starts a new one for each
    :param backend: "auto" (the cluster where there is one), "drmaa", "slurm", "local", another that
        is shipped ("openpbs", "lsf", ...), or the path of a scheduler's description
    :param children: calls that each cluster job runs at once; it asks for so many times what a call
        needs.  On this machine max_processes counts
    :param progress: True shows how far it is, False does not, and a function is called about once a
        second, and at the end, with a `RunStatus`; None goes by GRIDMAP_PROGRESS: by default it is
        shown on a terminal and in a notebook after 2 s, if the call does not say quiet=True
    :param profile: a profile of the configuration files, whose values are those of the parameters
        that are not given; GRIDMAP_PROFILE when not given, "none" for none
    :raises PicklingError: something cannot be pickled; names it.  Nothing was started if it is
        among the first 64 MB; what was started has been ended
    :raises BackendError: the scheduler refused or cannot be reached; with its own words
    :raises OSError: temp_dir, or the run directory, cannot be written
    :raises JobException: a call died, was lost, stalled or canceled; says why
    :raises DRMAANotPresentException: require_cluster, and there is none

    The other parameters are those of `Job`.
    """
    job = Job(
        f, [], None, cleanup, mem_free, name, num_slots, queue, interpreting_shell, copy_env,
        add_env, project, validation_level, os_distribution, os_minor, par_env, gpu, h_vmem, h_rt,
        resources, retry=retry, retry_on=retry_on, max_rss=max_rss, profile=profile,
    )  # fmt: skip
    call = Call.checked(
        temp_dir, white_list, quiet, max_processes, local, require_cluster, max_workers, on_error,
        reuse, backend, completion_mail, profile, children, progress,
    )  # fmt: skip
    return call.map(job, checked_elements(args_list))


@with_profile()
def process_jobs(
    jobs: Iterable[Job],
    temp_dir: str | None = None,
    white_list: Iterable[str] | None = None,
    quiet: bool = True,
    max_processes: int = 1,
    local: bool = False,
    require_cluster: bool = False,
    *,
    max_workers: int | None = None,
    on_error: str = "raise",
    reuse: bool = True,
    backend: str = "auto",
    children: int = 1,
    progress: Shown = None,
    profile: str | None = None,
) -> list[Any]:
    """Runs jobs; returns their values in order, and notes in each job what happened to it.

    The parameters and errors are those of `grid_map`.  What a job needs is said by the job, and by
    the profile that it was made with.  No jobs have no values: `[]`.

    :raises TypeError: something in `jobs` is no Job
    :raises ValueError: a Job stands in `jobs` twice
    """
    call = Call.checked(
        temp_dir, white_list, quiet, max_processes, local, require_cluster, max_workers, on_error,
        reuse, backend, profile=profile, children=children, progress=progress,
    )  # fmt: skip
    return call.process(_checked_jobs(jobs))


@with_profile()
def submit(
    jobs: Iterable[Job],
    temp_dir: str | None = None,
    white_list: Iterable[str] | None = None,
    quiet: bool = True,
    max_processes: int = 1,
    local: bool = False,
    require_cluster: bool = False,
    *,
    max_workers: int | None = None,
    on_error: str = "raise",
    reuse: bool = True,
    backend: str = "auto",
    children: int = 1,
    progress: Shown = None,
    profile: str | None = None,
) -> Run:
    """Starts jobs and returns at once a `Run`: `results()`, `wait()`, `cancel()`, `status()`.

    What happened to a job is noted in it, and mailed, by the thread that calls `results()` or
    `wait()`, while it does so; while nobody does, values are kept, and of what a running job uses
    the latest measurement only.  Arguments are read while the run goes on: leave arrays and other
    objects in them unchanged until it has ended.

    The parameters and errors are those of `process_jobs`.
    """
    call = Call.checked(
        temp_dir, white_list, quiet, max_processes, local, require_cluster, max_workers, on_error,
        reuse, backend, profile=profile, children=children, progress=progress,
    )  # fmt: skip
    return call.start(_checked_jobs(jobs))


_MAP_OPTIONS = parameters(grid_map)[1] - {"f", "args_list"}
_CALL_OPTIONS = parameters(Call.checked)[1] - {"cls"}


@with_profile(more=_MAP_OPTIONS)
def grid_imap(
    f: Callable[..., Any], iterable: Iterable[Any], *, window: int = WINDOW, **options: Any
) -> Iterator[Any]:
    """Yields `f(x)` for each element, in order, as soon as it and those before it are there.

    The input may be endless: it is read, by the thread that takes the values, at most `window`
    elements ahead of what has been yielded.  Should reading it fail, the values of what had been
    read come first, then the error.  Closing or dropping the iterator ends the run.  With
    on_error="finish" a call that failed yields nothing, and the first failure is raised at the end.
    The mail of completion_mail is sent when the last value has been taken.

    :param window: most elements between the input and the output
    :param options: those of `grid_map`, by name
    :raises TypeError: an option that `grid_map` does not have
    """
    return _imap("grid_imap", f, iterable, window, True, options)


@with_profile(more=_MAP_OPTIONS)
def grid_imap_unordered(
    f: Callable[..., Any], iterable: Iterable[Any], *, window: int = WINDOW, **options: Any
) -> Iterator[Any]:
    """Yields values as they come; otherwise as `grid_imap`."""
    return _imap("grid_imap_unordered", f, iterable, window, False, options)


def _imap(
    door: str,
    f: Callable[..., Any],
    iterable: Iterable[Any],
    window: int,
    ordered: bool,
    options: dict[str, Any],
) -> Iterator[Any]:
    for name in options:
        if name not in _MAP_OPTIONS:
            raise TypeError(f"{door}() got an unexpected keyword argument {name!r}")
    of_call = {name: options.pop(name) for name in _CALL_OPTIONS if name in options}
    window = whole_number("window", window, 1)
    job = Job(f, [], profile=of_call["profile"], **options)
    call = Call.checked(**of_call)
    return call.stream(job, checked_elements(iterable), window, ordered)


def _checked_jobs(jobs: Any) -> list[Job]:
    if isinstance(jobs, Job) or not isinstance(jobs, Iterable):
        raise TypeError(f"jobs must be a list of Job objects, not {type(jobs).__name__}")
    checked = list(jobs)
    seen: dict[int, int] = {}
    for number, job in enumerate(checked):
        if not isinstance(job, Job):
            raise TypeError(f"jobs[{number}] is no Job but {job!r}")
        first = seen.setdefault(id(job), number)
        if first != number:
            raise ValueError(
                f"the same Job ({job.name}) is both jobs[{first}] and jobs[{number}]; "
                "each run of a function needs a Job of its own"
            )
    return checked


def __getattr__(name: str) -> Any:
    """Historic names are loaded, and settings read, when they are asked for."""
    if name in _HISTORIC:
        return getattr(import_module("gridmap.historic"), name)
    if name in conf.__dict__.get("__annotations__", {}):
        return getattr(conf, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
