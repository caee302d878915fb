"""One process for jobs: where it stands, what it runs, and what it was killed for."""

from __future__ import annotations

import enum
import math

from msgspec import Struct, field

from gridmap.core import memory
from gridmap.core.events import Usage
from gridmap.core.messages import Key, Lease, Outcome

CHILD_START_S = 60.0
"""How long a child may take until it is ready; then it is killed, and counts as one that died."""

CHILD_END_S = 30.0
"""How long a killed child may take to die; then it is given up as if it had."""


class ChildState(enum.Enum):
    """Where a child stands."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"  # killed, its death is not known yet


class Reason(Struct):
    """Why a child was killed, for the job that is blamed.

    :param job: the one that it was killed for; -1: whichever it is in
    :param only_first: nobody is blamed but who had all of the worker's time
    :param tries: nor is who has been tried less often
    """

    outcome: Outcome
    text: str = ""
    mark: memory.Mark | None = None
    job: int = -1
    only_first: bool = False
    tries: int = 0
    patience_s: float = CHILD_END_S


class Child(Struct):
    """One process for jobs, which runs one lease at a time."""

    number: int
    place: int = 0  # which part of what the worker has is its own
    state: ChildState = ChildState.STARTING
    since: float = 0.0  # when it came to this state, if that has a deadline
    reason: Reason = field(default_factory=lambda: Reason(Outcome.CANCELED))
    used: bool = False
    lease: Lease | None = None
    first: bool = False  # the first job of its lease is the first that the worker runs
    ends_early: bool = False  # it was told to end its lease with the call that it is in
    early: bool = False  # and came so early that it had all of the worker's time
    position: int = 0  # first job of the lease that has no answer yet
    position_at: float = 0.0  # since when
    use: Usage = Usage()  # when last measured
    near: bool = False  # to a limit on memory, and the monitor was told
    peak_rss_bytes: int = 0  # as its answers tell

    def patience(self) -> float:
        """Returns until when the child may stay in its state."""
        if self.state is ChildState.STARTING:
            return self.since + CHILD_START_S
        if self.state is ChildState.ENDING:
            return self.since + self.reason.patience_s
        return math.inf

    def runs(self, key: Key) -> bool:
        """Returns whether it is in a lease with jobs of this one."""
        lease = self.lease
        if lease is None or self.state is not ChildState.BUSY or lease.attempt != key.attempt:
            return False
        return lease.first < key.first + key.count and key.first < lease.first + lease.count
