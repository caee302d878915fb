"""The one DRMAA session of a process, shared by all its runs, and the only caller of the C library.

DRMAA permits one session a process, and its Python package keeps one buffer for all error texts: so
every call is made here, under one lock. Waiting for "any job" returns the jobs of all runs; their
endings are kept in one table, from which each run takes its own.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from gridmap.backends.drmaa_library import load_drmaa
from gridmap.core.events import NativeState, NativeStatus
from gridmap.errors import BackendError, DRMAANotPresentException

log = logging.getLogger(__name__)

REAP_TIME_S = 1.0
ANSWER_S = 10.0
GONE_AFTER_S = 5.0

# GFD.133 "drmaa_job_ps". What is not here is UNKNOWN.
STATES: dict[str, NativeState] = {
    "queued_active": NativeState.PENDING,
    "system_on_hold": NativeState.HELD,
    "user_on_hold": NativeState.HELD,
    "user_system_on_hold": NativeState.HELD,
    "running": NativeState.RUNNING,
    "system_suspended": NativeState.SUSPENDED,
    "user_suspended": NativeState.SUSPENDED,
    "user_system_suspended": NativeState.SUSPENDED,
    "done": NativeState.DONE,
    "failed": NativeState.FAILED,
    "undetermined": NativeState.UNKNOWN,
}
NO_USAGE = NativeStatus(NativeState.DELETED, "deleted before it started")
"""How a job ended that the library has no usage of."""

_ENDED = (NativeState.DONE, NativeState.FAILED)
_TRANSIENT = ("DrmCommunicationException", "TryLaterException")


class Ending(NamedTuple):
    """What drmaa_wait says of a job."""

    exited: bool = False
    exit_status: int = 0
    signal_name: str = ""
    aborted: bool = False
    usage: Mapping[str, str] = {}


def status_of_ending(ending: Ending | None) -> NativeStatus:
    """Returns how a job ended; None stands for a job without usage.

    Measured on Son of Grid Engine 8.1.9: a job deleted before it started has no usage; one deleted
    while it ran is aborted; one that could not be started is aborted too, without a start time;
    a node or a shepherd that died leaves neither exit nor signal, and a status of 0 that means
    nothing.
    """
    if ending is None:
        return NO_USAGE
    after = f" after {float(ending.usage.get('ru_wallclock', 0)):.0f} s"
    if ending.aborted:
        if "start_time" not in ending.usage:
            return NativeStatus(NativeState.FAILED, "the scheduler could not start it on the node")
        return NativeStatus(NativeState.DELETED, f"deleted while it ran,{after}")
    if ending.signal_name:
        number = getattr(signal.Signals, ending.signal_name, 0)
        text = f"ended by {ending.signal_name}{after}"
        return NativeStatus(NativeState.FAILED, text, signal=int(number))
    if not ending.exited:
        text = f"ended without an exit status{after}: its node or its shepherd died"
        return NativeStatus(NativeState.FAILED, text)
    state = NativeState.FAILED if ending.exit_status else NativeState.DONE
    text = f"exited with {ending.exit_status}{after}"
    return NativeStatus(state, text, exit_status=ending.exit_status)


class DrmaaSession:
    """A session with as many users as called `open`; ends when the last one calls `close`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._drmaa: ModuleType | None = None
        self._users = 0
        self._ended: dict[str, NativeStatus] = {}
        self._gone_since: dict[str, float] = {}
        self._unmapped: set[str] = set()
        self._unreachable = False
        self._forked = False
        self._system = ""

    def open(self) -> None:
        """Connects to the scheduler, unless this process is connected already."""
        with self._lock:
            if self._forked:
                raise BackendError(
                    "this process was forked from one with an open DRMAA session, which it cannot "
                    "use or replace; start it by 'spawn' or 'forkserver'"
                )
            if self._drmaa is None:
                self._connect()
            self._users += 1

    def close(self) -> None:
        """Ends the session when nobody else uses it; jobs go on."""
        with self._lock:
            self._users = max(0, self._users - 1)
            if self._users == 0:
                self._exit()

    def close_at_exit(self) -> None:
        """Ends the session, whoever may still use it; gives up when a call is stuck."""
        if self._lock.acquire(timeout=REAP_TIME_S):
            try:
                self._users = 0
                self._exit()
            finally:
                self._lock.release()

    def after_fork(self) -> None:
        """Makes the child of a fork see that the session is its parent's."""
        used = self._users > 0
        self.__init__()  # type: ignore[misc]  # the lock may be held by a thread that is no more
        self._forked = used

    @property
    def contact(self) -> str:
        """The name by which another process can take over this session's jobs."""
        with self._scheduler("ask for the contact", asks=False) as drmaa:
            return str(drmaa.Session.contact)

    def system(self) -> str:
        """Returns what scheduler the library says it is for; there need be no session.

        :raises DRMAANotPresentException: no library can be loaded
        :raises BackendError: it does not say
        """
        if self._system:  # it is always the same, and a call that is stuck has the lock
            return self._system
        if not self._lock.acquire(timeout=ANSWER_S):
            text = f"another call of the DRMAA library has not returned for {ANSWER_S:g} s"
            raise BackendError(text, transient=True)
        try:
            drmaa = self._drmaa or load_drmaa()
            self._system = str(drmaa.Session.drmsInfo)
            return self._system
        except DRMAANotPresentException:
            raise
        except Exception as error:  # drmaa raises a plain Exception for some codes
            text = f"the DRMAA library does not say what it is for: {_words(error)}"
            raise BackendError(text, type(error).__name__ in _TRANSIENT) from error
        finally:
            self._lock.release()

    def submit(self, attributes: Mapping[str, Any], count: int) -> list[str]:
        """Submits one array job of `count` tasks; returns their native ids."""
        with self._template(attributes) as (drmaa, template):
            return list(drmaa.Session.runBulkJobs(template, 1, count, 1))

    def submit_one(self, attributes: Mapping[str, Any]) -> str:
        """Submits one job; returns its native id."""
        with self._template(attributes) as (drmaa, template):
            return str(drmaa.Session.runJob(template))

    @contextmanager
    def _template(self, attributes: Mapping[str, Any]) -> Iterator[tuple[ModuleType, Any]]:
        """Gives the package drmaa and a template of a job."""
        with self._scheduler("submit workers") as drmaa:
            template = drmaa.Session.createJobTemplate()
            try:
                for name, value in attributes.items():
                    setattr(template, name, value)
                yield drmaa, template
            finally:
                drmaa.Session.deleteJobTemplate(template)

    def terminate(self, native_id: str) -> None:
        """Deletes a task "N.i" or a whole array job "N"; one that is gone already is no error."""
        with self._scheduler(f"delete {native_id}") as drmaa:
            try:
                drmaa.Session.control(native_id, drmaa.JobControlAction.TERMINATE)
            except drmaa.errors.InvalidJobException:
                log.debug("worker %s is gone already", native_id)

    def reap(self, native_ids: Iterable[str]) -> dict[str, NativeStatus]:
        """Takes in all jobs that ended since; returns how those of `native_ids` ended that did.

        It asks the library only, which hears of endings by itself: so it fails never, and finds
        nothing new while the scheduler is away.
        """
        deadline = time.monotonic() + REAP_TIME_S
        with self._scheduler("ask which workers ended", asks=False) as drmaa:
            while time.monotonic() < deadline:
                try:
                    native_id, ending = _wait_any(drmaa)
                except (drmaa.errors.ExitTimeoutException, drmaa.errors.InvalidJobException):
                    break  # nobody else has ended; this session has no jobs
                self._ended[native_id] = status_of_ending(ending)
                self._gone_since.pop(native_id, None)
            return {i: self._ended[i] for i in native_ids if i in self._ended}

    def poll(self, native_id: str) -> NativeStatus | None:
        """Asks for one job that `reap` has not seen; None when nothing certain is known.

        The scheduler may have forgotten a job some time before it tells the session how it ended,
        so its bare word that a job is gone counts only when no ending followed.
        """
        with self._scheduler(f"ask for {native_id}") as drmaa:
            try:
                word = str(drmaa.Session.jobStatus(native_id))
                status = NativeStatus(self._state(word), word)
            except drmaa.errors.InvalidJobException:
                status = NativeStatus(NativeState.FAILED, "the scheduler no longer knows it")
            except KeyError as error:  # a number that the package has no word for
                status = NativeStatus(self._state(f"number {error}"), f"state {error}")
            if status.state not in _ENDED:
                self._gone_since.pop(native_id, None)
                return status
            now = time.monotonic()
            if now - self._gone_since.setdefault(native_id, now) < GONE_AFTER_S:
                return None
            return status

    def _state(self, word: str) -> NativeState:
        if word not in STATES and word not in self._unmapped:
            self._unmapped.add(word)
            log.warning("DRMAA speaks of a job state %r, which is taken for unknown", word)
        return STATES.get(word, NativeState.UNKNOWN)

    def _connect(self) -> None:
        self._drmaa = load_drmaa()
        try:
            with self._scheduler("connect to the scheduler") as drmaa:
                drmaa.Session.initialize()
        except BackendError:
            self._drmaa = None
            raise

    def _exit(self) -> None:
        self._ended = {}
        self._gone_since = {}
        if self._drmaa is None or self._unreachable:
            # To say goodbye to a scheduler that does not listen takes 8 s (measured). The session
            # stays as it is: it works again when the scheduler does, and ends with the process.
            return
        drmaa, self._drmaa = self._drmaa, None
        try:
            drmaa.Session.exit()
        except Exception as error:  # nothing is lost by it
            log.info("the DRMAA session did not end in order: %s", _words(error))

    @contextmanager
    def _scheduler(self, what: str, asks: bool = True) -> Iterator[ModuleType]:
        """Gives the package drmaa, under the lock; turns what it raises into a BackendError.

        :param asks: success means that the scheduler answered
        """
        with self._lock:
            drmaa = self._drmaa
            if drmaa is None:
                raise BackendError(f"cannot {what}: there is no DRMAA session")
            try:
                yield drmaa
                self._unreachable = self._unreachable and not asks
            except drmaa.errors.AlreadyActiveSessionException as error:
                raise BackendError(
                    "this process has a DRMAA session of its own, and DRMAA permits one a process: "
                    "end it before a run of GridMap"
                ) from error
            except BackendError:
                raise
            except Exception as error:  # drmaa raises a plain Exception for some codes
                transient = type(error).__name__ in _TRANSIENT
                self._unreachable = transient
                raise BackendError(f"cannot {what}: {_words(error)}", transient) from error


