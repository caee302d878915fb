"""The protocol of a backend: a handful of calls to a scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from gridmap.core.events import NativeStatus
from gridmap.core.spec import Resources

NEVER_STARTS = "will never start"
HELD_FOR_GOOD = "is held for good"
BACK_IN_QUEUE = "was sent back to the queue"
STUCK = (NEVER_STARTS, HELD_FOR_GOOD, BACK_IN_QUEUE)
"""How the text begins of a worker that has failed, and is in the queue until it is deleted."""


class SubmitRequest(Struct, frozen=True):
    """One array job of workers.

    :param run_tag: name under which `find` finds the workers of a run again; unique to the run
    :param name: what people see in the scheduler's list
    :param command: the worker's program and its arguments; no secrets, no shell syntax
    :param count: number of workers, one array task each
    :param log_dir: folder for the workers' standard output and error, seen by the node
    :param working_dir: where the worker starts
    """

    run_tag: str
    name: str
    command: tuple[str, ...]
    count: int
    resources: Resources
    log_dir: str
    working_dir: str


class Backend(Protocol):
    """Starts, lists and ends workers. Calls may block; one thread makes them all.

    Every method raises BackendError, with transient=True where the same call may succeed later.
    Canceling is a request, not a fact. A native id that `status` leaves out is unknown, never done.
    """

    name: str

    def submit(self, request: SubmitRequest) -> list[str]:
        """Starts `count` workers, as one array job where it can; returns one native id for each."""

    def status(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        """Returns what the scheduler says of these workers, in one go; may leave some out."""

    def cancel(self, ids: Sequence[str]) -> None:
        """Asks the scheduler to delete these workers, whole array jobs where it can."""

    def find(self, run_tag: str) -> list[str]:
        """Returns the native ids of the workers of a run that the scheduler still knows."""

    def adopt(self, ids: Sequence[str]) -> None:
        """Takes workers over that another process started, to be asked about and deleted.

        Called at most once, by `attach`, after `find` and before anything else.
        """

    def diagnose(self, native_id: str) -> str:
        """Returns all that can be found out about a worker that ended or never spoke."""

    def close(self) -> None:
        """Lets go of the scheduler; workers go on."""
