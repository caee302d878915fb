"""What to do about a job that failed: `Retry`, and which pools of workers that takes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from gridmap.backends.native import memory_bytes, memory_text, walltime_s
from gridmap.core.spec import PoolSpec, Resources, RetryRule
from gridmap.errors import Cause

CAUSES = ("died", "memory", "walltime", "silent", "stalled", "preempted", "canceled")
"""Causes of death of attempts; what a function raises is a matter of `retry_on`."""

MOST_STEPS = 16
"""So often a request is raised at most."""

_MEMORY = re.compile(r"(h_vmem|s_vmem|h_rss|s_rss|h_data|s_data|mem_free|virtual_free)=(.+)")
_TIME = re.compile(r"([hs]_rt)=(.+)")


@dataclass(frozen=True)
class Retry:
    """Whether, when, where and with what a job is tried again whose attempt failed.

    :param times: how often at most; NUM_RESUBMITS when not given
    :param backoff_s: seconds until the second try; doubled before each further one
    :param backoff_most_s: longest of these pauses
    :param other_host: prefer another host than that of the last try, where there is one
    :param memory: after a death for want of memory, ask for so many times as much
        (`h_vmem`, `mem_free`, `max_rss`); 1: the same again
    :param memory_most: but not for more than this, "64G"
    :param time: after a death for want of time, ask for so many times as much (`h_rt`); with 1 such
        a job is not tried again
    :param time_most: but not for more than this, "24:00:00" or seconds
    :param causes: the causes of death after which to try again: "died", "memory", "walltime",
        "silent", "stalled", "preempted", "canceled"; when not given, all but "walltime"
    :raises TypeError: something is of the wrong kind
    :raises ValueError: a number is out of range, a cause or an amount is none
    """

    times: int | None = None
    _: KW_ONLY
    backoff_s: float = 0.1
    backoff_most_s: float = 30.0
    other_host: bool = True
    memory: float = 1.0
    memory_most: str | int | None = None
    time: float = 1.0
    time_most: str | int | None = None
    causes: Iterable[str] | None = None

    def __post_init__(self) -> None:
        least = {"backoff_s": 0, "backoff_most_s": 0, "memory": 1, "time": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"Retry: {name} is a number, not {value!r}")
            if not low <= value < float("inf"):
                raise ValueError(f"Retry: {name} is {value}; it must be {low} or more")
        if self.times is not None:
            if isinstance(self.times, bool) or not isinstance(self.times, int):
                raise TypeError(f"Retry: times is a whole number, not {self.times!r}")
            if self.times < 0:
                raise ValueError(f"Retry: times is {self.times}; it must be 0 or more")
        if self.memory_most is not None:
            memory_bytes("memory_most", self.memory_most)
        walltime_s(self.time_most)
        if isinstance(self.causes, str):
            raise TypeError(f"Retry: causes are a list of names, not the text {self.causes!r}")
        object.__setattr__(self, "causes", self._checked_causes())

    def _checked_causes(self) -> tuple[str, ...] | None:
        if self.causes is None:
            return None
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
            causes = tuple(causes) or (Cause.EXCEPTION.value,)
        return RetryRule(
            times=-1 if self.times is None else self.times,
            causes=tuple(causes or ()),
            backoff_s=float(self.backoff_s),
            backoff_most_s=float(self.backoff_most_s),
            other_host=bool(self.other_host),
            no_memory=issubclass(MemoryError, retry_on),
            memory=float(self.memory),
            memory_most_bytes=self._memory_most_bytes,
        )

    @property
    def _memory_most_bytes(self) -> int:
        return memory_bytes("memory_most", self.memory_most) if self.memory_most else 0

    def more_memory(self, resources: Resources) -> Resources:
        """Returns what to ask for after a death for want of memory."""
        if self.memory <= 1:
            return resources

        def more(text: str) -> str:
            return _more_memory(text, self.memory, self._memory_most_bytes)

        extra = tuple(
            f"{found[1]}={more(found[2])}" if (found := _MEMORY.fullmatch(request)) else request
            for request in resources.extra
        )
        h_vmem, mem_free = more(resources.h_vmem), more(resources.mem_free)
        return replace(resources, h_vmem=h_vmem, mem_free=mem_free, extra=extra)

    def more_time(self, resources: Resources) -> Resources:
        """Returns what to ask for after a death for want of time."""
        if self.time <= 1:
            return resources
        most = walltime_s(self.time_most) or float("inf")

        def more(text: str) -> str:
            now = walltime_s(text)
            wanted = 0.0 if now is None else min(now * self.time, most)
            return text if now is None or wanted <= now else f"{wanted:.0f}"

        extra = tuple(
            f"{found[1]}={more(found[2])}" if (found := _TIME.fullmatch(request)) else request
            for request in resources.extra
        )
        h_rt = more(resources.h_rt)
        return replace(resources, h_rt=h_rt, walltime_s=walltime_s(h_rt), extra=extra)


def _more_memory(text: str, factor: float, most_bytes: int) -> str:
    if not text:
        return text
    now = memory_bytes("memory", text)
    wanted = min(int(now * factor), most_bytes or int(now * factor))
    return memory_text(wanted) if wanted > now else text


def as_retry(given: Any) -> Retry:
    """Returns a Retry for what a user passed as `retry`.

    :raises TypeError: it is neither a Retry nor a number of tries
    """
    if given is None:
        return Retry()
    if isinstance(given, Retry):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return Retry(given)
    raise TypeError(f"retry is a gridmap.Retry or a number of tries, not {given!r}")


def as_exceptions(given: Any) -> tuple[type[BaseException], ...]:
    """Returns the exceptions that a user passed as `retry_on`.

    :raises TypeError: something there is no class of exceptions
    """
    classes = (given,) if isinstance(given, type) else given
    if classes is None:
        return ()
    if not isinstance(classes, Iterable):
        raise TypeError(f"retry_on is a tuple of exceptions, not {given!r}")
    found = tuple(classes)
    for each in found:
        if not isinstance(each, type) or not issubclass(each, Exception):
            raise TypeError(f"retry_on: {each!r} is no class of exceptions")
    return found


def ladder(wanted: Iterable[tuple[Resources, Retry]], times: int) -> list[PoolSpec]:
    """Returns the pools of workers that jobs may need, the pools for the wanted ones first.

    :param wanted: what jobs ask for, and what to do when that was too little; each pair once
    :param times: how often a job is tried again where its Retry does not say
    """
    pools: list[PoolSpec] = []
    retries: list[Retry] = []
    steps: list[int] = []
    known: dict[tuple[Resources, Retry], int] = {}

    def number(resources: Resources, retry: Retry, left: int) -> int:
        key = resources, retry
        if key not in known:
            known[key] = len(pools)
            pools.append(PoolSpec(resources))
            retries.append(retry)
            steps.append(left)
        return known[key]

    for resources, retry in wanted:
        left = times if retry.times is None else retry.times
        number(resources, retry, min(left, MOST_STEPS))
    at = 0
    while at < len(pools):
        pool, retry, left = pools[at].resources, retries[at], steps[at]
        memory, time = retry.more_memory(pool), retry.more_time(pool)
        if left > 0:
            pools[at] = PoolSpec(
                pool,
                number(memory, retry, left - 1) if memory != pool else -1,
                number(time, retry, left - 1) if time != pool else -1,
            )
        at += 1
    return pools
