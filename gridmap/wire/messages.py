"""Numbers the messages of core/messages.py and says what a well-formed one looks like.

Types are checked by the decoder; the checks here are about what types cannot say: counts, ends of
ranges, digests, and how many payload frames a message announces.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from typing import Any

from gridmap.core import messages as m
from gridmap.core.messages import Outcome, Phase
from gridmap.errors import WireError

DIGEST_CHARS = 64
"""Length of a blob's name: 32 bytes in lower-case hexadecimal digits."""

MAX_INT = 2**63 - 1
MAX_NAME_CHARS = 4096
MAX_ID_CHARS = 256
MAX_MEASURED = 1e9
"""Seconds of one attempt, or cores in use; more would spoil a mean."""

MAX_HELD = 10_000
"""Leases in one inventory."""

MAX_PROSE_CHARS = 64 * 1024
PROSE_FIELDS = frozenset({"reason"})
"""Text that people read; every other string is a name or a path."""


class Direction(enum.Enum):
    """Where a message travels to."""

    TO_MONITOR = "to monitor"
    TO_AGENT = "to agent"


KINDS: dict[Direction, dict[int, type[Any]]] = {
    Direction.TO_MONITOR: {
        1: m.Hello,
        2: m.Credit,
        3: m.NeedBlob,
        4: m.Heartbeat,
        5: m.Results,
        6: m.Bye,
    },
    Direction.TO_AGENT: {
        65: m.Welcome,
        66: m.Refuse,
        67: m.Work,
        68: m.Blob,
        69: m.Pulse,
        70: m.Ack,
        71: m.Recall,
        72: m.Cancel,
        73: m.Drain,
    },
}
"""The number of a message on the wire, never used again for another; none serves both ways."""

_OUTCOMES = frozenset(int(x) for x in Outcome)
_PHASES = frozenset(int(x) for x in Phase)
_WITH_PAYLOAD = frozenset(
    map(int, (Outcome.VALUE, Outcome.EXCEPTION, Outcome.RETRIABLE, Outcome.NO_MEMORY))
)
_WITHOUT_PAYLOAD = frozenset({int(Outcome.RETURNED), int(Outcome.CANCELED)})
_HEX_DIGITS = "0123456789abcdef"


def _bad(what: str) -> WireError:
    return WireError(what)


def _natural(value: int, what: str) -> None:
    if not 0 <= value <= MAX_INT:
        raise _bad(f"{what} is {value}")


def _digest(value: str, what: str) -> None:
    if len(value) != DIGEST_CHARS or value.strip(_HEX_DIGITS):
        raise _bad(f"{what} is no digest of {DIGEST_CHARS} hexadecimal digits")


def _time(value: float, what: str) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise _bad(f"{what} is {value}")


def _measured(value: float, what: str) -> None:
    if not 0 <= value <= MAX_MEASURED:  # nor NaN
        raise _bad(f"{what} is {value}")


def _range(first: int, count: int, attempt: int) -> None:
    if first < 0 or count < 1 or first + count > MAX_INT or not 0 <= attempt <= MAX_INT:
        raise _bad(f"no range of jobs: first {first}, count {count}, attempt {attempt}")


def _ranges(keys: Iterable[m.Key]) -> None:
    for first, count, attempt in keys:
        _range(first, count, attempt)


def _announced(announced: int, present: int) -> None:
    if announced != present:
        raise _bad(f"{announced} payload frames announced, {present} present")


# --- one check for each message: (message, number of payload frames) ------------------------------


def _hello(message: m.Hello, frames: int) -> None:
    for name in ("protocol", "pool", "pid", "capacity"):
        _natural(getattr(message, name), name)
    for name in ("gridmap", "python", "native_id", "incarnation", "host"):
        if not getattr(message, name).isprintable():  # they come into logs
            raise _bad(f"a Hello whose {name} has control characters")
        if len(getattr(message, name)) > MAX_ID_CHARS:
            raise _bad(f"a Hello whose {name} is longer than {MAX_ID_CHARS} characters")
    if not 1 <= message.children <= MAX_INT:
        raise _bad(f"an agent with {message.children} children")
    _announced(0, frames)


def _credit(message: m.Credit, frames: int) -> None:
    _natural(message.capacity, "capacity")
    _announced(0, frames)


