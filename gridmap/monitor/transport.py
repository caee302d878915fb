"""How the monitor reaches workers: the same calls for a cluster and for this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from gridmap.core.events import DispatcherEvent
from gridmap.core.messages import FromAgent, ToAgent
from gridmap.core.records import WorkerRecord
from gridmap.data import Frame


class Received(NamedTuple):
    """A message from a worker whose name the transport vouches for."""

    worker: str
    incarnation: str
    message: FromAgent
    frames: list[Frame]


Post = Callable[[DispatcherEvent], None]


class Transport(Protocol):
    """Starts, ends and reaches workers.

    All calls come from the monitor's thread and return at once; answers come as events, by `post`,
    from any thread.
    """

    def begin(self, post: Post) -> None:
        """Gets ready; `post` takes events for the dispatcher."""

    def fds(self) -> Mapping[Any, int]:
        """Returns what to poll: file descriptors or sockets, and the poll events of each."""

    def ready(self, source: Any, events: int, now: float) -> None:
        """One of `fds` has something."""

    def receive(self) -> list[Received]:
        """Returns what workers have said."""

    def send(self, worker: str, message: ToAgent, frames: list[Frame], now: float) -> None:
        """Says something to a worker; a worker that cannot be reached does not hear it."""

    def submit(self, request: int, pool: int, count: int) -> None:
        """Starts workers; answered by WorkersSubmitted or SubmissionFailed."""

    def cancel(self, workers: tuple[str, ...]) -> None:
        """Deletes workers."""

    def poll(self, workers: tuple[str, ...]) -> None:
        """Asks how they are; answered by WorkersPolled or PollFailed, or not at all."""

    def diagnose(self, worker: str) -> None:
        """Finds out what is wrong with a worker; answered by WorkerDiagnosed."""

    def next_deadline(self) -> float:
        """Returns when `tick` wants to be called."""

    def tick(self, now: float) -> None:
        """Does what is due."""

    def left_behind(self, workers: Mapping[str, WorkerRecord]) -> tuple[str, ...]:
        """Returns the workers that have to be deleted if they do not leave by themselves."""

    def close(self, deadline_s: float) -> None:
        """Ends everything that is left on this side."""
