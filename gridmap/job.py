"""Jobs, and the ways to run them: `grid_map`, `process_jobs`, `grid_imap`, `submit`."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from gridmap import conf
from gridmap.call import Call, at_least_one, checked_elements
from gridmap.core.spec import Resources
from gridmap.errors import Cause, DRMAANotPresentException, JobException
from gridmap.run import Run

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


class Job:
    """One call of a function, and what is known of it.

    :param f: what to call
    :param args: the positional arguments
    :param kwlist: the keyword arguments
    :param cleanup: remove the worker's stdout and stderr files when nothing failed
    :param mem_free: memory that the host should have free, "1G"; used where USE_MEM_FREE is set
    :param name: shown in the scheduler's list; a space becomes _
    :param num_slots: slots of the parallel environment that the job needs
    :param queue: where to run; DEFAULT_QUEUE when not given
    :param interpreting_shell: the shell that starts the worker (`-S`)
    :param copy_env: give the job the environment that this process has now
    :param add_env: variables on top of it
    :param project: the project to run under (`-P`)
    :param validation_level: e, w, n, p or v (`-w`)
    :param par_env: the parallel environment; DEFAULT_PAR_ENV when not given
    :param gpu: number of GPUs
    :param h_vmem: limit of virtual memory, "4G"
    :param h_rt: limit of run time, "01:00:00" or seconds
    :param resources: more of what `qsub -l` takes, ["name=value", ...]
    :raises TypeError: `f` cannot be called, or the arguments are none
    :raises ValueError: the scheduler would not understand one of the options

    After `process_jobs`: `ret` is the value (or the exception), `traceback` its text, `host_name`,
    `log_stdout_fn`, `log_stderr_fn`, `track_mem` [MB], `track_cpu` [(percent, running)],
    `num_resubmits` and `cause_of_death` tell what happened.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        args: Iterable[Any],
        kwlist: Mapping[str, Any] | None = None,
        cleanup: bool = True,
        mem_free: str = "1G",
        name: str = "gridmap_job",
        num_slots: int = 1,
        queue: str | None = None,
        interpreting_shell: str | None = None,
        copy_env: bool = True,
        add_env: Mapping[str, str] | None = None,
        project: str | None = None,
        validation_level: str | None = None,
        os_distribution: str | None = None,
        os_minor: str | None = None,
        par_env: str | None = None,
        gpu: int = 0,
        h_vmem: str | None = None,
        h_rt: str | int | None = None,
        resources: Sequence[str] | None = None,
    ) -> None:
        if not callable(f):
            raise TypeError(f"a Job needs something to call, not {f!r}")
        if isinstance(args, (str, bytes)) or not isinstance(args, Iterable):
            raise TypeError(f"the arguments of a Job are a list, not {args!r}")
        if isinstance(resources, str):
            raise TypeError(f"resources are a list of 'name=value', not the text {resources!r}")
        self.function = f
        self.args = list(args)
        self.kwlist = _named("kwlist", kwlist)
        self.cleanup = cleanup
        self.mem_free = mem_free
        self.name = str(name).strip().replace(" ", "_")
        self.num_slots = num_slots
        self.queue: str = conf.DEFAULT_QUEUE if queue is None else queue
        self.interpreting_shell = interpreting_shell
        self.copy_env = copy_env
        self.add_env: dict[str, str] = _named("add_env", add_env)
        if not all(isinstance(value, str) for value in self.add_env.values()):
            raise TypeError(f"the values of add_env are texts, not {add_env!r}")
        self.project = project
        self.validation_level = validation_level
        self.os_distribution = os_distribution
        self.os_minor = os_minor
        self.par_env: str = conf.DEFAULT_PAR_ENV if par_env is None else par_env
        self.gpu = gpu
        self.h_vmem = h_vmem
        self.h_rt = h_rt
        self.resources = list(resources or [])
        self.working_dir = os.getcwd()
        self.path = self.working_dir
        self.environment: dict[str, str] | None = dict(os.environ) if copy_env else None
        self.white_list: list[str] = []
        self._start_anew()
        self.resources_wanted()  # for its errors

    def _start_anew(self) -> None:
        self.ret: Any = None
        self.id: str = ""
        self.uniq_id: str = ""
        self.traceback: str | None = None
        self.cause_of_death: str = ""
        self.num_resubmits = 0
        self.home_address = ""
        self.log_stdout_fn = ""
        self.log_stderr_fn = ""
        self.timestamp: float | None = None
        self.host_name = ""
        self.heart_beat: dict[str, Any] | None = None
        self.track_mem: list[float] = []
        self.track_cpu: list[tuple[float, bool]] = []

    def execute(self) -> None:
        """Calls the function here; `ret` is its value or its exception, `traceback` the text."""
        try:
            self.ret = self.function(*self.args, **self.kwlist)
        except Exception as error:
            self.note_failure(error)

    def note_failure(self, error: BaseException) -> None:
        """Takes note of how the job failed."""
        self.ret = error
        self.cause_of_death = str(getattr(error, "cause", Cause.EXCEPTION))
        self.traceback = "".join(
            traceback.format_exception(type(error), error, error.__traceback__)
        )

    def full_environment(self) -> dict[str, str] | None:
        """Returns the variables that the job sees here; None when it brings none of its own."""
        if self.environment is not None:
            return {**self.environment, **self.add_env}
        return {**os.environ, **self.add_env} if self.add_env else None

    def resources_wanted(self, white_list: Iterable[str] | None = None) -> Resources:
        """Returns what the job asks of the scheduler.

        :raises ValueError: it cannot be said in the scheduler's language
        """
        from gridmap.backends.native import native_specification, walltime_s

        wanted = Resources(
            num_slots=self.num_slots,
            mem_free=self.mem_free or "",
            queue=self.queue or "",
            par_env=self.par_env or "",
            hosts=tuple(self.white_list if white_list is None else white_list),
            project=self.project or "",
            validation_level=self.validation_level or "",
            os_distribution=self.os_distribution or "",
            os_minor=self.os_minor or "",
            gpu=self.gpu or 0,
            h_vmem=self.h_vmem or "",
            h_rt=str(self.h_rt) if self.h_rt else "",
            walltime_s=walltime_s(self.h_rt),
            interpreting_shell=self.interpreting_shell or "",
            extra=tuple(self.resources),
        )
        native_specification(wanted)
        return wanted

    @property
    def native_specification(self) -> str:
        """The options for Grid Engine that say what the job needs."""
        from gridmap.backends.native import native_specification

        return native_specification(self.resources_wanted(), use_mem_free=conf.USE_MEM_FREE)

    def __repr__(self) -> str:
        function = getattr(self.function, "__qualname__", repr(self.function))
        return f"<Job {self.name}: {function}>"


