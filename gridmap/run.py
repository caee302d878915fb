"""A run: jobs under way, from `submit` until every one of them has ended."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gridmap import __version__, data, interrupts
from gridmap.backends.base import SubmitRequest
from gridmap.conf import Settings
from gridmap.core.dispatcher import Dispatcher
from gridmap.core.messages import PROTOCOL
from gridmap.core.policy import Limits, Policy
from gridmap.core.states import JobState
from gridmap.errors import Cause, GridMapError, JobUnpicklable
from gridmap.failures import exception_of_end, exception_of_failure
from gridmap.monitor.loop import Monitor
from gridmap.monitor.sink import Delivery, End, Failure, Place, Sink, Values
from gridmap.monitor.transport import Transport
from gridmap.monitor.watcher import Watcher
from gridmap.node.forkserver import Forkserver
from gridmap.plan import EAGER_BYTES, Part, Plan, client_sys_path, parts

log = logging.getLogger(__name__)

ON_ERROR = ("raise", "finish", "return")
CLOSE_DEADLINE_S = 15.0
LOCAL = "local"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class RunStatus:
    """A run at a glance: numbers of jobs by how they are, and of workers."""

    total: int
    completed: int
    failed: int
    canceled: int
    running: int
    queued: int
    workers_up: int
    workers_pending: int
    ended: bool


@dataclass(frozen=True)
class Options:
    """How a run is to be made.

    :param processes: processes on this machine, for local runs
    :param log_dir: where the workers' output goes; None: the run directory
    :param keep_logs: also after success
    """

    settings: Settings
    backend: str = LOCAL
    processes: int = 1
    max_workers: int = 1
    on_error: str = "raise"
    reuse: bool = True
    log_dir: str | None = None
    keep_logs: bool = False


class Engine:
    """Starts a plan and turns what comes back into values and exceptions.

    It belongs to one thread at a time; `cancel` may be called from any.

    :raises PicklingError: something cannot be pickled; nothing was started
    :raises BackendError: the scheduler does not answer; nothing was started
    """

    def __init__(self, plan: Plan, options: Options, watcher: Watcher) -> None:
        self.id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        self.options = options
        self.watcher = watcher
        self.sink = Sink()
        self.total = 0
        self._source: Iterator[Part] = parts(plan, one_pool=options.backend == LOCAL)
        self._directory: RunDirectory | None = None
        self._monitor: Monitor | None = None
        self._plan = plan
        self._pending: list[Part] = []
        self._exhausted = False

    # --- starting ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts workers and the monitor; whatever has been pickled goes to it."""
        limits, transport = self._make_transport()
        dispatcher = Dispatcher(_policy(self.options), limits, self.id)
        self._monitor = monitor = Monitor(self.id, dispatcher, transport, self.sink)
        directory = self._directory
        monitor.at_end = lambda: _at_end(monitor, directory, dispatcher)
        interrupts.register(monitor)
        monitor.start()
        for part in self._pending:
            monitor.add(*part)
        self._pending.clear()
        if self._exhausted:
            monitor.end_input()

    def feed(self, most_jobs: float = float("inf"), most_bytes: float = float("inf")) -> int:
        """Pickles more of the plan and hands it over; returns how many jobs that were.

        :param most_jobs: stops when it has been so many
        :param most_bytes: stops when it has been so much
        """
        fed, size = 0, 0
        while not self._exhausted and fed < most_jobs and size < most_bytes:
            part = next(self._source, None)
            if part is None:
                self._exhausted = True
                if self._monitor is not None:
                    self._monitor.end_input()
                break
            fed += part.packet.count
            size += part.nbytes
            self.total += part.packet.count
            if self._monitor is None:
                self._pending.append(part)
            else:
                self._monitor.add(*part)
        return fed

    @property
    def exhausted(self) -> bool:
        """True when every job has been handed over."""
        return self._exhausted

    def _make_transport(self) -> tuple[list[Limits], Transport]:
        options = self.options
        if options.backend == LOCAL:
            from gridmap.monitor.local import LocalTransport

            children = options.processes
            if self._exhausted:
                children = max(1, min(children, self.total))
            method = options.settings.start_method
            make = {"fork": Forkserver.fork, "launch": Forkserver.launch}
            server = make.get(method, Forkserver.make)()
            limits = [Limits(1, children, polled=False)]
            return limits, LocalTransport(children, server, __version__, PYTHON)
        return self._make_cluster_transport()

    def _make_cluster_transport(self) -> tuple[list[Limits], Transport]:
        from gridmap.backends.registry import open_backend
        from gridmap.monitor.cluster import ClusterTransport
        from gridmap.wire.keys import Connection, RunKeys, write_connection
        from gridmap.wire.link import MonitorLink

        options = self.options
        with contextlib.ExitStack() as undo:
            backend = open_backend(
                options.backend, **_backend_settings(options.backend, options.settings)
            )
            undo.callback(backend.close)
            directory = RunDirectory(options.settings.run_dir, self.id, options)
            undo.callback(directory.remove)
            keys = RunKeys.generate()
            link = MonitorLink(keys)
            undo.callback(link.close)
            connection = Connection(
                run=self.id,
                addresses=link.addresses,
                server_public=keys.server.public.decode(),
                worker_public=keys.workers.public.decode(),
                worker_secret=keys.workers.secret.decode(),
                gridmap=__version__,
                protocol=PROTOCOL,
                python=PYTHON,
                sys_path=client_sys_path(),
                host=socket.gethostname(),
                pid=os.getpid(),
            )
            write_connection(directory.path, connection)
            undo.pop_all()
        self._directory = directory
        pools = self._plan.pools
        most = max(1, options.max_workers // max(1, len(pools)))
        limits = [Limits(most, 1) for _ in pools]
        return limits, ClusterTransport(self.id, backend, link, self._request)

    def _request(self, pool: int, count: int) -> SubmitRequest:
        assert self._directory is not None
        runner = Path(__file__).with_name("runner.py")
        return SubmitRequest(
            run_tag=self.id,
            name=self._plan.name,
            command=(sys.executable, str(runner), str(self._directory.path), str(pool)),
            count=count,
            resources=self._plan.pools[pool],
            log_dir=str(self._directory.logs),
            working_dir=str(self._directory.path),
        )

    # --- what comes back --------------------------------------------------------------------------

    def take(self, timeout_s: float | None = None) -> Iterator[tuple[int, Any]] | None:
        """Returns what has ended since the last call; None when nothing more will.

        :param timeout_s: how long to wait for something; None: until there is something
        :returns: (job number, value or `Failed`)
        """
        items = self.sink.take(timeout_s)
        if not items and self.sink.ended:
            if self.sink.error is not None:
                raise GridMapError(
                    f"run {self.id}: the monitor failed, the run cannot go on"
                ) from self.sink.error
            return None
        return (pair for item in items for pair in self._read(item))

    def _read(self, item: Delivery) -> Iterator[tuple[int, Any]]:
        watcher = self.watcher
        if isinstance(item, Values):
            for job, value in enumerate(_values(item), item.span.first):
                if isinstance(value, Failed):
                    watcher.failed(job, value.error, Cause.UNPICKLABLE, 1, item.place)
                else:
                    watcher.ended(job, value, 1, item.place)
                yield job, value
        elif isinstance(item, Failure):
            error = exception_of_failure(item, watcher.name(item.job))
            watcher.failed(item.job, error, item.cause, item.attempts, item.place)
            yield item.job, Failed(error)
        elif isinstance(item, End):
            consequence = item.state is JobState.SKIPPED
            for job in range(item.span.first, item.span.stop):
                ended = exception_of_end(item, job, watcher.name(job))
                watcher.failed(job, ended, item.cause, 0, Place())
                yield job, Failed(ended, consequence)
        else:
            watcher.sampled(item)

    # --- the end ----------------------------------------------------------------------------------

    def status(self) -> RunStatus:
        """Returns the run at a glance."""
        if self._monitor is None:
            return RunStatus(self.total, 0, 0, 0, 0, self.total, 0, 0, False)
        summary = self._monitor.ask(lambda dispatcher: dispatcher.summary())
        jobs = summary.jobs
        return RunStatus(
            total=sum(jobs.values()),
            completed=jobs[JobState.COMPLETED],
            failed=jobs[JobState.FAILED],
            canceled=jobs[JobState.CANCELED] + jobs[JobState.SKIPPED],
            running=jobs[JobState.LEASED] + jobs[JobState.RUNNING],
            queued=jobs[JobState.HELD] + jobs[JobState.QUEUED] + jobs[JobState.REQUEUED],
            workers_up=summary.up,
            workers_pending=summary.pending,
            ended=self.sink.ended,
        )

    def cancel(self, reason: str = "canceled") -> None:
        """Ends every job that has not ended; from any thread, twice does no harm."""
        if self._monitor is not None:
            self._monitor.cancel(reason)

    def close(self, timeout_s: float = CLOSE_DEADLINE_S) -> None:
        """Cancels what has not ended, and waits until the run's workers are gone."""
        if self._monitor is None:
            return
        if not self.sink.ended:
            self.cancel("the run was closed")
        if not self._monitor.join(timeout_s):
            log.warning("run %s did not end within %.0f s", self.id, timeout_s)

    @property
    def monitor(self) -> Monitor:
        assert self._monitor is not None
        return self._monitor


@dataclass(frozen=True)
class Failed:
    """A job without a value.

    :param consequence: it only ended because another failed
    """

    error: BaseException
    consequence: bool = False


class RunDirectory:
    """The run's folder, for its owner alone, on a file system that the nodes share.

    :raises OSError: it cannot be made; the message says where to point GRIDMAP_RUN_DIR
    """

    def __init__(self, parent: str, run: str, options: Options) -> None:
        self.path = Path(parent).absolute() / run
        try:
            Path(parent).mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            self.logs = Path(options.log_dir) if options.log_dir else self.path / "logs"
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot make the run directory ({error.strerror}); set GRIDMAP_RUN_DIR to a "
                "folder that you may write and that the nodes share",
                error.filename,
            ) from error
        self._keep_logs = options.keep_logs

    def end(self, dispatcher: Dispatcher) -> None:
        """Removes what is not needed any more: all of it after success, else all but the logs."""
        states = dispatcher.jobs.counts()
        failed = states[JobState.FAILED] > 0
        if not failed and not self._keep_logs:
            for worker in dispatcher.workers.values():
                for name in (worker.log_stdout, worker.log_stderr):
                    if name and Path(name).parent == self.logs:
                        Path(name).unlink(missing_ok=True)
        if self._keep_logs or failed:
            (self.path / "connection.json").unlink(missing_ok=True)
        else:
            self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _at_end(monitor: Monitor, directory: RunDirectory | None, dispatcher: Dispatcher) -> None:
    interrupts.unregister(monitor)
    if directory is not None:
        directory.end(dispatcher)


