"""Who wants to hear of each job as it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridmap.errors import Cause
from gridmap.monitor.sink import Place, Sample


class Watcher:
    """Hears of each job of a run as it ends; all methods do nothing here.

    `told_before` is True while it hears of what an earlier client of the run has heard of,
    `wants_samples` where `sampled` is to be called.
    """

    told_before = False
    wants_samples = False

    def name(self, job: int) -> str:
        return f"job_{job}"

    def sampled(self, sample: Sample) -> None:
        """A running job was measured."""

    def ended(self, first: int, values: Sequence[Any], attempts: int, place: Place) -> None:
        """Consecutive jobs have their values."""

    def failed(
        self, job: int, error: BaseException, cause: Cause, attempts: int, place: Place
    ) -> None:
        """A job ended without a value."""
