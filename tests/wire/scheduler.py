"""A scheduler that starts real agents as processes of this machine, for whole runs in tests.

Also a program: `python -m tests.wire.scheduler JOBS PREFIX...` squares numbers by such a run, whose
agents are started by the command PREFIX, and prints what came of it as JSON. The environment may
have WORKERS (their number), PHANTOMS (how many of them are no process), PAUSE_S (in each call),
MARKS (folder in which each process of a job makes a file).
"""

from __future__ import annotations

import contextlib
import json
import os
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
    :param phantoms: the last so many workers of the first submission have no process
    """

    name = "drmaa"

    def __init__(self, prefix: Sequence[str] = (), umask: int = -1, phantoms: int = 0) -> None:
        self.prefix = list(prefix)
        self.phantoms = phantoms
        self.umask = umask
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: dict[str, Path] = {}
        self.canceled: list[str] = []
        self.requests: list[SubmitRequest] = []
        self._next = 1

    def submit(self, request: SubmitRequest) -> list[str]:
        self.requests.append(request)
        job, self._next = self._next, self._next + 1
        phantoms, self.phantoms = self.phantoms, 0
        real = [self._start(request, str(job), str(n + 1)) for n in range(request.count - phantoms)]
        return real + [f"{job}.{n + 1}" for n in range(len(real), request.count)]

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
        log = self.logs.get(native_id)
        return log.read_text(errors="replace") if log is not None else ""

    def close(self) -> None:
        """Ends what has not ended by itself soon."""
        deadline = time.monotonic() + 3
        for worker in self.workers.values():
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
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
    pause_s = float(os.environ.get("PAUSE_S", "0"))
    phantoms = int(os.environ.get("PHANTOMS", "0"))
    most = int(os.environ.get("WORKERS", str(jobs)))

    marks = os.environ.get("MARKS")

    def square(x: int) -> int:
        if marks:
            Path(marks, str(os.getpid())).touch()
        time.sleep(pause_s)
        return x * x

    with cluster(ProcessBackend(prefix, phantoms=phantoms)) as backend:
        submit = backend.submit

        def look(request: SubmitRequest) -> list[str]:
            connection = json.loads(Path(request.command[-3], "connection.json").read_text())
            addresses.append(connection["addresses"])
            return submit(request)

        backend.submit = look  # type: ignore[method-assign]
        try:
            told["values"] = gridmap.grid_map(
                square, range(jobs), backend="drmaa", max_workers=most
            )
        except gridmap.GridMapError as error:
            told["error"], told["type"] = str(error), type(error).__name__
        told["seconds"] = time.monotonic() - started
    return {
        **told,
        "canceled": backend.canceled,
        "addresses": addresses,
        "statuses": [w.poll() for w in backend.workers.values()],
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2:])))
