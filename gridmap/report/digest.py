"""Which failures are mailed at once, and which are counted and told together. Pure: no clock."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct, field

from gridmap.report.failed_job import FailedJob

if TYPE_CHECKING:
    from gridmap.conf import Settings

FEW = 5
"""Of the failures of a digest, so many are named."""
MOST_ENDINGS = 20
"""Of more ways to fail than these the rest is counted together."""
LONGEST_FACTOR = 32
"""Where failures do not end, digests become rarer, up to so many times the interval."""


class Digest(Struct):
    """Failures of one run and cause that no mail told of.

    :param since_s: when the last mail about them went out, as `now` was then
    :param hosts: how many there were on each
    :param endings: how many ended in each way
    """

    run: str
    cause: str
    since_s: float
    settings: Settings
    count: int = 0
    first: list[FailedJob] = field(default_factory=list)
    hosts: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)


class _Key(Struct):
    due_s: float
    wait_s: float
    digest: Digest


class Ration:
    """Lets the first failure of each run and cause through, and tells of the others now and then.

    :param interval_s: at most one mail for each run and cause in this time, but for the run's end
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._keys: dict[tuple[str, str], _Key] = {}

    def take(self, failure: FailedJob, settings: Settings, now: float) -> bool:
        """Returns whether a failure is to be mailed now; it is counted otherwise."""
        self._forget(now)
        key = (failure.run, failure.cause)
        known = self._keys.get(key)
        if known is None:
            digest = Digest(*key, now, settings)
            self._keys[key] = _Key(now + self._interval_s, self._interval_s, digest)
            return True
        digest = known.digest
        digest.settings = settings
        digest.count += 1
        if len(digest.first) < FEW:
            digest.first.append(failure)
        known_way = failure.ending in digest.endings or len(digest.endings) < MOST_ENDINGS
        digest.endings[failure.ending if known_way else "failed in other ways"] += 1
        if failure.host:
            digest.hosts[failure.host] += 1
        return False

    def due(self, now: float) -> list[Digest]:
        """Returns what is to be told now."""
        told = []
        for key in self._keys.values():
            if key.digest.count and key.due_s <= now:
                told.append(key.digest)
                longest_s = LONGEST_FACTOR * self._interval_s
                key.due_s, key.wait_s = now + key.wait_s, min(2 * key.wait_s, longest_s)
                old = key.digest
                key.digest = Digest(old.run, old.cause, now, old.settings)
        return told

    def next_s(self) -> float | None:
        """Returns when something is to be told, if nothing else happens."""
        return min((key.due_s for key in self._keys.values() if key.digest.count), default=None)

    def end(self, run: str | None = None) -> list[Digest]:
        """Returns what has not been told of a run that is over, or of all of them."""
        over = [key for key in self._keys if run is None or key[0] == run]
        digests = [self._keys.pop(key).digest for key in over]
        return [digest for digest in digests if digest.count]

    def _forget(self, now: float) -> None:
        """Forgets causes of which nothing has been heard for as long as they had to wait."""
        for name, key in list(self._keys.items()):
            if not key.digest.count and key.due_s <= now:
                del self._keys[name]
