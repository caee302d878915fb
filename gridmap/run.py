"""A run: jobs under way, from `submit` until every one of them has ended."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
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
from gridmap.errors import Cause, GridMapError, JobCanceled, JobUnpicklable
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
STREAM_BYTES = 256 << 20
"""About so many bytes of arguments and values may a stream have under way."""

LOCAL = "local"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class MonitorFailed(GridMapError):
    """The loop that runs everything has a fault."""


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

    :param max_items: most jobs whose arguments travel in one packet
    :raises PicklingError: something cannot be pickled; nothing was started
    :raises BackendError: the scheduler does not answer; nothing was started
    """

    def __init__(
        self, plan: Plan, options: Options, watcher: Watcher, max_items: int = 4096
    ) -> None:
        self.id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        self.options = options
        self.watcher = watcher
        self.sink = Sink()
        self.total = 0
        self.carried_bytes = 0
        self._source: Iterator[Part] = parts(plan, options.backend == LOCAL, max_items)
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
        try:
            monitor.start()
        except BaseException:  # no more threads, or interrupted
            if not monitor.started:
                self._monitor = None
                monitor.abandon()
            raise
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
                self.end_input()
                break
            fed += part.packet.count
            size += part.nbytes
            self.carried_bytes += part.nbytes
            self.total += part.packet.count
            if self._monitor is None:
                self._pending.append(part)
            else:
                self._monitor.add(*part)
        return fed

    def end_input(self) -> None:
        """Says that no more jobs will come."""
        self._exhausted = True
        if self._monitor is not None:
            self._monitor.end_input()

    @property
    def started(self) -> bool:
        """True once there is a monitor."""
        return self._monitor is not None

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
        limits = [Limits(most, 1, walltime_s=pool.walltime_s or 0.0) for pool in pools]
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
                raise MonitorFailed(
                    f"run {self.id}: the monitor failed, the run cannot go on"
                ) from self.sink.error
            return None
        return (pair for item in items for pair in self._read(item))

    def _read(self, item: Delivery) -> Iterator[tuple[int, Any]]:
        watcher = self.watcher
        if isinstance(item, Values):
            self.carried_bytes += sum(memoryview(frame).nbytes for frame in item.frames)
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
            return RunStatus(self.total, 0, 0, 0, 0, self.total, 0, 0, self.sink.ended)
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
            self._source = iter(())
        if not self._monitor.join(timeout_s):
            log.warning("run %s did not end within %.0f s", self.id, timeout_s)
        interrupts.restore()

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
        if (self._keep_logs or failed) and self._has_logs():
            (self.path / "connection.json").unlink(missing_ok=True)
        else:
            self.remove()

    def _has_logs(self) -> bool:
        return self.logs.parent == self.path and any(self.logs.iterdir())

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _at_end(monitor: Monitor, directory: RunDirectory | None, dispatcher: Dispatcher) -> None:
    try:
        if directory is not None:
            directory.end(dispatcher)
    finally:
        interrupts.unregister(monitor)


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
        self._first: tuple[int, BaseException] | None = None
        self._kept = 0
        self._taking = threading.RLock()  # an interrupted thread may come again
        try:
            self._engine.feed(most_bytes=EAGER_BYTES)
            if self._engine.total:
                self._engine.start()
                self._engine.feed()
            else:
                self._engine.sink.end()
        except BaseException:
            self._engine.close()
            raise
        self._values: list[Any] = [None] * self._engine.total

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
        """Waits until every job has ended; by then the jobs know what happened to them.

        :param timeout: seconds; None waits as long as it takes
        :returns: whether every job has ended
        """
        with contextlib.suppress(MonitorFailed):  # `results` tells
            return self._gather(timeout)
        return True

    def results(self) -> list[Any]:
        """Waits for every job; returns their values in the order of the jobs.

        :raises BaseException: with on_error "raise" and "finish", the first job's failure, as
            itself; with "return" it stands in its place of the list
        :raises JobException: the run was canceled, or a job died
        """
        try:
            self._gather(None)
            self._engine.close()
        except BaseException:
            self._engine.cancel("the client was interrupted")
            self._engine.close()
            raise
        if self._kept < len(self._values):
            raise JobCanceled(f"run {self.id}: values were lost when the client was interrupted")
        if self._first is not None and self._engine.options.on_error != "return":
            raise self._first[1]
        return list(self._values)

    def _gather(self, timeout_s: float | None) -> bool:
        """Takes what has ended; returns whether that is all. One thread does it at a time."""
        deadline = None if timeout_s is None else time.monotonic() + max(0.0, timeout_s)
        if not self._taking.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s)):
            return self._engine.sink.ended
        try:
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ended = self._engine.take(left)
                if ended is None:
                    return True
                for job, value in ended:
                    self._keep(job, value)
                if left == 0.0:
                    return self._engine.sink.ended
        finally:
            self._taking.release()

    def _keep(self, job: int, value: Any) -> None:
        self._kept += 1
        if not isinstance(value, Failed):
            self._values[job] = value
            return
        self._values[job] = value.error
        earlier = self._first is None or job < self._first[0]
        if earlier and not value.consequence:
            self._first = (job, value.error)

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
    most_items = max(1, window // 4)
    inputs = [_Input(segment.elements) for segment in plan.segments]
    for segment, source in zip(plan.segments, inputs, strict=True):
        if not isinstance(segment.elements, (list, tuple, range)):
            segment.elements = source
    engine = Engine(plan, options, Watcher(), most_items)
    order = _Order(options.on_error, ordered)
    yielded = 0
    unpicklable: Exception | None = None
    try:
        while True:
            under_way = engine.total - yielded
            room = not engine.exhausted and _room(engine, under_way, window, most_items)
            if room:
                try:
                    engine.feed(most_jobs=1)
                except Exception as error:
                    unpicklable = error
                    engine.end_input()
                if not engine.started:
                    if not engine.total:
                        break
                    engine.start()
                    continue
            ended = engine.take(0.0 if room else None)
            if ended is None:
                break
            for job, value in ended:
                for ready in order.put(job, value):
                    yielded += 1
                    yield from ready
    finally:
        engine.close()
    for failure in (order.first, unpicklable, *(source.error for source in inputs)):
        if failure is not None:
            raise failure


class _Input:
    """An input that ends where reading it fails, and keeps the error for later."""

    def __init__(self, elements: Iterable[Any]) -> None:
        self._elements = elements
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._elements
        except Exception as error:
            self.error = error


def _room(engine: Engine, under_way: int, window: int, most_items: int) -> bool:
    """True when one more packet may be read from the input."""
    if under_way + most_items > window:
        return under_way == 0
    # of large arguments or values fewer are under way
    few = under_way <= 2 * engine.options.processes
    return few or under_way * engine.carried_bytes <= engine.total * STREAM_BYTES


class _Order:
    """Says what a stream yields for each job, and when.

    :param ordered: in the order of the jobs, rather than as they end
    """

    def __init__(self, on_error: str, ordered: bool) -> None:
        self._failed: dict[int, BaseException] = {}
        self._on_error = on_error
        self._ordered = ordered
        self._waiting: dict[int, Any] = {}
        self._next = 0

    @property
    def first(self) -> BaseException | None:
        """The failure of the first job, in the order of the input, that has failed so far."""
        return self._failed[min(self._failed)] if self._failed else None

    def put(self, job: int, value: Any) -> Iterator[tuple[Any, ...]]:
        """Takes what became of a job; returns, for each job whose turn it is, nothing or a value.

        :raises BaseException: the first failure, with on_error="raise", when its turn has come
        """
        if isinstance(value, Failed) and not value.consequence and self._on_error != "return":
            self._failed[job] = value.error
        if not self._ordered:
            yield self._seen(value)
            return
        self._waiting[job] = value
        while self._next in self._waiting:
            if self._blocked(self._waiting[self._next]):
                return
            yield self._seen(self._waiting.pop(self._next))
            self._next += 1

    def _blocked(self, value: Any) -> bool:
        """True for a job that was stopped because of a failure that has not been heard of yet."""
        stopped = isinstance(value, Failed) and self._on_error == "raise"
        return stopped and not self._failed

    def _seen(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, Failed):
            return (value,)
        if self._on_error == "return":
            return (value.error,)
        if self._on_error == "raise" and self.first is not None:
            raise self.first
        return ()