# --- the doors ------------------------------------------------------------------------------------


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
    resources: Sequence[str] | None = None,
    completion_mail: bool = False,
    require_cluster: bool = False,
    par_env: str | None = None,
    *,
    max_workers: int | None = None,
    on_error: str = "raise",
    reuse: bool = True,
    backend: str = "auto",
) -> list[Any]:
    """Returns `[f(x) for x in args_list]`, computed on the cluster.

    :param args_list: one element a call; a list is the call's positional arguments, anything else
        (a tuple too) its one argument
    :param temp_dir: folder for the workers' stdout and stderr, shared with the nodes;
        DEFAULT_TEMP_DIR when not given, where /scratch/ stands for the run directory
    :param white_list: host names to which the workers of this call are limited
    :param quiet: False logs the begin and the end of the run, at info level
    :param local: run on this machine
    :param max_processes: for local runs; 1 runs the calls one after the other in this process
    :param completion_mail: send a mail when all is done
    :param require_cluster: do not run locally where no cluster is
    :param max_workers: most cluster jobs at a time; GRIDMAP_MAX_WORKERS when not given
    :param on_error: "raise" stops at the first failure and raises it, "finish" runs all calls and
        raises it then, "return" puts exceptions in the place of values
    :param reuse: a process may run several calls; False starts a new one for each
    :param backend: "auto" (the cluster where there is one), "drmaa" or "local"
    :raises PicklingError: something cannot be pickled; names it.  Nothing was started if it is
        among the first 64 MB; what was started has been ended
    :raises BackendError: the scheduler refused or cannot be reached; with its own words
    :raises OSError: temp_dir, or the run directory, cannot be written
    :raises JobException: a call died, was lost, stalled or canceled; says why

    The other parameters are those of `Job`.
    """
    job = Job(
        f, [], None, cleanup, mem_free, name, num_slots, queue, interpreting_shell, copy_env,
        add_env, project, validation_level, os_distribution, os_minor, par_env, gpu, h_vmem, h_rt,
        resources,
    )  # fmt: skip
    call = Call.checked(
        temp_dir, white_list, quiet, max_processes, local, require_cluster, max_workers, on_error,
        reuse, backend, completion_mail,
    )  # fmt: skip
    return call.map(job, checked_elements(args_list))


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
) -> list[Any]:
    """Runs jobs; returns their values in order, and notes in each job what happened to it.

    The parameters and errors are those of `grid_map`.

    :raises TypeError: something in `jobs` is no Job
    :raises ValueError: a Job stands in `jobs` twice
    """
    call = Call.checked(
        temp_dir, white_list, quiet, max_processes, local, require_cluster, max_workers, on_error,
        reuse, backend,
    )  # fmt: skip
    return call.process(_checked_jobs(jobs))


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
) -> Run:
    """Starts jobs and returns at once a `Run`: `results()`, `wait()`, `cancel()`, `status()`.

    What happened to a job is noted in it, and mailed, by the thread that calls `results()` or
    `wait()`, while it does so.  The parameters and errors are those of `process_jobs`.
    """
    call = Call.checked(
        temp_dir, white_list, quiet, max_processes, local, require_cluster, max_workers, on_error,
        reuse, backend,
    )  # fmt: skip
    return call.start(_checked_jobs(jobs))


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


def grid_imap_unordered(
    f: Callable[..., Any], iterable: Iterable[Any], *, window: int = WINDOW, **options: Any
) -> Iterator[Any]:
    """Yields values as they come; otherwise as `grid_imap`."""
    return _imap("grid_imap_unordered", f, iterable, window, False, options)


_MAP_OPTIONS = signature(grid_map).parameters.keys() - {"f", "args_list"}
_CALL_OPTIONS = signature(Call.checked).parameters.keys()


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
    window = at_least_one("window", window)
    job = Job(f, [], **options)
    call = Call.checked(**of_call)
    return call.stream(job, checked_elements(iterable), window, ordered)


def _named(option: str, given: Any) -> dict[str, Any]:
    """Returns a dict of what has names."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"{option} is a dict whose keys are names, not {given!r}")
    return dict(given)


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
