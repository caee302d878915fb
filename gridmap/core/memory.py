"""How near a job is to a limit on its memory, when to look again, and what died for want of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gridmap.errors import signal_name

LOOK_S = 1.0
"""Time between two looks at the memory of jobs that are far from any limit."""

LOOK_OFTEN_S = 0.05
"""Least time between two looks, at jobs that grow and will soon be at a limit."""

LOOK_NEAR_S = 0.1
"""The same, at jobs that are near a limit and stay there: memory often grows by leaps."""

NEAR_FRACTION = 0.9
"""Of a limit: from there on the monitor is told at once, and the kernel's SIGKILL is believed."""

AGAIN_FRACTION = 0.8
"""Of a limit: below it, coming near is news again."""

SPENT_FRACTION = 0.95
"""Of an address space: whoever aborts, crashes or exits with so much of it had no more."""

H_VMEM, CGROUP, MAX_RSS, MACHINE = "h_vmem", "cgroup", "max_rss", ""
"""The names of the limits; the machine's own has none."""

SIGABRT, SIGBUS, SIGKILL, SIGSEGV = 6, 7, 9, 11
_CRASHES = frozenset({SIGABRT, SIGBUS, SIGSEGV})


class Mark(NamedTuple):
    """What is used of one limit.

    :param used_bytes: 0 where it is not known
    """

    limit: str
    used_bytes: int
    limit_bytes: int

    @property
    def fraction(self) -> float:
        """The part of the limit that is used."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes > 0 else 0.0


class Killed(NamedTuple):
    """What the kernel's counters say around a death.

    :param limit: CGROUP: one was ended for want of memory in the worker's own group; MACHINE:
        one somewhere on this machine, where groups cannot be asked; None: none was
    """

    limit: str | None = None


def marks(measured: Iterable[Mark], rss_bytes: int, max_rss_bytes: int) -> tuple[Mark, ...]:
    """Returns the limits that hold for a job, the user's own among them."""
    own = (Mark(MAX_RSS, rss_bytes, max_rss_bytes),) if max_rss_bytes > 0 else ()
    return (*measured, *own)


def least(of: Iterable[Mark]) -> int:
    """Returns the least of the limits, 0 where there is none."""
    return min((mark.limit_bytes for mark in of), default=0)


def nearest(of: Iterable[Mark]) -> float:
    """Returns how much is used of the limit that is nearest, as a fraction."""
    return max((mark.fraction for mark in of), default=0.0)


def part_of(group: Mark, own_bytes: int, others_bytes: int, jobs: int) -> Mark:
    """Returns what a job has of a limit that several share, and what it may have.

    That is its even part, or what the others leave, whichever is more; while the limit is far, it
    is all of it.

    Held by tests/core/test_memory.py::test_a_job_may_have_its_part_and_what_others_leave.
    """
    if jobs < 2 or group.fraction < AGAIN_FRACTION:
        return group
    may_bytes = max(group.limit_bytes // jobs, group.limit_bytes - others_bytes)
    return Mark(group.limit, own_bytes, may_bytes)


def culprit(group: Mark, victim_bytes: int, used: Mapping[int, int], jobs: int) -> int | None:
    """Returns who of those that share a limit is to pay for it in place of the one that was ended.

    The kernel ends the largest process, but a job is all of its processes: whoever had less than
    its even part is spared if another has more than that.

    :param victim_bytes: what the job had that was ended
    :param used: what the others have
    :returns: one of the keys of `used`; None: the right one was ended

    Held by tests/core/test_memory.py::test_who_pays_for_a_limit_that_jobs_share.
    """
    part_bytes = group.limit_bytes // jobs
    if jobs < 2 or not part_bytes or victim_bytes >= NEAR_FRACTION * part_bytes:
        return None
    largest = max(used, key=lambda key: used[key], default=None)
    return largest if largest is not None and used[largest] > part_bytes else None


def over(of: Iterable[Mark]) -> Mark | None:
    """Returns the user's own limit if it is exceeded; the others see to themselves."""
    return next((m for m in of if m.limit == MAX_RSS and m.used_bytes > m.limit_bytes), None)


def look_after_s(now: Iterable[Mark], before: Iterable[Mark], gone_s: float) -> float:
    """Returns when to look again: the less is left of a limit, the sooner, and at half of the time
    in which it would be met by going on like that.

    :param before: the marks of the last look, `gone_s` ago; what it did not see was not there

    Held by tests/core/test_memory.py::test_who_grows_towards_a_limit_is_looked_at_more_often.
    """
    used = {mark.limit: mark.used_bytes for mark in before}
    wait_s = LOOK_S
    for mark in now:
        wait_s = min(wait_s, max(LOOK_NEAR_S, LOOK_S * (1 - mark.fraction)))
        grown = mark.used_bytes - used.get(mark.limit, 0)
        if grown > 0 and gone_s > 0:
            left = max(0, mark.limit_bytes - mark.used_bytes)
            wait_s = min(wait_s, left / (grown / gone_s) / 2)
    return max(wait_s, LOOK_OFTEN_S)


def cause_of_death(
    of: Iterable[Mark],
    exit_status: int,
    signal: int,
    risen_rss_bytes: int,
    killed: Killed,
) -> Mark | None:
    """Returns the limit that ended a child which nobody else ended; None where nothing proves it.

    :param of: what was used when last measured
    :param risen_rss_bytes: largest resident set of the child, if it rose to that in the job that it
        died in, else 0

    Held by tests/core/test_memory.py::test_what_counts_as_a_death_for_want_of_memory.
    """
    limits = [mark for mark in of if mark.limit != MAX_RSS]
    # resident memory is part of the address space, and of what a group uses
    limits = [m._replace(used_bytes=max(m.used_bytes, risen_rss_bytes)) for m in limits]
    if signal == SIGKILL:
        if killed.limit is not None:
            known = next((mark for mark in limits if mark.limit == killed.limit), None)
            return known or Mark(killed.limit, risen_rss_bytes, 0)
        near = [mark for mark in limits if mark.fraction >= NEAR_FRACTION]
    elif signal in _CRASHES or exit_status > 0:
        near = [m for m in limits if m.limit == H_VMEM and m.fraction >= SPENT_FRACTION]
    else:
        return None
    return max(near, key=lambda mark: mark.fraction, default=None)


def describe(mark: Mark, exit_status: int, signal: int, jobs: int = 1) -> str:
    """Returns what to say of a job that died for want of memory.

    :param jobs: how many share what their control group may have
    """
    used, allowed = human(mark.used_bytes), human(mark.limit_bytes)
    if mark.limit == MAX_RSS:
        return f"used {used} of the {allowed} that max_rss allows"
    end = f"killed by {signal_name(signal)}" if signal else f"exited with status {exit_status}"
    if mark.limit == H_VMEM:
        return f"{end} with {used} of the {allowed} of address space that h_vmem allows"
    if mark.limit == CGROUP and mark.limit_bytes:
        shared = f" for {jobs} jobs at once" if jobs > 1 else ""
        return f"{end} for want of memory: its control group may have {allowed}{shared}"
    return f"{end} for want of memory: the kernel says that it ended a process at that time"


def describe_share(used_bytes: int, group: Mark, jobs: int) -> str:
    """Returns what to say of a job that was ended because another one had paid for it."""
    return (
        f"used {human(used_bytes)}, where {jobs} jobs share the {human(group.limit_bytes)} of "
        "their control group; another of them was ended for want of memory"
    )


def human(size: int) -> str:
    """Returns a size of memory for people."""
    for unit, name in ((1024**3, "GB"), (1024**2, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1024:.0f} KB"
