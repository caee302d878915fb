"""Turns what comes back from a run into values and exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from gridmap import data
from gridmap.core.spec import Resources
from gridmap.data import Frame
from gridmap.errors import JobException, JobUnpicklable
from gridmap.failures import exception_of_failure
from gridmap.monitor.sink import Failure, Values
from gridmap.monitor.watcher import Ended


class Batch(NamedTuple):
    """Consecutive jobs that have ended: a value or a Failed for each.

    :param failures: there may be a Failed among them
    """

    first: int
    values: Sequence[Any]
    failures: bool


class Failed(Struct, frozen=True):
    """A job without a value.

    :param consequence: it only ended because another failed
    """

    error: BaseException
    consequence: bool = False


def how_of(item: Values | Failure) -> Ended:
    return Ended(item.attempts, item.place, item.seconds, item.peak_rss_bytes, item.ended_s)


def error_of(item: Failure, name: str, asked: Resources) -> BaseException:
    """Returns what became of a job; a payload that nobody can read makes it no secret."""
    try:
        return exception_of_failure(item, name, asked)
    except (Exception, SystemExit) as error:
        message = f"job {item.job} ({name}) failed on {item.place.host}; why cannot be read here: "
        return JobException(
            f"{message}{type(error).__name__}: {error}", cause=item.cause, job=item.job, name=name,
            attempts=item.attempts, host=item.place.host,
        )  # fmt: skip


def values_of(item: Values) -> Batch:
    """Unpickles values; one that cannot be read here does no harm to the others."""
    first, count = item.span
    values, errors = unpacked(item.frames, item.skip, count)
    for index, error in errors.items():
        job = first + index
        message = f"the value of job {job} cannot be read here: {type(error).__name__}: {error}"
        failed = JobUnpicklable(message, job=job, attempts=item.attempts, host=item.place.host)
        failed.__cause__ = error
        values[index] = Failed(failed)
    return Batch(first, values, bool(errors))


def unpacked(
    frames: list[Frame], skip: int, count: int
) -> tuple[list[Any], dict[int, BaseException]]:
    """Returns values of a packet, and why some cannot be read here, by their places among them.

    :param skip: so many values of the packet come before them
    """
    try:
        values = data.unpack_values(frames, skip, count)
        if type(values) is not list or len(values) != count:
            raise ValueError(f"a packet without values for {count} jobs")
        return values, {}
    except (Exception, SystemExit):  # a value may do anything when it is made again
        return _one_by_one(frames, skip, count)


def _one_by_one(
    frames: list[Frame], skip: int, count: int
) -> tuple[list[Any], dict[int, BaseException]]:
    values: list[Any] = [None] * count
    errors: dict[int, BaseException] = {}
    for index in range(count):
        try:
            values[index] = data.unpack_values(frames, skip + index, 1)[0]
        except (Exception, SystemExit) as error:
            errors[index] = error
    return values, errors
