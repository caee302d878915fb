"""A run: jobs under way, from `submit` until every one of them has ended."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gridmap import _html
from gridmap.engine import Engine, MonitorFailed
from gridmap.errors import GridMapError, JobCanceled
from gridmap.failures import advice
from gridmap.launch import LOCAL
from gridmap.outcomes import Batch, Failed
from gridmap.plan import EAGER_BYTES, EAGER_LOCAL_S
from gridmap.report.progress import Progress
from gridmap.run_status import RunStatus

if TYPE_CHECKING:
    from pandas import DataFrame


class Run:
    """Jobs under way, as `submit` returns them; `jobs` are those that it has.

    Leaving its `with` block, or dropping the last reference to it, ends what has not ended.
    """

    def __init__(self, engine: Engine, jobs: Sequence[Any], progress: Progress) -> None:
        self.jobs = jobs
        self._progress = progress
        self._engine = engine
        self._first: tuple[int, BaseException] | None = None
        self._kept = 0
        self._failed: set[int] = set()
        self._taking = threading.RLock()  # an interrupted thread may come again
        try:
            most_s = EAGER_LOCAL_S if engine.options.backend == LOCAL else math.inf
            engine.expected = progress.jobs
            engine.feed(most_bytes=EAGER_BYTES, most_s=most_s)
            progress.follow(engine)
            if engine.total or engine.attached:
                with progress.waiting():
                    with advice():
                        engine.start()
                    engine.feed()
            else:
                engine.sink.end()
            progress.jobs = self._engine.total
            progress.begin(self.id)
        except BaseException:
            self._engine.close(forget=False)
            progress.stop(begun=False)
            raise
        self._values: list[Any] = [None] * self._engine.total

    @property
    def id(self) -> str:
        """Names the run in logs, in the scheduler's list and for `attach`; its folder's name."""
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
            self._end(forget=False)  # values that were not read are for whoever attaches
            raise
        if self._kept < len(self._values):
            raise JobCanceled(f"run {self.id}: values were lost when the client was interrupted")
        if self._first is not None and self._engine.options.on_error != "return":
            raise self._first[1]
        return list(self._values)

    def _gather(self, timeout_s: float | None) -> bool:
        """Takes what has ended; returns whether that is all. One thread does it at a time."""
        self._engine.check_process()  # in a fork, a thread that is not there may be at it
        deadline = None if timeout_s is None else time.monotonic() + max(0.0, timeout_s)
        if not self._taking.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s)):
            return False  # another thread is at it
        try:
            with self._progress.waiting():
                return self._gather_until(deadline)
        finally:
            self._taking.release()

    def _gather_until(self, deadline: float | None) -> bool:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ended = self._engine.take(left)
            if ended is None:
                self._tell_end()
                return True
            for batch in ended:
                self._keep(batch)
            if left == 0.0 and not self._engine.sink.drained:
                return False

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Leaves the run's folder as it is until the end of the block, for what reads the values
        may fail to bring them to safety; then nothing is removed at all."""
        self._engine.keeps = True
        yield
        self._engine.keeps = False
        if self._engine.sink.drained:
            self._engine.tidy()

    def without_values(self) -> list[int]:
        """Returns the jobs, of those that have ended and been waited for, that have no value."""
        return sorted(self._failed)

    def _keep(self, batch: Batch) -> None:
        first, values, failures = batch
        self._kept += len(values)
        self._values[first : first + len(values)] = values
        if not failures:
            return
        for job, value in enumerate(values, first):
            if isinstance(value, Failed):
                self._values[job] = value.error
                self._failed.add(job)
                earlier = self._first is None or job < self._first[0]
                if earlier and not value.consequence:
                    self._first = (job, value.error)

    def cancel(self) -> None:
        """Ends every job that has not ended, and returns at once; `results` then raises
        JobCanceled."""
        self._engine.cancel()

    def close(self) -> None:
        """Ends what has not ended and waits until the run's workers are gone, 15 s at most."""
        self._end(forget=True)

    def _end(self, forget: bool) -> None:
        self._engine.close(forget=forget)
        self._tell_end()

    def _tell_end(self) -> None:
        self._progress.stop()
        if self._progress.running:
            with contextlib.suppress(GridMapError):  # the monitor has failed: others tell
                status = self.status()
                self._progress.end(status.completed, status.failed, status.canceled)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(forget=error is None)

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and not engine.sink.ended:
            engine.cancel("nobody waits for the run any more")

    def to_dataframe(self) -> DataFrame:
        """Returns a pandas table with a row for each job: how it ended, where, how long it took.

        What is known is what somebody has taken by `results` or `wait`.

        :raises ImportError: there is no pandas
        """
        from gridmap.report.frames import frame_of
        from gridmap.stories import story_of

        return frame_of(story_of(self))

    def _repr_html_(self) -> str:
        """Returns what a notebook shows."""
        try:
            return self.status().html(f"Run {self.id}")
        except GridMapError as error:  # its monitor has failed, or this process is a fork
            return _html.table(f"Run {self.id}", [("state", error)])

    def __repr__(self) -> str:
        state = "ended" if self._engine.sink.ended else "under way"
        return f"<Run {self.id}: {len(self)} jobs, {state}>"
