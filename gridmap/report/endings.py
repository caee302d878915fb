"""Counts how the jobs of a run ended, and groups those that failed."""

from __future__ import annotations

import time

from msgspec import Struct, field

from gridmap.errors import ENDINGS, Cause, JobException

FEW = 5
"""Of a group, so many jobs are named."""
MOST_GROUPS = 200
"""Of more kinds of failure than these the rest is counted together."""


class Group(Struct):
    """Failures that are alike.

    :param what: what became of each, as the end of a sentence
    :param first: the names of the first few, each with its host
    :param example: what the first one said
    """

    what: str
    count: int = 0
    first: list[str] = field(default_factory=list)
    example: str = ""


class Endings:
    """How the jobs of a run ended, so far.

    `run` is its id, where it has one, and `durable` says whether it has a ledger.
    """

    def __init__(self) -> None:
        self.run = ""
        self.durable = False
        self.completed = 0
        self.canceled = 0
        self.groups: dict[str, Group] = {}
        self._begun_s = time.monotonic()
        self._ended_s: float | None = None

    @property
    def failed(self) -> int:
        return sum(group.count for group in self.groups.values())

    @property
    def seconds(self) -> float:
        """How long the run took, or has taken so far."""
        return (self._ended_s or time.monotonic()) - self._begun_s

    def fail(self, name: str, error: BaseException, cause: Cause, host: str = "") -> None:
        """A job ended without a value."""
        if cause is Cause.CANCELED:
            self.canceled += 1
            return
        what = ending(error, cause)
        if what not in self.groups and len(self.groups) >= MOST_GROUPS:
            what = "failed in other ways"
        group = self.groups.setdefault(what, Group(what))
        group.count += 1
        if len(group.first) < FEW:
            group.first.append(f"{name} on {host}" if host else name)
        group.example = group.example or words(error)

    def end(self) -> None:
        """The run is over; later calls do nothing."""
        if self._ended_s is None:
            self._ended_s = time.monotonic()


def ending(error: BaseException | None, cause: str) -> str:
    """Returns what became of a job, as the end of a sentence."""
    if error is not None and not isinstance(error, JobException):
        return f"raised {type(error).__name__}"
    if cause == Cause.EXCEPTION:
        return "raised an exception"
    return ENDINGS.get(Cause(cause), "failed") if cause in {*map(str, Cause)} else "failed"


def words(error: BaseException | None) -> str:
    """Returns what an exception says, without the log that some carry."""
    if error is None:
        return ""
    try:
        text = str(error)
    except Exception as broken:  # it is one of the user's
        text = f"(its text cannot be had: {type(broken).__name__})"
    text = text.partition("\nThe worker's log ends:\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