def _backend_settings(backend: str, settings: Settings) -> dict[str, Any]:
    return {"use_mem_free": settings.use_mem_free} if backend == "drmaa" else {}


def _values(item: Values) -> Sequence[Any]:
    """Unpickles values; one that cannot be read here does no harm to the others."""
    try:
        return data.unpack_values(item.frames, item.skip, item.span.count)
    except Exception:
        return [_value(item, index) for index in range(item.span.count)]


def _value(item: Values, index: int) -> Any:
    try:
        return data.unpack_values(item.frames, item.skip + index, 1)[0]
    except Exception as error:
        job = item.span.first + index
        message = f"the value of job {job} cannot be read here: {type(error).__name__}: {error}"
        failed = JobUnpicklable(message, job=job, attempts=1, host=item.place.host)
        failed.__cause__ = error
        return Failed(failed)


def _policy(options: Options) -> Policy:
    settings = options.settings
    return Policy(
        gridmap=__version__,
        python=PYTHON,
        num_resubmits=settings.num_resubmits,
        heartbeat_s=settings.heartbeat_frequency_s,
        grace_s=settings.grace_s,
        silent_after_s=settings.max_time_between_heartbeats_s,
        poll_most_s=settings.check_frequency_s,
        poll_first_s=min(1.0, settings.check_frequency_s),
        startup_deadline_s=settings.startup_deadline_s,
        idle_threshold_fraction=settings.idle_threshold_percent / 100,
        max_idle_heartbeats=settings.max_idle_heartbeats,
        stop_on_failure=options.on_error == "raise",
    )


