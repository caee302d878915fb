"""Results that nobody has acknowledged yet."""

from __future__ import annotations

from msgspec import Struct

from gridmap.core.effects import AgentEffect, Say
from gridmap.core.messages import Key, Result, Results


class _Kept(Struct):
    result: Result
    sent_at: float


class Outbox:
    """Keeps each result until it is acknowledged, and says it again."""

    def __init__(self) -> None:
        self._kept: dict[Key, _Kept] = {}

    def keys(self) -> list[Key]:
        """Returns which results are kept."""
        return list(self._kept)

    def results(self) -> list[Result]:
        """Returns the results that are kept."""
        return [kept.result for kept in self._kept.values()]

    def send(self, results: list[Result], now: float, out: list[AgentEffect]) -> None:
        """Says new results."""
        for result in results:
            self._kept[result.key] = _Kept(result, now)
        if results:
            out.append(Say(Results(results)))

    def acknowledged(self, key: Key) -> bool:
        """Drops a result; False when it is not here."""
        return self._kept.pop(key, None) is not None

    def repeat(self, before: float, now: float, out: list[AgentEffect]) -> None:
        """Says again what was last said at this time or before it."""
        stale = [kept for kept in self._kept.values() if kept.sent_at <= before]
        for kept in stale:
            kept.sent_at = now
        if stale:
            out.append(Say(Results([kept.result for kept in stale])))
