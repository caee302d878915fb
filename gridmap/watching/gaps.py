"""Jobs that have not ended: what lies between the ranges of a ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

BLOCK = 32768
"""Jobs that are looked at together: those that have all ended are passed over by their number."""

_TABLES = (("vals", "first", "count"), ("failures", "job", "1"), ("ends", "first", "count"))

Rows = Callable[..., list[tuple[Any, ...]]]


def waiting(rows: Rows, begin: int, stop: int, descending: bool) -> Iterator[range]:
    """Yields ranges of jobs that have not ended.

    :param rows: asks the ledger
    """
    if descending:
        firsts = range(max(begin, stop - BLOCK), begin - BLOCK, -BLOCK)
    else:
        firsts = range(begin, stop, BLOCK)
    for first in firsts:
        low = max(begin, first)
        high = min(stop, first + BLOCK)
        if low >= high or _ended(rows, low, high) >= high - low:
            continue
        found = _between(rows, low, high)
        yield from (jobs[::-1] for jobs in reversed(found)) if descending else found


def _reach(rows: Rows, table: str, first: str, low: int) -> int:
    """Returns where the range begins in which a job may be."""
    if table == "failures":
        return low
    before = rows(f"SELECT max({first}) FROM {table} WHERE {first} <= ?", low)[0][0]
    return low if before is None else int(before)


def _ended(rows: Rows, low: int, high: int) -> int:
    """Returns how many jobs of a range have ended."""
    ended = 0
    for table, first, counted in _TABLES:
        told = f"FROM {table} WHERE {first} >= ? AND {first} < ?"
        ended += rows(f"SELECT coalesce(sum({counted}), 0) {told}", low, high)[0][0]
        if table != "failures":  # the others have ranges, which may reach into this one or out
            ended += _over(rows, table, low) - _over(rows, table, high)
    return ended


def _over(rows: Rows, table: str, at: int) -> int:
    """Returns how far the range that begins before a job reaches beyond it."""
    last = rows(
        f"SELECT first + count FROM {table} WHERE first < ? ORDER BY first DESC LIMIT 1", at
    )
    return max(0, last[0][0] - at) if last else 0


def _between(rows: Rows, low: int, high: int) -> list[range]:
    """Returns the ranges of a range that have not ended."""
    ended: list[tuple[int, int]] = []
    for table, first, counted in _TABLES:
        ended += rows(
            f"SELECT {first}, {counted} FROM {table} WHERE {first} >= ? AND {first} < ?",
            _reach(rows, table, first, low), high,
        )  # fmt: skip
    found: list[range] = []
    at = low
    for begin, count in sorted(ended):
        if begin > at:
            found.append(range(at, begin))
        at = max(at, begin + count)
    if at < high:
        found.append(range(at, high))
    return found
