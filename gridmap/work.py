"""What a user wants done: the class Job."""

from __future__ import annotations

import operator
import os
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec.structs import replace

from gridmap import _html, conf
from gridmap.backends.native import memory_bytes, walltime_s
from gridmap.backends.options import native_specification
from gridmap.conf import LATELY_S
from gridmap.core.memory import human
from gridmap.core.spec import Resources as Wanted
from gridmap.errors import Cause
from gridmap.profiles import Applied, with_profile
from gridmap.resources import MOST, Resources
from gridmap.resources import memory_bytes as amount_bytes
from gridmap.retry import Retry, as_exceptions, as_retry

USUAL_MEM_FREE = "1G"
"""What `mem_free` is where nobody says anything of memory."""


class Job:
    """One call of a function, and what is known of it.

    :param f: what to call
    :param args: the positional arguments
    :param kwlist: the keyword arguments
    :param cleanup: remove the workers' stdout and stderr files when every job has succeeded; after
        one failure all of them stay, since those of a worker are of all the jobs that it ran
    :param mem_free: memory that the host should have free, "1G"; used where USE_MEM_FREE is set
    :param name: shown in the scheduler's list; a space becomes _
    :param num_slots: slots of the parallel environment that the job needs; its libraries start as
        many threads
    :param queue: where to run; DEFAULT_QUEUE when not given
    :param interpreting_shell: the shell that starts the worker (`-S`)
    :param copy_env: give the job the environment that this process has now
    :param add_env: variables on top of it
    :param project: the project to run under (`-P`)
    :param validation_level: e, w, n, p or v (`-w`)
    :param os_distribution: what a resource of that name has to be (`-l`)
    :param os_minor: what a resource of that name has to be (`-l`)
    :param par_env: the parallel environment; DEFAULT_PAR_ENV when not given
    :param gpu: number of GPUs
    :param h_vmem: limit of virtual memory, "4G"
    :param h_rt: limit of run time, "01:00:00" or seconds
    :param resources: a `Resources`, in place of num_slots, h_vmem, h_rt, gpu, queue and project; or
        more of what `qsub -l` takes, ["name=value", ...]
    :param retry: a `Retry`, or how often to try again when an attempt failed; NUM_RESUBMITS times
        when not given
    :param retry_on: exceptions of the function after which to try again, (OSError, ...)
    :param max_rss: end the job, with cause "memory", when its processes together have more memory
        than this, "2G" or bytes
    :param profile: a profile of the configuration files, whose values are those of the parameters
        that are not given; GRIDMAP_PROFILE when not given, "none" for none
    :raises TypeError: `f` cannot be called, or the arguments are none
    :raises ValueError: the scheduler would not understand one of the options

    The job runs in the working directory in which it was made.  After `process_jobs`, `ret` is the
    value (or the exception), `traceback` its text, and `host_name`, `log_stdout_fn`,
    `log_stderr_fn`, `track_mem` [MB], `track_cpu` [(percent, running)], `track_time` [s since 1970]
    of both, `attempts`, `num_resubmits`, `seconds` (of the last attempt), `peak_rss_bytes`,
    `ended_s` [s since 1970], `state` and `cause_of_death` tell what happened.
    """

    @with_profile(within_s=LATELY_S)
    def __init__(
        self,
        f: Callable[..., Any],
        args: Iterable[Any],
        kwlist: Mapping[str, Any] | None = None,
        cleanup: bool = True,
        mem_free: str = USUAL_MEM_FREE,
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
        resources: Resources | Sequence[str] | None = None,
        *,
        retry: Retry | int | None = None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] = (),
        max_rss: str | int | None = None,
        profile: str | None = None,
    ) -> None:
        if not callable(f):
            raise TypeError(f"a Job needs something to call, not {f!r}")
        if isinstance(args, (str, bytes)) or not isinstance(args, Iterable):
            raise TypeError(f"the arguments of a Job are a list, not {args!r}")
        if isinstance(resources, str | Mapping) or not isinstance(
            resources, Resources | Iterable | None
        ):
            raise TypeError(
                f"resources are a gridmap.Resources or a list of 'name=value', not {resources!r}"
            )
        for option, value in (
            ("mem_free", mem_free), ("queue", queue), ("interpreting_shell", interpreting_shell),
            ("project", project), ("validation_level", validation_level), ("par_env", par_env),
            ("os_distribution", os_distribution), ("os_minor", os_minor), ("h_vmem", h_vmem),
        ):  # fmt: skip
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{option} is a text, as the scheduler takes it, not {value!r}")
        self.function = f
        self.args = list(args)
        self.kwlist = _named("kwlist", kwlist)
        self.cleanup = cleanup
        self.mem_free = mem_free
        self.name = str(name).strip().replace(" ", "_")
        self.num_slots = whole_number("num_slots", num_slots, 1)
        self.queue: str = _setting("DEFAULT_QUEUE", profile) if queue is None else queue
        self.interpreting_shell = interpreting_shell
        self.copy_env = copy_env
        self.add_env: dict[str, str] = _named("add_env", add_env)
        if not all(isinstance(value, str) for value in self.add_env.values()):
            raise TypeError(f"the values of add_env are texts, not {add_env!r}")
        for variable, value in self.add_env.items():
            if not variable or "=" in variable or "\0" in variable + value:
                raise ValueError(f"add_env: no environment can hold {variable!r}={value!r}")
        self.project = project
        self.validation_level = validation_level
        self.os_distribution = os_distribution
        self.os_minor = os_minor
        self.par_env: str = _setting("DEFAULT_PAR_ENV", profile) if par_env is None else par_env
        self.gpu = whole_number("gpu", gpu or 0, 0)
        self.h_vmem = h_vmem
        self.h_rt = h_rt
        historic = (
            getattr(resources, "extra", ()) if isinstance(resources, Resources) else resources
        )
        self.resources: list[str] = list(historic or ())
        self.memory_bytes = 0
        self.walltime_s: float | None = None
        self.hosts: tuple[str, ...] = ()
        self.features: tuple[str, ...] = ()
        self.native: tuple[str, ...] = ()
        if isinstance(resources, Resources):
            self._take(resources, queue, getattr(profile, "given", ()))
        self.retry = as_retry(retry)
        self.retry_on = as_exceptions(retry_on)
        self.max_rss_bytes = 0 if max_rss is None else amount_bytes("max_rss", max_rss)
        try:
            self.working_dir = os.getcwd()
        except FileNotFoundError as error:
            text = "the working directory, in which jobs run, does not exist any more"
            raise FileNotFoundError(error.errno, text) from error
        self.path = self.working_dir
        self.environment: dict[str, str] | None = dict(os.environ) if copy_env else None
        self.white_list: list[str] = []
        self.start_anew()
        self.resources_wanted()  # for its errors

    def _take(self, new: Resources, queue: str | None, given: Collection[str]) -> None:
        """Takes over what was said by `Resources`.

        :param queue: the queue that was given
        :param given: arguments that somebody gave, also those that he gave as the default is
        :raises ValueError: the same thing was also said by a historic argument, and differently
        """
        said = new.said()
        for old, name, least in (("num_slots", "slots", 1), ("gpu", "gpus", 0)):
            value: int = getattr(self, old)
            mine = value if old in given or value != least else None
            one = _one_of(old, mine, name, said.get(name), None)
            setattr(self, old, least if one is None else one)
        self.project = _one_of("project", self.project, "project", new.project, None)
        self.queue = _one_of("queue", queue, "queue", new.queue, None) or self.queue
        self.hosts, self.features = tuple(new.hosts), tuple(new.features)
        self.native = tuple(new.native)
        if new.walltime_s is not None:
            limit = walltime_s(self.h_rt)
            _one_of("h_rt", limit, "walltime", new.walltime_s, None, self.h_rt, new.walltime)
            self.walltime_s = new.walltime_s
        if not new.memory_bytes:
            return
        for name, usual in (("h_vmem", None), ("mem_free", USUAL_MEM_FREE)):
            text = getattr(self, name)
            if text and (text != usual or name in given):
                slots = f" for each of {self.num_slots} slots" if self.num_slots > 1 else ""
                nbytes = memory_bytes(name, text) * self.num_slots
                _one_of(name, nbytes, "memory", new.memory_bytes, 0, f"{text}{slots}", new.memory)
            elif name == "mem_free":
                self.mem_free = ""  # nobody has asked for this
        if not self.h_vmem:
            self.memory_bytes = new.memory_bytes

    def start_anew(self) -> None:
        """Forgets what happened in an earlier run."""
        self.ret: Any = None
        self.id: str = ""
        self.uniq_id: str = ""
        self.traceback: str | None = None
        self.cause_of_death: str = ""
        self.num_resubmits = 0
        self.attempts = 0
        self.seconds: float | None = None
        self.peak_rss_bytes: int | None = None
        self.ended_s: float | None = None
        self.home_address = ""
        self.log_stdout_fn = ""
        self.log_stderr_fn = ""
        self.timestamp: float | None = None
        self.host_name = ""
        self.heart_beat: dict[str, Any] | None = None
        self.track_mem: list[float] = []
        self.track_cpu: list[tuple[float, bool]] = []
        self.track_time: list[float] = []

    def execute(self) -> None:
        """Calls the function here; `ret` is its value or its exception, `traceback` the text."""
        begun = time.perf_counter()
        try:
            self.ret = self.function(*self.args, **self.kwlist)
        except Exception as error:
            self.note_failure(error)
        self.seconds, self.ended_s = time.perf_counter() - begun, time.time()

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

    def resources_wanted(self, white_list: Iterable[str] | None = None) -> Wanted:
        """Returns what the job asks of the scheduler.

        :param white_list: hosts to which the whole call is limited
        :raises ValueError: it cannot be said in the scheduler's language
        """
        wanted = Wanted(
            num_slots=self.num_slots,
            mem_free=self.mem_free or "",
            queue=self.queue or "",
            par_env=self.par_env or "",
            hosts=self._hosts(tuple(self.white_list if white_list is None else white_list)),
            project=self.project or "",
            validation_level=self.validation_level or "",
            os_distribution=self.os_distribution or "",
            os_minor=self.os_minor or "",
            gpu=self.gpu or 0,
            h_vmem=self.h_vmem or "",
            h_rt=str(self.h_rt) if self.h_rt else "",
            walltime_s=walltime_s(self.h_rt) if self.h_rt else self.walltime_s,
            interpreting_shell=self.interpreting_shell or "",
            extra=tuple(self.resources),
            memory_bytes=self.memory_bytes,
            features=self.features,
            native=self.native,
        )
        _refuse_senseless(wanted)
        self.retry.more_memory(wanted)  # for its errors, too
        return wanted

    def _hosts(self, white_list: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the hosts that both the call and the job allow.

        :raises ValueError: there is none
        """
        if not (white_list and self.hosts):
            return white_list or self.hosts
        both = tuple(host for host in self.hosts if host in white_list)
        if not both:
            raise ValueError(
                f"white_list has {', '.join(white_list)} and Resources(hosts=...) has "
                f"{', '.join(self.hosts)}: no host is in both"
            )
        return both

    @property
    def native_specification(self) -> str:
        """The options for Grid Engine that say what the job needs."""
        return native_specification(self.resources_wanted(), use_mem_free=conf.USE_MEM_FREE)

    @property
    def state(self) -> str:
        """How it is, as far as somebody has asked: queued, running, completed, failed, canceled."""
        if self.cause_of_death:
            return "canceled" if self.cause_of_death == Cause.CANCELED else "failed"
        if self.ended_s is not None:
            return "completed"
        return "running" if self.timestamp is not None else "queued"

    def _repr_html_(self) -> str:
        """Returns what a notebook shows."""
        function = getattr(self.function, "__qualname__", repr(self.function))
        rows: list[tuple[str, object]] = [
            ("function", function),
            ("state", self.state),
            ("cause of death", self.cause_of_death),
            ("host", self.host_name),
            ("attempts", self.attempts or ""),
            ("took", "" if self.seconds is None else f"{self.seconds:.3g} s"),
            ("most memory", human(self.peak_rss_bytes) if self.peak_rss_bytes else ""),
            ("error", str(self.ret)[:500] if self.cause_of_death else ""),
        ]
        return _html.table(f"Job {self.name}", [row for row in rows if row[1] != ""])

    def __repr__(self) -> str:
        function = getattr(self.function, "__qualname__", repr(self.function))
        return f"<Job {self.name}: {function}>"


Job.__module__ = "gridmap.job"  # where everybody finds it, also in pickles


def _setting(name: str, profile: str | None) -> str:
    """Returns what a setting is worth; files have been looked for already."""
    value: str = profile.value(name) if isinstance(profile, Applied) else conf.value(name, profile)
    return value


@lru_cache(maxsize=64)
def _refuse_senseless(wanted: Wanted) -> None:
    """Makes sure that what every scheduler has to understand can be said; once for like jobs.

    What only one of them understands is checked where it is known which one there is.

    :raises ValueError: it cannot
    """
    plain = tuple(request for request in wanted.extra if not request.startswith("--"))
    native_specification(replace(wanted, extra=plain, features=(), native=()))


def whole_number(name: str, value: Any, least: int) -> int:
    """Returns a whole number that is large enough.

    :raises TypeError: it is no whole number
    :raises ValueError: it is less than `least`, or more than anybody can mean
    """
    try:
        number = operator.index(value)  # NumPy's whole numbers are some, too
    except TypeError:
        number = None
    if isinstance(value, bool) or number is None:
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if number < least:
        raise ValueError(f"{name} is {number}; it must be {least} or more")
    if number > MOST:
        raise ValueError(f"{name} is {number!r:.40}, which is too many")
    return number


def _one_of(
    old: str,
    old_value: Any,
    new: str,
    new_value: Any,
    none: Any,
    old_said: Any = None,
    new_said: Any = None,
) -> Any:
    """Returns what was said by a historic argument or by `Resources`.

    :param none: what stands for nothing said
    :param old_said: the values as they were said, for the error
    :raises ValueError: it was said by both, and differently
    """
    if new_value == none:
        return old_value
    if old_value not in (none, new_value):
        said = new_value if new_said is None else new_said
        raise ValueError(
            f"{old}={old_value if old_said is None else old_said!r} and "
            f"Resources({new}={said!r}) differ: say one of them"
        )
    return new_value


def _named(option: str, given: Any) -> dict[str, Any]:
    """Returns a dict of what has names."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"{option} is a dict whose keys are names, not {given!r}")
    return dict(given)
