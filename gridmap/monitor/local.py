"""This machine as a cluster of one host: the agent lives in the monitor's own thread."""

from __future__ import annotations

import math
import os
import socket
import time
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
        self._versions = (gridmap, python)
        self._inbox: list[Received] = []
        self._post: Post = lambda event: None
        self._wanted = 0
        self._made = 0
        self._make(forkserver, 0)
        self._runtime.tick(time.monotonic())  # so that the children start meanwhile

    def begin(self, post: Post) -> None:
        self._post = post

    def submit(self, request: int, pool: int, count: int) -> None:
        self._wanted += 1
        if self._made < self._wanted:
            self._runtime.close()
            self._make(Forkserver.launch(), pool)
        self._post(WorkersSubmitted(request, (self._hello.native_id,)))

    def _make(self, forkserver: Forkserver, pool: int) -> None:
        self._made += 1
        gridmap, python = self._versions
        self._hello = Hello(
            gridmap=gridmap,
            python=python,
            protocol=PROTOCOL,
            native_id=f"local.{self._made}",
            incarnation=os.urandom(8).hex(),
            pool=pool,
            host=socket.gethostname(),
            pid=forkserver.pid,
            children=self._children,
            capacity=2 * self._children,
        )
        core = AgentCore(self._children, self._hello)
        self._runtime = AgentRuntime(core, forkserver, self._said)

    def _said(self, message: FromAgent, frames: list[Frame]) -> None:
        self._inbox.append(
            Received(self._hello.native_id, self._hello.incarnation, message, frames)
        )

    def receive(self) -> list[Received]:
        if self._made > self._wanted:  # nobody has asked for this worker yet
            return []
        inbox, self._inbox = self._inbox, []
        return inbox

    def send(self, worker: str, message: ToAgent, frames: list[Frame], now: float) -> None:
        if worker == self._hello.native_id and not self._runtime.left:
            self._runtime.receive(message, frames, now)

    def fds(self) -> Mapping[Any, int]:
        return {} if self._runtime.left else self._runtime.fds()

    def ready(self, source: Any, events: int, now: float) -> None:
        self._runtime.ready(source, events, now)

    def next_deadline(self) -> float:
        if self._inbox and self._made <= self._wanted:
            return -math.inf
        return math.inf if self._runtime.left else self._runtime.next_deadline()

    def tick(self, now: float) -> None:
        if now >= self._runtime.next_deadline():
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
        self._runtime.close(deadline_s)
