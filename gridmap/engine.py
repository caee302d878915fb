"""What drives a run: pickles a plan, starts workers, reads what comes back."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gridmap import __version__, data, interrupts
from gridmap.backends.base import SubmitRequest
from gridmap.conf import Settings
from gridmap.core.dispatcher import Dispatcher
from gridmap.core.messages import PROTOCOL
from gridmap.core.policy import Limits, Policy
from gridmap.core.states import JobState
from gridmap.errors import Cause, GridMapError, JobUnpicklable
from gridmap.failures import exception_of_end, exception_of_failure
from gridmap.ledger.directory import RunDirectory
from gridmap.monitor.loop import Monitor
from gridmap.monitor.sink import Delivery, End, Failure, Place, Sink, Values
from gridmap.monitor.transport import Transport
from gridmap.monitor.watcher import Watcher
from gridmap.node.forkserver import Forkserver
from gridmap.plan import Part, Plan, client_sys_path, new_run_id, parts

log = logging.getLogger(__name__)

ON_ERROR = ("raise", "finish", "return")
CLOSE_DEADLINE_S = 15.0
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
    :raises PicklingError: something cannot be pickled
    :raises BackendError: the scheduler does not answer; nothing was started
    """

    def __init__(
        self, plan: Plan, options: Options, watcher: Watcher, max_items: int = 4096
    ) -> None:
        self.id = new_run_id()
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
        """Starts workers and the monitor, once; whatever has been pickled goes to it."""
        if self._monitor is not None:
            return
        limits, transport = self._make_transport()
        dispatcher = Dispatcher(_policy(self.options), limits, self.id)
        self._monitor = monitor = Monitor(self.id, dispatcher, transport, self.sink)
        directory, keep_logs = self._directory, self.options.keep_logs
        monitor.at_end = lambda: _at_end(monitor, directory, dispatcher, keep_logs)
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
        from gridmap.monitor.submitter import open_in_time
        from gridmap.wire.keys import Connection, RunKeys, write_connection
        from gridmap.wire.link import MonitorLink

        options = self.options
        with contextlib.ExitStack() as undo:
            settings = _backend_settings(options.backend, options.settings)
            backend = open_in_time(lambda: open_backend(options.backend, **settings))
            undo.callback(backend.close)
            directory = RunDirectory(options.settings.run_dir, self.id, options.log_dir)
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

    def take(self, timeout_s: float | None = None) -> Iterator[Batch] | None:
        """Returns what has ended since the last call; None when nothing more will.

        :param timeout_s: how long to wait for something; None: until there is something
        """
        items = self.sink.take(timeout_s)
        if not items and self.sink.drained:
            if self.sink.error is not None:
                raise MonitorFailed(
                    f"run {self.id}: the monitor failed, the run cannot go on"
                ) from self.sink.error
            return None
        return (batch for item in items if (batch := self._read(item)).values)

    def _read(self, item: Delivery) -> Batch:
        """Unpacks a delivery and tells the watcher."""
        watcher = self.watcher
        if isinstance(item, Values):
            self.carried_bytes += sum(memoryview(frame).nbytes for frame in item.frames)
            batch = _values(item)
            if batch.failures:
                for job, value in enumerate(batch.values, batch.first):
                    if isinstance(value, Failed):
                        watcher.failed(
                            job, value.error, Cause.UNPICKLABLE, item.attempts, item.place
                        )
            watcher.ended(batch.first, batch.values, item.attempts, item.place)
            return batch
        if isinstance(item, Failure):
            error = exception_of_failure(item, watcher.name(item.job))
            watcher.failed(item.job, error, item.cause, item.attempts, item.place)
            return Batch(item.job, [Failed(error)], True)
        if isinstance(item, End):
            consequence = item.state is JobState.SKIPPED
            failed = []
            for job in range(item.span.first, item.span.stop):
                ended = exception_of_end(item, job, watcher.name(job))
                watcher.failed(job, ended, item.cause, 0, Place())
                failed.append(Failed(ended, consequence))
            return Batch(item.span.first, failed, True)
        watcher.sampled(item)
        return Batch(item.job, [], False)

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


class Batch(NamedTuple):
    """Consecutive jobs that have ended: a value or a Failed for each.

    :param failures: there may be a Failed among them
    """

    first: int
    values: Sequence[Any]
    failures: bool


@dataclass(frozen=True)
class Failed:
    """A job without a value.

    :param consequence: it only ended because another failed
    """

    error: BaseException
    consequence: bool = False


def _at_end(
    monitor: Monitor, directory: RunDirectory | None, dispatcher: Dispatcher, keep_logs: bool
) -> None:
    """Clears up after a run: nothing is left of one that succeeded, logs of one that did not."""
    try:
        if directory is not None:
            failed = dispatcher.jobs.counts()[JobState.FAILED] > 0
            workers = dispatcher.workers.values()
            logs = [name for w in workers for name in (w.log_stdout, w.log_stderr)]
            directory.end(logs, keep_logs or failed)
    finally:
        interrupts.unregister(monitor)


def _backend_settings(backend: str, settings: Settings) -> dict[str, Any]:
    return {"use_mem_free": settings.use_mem_free} if backend == "drmaa" else {}


def _values(item: Values) -> Batch:
    """Unpickles values; one that cannot be read here does no harm to the others."""
    first, count = item.span
    try:
        return Batch(first, data.unpack_values(item.frames, item.skip, count), False)
    except Exception:
        return Batch(first, [_value(item, index) for index in range(count)], True)


def _value(item: Values, index: int) -> Any:
    try:
        return data.unpack_values(item.frames, item.skip + index, 1)[0]
    except Exception as error:
        job = item.span.first + index
        message = f"the value of job {job} cannot be read here: {type(error).__name__}: {error}"
        failed = JobUnpicklable(message, job=job, attempts=item.attempts, host=item.place.host)
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
