"""Says in the log that a run begins and how it ended."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)


class Progress:
    """Logs the begin and the end of one run, at info level.

    :param backend: what runs the jobs
    :param quiet: log nothing
    :param children: jobs that each worker runs at once
    """

    def __init__(self, backend: str, quiet: bool = True, children: int = 1) -> None:
        self._backend = f"{backend}, {children} jobs a worker" if children > 1 else backend
        self._quiet = quiet
        self._run = ""
        self._begun_s = 0.0
        self.jobs: int | None = None
        """How many there are, where that is known."""
        self.running = False
        """The end is still to be told."""

    def begin(self, run: str) -> None:
        """Logs the begin; once, later calls do nothing."""
        if self._quiet or self._run:
            return
        self._run, self._begun_s, self.running = run, time.monotonic(), True
        number = "jobs as they are read" if self.jobs is None else f"{self.jobs} jobs"
        log.info("run %s begins: %s, backend %s", run, number, self._backend)

    def end(self, completed: int, failed: int, canceled: int = 0) -> None:
        """Logs the end of a run that has begun; once, later calls do nothing."""
        if not self.running:
            return
        self.running = False
        duration_s = time.monotonic() - self._begun_s
        log.info(
            "run %s ended after %.1f s: %d jobs completed, %d failed, %d canceled",
            self._run,
            duration_s,
            completed,
            failed,
            canceled,
        )
