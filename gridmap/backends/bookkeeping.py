"""What every backend by commands keeps of its workers; a subclass says what the commands are."""

from __future__ import annotations

import logging
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from gridmap.backends.base import STUCK, SubmitRequest
from gridmap.backends.commands import tail, worker_logs
from gridmap.core.events import NativeState, NativeStatus
from gridmap.errors import BackendError

log = logging.getLogger(__name__)

GONE_AFTER_S = 3.0
"""A worker that nobody lists for so long has ended."""

TRUSTED_S = 60.0
"""A worker that waited so short a time ago and is gone was deleted: it could not run and end."""

MOST_IDS = 500
"""Workers that one call of a command names."""

MOST_HISTORY_S = 60.0
"""Time that a run spends in all on asking the accounting what became of its workers."""

ENDED = (NativeState.DONE, NativeState.FAILED, NativeState.DELETED)


class InDoubt(BackendError):
    """A submission seems to have failed; the scheduler may have heard it all the same."""


class BackendByCommands(ABC):
    """A Backend of one run, but for what its subclass knows: how to start, list and delete.

    :cvar name: what the registry calls it
    :cvar scheduler: what people call it
    """

    name: str
    scheduler: str
    largest_array = 0
    """Workers that one submission may start; 0 where there are no arrays: one."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._ended: dict[str, NativeStatus] = {}
        self._log_dirs: dict[str, str] = {}
        self._canceled: set[str] = set()
        self._strays: set[str] = set()
        self._waits: dict[str, float] = {}  # at the last look, which was then
        self._missing_since: dict[str, float] = {}
        self._in_doubt: set[str] = set()
        self._unread: set[str] = set()
        self._history_s = MOST_HISTORY_S
        self.gone_after_s = GONE_AFTER_S

    # --- what is the scheduler's own --------------------------------------------------------------

    @abstractmethod
    def _start(self, request: SubmitRequest, count: int) -> list[str]:
        """Makes one submission, of `count` workers; returns one native id for each.

        :raises InDoubt: it may have been heard all the same
        :raises BackendError: it was refused; the message has the scheduler's own words
        """

    @abstractmethod
    def _listed(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        """Returns what the queue says of these workers, and perhaps of others.

        :raises BackendError: it does not answer
        """

    def _history(self, ids: Sequence[str]) -> Mapping[str, NativeStatus] | None:
        """Returns what is recorded of workers that the queue has forgotten; None: no answer."""
        return None

    @abstractmethod
    def _named(self, run_tag: str) -> list[str]:
        """Returns the workers of a run that the queue lists, without those that are ending.

        :raises BackendError: it does not answer
        """

    @abstractmethod
    def _delete(self, ids: Sequence[str]) -> None:
        """Deletes workers; one that is gone already is no error.

        :raises BackendError: that was not possible
        """

    def _told(self, native_id: str) -> str:
        """Returns what else the scheduler tells of a worker, for a human."""
        return ""

    # --- starting ---------------------------------------------------------------------------------

    def submit(self, request: SubmitRequest) -> list[str]:
        """Starts `count` workers, in several submissions where one is not enough; all or none."""
        self._delete_strays()
        ids: list[str] = []
        jobs: list[str] = []
        try:
            while len(ids) < request.count:
                count = min(request.count - len(ids), self.largest_array or 1)
                started = self._start(request, count)
                ids += started
                jobs += dict.fromkeys(map(job_of, started))
        except BackendError as error:
            if ids or isinstance(error, InDoubt):
                self._in_doubt.add(request.run_tag)
            if ids:
                self._cancel_after_failure(ids)
            raise
        self._known.update(ids)
        self._log_dirs.update(dict.fromkeys(ids, request.log_dir))
        log.info("run %s: %d workers submitted as %s", request.run_tag, len(ids), jobs)
        return ids

    def _delete_strays(self) -> None:
        """Deletes what came of submissions that seemed to fail, however late it came.

        :raises BackendError: that cannot be found out now
        """
        for run_tag in self._in_doubt:
            strays = set(self.find(run_tag)) - self._known
            if strays:
                log.info("run %s: %s came of a submission that seemed to fail", run_tag, strays)
                self._strays |= strays
                self._delete(sorted(strays))

    def _cancel_after_failure(self, ids: Sequence[str]) -> bool:
        """Deletes workers that nobody is told of; returns whether that was possible."""
        self._canceled.update(ids)
        try:
            self._delete(ids)
        except BackendError as error:
            some = ", ".join(ids[:5])
            log.warning("%d workers (%s) remain submitted: %s", len(ids), some, error)
            return False
        return True

    # --- asking -----------------------------------------------------------------------------------

    def status(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        """Asks once for all of them; the accounting for those that the queue has forgotten."""
        answer = {x: self._ended[x] for x in ids if x in self._ended}
        asked = [x for x in ids if x not in answer]
        if not asked:
            return answer
        listed = self._listed(asked)
        recorded = self._recorded([x for x in asked if x not in listed])
        now = time.monotonic()
        for native_id in asked:
            status = listed.get(native_id) or recorded.get(native_id)
            if status is None:
                since = self._missing_since.setdefault(native_id, now)
                if now < since + self.gone_after_s:
                    continue
                status = self._gone(native_id, now)
            else:
                self._missing_since.pop(native_id, None)
            answer[native_id] = self._settled(native_id, status, now)
        stuck = [x for x in asked if x in answer and is_stuck(answer[x])]
        if stuck and not self._cancel_after_failure(stuck):
            for native_id in stuck:  # it is tried again
                del self._ended[native_id]
        return answer

    def _recorded(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        """Returns what the accounting says; nothing where there is none, or it takes long."""
        answer: dict[str, NativeStatus] = {}
        for at in range(0, len(ids), MOST_IDS):
            if self._history_s <= 0:
                break
            began = time.monotonic()
            found = self._history(ids[at : at + MOST_IDS])
            self._history_s -= time.monotonic() - began
            if found is None:
                break
            answer |= found
        return answer

    def _gone(self, native_id: str, now: float) -> NativeStatus:
        """Returns the ending of a worker that nothing is known of any more.

        One that is deleted while it waits may leave no trace (measured on Slurm 22.05).
        """
        if now < self._waits.get(native_id, -math.inf) + TRUSTED_S:
            text = f"deleted before it started, as it seems: {self.scheduler} no longer knows it"
            return NativeStatus(NativeState.DELETED, text)
        return NativeStatus(NativeState.FAILED, f"{self.scheduler} no longer knows it")

    def _settled(self, native_id: str, status: NativeStatus, now: float) -> NativeStatus:
        """Keeps an ending, and tells what was deleted on our own request."""
        if status.state not in ENDED:
            if status.state in (NativeState.PENDING, NativeState.HELD):
                self._waits[native_id] = now
            else:
                self._waits.pop(native_id, None)
            if status.state is NativeState.UNKNOWN and status.text not in self._unread:
                self._unread.add(status.text)
                log.warning("worker %s: %s, which tells nothing", native_id, status.text)
            return status
        if native_id in self._strays:
            status = NativeStatus(NativeState.FAILED, "it came of a submission that seemed to fail")
        elif (
            native_id in self._canceled
            and status.state is NativeState.FAILED
            and not is_stuck(status)
        ):
            text = f"deleted on GridMap's request; {status.text}"
            status = NativeStatus(NativeState.DELETED, text)
        self._ended[native_id] = status
        return status

    def find(self, run_tag: str) -> list[str]:
        """Returns the run's workers that the queue lists, without those that are ending."""
        return self._named(run_tag)

    def adopt(self, ids: Sequence[str]) -> None:
        """Takes workers over; commands reach those of any process."""
        self._known.update(ids)

    def diagnose(self, native_id: str) -> str:
        """Returns what the scheduler, its accounting and the worker's log say of it."""
        told = []
        try:
            status = self.status([native_id]).get(native_id)
            if status is not None:
                told.append(f"{self.scheduler} says: {status.state.value}, {status.text}")
        except BackendError as error:
            told.append(str(error))
        recorded = self._recorded([native_id]).get(native_id)
        if recorded is not None:
            told.append(recorded.text)
        told.append(self._told(native_id))
        if native_id in self._log_dirs:
            told += map(tail, worker_logs(self._log_dirs[native_id], native_id))
        return "\n".join(filter(None, told)) or "nothing is known of it"

    # --- ending -----------------------------------------------------------------------------------

    def cancel(self, ids: Sequence[str]) -> None:
        """Deletes workers."""
        self._canceled.update(ids)
        live = [x for x in ids if x not in self._ended]
        if live:
            self._delete(live)

    def close(self) -> None:
        """Deletes what came late of submissions that seemed to fail; workers go on."""
        try:
            self._delete_strays()
        except BackendError as error:
            log.warning("workers may be left of a submission that seemed to fail: %s", error)


def is_stuck(status: NativeStatus) -> bool:
    """Returns whether a worker has failed, and is in the queue until it is deleted."""
    return status.text.startswith(STUCK)


def job_of(native_id: str) -> str:
    """Returns the job of an element of an array: "12" of "12.3", "12_3" and "12[3].server"."""
    found = re.match(r"\d+", native_id)
    return found[0] if found else native_id
