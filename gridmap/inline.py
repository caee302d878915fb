"""Jobs one after the other in this process: pdb, print and coverage work as ever."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gridmap.errors import Cause
from gridmap.plan import new_run_id
from gridmap.report.endings import Endings
from gridmap.report.progress import Progress
from gridmap.run_status import RunStatus
from gridmap.work import Job


def run_inline(
    jobs: Iterable[Job],
    on_error: str,
    progress: Progress,
    num_resubmits: int,
    endings: Endings | None = None,
) -> Iterator[Any]:
    """Runs jobs here, each when its value is asked for; notes in them what happened.

    :param on_error: "raise" stops at the first failure, "finish" raises it after the last job,
        "return" puts exceptions in the place of values
    :param num_resubmits: how often a job is tried again that does not say
    :param endings: counts how they ended
    """
    endings = endings or Endings()
    host = socket.gethostname()
    home = _Home()
    first: BaseException | None = None
    counts = _Counts(new_run_id(), progress.jobs)
    progress.begin(counts.id)
    if progress.calls:  # nothing is shown: a debugger may be at work here
        progress.follow(counts)
    try:
        for job in jobs:
            job.host_name = host
            counts.running = 1
            if home.suits(job):
                error = _call(job, num_resubmits)
            else:
                with _at_home(job):
                    error = _call(job, num_resubmits)
            counts.ended(error, job.num_resubmits)
            if error is not None:
                endings.fail(job.name, error, Cause.EXCEPTION)
            if error is None or on_error == "return":
                yield job.ret
            elif on_error == "raise":
                raise error
            else:
                first = first or error
    finally:
        counts.over = True
        endings.completed, endings.canceled = counts.completed, counts.rest
        endings.end()
        progress.stop()
        progress.end(counts.completed, counts.failed, counts.rest)
    if first is not None:
        raise first


def _call(job: Job, num_resubmits: int) -> Exception | None:
    """Calls the function, again after an exception that is to be tried again; returns the last."""
    retry = job.retry
    times = num_resubmits if retry.times is None else retry.times
    pause_s = retry.backoff_s
    while True:
        job.attempts += 1
        begun = time.perf_counter()
        try:
            job.ret = job.function(*job.args, **job.kwlist)
        except Exception as error:
            if job.num_resubmits >= times or not isinstance(error, job.retry_on):
                job.note_failure(error)
                return error
        else:
            return None
        finally:
            job.seconds = time.perf_counter() - begun
            job.timestamp = job.ended_s = time.time()
        job.num_resubmits += 1
        time.sleep(min(pause_s, retry.longest_pause_s))
        pause_s = min(2 * pause_s, retry.longest_pause_s)


class _Counts:
    """What is known of a run of this kind.

    :param jobs: how many there are, where that is known
    """

    def __init__(self, run: str, jobs: int | None) -> None:
        self.id = run
        self._jobs = jobs
        self._begun_s = time.monotonic()
        self.completed = self.failed = self.running = self.resubmitted = 0
        self.over = False

    def ended(self, error: Exception | None, resubmitted: int) -> None:
        """One job has ended."""
        self.running = 0
        self.completed += error is None
        self.failed += error is not None
        self.resubmitted += resubmitted

    @property
    def rest(self) -> int:
        """How many have not ended."""
        return max(0, (self._jobs or 0) - self.completed - self.failed)

    def remind(self, after_s: float, call: Callable[[], None]) -> None:
        """Calls it at once: there is no other thread that could do so later."""
        call()

    def look(self, take: Callable[..., None]) -> None:
        """Calls `take` with the status."""
        done, running = self.completed + self.failed, self.running
        busy_s = time.monotonic() - self._begun_s
        rest = max(self.rest, running)
        status = RunStatus(
            total=done + rest,
            completed=self.completed,
            failed=self.failed,
            canceled=rest if self.over else 0,
            running=0 if self.over else running,
            queued=0 if self.over else rest - running,
            workers_up=0,
            workers_pending=0,
            ended=self.over,
            children_up=0 if self.over else 1,
            resubmitted=self.resubmitted,
            busy_s=busy_s,
            calls_per_s=done / busy_s if busy_s else 0.0,
            left_s=0.0 if self.over else rest * busy_s / done if done and self._jobs else None,
            input_ended=self.over or self._jobs is not None,
        )
        take(status, ())


class _Home:
    """Says whether a job can run in this process as it is now."""

    def __init__(self) -> None:
        self._environment: dict[str, str] | None = None
        self._encoded: dict[bytes, bytes] = {}

    def suits(self, job: Job) -> bool:
        """Returns whether the job's working directory and environment are those of the process."""
        if job.add_env or job.working_dir != os.getcwd():
            return False
        if job.environment is None:
            return True
        if job.environment is not self._environment:  # that of a map is the same for all its jobs
            self._environment = job.environment
            self._encoded = {os.fsencode(k): os.fsencode(v) for k, v in job.environment.items()}
        # what os.environ keeps: to decode it for each call takes longer than most calls
        return bool(getattr(os.environ, "_data", None) == self._encoded)


@contextlib.contextmanager
def _at_home(job: Job) -> Iterator[None]:
    """Lets a job run in its working directory and with its environment."""
    here, variables = os.getcwd(), dict(os.environ)
    wanted = job.full_environment()
    moved = job.working_dir != here
    changed = wanted is not None and wanted != variables
    if moved:
        os.chdir(job.working_dir)
    if changed and wanted is not None:
        _set_environment(wanted)
    try:
        yield
    finally:
        if moved:
            os.chdir(here)
        if changed:
            _set_environment(variables)


def _set_environment(wanted: dict[str, str]) -> None:
    """Changes what differs, and nothing else: other threads may be reading."""
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