class Run:
    """Jobs under way, as `submit` returns them.

    Leaving its `with` block, or dropping the last reference to it, ends what has not ended.
    """

    def __init__(self, plan: Plan, options: Options, watcher: Watcher, jobs: Sequence[Any]) -> None:
        self.jobs = jobs
        self._engine = Engine(plan, options, watcher)
        self._values: list[Any] = []
        self._first: BaseException | None = None
        self._engine.feed(most_bytes=EAGER_BYTES)
        if self._engine.total:
            self._engine.start()
            self._engine.feed()
        else:
            self._engine.sink.end()
        self._values = [None] * self._engine.total

    @property
    def id(self) -> str:
        """Names the run in logs and in the scheduler's list."""
        return self._engine.id

    def __len__(self) -> int:
        return self._engine.total

    def status(self) -> RunStatus:
        """Returns the run at a glance: how many jobs and workers there are, and how they are."""
        return self._engine.status()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until every job has ended.

        :param timeout: seconds; None waits as long as it takes
        :returns: whether every job has ended
        """
        return self._engine.sink.wait_for_end(timeout)

    def results(self) -> list[Any]:
        """Waits for every job; returns their values in the order of the jobs.

        :raises BaseException: with on_error "raise" and "finish", the first failure, as itself;
            with "return" it stands in its place of the list
        :raises JobException: the run was canceled, or a job died
        """
        try:
            while (ended := self._engine.take()) is not None:
                for job, value in ended:
                    self._keep(job, value)
        except BaseException:
            self._engine.cancel("the client was interrupted")
            self._engine.close()
            raise
        self._engine.close()
        if self._first is not None and self._engine.options.on_error != "return":
            raise self._first
        return list(self._values)

    def _keep(self, job: int, value: Any) -> None:
        if not isinstance(value, Failed):
            self._values[job] = value
            return
        self._values[job] = value.error
        if self._first is None and not value.consequence:
            self._first = value.error

    def cancel(self) -> None:
        """Ends every job that has not ended; `results` then raises JobCanceled."""
        self._engine.cancel()

    def close(self) -> None:
        """Ends what has not ended and waits until the run's workers are gone."""
        self._engine.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and not engine.sink.ended:
            engine.cancel("nobody waits for the run any more")

    def __repr__(self) -> str:
        state = "ended" if self._engine.sink.ended else "under way"
        return f"<Run {self.id}: {len(self)} jobs, {state}>"