def _words(error: BaseException) -> str:
    return re.sub(r"^code \d+: ", "", str(error)).strip() or type(error).__name__


_ID_BYTES = 1024
_NO_USAGE = "code 24:"


def _wait_any(drmaa: ModuleType) -> tuple[str, Ending | None]:
    """Returns the next ended job of the session and its ending, without waiting.

    `drmaa.Session.wait` forgets which job it was when that has no usage, hence the C functions.
    """
    c = drmaa.wrappers
    native_id = ctypes.create_string_buffer(_ID_BYTES)
    status = ctypes.c_int()
    usage = ctypes.pointer(ctypes.POINTER(c.drmaa_attr_values_t)())
    try:
        drmaa.helpers.c(
            c.drmaa_wait,
            drmaa.const.JOB_IDS_SESSION_ANY,
            native_id,
            ctypes.sizeof(native_id),
            ctypes.byref(status),
            drmaa.const.TIMEOUT_NO_WAIT,
            usage,
        )
    except Exception as error:
        if str(error).startswith(_NO_USAGE) and native_id.value:
            return native_id.value.decode(), None
        raise

    def ask(function: Any) -> int:
        answer = ctypes.c_int()
        drmaa.helpers.c(function, ctypes.byref(answer), status)
        return answer.value

    signal_name = ctypes.create_string_buffer(_ID_BYTES)
    if ask(c.drmaa_wifsignaled):
        drmaa.helpers.c(c.drmaa_wtermsig, signal_name, ctypes.sizeof(signal_name), status)
    exited = bool(ask(c.drmaa_wifexited))
    return native_id.value.decode(), Ending(
        exited=exited,
        exit_status=ask(c.drmaa_wexitstatus) if exited else 0,
        signal_name=signal_name.value.decode(),
        aborted=bool(ask(c.drmaa_wifaborted)),
        usage=drmaa.helpers.adapt_rusage(usage),
    )


SESSION = DrmaaSession()
atexit.register(SESSION.close_at_exit)
os.register_at_fork(after_in_child=SESSION.after_fork)
