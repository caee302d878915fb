"""This machine as a cluster of one host: the agent lives in the monitor's own thread."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from typing import Any

from gridmap.core.agent import AgentCore
from gridmap.core.events import WorkersSubmitted
from gridmap.core.messages import PROTOCOL, FromAgent, Hello, ToAgent
from gridmap.core.records import WorkerRecord
from gridmap.data import Frame
from gridmap.monitor.transport import Post, Received
from gridmap.node.agent import AgentRuntime
from gridmap.node.forkserver import Forkserver


class LocalTransport:
    """One worker with several children, joined by pipes.

    :param forkserver: made by whoever knows whether this process may fork
    :param gridmap: GridMap's version
    :param python: "3.11"
    """

    def __init__(self, children: int, forkserver: Forkserver, gridmap: str, python: str) -> None:
        self._children = children
        self._forkserver: Forkserver | None = forkserver
        self._versions = (gridmap, python)
        self._runtime: AgentRuntime | None = None
        self._hello: Hello | None = None
        self._inbox: list[Received] = []
        self._post: Post = lambda event: None
        self._started = 0

    def begin(self, post: Post) -> None:
        self._post = post

    def submit(self, request: int, pool: int, count: int) -> None:
        self._started += 1
        worker = f"local.{self._started}"
        forkserver = self._forkserver or Forkserver.launch()
        self._forkserver = None
        if self._runtime is not None:
            self._runtime.close()
        gridmap, python = self._versions
        self._hello = Hello(
            gridmap=gridmap,
            python=python,
            protocol=PROTOCOL,
            native_id=worker,
            incarnation=os.urandom(8).hex(),
            pool=pool,
            host=socket.gethostname(),
            pid=forkserver.pid,
            children=self._children,
            capacity=2 * self._children,
        )
        core = AgentCore(self._children, self._hello)
        self._runtime = AgentRuntime(core, forkserver, self._said)
        self._post(WorkersSubmitted(request, (worker,)))

    def _said(self, message: FromAgent, frames: list[Frame]) -> None:
        assert self._hello is not None
        self._inbox.append(
            Received(self._hello.native_id, self._hello.incarnation, message, frames)
        )

    def receive(self) -> list[Received]:
        inbox, self._inbox = self._inbox, []
        return inbox

    def send(self, worker: str, message: ToAgent, frames: list[Frame], now: float) -> None:
        runtime = self._runtime
        if runtime is None or self._hello is None or runtime.left:
            return
        if worker == self._hello.native_id:
            runtime.receive(message, frames, now)

    def fds(self) -> Mapping[Any, int]:
        return {} if self._runtime is None or self._runtime.left else self._runtime.fds()

    def ready(self, source: Any, events: int, now: float) -> None:
        if self._runtime is not None:
            self._runtime.ready(source, events, now)

    def next_deadline(self) -> float:
        if self._inbox:
            return -math.inf
        if self._runtime is None or self._runtime.left:
            return math.inf
        return self._runtime.next_deadline()

    def tick(self, now: float) -> None:
        if self._runtime is not None and now >= self._runtime.next_deadline():
            self._runtime.tick(now)

    def cancel(self, workers: tuple[str, ...]) -> None:
        """Closing ends them."""

    def poll(self, workers: tuple[str, ...]) -> None:
        """There is nobody to ask."""

    def diagnose(self, worker: str) -> None:
        """A local worker says Hello at once, or not at all."""

    def left_behind(self, workers: Mapping[str, WorkerRecord]) -> tuple[str, ...]:
        return ()

    def close(self, deadline_s: float) -> None:
        if self._runtime is not None:
            self._runtime.close(deadline_s)
        if self._forkserver is not None:
            self._forkserver.close(deadline_s)
            self._forkserver = None
