"""What happened in a run, as plain values: who draws or tells it asks nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

COMPLETED, FAILED, CANCELED, RUNNING, QUEUED = (
    "completed", "failed", "canceled", "running", "queued",
)  # fmt: skip


class Usage(NamedTuple):
    """What a job used at one time.

    :param at_s: seconds since 1970
    :param cpu_fraction: processor time since it was last measured, in cores
    """

    at_s: float
    rss_bytes: float
    cpu_fraction: float


class JobStory(Struct):
    """What happened to a job.

    :param state: completed, failed, canceled (or skipped), running or queued
    :param cause: the cause of death; "" where there is none
    :param worker: the native id of the worker that it ran on at last
    :param attempts: how often it was started
    :param ended_s: when it ended, seconds since 1970; None where that is not known, or has not been
    :param seconds: how long its last attempt took; None where that is not known
    :param peak_rss_bytes: the most memory that its process had; None where that is not known
    :param samples: what it used while it ran, oldest first
    """

    number: int
    name: str = ""
    state: str = QUEUED
    cause: str = ""
    host: str = ""
    worker: str = ""
    attempts: int = 0
    ended_s: float | None = None
    seconds: float | None = None
    peak_rss_bytes: int | None = None
    samples: Sequence[Usage] = ()

    @property
    def begun_s(self) -> float | None:
        """When its last attempt began, seconds since 1970."""
        if self.ended_s is None or self.seconds is None:
            return None
        return self.ended_s - self.seconds


class WorkerStory(Struct):
    """When a worker was there.

    :param up_s: when it first spoke, seconds since 1970
    :param gone_s: when it was last there; None: it still is
    :param children: jobs that it runs at once
    """

    id: str
    host: str = ""
    up_s: float | None = None
    gone_s: float | None = None
    children: int = 1


class Story(Struct):
    """What happened in a run.

    :param jobs: in the order of their numbers
    :param workers: those that are known of; of others their jobs tell
    """

    run: str
    name: str
    jobs: Sequence[JobStory]
    workers: Sequence[WorkerStory] = ()
