"""What a job needs, said once for every scheduler: `Resources`."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

LEAST_MEMORY_BYTES = 1 << 20
"""Fewer bytes are no amount for a job: somebody meant another unit."""

MOST_MEMORY_BYTES = 1 << 60
MOST_WALLTIME_S = 1e9
MOST = 1 << 31
"""More are a mistake, and numbers that no scheduler can read."""

_MEMORY = r"([0-9]+(?:\.[0-9]+)?) ?(?:([KMGTP])|([KMGTPkmgtp])i?[Bb])"
_CLOCK = r"(?:([0-9]+)-)?([0-9]+):([0-9]{1,2}):([0-9]{1,2})"
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_UNITS = rf"(?=.)(?:({_NUMBER})d)?(?:({_NUMBER})h)?(?:({_NUMBER})m)?(?:({_NUMBER})s)?"


class NotSaid(int):
    """The default of a number, which a profile of a configuration file may replace.

    It is the number, and looks like it; only its type tells that nobody said it.
    """


class NoneSaid(tuple[str, ...]):
    """The default of a list, as NotSaid of a number."""

    __slots__ = ()


_ONE, _ZERO, _EMPTY = NotSaid(1), NotSaid(0), NoneSaid()


class Resources(Struct, frozen=True, kw_only=True):
    """What ONE job needs, in words that every scheduler is told in its own.

    :param slots: processors of one node
    :param memory: memory of the whole job, all its slots together: "4G", "512M", "4GB", "4GiB" (all
        by powers of 1024), or bytes
    :param walltime: longest time that a worker may run: seconds, a timedelta, "00:59:00",
        "1-12:00:00" (a day and 12 hours), "90m", "2h", "1d", "1h30m"
    :param gpus: GPUs, of which each process of a worker sees its own
    :param queue: queue, or partition
    :param project: project, or account, that is charged
    :param hosts: names of the hosts on one of which it runs
    :param features: what its node must have, in the scheduler's words
    :param native: options of the scheduler as they are, ["--qos=long", "-l scratch=10G"]
    :raises TypeError: something is of the wrong kind
    :raises ValueError: an amount is out of range, or could be meant in two ways
    """

    slots: int = _ONE
    memory: str | int | None = None
    walltime: str | int | float | timedelta | None = None
    gpus: int = _ZERO
    queue: str | None = None
    project: str | None = None
    hosts: Iterable[str] = _EMPTY
    features: Iterable[str] = _EMPTY
    native: Iterable[str] = _EMPTY

    def __post_init__(self) -> None:
        force_setattr(self, "slots", _whole("slots", self.slots, 1))
        force_setattr(self, "gpus", _whole("gpus", self.gpus, 0))
        for name in ("queue", "project"):
            text = getattr(self, name)
            if text is not None and not isinstance(text, str):
                raise TypeError(f"Resources: {name} is a text, not {text!r}")
        for name in ("hosts", "features", "native"):
            force_setattr(self, name, _texts(name, getattr(self, name)))
        _ = self.memory_bytes, self.walltime_s  # for their errors

    def said(self) -> dict[str, Any]:
        """Returns the fields that somebody gave, also those that he gave as the default is.

        None says nothing.
        """
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {
            name: value
            for name, value in values.items()
            if value is not None and type(value) not in (NotSaid, NoneSaid)
        }

    @property
    def memory_bytes(self) -> int:
        """Memory of the whole job; 0: it does not say."""
        return 0 if self.memory is None else memory_bytes("Resources: memory", self.memory)

    @property
    def walltime_s(self) -> float | None:
        """Time limit; None: it does not say."""
        return None if self.walltime is None else walltime_s("Resources: walltime", self.walltime)


class WithList(Resources, frozen=True, kw_only=True):
    """Resources of which a part was said by the historic `resources=[...]`.

    :param extra: that list
    """

    extra: tuple[str, ...] = ()


def memory_bytes(what: str, given: Any) -> int:
    """Returns an amount of memory in bytes.

    :param what: its name, for the error
    :raises TypeError: it is neither a text nor a whole number
    :raises ValueError: it is too little, or its unit is missing or has two meanings
    """
    if isinstance(given, str):
        found = re.fullmatch(_MEMORY, given.strip())
        if found is None:
            raise ValueError(f"{what} is {given!r}: {_why_no_memory(given.strip())}")
        unit = (found[2] or found[3]).upper()
        amount = float(found[1]) * 1024.0 ** (" KMGTP".index(unit))
        nbytes = int(min(amount, 2.0 * MOST_MEMORY_BYTES))
    else:
        try:
            nbytes = operator.index(given)
        except TypeError:
            nbytes = -1
        if isinstance(given, bool) or (nbytes < 0 and not isinstance(given, int)):
            raise TypeError(f'{what} is an amount such as "4G", or whole bytes, not {given!r}')
    if nbytes > MOST_MEMORY_BYTES:
        raise ValueError(f"{what} is {given!r:.40}, more than any machine has")
    if nbytes < LEAST_MEMORY_BYTES:
        meant = f'; say "{given}G" or "{given}M"' if isinstance(given, int) and given > 0 else ""
        raise ValueError(f"{what} is {given!r}, less than 1 MiB{meant}")
    return nbytes


def _why_no_memory(text: str) -> str:
    if re.fullmatch(_NUMBER, text):
        return f'in which unit? say "{text}G" or "{text}M"'
    if re.fullmatch(f"{_NUMBER}[kmgtp]", text):
        return f'small letters are powers of 1000 to some schedulers; say "{text.upper()}"'
    return 'it must be an amount such as "4G", "512M" or "4GiB"'


def walltime_s(what: str, given: Any) -> float:
    """Returns a length of time in seconds.

    :param what: its name, for the error
    :raises TypeError: it is neither a text, a number nor a timedelta
    :raises ValueError: it is not more than nothing, or could be meant in two ways
    """
    if isinstance(given, bool) or not (
        isinstance(given, (str, float))
        or hasattr(given, "total_seconds")
        or hasattr(given, "__index__")
    ):
        raise TypeError(f'{what} is seconds, a timedelta, or a text such as "2h", not {given!r}')
    try:
        if isinstance(given, str):
            seconds = _seconds(what, given)
        else:
            seconds = float(given.total_seconds() if hasattr(given, "total_seconds") else given)
    except OverflowError:
        seconds = float("inf")
    if not 0 < seconds <= MOST_WALLTIME_S:
        raise ValueError(f"{what} is {given!r:.40}; it must be more than nothing, and an end")
    return seconds


def _seconds(what: str, given: str) -> float:
    text = given.strip()
    clock = re.fullmatch(_CLOCK, text)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    units = re.fullmatch(_UNITS, text)
    if units:
        parts = (float(part or 0) for part in units.groups())
        return sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=True))
    if re.fullmatch(_NUMBER, text):
        why = f'in which unit? say {text} (seconds) or "{text}m"'
    elif re.fullmatch(r"[0-9]+:[0-9]+", text):
        why = f'hours and minutes, or minutes and seconds? say "{text}:00" or "0:{text}"'
    else:
        why = 'it must be a time such as "00:59:00", "1-12:00:00", "90m" or "2h"'
    raise ValueError(f"{what} is {given!r}: {why}")


def _whole(name: str, given: Any, least: int) -> int:
    if type(given) is NotSaid:
        return given
    try:
        number = operator.index(given)  # NumPy's whole numbers are some, too
    except TypeError:
        number = None
    if isinstance(given, bool) or number is None:
        raise TypeError(f"Resources: {name} is a whole number, not {given!r}")
    if number < least:
        raise ValueError(f"Resources: {name} is {number}; it must be {least} or more")
    if number > MOST:
        raise ValueError(f"Resources: {name} is {number!r:.40}, which is too many")
    return number


def _texts(name: str, given: Any) -> tuple[str, ...]:
    if type(given) is NoneSaid:
        return given
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"Resources: {name} is a list of texts, not {given!r}")
    texts = tuple(given)
    if not all(isinstance(text, str) and text for text in texts):
        raise TypeError(f"Resources: {name} is a list of texts, none of them empty: {given!r}")
    return texts
