"""Who wants to hear of each job as it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from gridmap.errors import Cause
from gridmap.monitor.sink import Place, Sample


class Ended(Struct, frozen=True):
    """What is known of jobs that ended together, beside what became of them.

    :param attempts: tries that each took; 0: they ended without any
    :param seconds: how long the last try took, of all of them together; 0 where nobody knows
    :param peak_rss_bytes: the most memory that their process had; 0 where nobody knows
    :param ended_s: seconds since 1970; 0 where nobody knows
    :param unread: so many of their values cannot be read here, and were told as failures
    """

    attempts: int = 0
    place: Place = Place()
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    ended_s: float = 0.0
    unread: int = 0


class Watcher:
    """Hears of each job of a run as it ends; all methods do nothing here.

    `told_before` is True while it hears of what an earlier client of the run has heard of,
    `wants_samples` where `sampled` is to be called.
    """

    told_before = False
    wants_samples = False

    def begins(self, run: str, durable: bool) -> None:
        """The run has a name; `durable`: and a ledger."""

    def name(self, job: int) -> str:
        return f"job_{job}"

    def sampled(self, sample: Sample) -> None:
        """A running job was measured."""

    def ended(self, first: int, values: Sequence[Any], how: Ended) -> None:
        """Consecutive jobs have their values."""

    def failed(self, job: int, error: BaseException, cause: Cause, how: Ended) -> None:
        """A job ended without a value."""

    def over(self) -> None:
        """Nothing more will be heard of the run; may be called again."""