def stream(plan: Plan, options: Options, window: int, ordered: bool) -> Iterator[Any]:
    """Yields values as they come; takes from the input only so far ahead.

    :param window: most jobs between the input and what has been yielded
    """
    engine = Engine(plan, options, Watcher())
    engine._source = parts(plan, options.backend == LOCAL, max_items=max(1, window // 4))
    ready: dict[int, Any] = {}
    next_job = under_way = 0
    failed: list[BaseException] = []
    try:
        under_way += engine.feed(most_jobs=min(window, 64))
        if not engine.total:
            return
        engine.start()
        while True:
            if not engine.exhausted and under_way < window:
                under_way += engine.feed(most_jobs=1)
            wait_s = 0.0 if not engine.exhausted and under_way < window else None
            ended = engine.take(wait_s)
            if ended is None:
                break
            for job, value in ended:
                if ordered:
                    ready[job] = value
                    continue
                under_way -= 1
                yield from _value_or_failure(value, options, failed)
            while next_job in ready:
                under_way -= 1
                yield from _value_or_failure(ready.pop(next_job), options, failed)
                next_job += 1
    finally:
        engine.close()
    if failed:
        raise failed[0]


def _value_or_failure(value: Any, options: Options, failed: list[BaseException]) -> Iterator[Any]:
    """Yields what stands for a job; a failure is raised at once, kept, or yielded like a value."""
    if not isinstance(value, Failed):
        yield value
    elif options.on_error == "return":
        yield value.error
    elif options.on_error == "finish":
        failed.append(value.error)
    elif not value.consequence:
        raise value.error
