"""The states of jobs and of workers, and the only transitions between them."""

from __future__ import annotations

import enum


class JobState(enum.IntEnum):
    """Where a job stands; small integers, since a run keeps one byte a job.

    HELD is where jobs that wait for other jobs will stand; nothing holds a job yet.
    """

    HELD = 0
    QUEUED = 1
    LEASED = 2
    RUNNING = 3
    REQUEUED = 4
    COMPLETED = 5
    FAILED = 6
    CANCELED = 7
    SKIPPED = 8


class WorkerState(enum.Enum):
    """Where a worker stands."""

    REQUESTED = "requested"
    PENDING = "pending"
    UP = "up"
    SUSPECT = "suspect"
    DRAINING = "draining"
    GONE = "gone"
    LOST = "lost"


_J = JobState
_W = WorkerState

JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    _J.HELD: frozenset({_J.QUEUED, _J.CANCELED, _J.SKIPPED}),
    _J.QUEUED: frozenset({_J.LEASED, _J.COMPLETED, _J.FAILED, _J.CANCELED, _J.SKIPPED}),
    _J.LEASED: frozenset(
        {_J.RUNNING, _J.QUEUED, _J.REQUEUED, _J.COMPLETED, _J.FAILED, _J.CANCELED, _J.SKIPPED}
    ),
    _J.RUNNING: frozenset(
        {_J.QUEUED, _J.REQUEUED, _J.COMPLETED, _J.FAILED, _J.CANCELED, _J.SKIPPED}
    ),
    _J.REQUEUED: frozenset({_J.QUEUED, _J.COMPLETED, _J.FAILED, _J.CANCELED, _J.SKIPPED}),
    _J.COMPLETED: frozenset(),
    _J.FAILED: frozenset(),
    _J.CANCELED: frozenset(),
    _J.SKIPPED: frozenset(),
}

WORKER_TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    _W.REQUESTED: frozenset({_W.PENDING, _W.UP, _W.GONE}),
    _W.PENDING: frozenset({_W.UP, _W.GONE, _W.LOST}),
    _W.UP: frozenset({_W.SUSPECT, _W.DRAINING, _W.GONE}),
    _W.SUSPECT: frozenset({_W.UP, _W.DRAINING, _W.GONE, _W.LOST}),
    _W.DRAINING: frozenset({_W.GONE, _W.LOST}),
    _W.GONE: frozenset(),
    _W.LOST: frozenset({_W.UP, _W.GONE}),
}

FINAL_JOB_STATES: frozenset[JobState] = frozenset(s for s, to in JOB_TRANSITIONS.items() if not to)


class InvalidTransition(RuntimeError):
    """A transition that the table does not have; carries the story that led to it."""

    def __init__(self, what: str, before: enum.Enum, after: enum.Enum, story: str = "") -> None:
        super().__init__(what, before, after, story)
        self.what = what
        self.before = before
        self.after = after
        self.story = story

    def __str__(self) -> str:
        text = f"{self.what}: no transition {self.before.name} -> {self.after.name}"
        return f"{text}\n{self.story}" if self.story else text
