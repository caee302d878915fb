"""What to do about a job that failed: `Retry`, and which pools of workers that takes."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from gridmap.backends.native import memory_bytes, memory_text, walltime_s
from gridmap.core.spec import PoolSpec, Resources, RetryRule
from gridmap.resources import memory_bytes as amount_bytes
from gridmap.resources import walltime_s as duration_s

CAUSES = ("died", "memory", "walltime", "silent", "stalled", "preempted", "canceled")
"""Causes of death of attempts; what a function raises is a matter of `retry_on`."""

MOST_STEPS = 16
"""So often a request is raised at most."""

USUAL_PAUSE_S = 30.0
"""Longest pause between two tries where nothing else was asked for."""

MOST_PAUSE_S = 1e8
MOST_FACTOR = 1e6

_MEMORY = re.compile(r"(h_vmem|s_vmem|h_rss|s_rss|h_data|s_data|mem_free|virtual_free)=(.+)")
_TIME = re.compile(r"([hs]_rt)=(.+)")

NO_CAUSE = "none"
"""Stands in a rule for an empty list, and is the name of no cause."""


class _Times(Struct, frozen=True):
    times: int | None = None


class Retry(_Times, frozen=True, kw_only=True):
    """Whether, when, where and with what a job is tried again whose attempt failed.

    :param times: how often at most; NUM_RESUBMITS when not given
    :param backoff_s: seconds until the second try; doubled before each further one
    :param backoff_most_s: longest of these pauses; 30, or `backoff_s` if that is more, when not
        given
    :param other_host: prefer another host than that of the last try, where there is one
    :param memory: after a death for want of memory, ask for so many times as much
        (`memory`, `h_vmem`, `mem_free`, `max_rss`); 1: the same again
    :param memory_most: but not for more than this, "64G"
    :param time: after a death for want of time, ask for so many times as much (`walltime`,
        `h_rt`); with 1 such a job is not tried again
    :param time_most: but not for more than this, "24:00:00", "24h" or seconds
    :param causes: the causes of death after which to try again: "died", "memory", "walltime",
        "silent", "stalled", "preempted", "canceled"; when not given, all but "walltime"
    :raises TypeError: something is of the wrong kind
    :raises ValueError: a number is out of range, a cause or an amount is none
    """

    backoff_s: float = 0.1
    backoff_most_s: float | None = None
    other_host: bool = True
    memory: float = 1.0
    memory_most: str | int | None = None
    time: float = 1.0
    time_most: str | int | None = None
    causes: Iterable[str] | None = None

    def __post_init__(self) -> None:
        if self.times is not None:
            force_setattr(self, "times", _whole("times", self.times))
        _number("backoff_s", self.backoff_s, 0, MOST_PAUSE_S)
        if self.backoff_most_s is not None:
            _number("backoff_most_s", self.backoff_most_s, self.backoff_s, MOST_PAUSE_S)
        _number("memory", self.memory, 1, MOST_FACTOR)
        _number("time", self.time, 1, MOST_FACTOR)
        if not isinstance(self.other_host, bool):
            raise TypeError(f"Retry: other_host is True or False, not {self.other_host!r}")
        if self.memory_most is not None:
            amount_bytes("Retry: memory_most", self.memory_most)
        if self.time_most is not None:
            duration_s("Retry: time_most", self.time_most)
        force_setattr(self, "causes", self._checked_causes())

    def _checked_causes(self) -> tuple[str, ...] | None:
        if self.causes is None:
            return None
        if isinstance(self.causes, str) or not isinstance(self.causes, Iterable):
            raise TypeError(f"Retry: causes are a list of names, not {self.causes!r}")
        causes = tuple(str(cause) for cause in self.causes)
        for cause in causes:
            if cause not in CAUSES:
                raise ValueError(
                    f"Retry: {cause!r} is no cause of death; there are {', '.join(CAUSES)}"
                    + (" (for exceptions there is retry_on)" if cause == "exception" else "")
                )
        return causes

    def rule(self, retry_on: tuple[type[BaseException], ...]) -> RetryRule:
        """Returns what the dispatcher has to know of it.

        :param retry_on: exceptions after which to try again, too
        """
        causes = self.causes
        if causes is not None:
            # an empty list means none; a rule's means all that make sense
            causes = tuple(causes) or (NO_CAUSE,)
        return RetryRule(
            times=-1 if self.times is None else self.times,
            causes=tuple(causes or ()),
            backoff_s=float(self.backoff_s),
            backoff_most_s=float(self.longest_pause_s),
            other_host=self.other_host,
            no_memory=any(each in MemoryError.__mro__ for each in retry_on),
            memory=float(self.memory),
            memory_most_bytes=self._memory_most_bytes,
        )

    @property
    def longest_pause_s(self) -> float:
        """Returns the longest pause between two tries."""
        if self.backoff_most_s is None:
            return max(USUAL_PAUSE_S, self.backoff_s)
        return self.backoff_most_s

    @property
    def growth(self) -> tuple[object, ...]:
        """Returns what makes its jobs need pools of workers that others do not need."""
        if self.memory <= 1 and self.time <= 1:
            return ()
        return self.times, self.memory, self.memory_most, self.time, self.time_most

    @property
    def _memory_most_bytes(self) -> int:
        if self.memory_most is None:
            return 0
        return amount_bytes("memory_most", self.memory_most)

    def more_memory(self, resources: Resources) -> Resources:
        """Returns what to ask for after a death for want of memory."""
        if self.memory <= 1:
            return resources

        def more(name: str, text: str) -> str:
            return _more_memory(name, text, self.memory, self._memory_most_bytes)

        extra = tuple(
            f"{found[1]}={more(*found.groups())}" if (found := _MEMORY.fullmatch(one)) else one
            for one in resources.extra
        )
        most = self._memory_most_bytes or float("inf")
        of_all = resources.memory_bytes
        return replace(
            resources,
            h_vmem=more("h_vmem", resources.h_vmem),
            mem_free=more("mem_free", resources.mem_free),
            extra=extra,
            memory_bytes=max(of_all, int(min(of_all * self.memory, most))),
        )

    def more_time(self, resources: Resources) -> Resources:
        """Returns what to ask for after a death for want of time."""
        if self.time <= 1:
            return resources
        given = self.time_most
        most = float("inf") if given is None else duration_s("time_most", given)

        def more(name: str, text: str) -> str:
            now = walltime_s(text, name)
            wanted = 0.0 if now is None else min(now * self.time, most)
            return text if now is None or wanted <= now else f"{wanted:.0f}"

        extra = tuple(
            f"{found[1]}={more(*found.groups())}" if (found := _TIME.fullmatch(one)) else one
            for one in resources.extra
        )
        h_rt = more("h_rt", resources.h_rt)
        limit = walltime_s(h_rt) if h_rt else resources.walltime_s
        if limit is not None and not h_rt:
            limit = max(limit, min(limit * self.time, most))
        return replace(resources, h_rt=h_rt, walltime_s=limit, extra=extra)


def _more_memory(name: str, text: str, factor: float, most_bytes: int) -> str:
    if not text:
        return text
    now = memory_bytes(name, text)
    wanted = min(int(now * factor), most_bytes or int(now * factor))
    return memory_text(wanted) if wanted > now else text


def _number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Retry: {name} is a number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"Retry: {name} is {value!r:.20}; it must be from {least:g} to {most:g}")


def _whole(name: str, value: Any) -> int:
    try:
        number = operator.index(value)  # NumPy's whole numbers are some, too
    except TypeError:
        number = -1
    if isinstance(value, bool) or (number < 0 and not isinstance(value, int)):
        raise TypeError(f"Retry: {name} is a whole number, not {value!r}")
    if number < 0:
        raise ValueError(f"Retry: {name} is {number}; it must be 0 or more")
    return number


def as_retry(given: Any) -> Retry:
    """Returns a Retry for what a user passed as `retry`.

    :raises TypeError: it is neither a Retry nor a number of tries
    """
    if given is None:
        return Retry()
    if isinstance(given, Retry):
        return given
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise TypeError(f"retry is a gridmap.Retry or a number of tries, not {given!r}")
    return Retry(given)


def as_exceptions(given: Any) -> tuple[type[BaseException], ...]:
    """Returns the exceptions that a user passed as `retry_on`.

    :raises TypeError: something there is no class of exceptions
    """
    classes = (given,) if isinstance(given, type) else given
    if classes is None:
        return ()
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise TypeError(f"retry_on is a tuple of exceptions, not {given!r}")
    found = tuple(classes)
    for each in found:
        if not isinstance(each, type) or Exception not in each.__mro__:
            raise TypeError(f"retry_on: {each!r} is no class of exceptions")
    return found


def ladder(wanted: Iterable[tuple[Resources, Retry]], times: int) -> list[PoolSpec]:
    """Returns the pools of workers that jobs may need, the pools for the wanted ones first.

    :param wanted: what jobs ask for, and what to do when that was too little; each once
    :param times: how often a job is tried again where its Retry does not say
    """
    pools: list[PoolSpec] = []
    retries: list[Retry] = []
    steps: list[int] = []
    known: dict[tuple[object, ...], int] = {}

    def number(resources: Resources, retry: Retry, left: int, growth: float = 1.0) -> int:
        key = resources, retry.growth
        if key not in known:
            known[key] = len(pools)
            pools.append(PoolSpec(resources, growth=growth))
            retries.append(retry)
            steps.append(left)
        return known[key]

    for resources, retry in wanted:
        left = times if retry.times is None else retry.times
        number(resources, retry, min(left, MOST_STEPS))
    at = 0
    while at < len(pools):
        pool, retry, left = pools[at].resources, retries[at], steps[at]
        memory, time, growth = retry.more_memory(pool), retry.more_time(pool), pools[at].growth
        if left > 0:
            more = growth * retry.memory
            pools[at] = PoolSpec(
                pool,
                number(memory, retry, left - 1, more) if memory != pool else -1,
                number(time, retry, left - 1, growth) if time != pool else -1,
                growth,
            )
        at += 1
    return pools
