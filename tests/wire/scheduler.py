"""A scheduler that starts real agents as processes of this machine, for whole runs in tests.

Also a program: `python -m tests.wire.scheduler JOBS PREFIX...` squares numbers by such a run, whose
agents are started by the command PREFIX, and prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from gridmap.backends.base import SubmitRequest
from gridmap.core.events import NativeState, NativeStatus


class ProcessBackend:
    """A Backend: each worker is a process.

    :param prefix: the command that starts the worker's command
    :param umask: of the workers
    """

    name = "drmaa"

    def __init__(self, prefix: Sequence[str] = (), umask: int = -1) -> None:
        self.prefix = list(prefix)
        self.umask = umask
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: dict[str, Path] = {}
        self.canceled: list[str] = []
        self.requests: list[SubmitRequest] = []
        self._next = 1

    def submit(self, request: SubmitRequest) -> list[str]:
        self.requests.append(request)
        job, self._next = self._next, self._next + 1
        return [self._start(request, str(job), str(task + 1)) for task in range(request.count)]

    def _start(self, request: SubmitRequest, job: str, task: str) -> str:
        native_id = f"{job}.{task}"
        log = self.logs[native_id] = Path(request.log_dir) / f"worker.{native_id}.err"
        with log.open("wb") as file:
            self.workers[native_id] = subprocess.Popen(
                [*self.prefix, *request.command],
                env={**os.environ, "JOB_ID": job, "SGE_TASK_ID": task},
                cwd=request.working_dir,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                umask=self.umask,
            )
        return native_id

    def status(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        return {
            native_id: self._status(native_id) for native_id in ids if native_id in self.workers
        }

    def _status(self, native_id: str) -> NativeStatus:
        code = self.workers[native_id].poll()
        if code is None:
            return NativeStatus(NativeState.RUNNING)
        state = NativeState.DELETED if native_id in self.canceled else NativeState.FAILED
        return NativeStatus(state if code else NativeState.DONE, f"exit status {code}", code)

    def cancel(self, ids: Sequence[str]) -> None:
        self.canceled += ids
        for native_id in ids:
            if native_id in self.workers:
                self.workers[native_id].terminate()

    def find(self, run_tag: str) -> list[str]:
        return []

    def adopt(self, ids: Sequence[str]) -> None: ...

    def diagnose(self, native_id: str) -> str:
        return self.logs[native_id].read_text(errors="replace")

    def close(self) -> None:
        """Ends what still runs."""
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
            worker.wait(10)


@contextlib.contextmanager
def cluster(backend: ProcessBackend) -> Iterator[ProcessBackend]:
    """Inside, what asks for a cluster gets this one."""
    with (
        mock.patch("gridmap.backends.drmaa.why_not", lambda: ""),
        mock.patch("gridmap.backends.registry.open_backend", lambda name, **how: backend),
    ):
        try:
            yield backend
        finally:
            backend.close()


def until(condition: Callable[[], Any], what: str, deadline_s: float = 20.0) -> Any:
    """Waits until a condition holds; returns what it returned."""
    end = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < end, f"after {deadline_s} s still not: {what}"
        time.sleep(0.01)
    return answer


def main(jobs: int, prefix: Sequence[str]) -> dict[str, Any]:
    """Runs; returns what came of it."""
    import gridmap

    started = time.monotonic()
    told: dict[str, Any] = {}
    addresses: list[list[str]] = []
    with cluster(ProcessBackend(prefix)) as backend:
        submit = backend.submit

        def look(request: SubmitRequest) -> list[str]:
            connection = json.loads(Path(request.command[-2], "connection.json").read_text())
            addresses.append(connection["addresses"])
            return submit(request)

        backend.submit = look  # type: ignore[method-assign]
        try:
            told["values"] = gridmap.grid_map(
                lambda x: x * x, range(jobs), backend="drmaa", max_workers=jobs
            )
        except gridmap.GridMapError as error:
            told["error"], told["type"] = str(error), type(error).__name__
        told["seconds"] = time.monotonic() - started
    return {
        **told,
        "addresses": addresses,
        "statuses": [w.poll() for w in backend.workers.values()],
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2:])))
