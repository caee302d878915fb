"""A scheduler whose workers are simulated agents, a few processes with many agents each."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any
from unittest import mock

from gridmap.backends.base import SubmitRequest
from gridmap.core.events import NativeState, NativeStatus

RUNNING = NativeStatus(NativeState.RUNNING)


class SimulatedCluster:
    """A Backend.

    :param mode: what agents do with leases; see agents.py
    :param processes: share the agents between them
    """

    name = "drmaa"

    def __init__(self, mode: str, processes: int) -> None:
        self._mode = mode
        self._most = processes
        self._processes: list[subprocess.Popen[str]] = []
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._submitted: queue.SimpleQueue[float] = queue.SimpleQueue()

    def submit(self, request: SubmitRequest) -> list[str]:
        count, processes = request.count, min(self._most, request.count)
        borders = [1 + number * count // processes for number in range(processes + 1)]
        for first, stop in zip(borders, borders[1:], strict=False):
            command = [sys.executable, "-m", "benchmarks.scale.agents", request.command[-3]]
            process = subprocess.Popen(
                [*command, f"{first}:{stop - first}", self._mode],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            self._processes.append(process)
            threading.Thread(target=self._listen, args=[process.stdout], daemon=True).start()
        self._submitted.put(time.monotonic())
        return [f"1.{number}" for number in range(1, count + 1)]

    def _listen(self, pipe: IO[str]) -> None:
        for line in pipe:
            self._said.put(json.loads(line))

    def submitted(self, timeout_s: float = 60.0) -> float:
        """Waits until agents have been asked for; returns when that was."""
        return self._submitted.get(timeout=timeout_s)

    def ready(self, timeout_s: float = 150.0) -> float:
        """Waits until all agents have been welcomed; returns when the last one was."""
        return max(self._next("ready", timeout_s)["at"] for _ in self._processes)

    def _next(self, what: str, timeout_s: float) -> dict[str, Any]:
        while (said := self._said.get(timeout=timeout_s))["what"] != what:
            pass
        return said

    def tell(self, word: str) -> None:
        """Says something to all processes."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{word}\n")
            process.stdin.flush()

    def status(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        return dict.fromkeys(ids, RUNNING)

    def cancel(self, ids: Sequence[str]) -> None: ...

    def find(self, run_tag: str) -> list[str]:
        return []

    def adopt(self, ids: Sequence[str]) -> None: ...

    def diagnose(self, native_id: str) -> str:
        return ""

    def close(self) -> None: ...

    def end(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def cluster(mode: str, processes: int = 4) -> Iterator[SimulatedCluster]:
    """Inside, whoever asks for a cluster gets this one."""
    backend = SimulatedCluster(mode, processes)
    with (
        mock.patch("gridmap.backends.drmaa.why_not", lambda: ""),
        mock.patch("gridmap.backends.registry.open_backend", lambda name, **how: backend),
    ):
        try:
            yield backend
        finally:
            backend.end()
