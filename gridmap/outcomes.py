"""Turns what comes back from a run into values and exceptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from gridmap import data
from gridmap.core.spec import Resources
from gridmap.core.states import JobState
from gridmap.data import Frame
from gridmap.errors import Cause, JobException, JobUnpicklable
from gridmap.failures import exception_of_end, exception_of_failure
from gridmap.monitor.sink import Delivery, End, Failure, Values
from gridmap.monitor.watcher import Ended, Watcher


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


def batch_of(item: Delivery, watcher: Watcher, asked: Callable[[int], Resources]) -> Batch:
    """Unpacks a delivery and tells the watcher.

    :param asked: returns what the workers of a pool had been asked for
    """
    if isinstance(item, Values):
        batch, how = values_of(item), how_of(item)
        if batch.failures:
            for job, value in enumerate(batch.values, batch.first):
                if isinstance(value, Failed):
                    watcher.failed(job, value.error, Cause.UNPICKLABLE, how)
                    how = replace(how, unread=how.unread + 1)
        watcher.ended(batch.first, batch.values, how)
        return batch
    if isinstance(item, Failure):
        error = error_of(item, watcher.name(item.job), asked(item.pool))
        watcher.failed(item.job, error, item.cause, how_of(item))
        return Batch(item.job, [Failed(error)], True)
    if isinstance(item, End):
        consequence = item.state is JobState.SKIPPED
        failed = []
        for job in range(item.span.first, item.span.stop):
            ended = exception_of_end(item, job, watcher.name(job))
            watcher.failed(job, ended, item.cause, Ended(ended_s=item.ended_s))
            failed.append(Failed(ended, consequence))
        return Batch(item.span.first, failed, True)
    watcher.sampled(item)
    return Batch(item.job, [], False)


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