def _need_blob(message: m.NeedBlob, frames: int) -> None:
    _digest(message.digest, "the blob asked for")
    _announced(0, frames)


def _heartbeat(message: m.Heartbeat, frames: int) -> None:
    _natural(message.seq, "seq")
    if len(message.held) > MAX_HELD:
        raise _bad(f"an inventory of {len(message.held)} leases")
    for held in message.held:
        _range(held.first, held.count, held.attempt)
        _natural(held.rss_bytes, "rss_bytes")
        _natural(held.limit_bytes, "limit_bytes")
        if held.phase not in _PHASES or not -1 <= held.current <= MAX_INT:
            raise _bad(f"a held lease in phase {held.phase}, at job {held.current}")
        _measured(held.cpu_fraction, "cpu_fraction")
    _ranges(message.unacknowledged)
    if not -1 <= message.heard <= MAX_INT:
        raise _bad(f"heard is {message.heard}")
    _announced(0, frames)


def _results(message: m.Results, frames: int) -> None:
    announced = 0
    for item in message.items:
        _range(item.first, item.count, item.attempt)
        _measured(item.seconds, "seconds")
        _natural(item.peak_rss_bytes, "peak_rss_bytes")
        _natural(item.frames, "frames")
        outcome = item.outcome
        if outcome not in _OUTCOMES:
            raise _bad(f"outcome {outcome} does not exist")
        if (outcome in _WITH_PAYLOAD and not item.frames) or (
            outcome in _WITHOUT_PAYLOAD and item.frames
        ):
            raise _bad(f"{Outcome(outcome).name} with {item.frames} payload frames")
        announced += item.frames
    _announced(announced, frames)


def _bye(message: m.Bye, frames: int) -> None:
    if not message.reason.isprintable():
        raise _bad("a Bye whose reason has control characters")
    _natural(message.departure, "departure")
    _announced(0, frames)


def _words(message: m.Refuse | m.Drain, frames: int) -> None:
    _announced(0, frames)


def _welcome(message: m.Welcome, frames: int) -> None:
    _time(message.heartbeat_s, "heartbeat_s")
    _time(message.grace_s, "grace_s")
    _time(message.walltime_s, "walltime_s")
    if not message.heartbeat_s:
        raise _bad("heartbeat_s is 0")
    _announced(0, frames)


def _work(message: m.Work, frames: int) -> None:
    announced = 0
    for lease in message.leases:
        _range(lease.first, lease.count, lease.attempt)
        _digest(lease.function, "a lease's function")
        if lease.context:
            _digest(lease.context, "a lease's context")
        _natural(lease.max_rss_bytes, "max_rss_bytes")
        taken = 0
        for skip, take, packet_frames in lease.packets:
            if not 0 <= skip <= MAX_INT or take < 1 or packet_frames < 1:
                raise _bad(f"no packet: skip {skip}, take {take}, frames {packet_frames}")
            taken += take
            announced += packet_frames
        if taken != lease.count:
            raise _bad(f"a lease of {lease.count} jobs with arguments for {taken}")
    _announced(announced, frames)


def _blob(message: m.Blob, frames: int) -> None:
    _digest(message.digest, "the blob")
    if bool(frames) != message.found:
        raise _bad(f"a blob with found={message.found} and {frames} payload frames")


def _pulse(message: m.Pulse, frames: int) -> None:
    _natural(message.seq, "seq")
    _announced(0, frames)


def _keys(message: m.Ack | m.Recall, frames: int) -> None:
    _ranges(message.keys)
    _announced(0, frames)


def _cancel(message: m.Cancel, frames: int) -> None:
    _ranges(message.keys)
    if message.outcome not in _OUTCOMES:
        raise _bad(f"outcome {message.outcome} does not exist")
    _announced(0, frames)


CHECKS: dict[type[Any], Callable[[Any, int], None]] = {
    m.Hello: _hello,
    m.Credit: _credit,
    m.NeedBlob: _need_blob,
    m.Heartbeat: _heartbeat,
    m.Results: _results,
    m.Bye: _bye,
    m.Welcome: _welcome,
    m.Refuse: _words,
    m.Work: _work,
    m.Blob: _blob,
    m.Pulse: _pulse,
    m.Ack: _keys,
    m.Recall: _keys,
    m.Cancel: _cancel,
    m.Drain: _words,
}
