"""Workers through a DRMAA library: those of Grid Engine; for others see `drmaa_other`."""

from __future__ import annotations

import logging
import os
import pwd
import shlex
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gridmap.backends.base import Backend, SubmitRequest
from gridmap.backends.commands import run, tail, worker_logs
from gridmap.backends.drmaa_library import load_drmaa
from gridmap.backends.drmaa_session import GONE_AFTER_S, NO_USAGE, SESSION, DrmaaSession
from gridmap.backends.drmaa_systems import System, system_of
from gridmap.backends.grid_engine import (
    QueuedTask,
    account_summary,
    cause_of_account,
    fold,
    parse_qacct,
    parse_qstat,
    queue_summary,
    state_of,
)
from gridmap.backends.native import is_of_run, job_name
from gridmap.backends.options import Words, native_specification
from gridmap.core.events import NativeState, NativeStatus
from gridmap.errors import BackendError, DRMAANotPresentException

log = logging.getLogger(__name__)

LARGEST_ARRAY = 75_000
MOST_ARGUMENT_BYTES = 90_000
MOST_POLLS = 32
LONG_STRETCH = 50
COMMAND_TIME_S = 5.0
MOST_ACCOUNTING_S = 20.0
"""Time that a run spends in all on asking the accounting what its workers died of."""


def present() -> bool:
    """Returns whether a DRMAA library can be loaded here."""
    return not why_not()


def _system_of(session: DrmaaSession) -> System:
    """Returns the scheduler behind a session's library; as `DrmaaSession.system`."""
    return system_of(session.system(), bool(os.environ.get("SGE_ROOT")))


def _system_here() -> System | None:
    """Returns the scheduler behind the DRMAA library; None when nobody can tell."""
    try:
        return _system_of(SESSION)
    except (DRMAANotPresentException, BackendError):
        return None  # who connects to it says why


def words_here() -> Words | None:
    """Returns how the scheduler behind the DRMAA library is asked; None when nobody can tell."""
    system = _system_here()
    return None if system is None else system.words


def is_grid_engine() -> bool:
    """Returns whether the DRMAA library is one of Grid Engine, as far as anybody can tell."""
    system = _system_here()
    return system is None or system.grid_engine


def drmaa_backend(*, use_mem_free: bool = False, session: DrmaaSession = SESSION) -> Backend:
    """Returns a Backend for the scheduler behind the DRMAA library, connected to it.

    :param use_mem_free: the cluster knows the resource `mem_free`
    :raises DRMAANotPresentException: no DRMAA library can be loaded
    :raises BackendError: the scheduler does not answer (transient), or refuses
    """
    system = _system_of(session)
    if system.grid_engine:
        return DrmaaBackend(use_mem_free=use_mem_free, session=session)
    from gridmap.backends.drmaa_other import OtherDrmaaBackend

    return OtherDrmaaBackend(system, use_mem_free=use_mem_free, session=session)


def why_not() -> str:
    """Returns why no DRMAA library can be used here and what to do, or "" when one can."""
    try:
        load_drmaa()
    except DRMAANotPresentException as error:
        return str(error)
    return ""


class DrmaaBackend:
    """A Backend of one run on Grid Engine; all of a process share one DRMAA session.

    :param use_mem_free: the cluster knows the resource `mem_free`
    :raises DRMAANotPresentException: no DRMAA library can be loaded
    :raises BackendError: the scheduler does not answer (transient), or refuses
    """

    name = "drmaa"
    scheduler = "Grid Engine"

    def __init__(self, *, use_mem_free: bool = False, session: DrmaaSession = SESSION) -> None:
        self._use_mem_free = use_mem_free
        self._session = session
        self._tasks: dict[str, set[str]] = {}
        self._log_dirs: dict[str, str] = {}
        self._canceled: set[str] = set()
        self._foreign: set[str] = set()
        self._surely_gone: set[str] = set()
        self._missing_since: dict[str, float] = {}
        self._next_poll = 0
        self._accounting_s = MOST_ACCOUNTING_S
        session.open()
        self._open = True

    @property
    def contact(self) -> str:
        """The DRMAA contact by which another process can take over the workers."""
        return self._session.contact

    def submit(self, request: SubmitRequest) -> list[str]:
        """Starts `count` workers as array jobs of at most 75,000 tasks; all of them or none."""
        attributes = self._template(request)
        ids: list[str] = []
        try:
            while len(ids) < request.count:
                count = min(request.count - len(ids), LARGEST_ARRAY)
                new = self._session.submit(attributes, count)
                self._remember(new, request.log_dir)
                ids += new
        except BackendError:
            if ids:
                self._cancel_after_failure(ids)
            raise
        log.info("run %s: %d workers submitted as %s", request.run_tag, len(ids), list(_jobs(ids)))
        return ids

    def status(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        """Returns every ending; of the rest, asks for a few in turn and leaves out the others.

        Endings cost no call to the scheduler, asking costs one a worker.
        """
        answer = self._reap([x for x in ids if x not in self._foreign])
        self._look_again(answer)
        foreign = self._foreign.intersection(ids)
        if foreign:
            answer.update(self._status_of_foreign(foreign))
        rest = [x for x in ids if x not in answer and x not in foreign]
        for native_id in self._in_turn(rest):
            status = self._poll(native_id)
            if status is not None:
                answer[native_id] = status
        for native_id in self._canceled.intersection(answer):
            if answer[native_id].state is NativeState.FAILED:
                text = f"deleted on GridMap's request; {answer[native_id].text}"
                answer[native_id] = NativeStatus(NativeState.DELETED, text)
        for native_id, status in answer.items():
            if status.state is NativeState.FAILED and status.exit_status < 0:
                answer[native_id] = self._explained(native_id, status)
        return answer

    def _reap(self, ids: Iterable[str]) -> dict[str, NativeStatus]:
        """Returns how those ended that did."""
        return self._session.reap(ids)

    def _poll(self, native_id: str) -> NativeStatus | None:
        """Asks for one that has not ended."""
        return self._session.poll(native_id)

    def _look_again(self, answer: dict[str, NativeStatus]) -> None:
        """Takes over, as foreign, workers that DRMAA calls deleted and that qstat lists.

        When a qmaster has come back from a crash, the library may take jobs that live for gone
        (measured on Son of Grid Engine 8.1.9). It tells the same of those that were deleted.
        """
        gone = {native_id for native_id, status in answer.items() if status == NO_USAGE}
        gone -= self._canceled | self._surely_gone
        if not gone or shutil.which("qstat") is None:
            return
        try:
            listed = {task.native_id: task.state for task in self._listed()}
        except BackendError as error:
            log.debug("cannot tell whether %s are gone: %s", gone, error)
            listed = dict.fromkeys(gone, "")
        for native_id in gone:
            state = listed.get(native_id)
            if state is None or "d" in state:
                self._surely_gone.add(native_id)
                continue
            del answer[native_id]
            if state:
                log.info("worker %s is not deleted, as DRMAA says: qstat says %s", native_id, state)
                self._foreign.add(native_id)

    def _explained(self, native_id: str, status: NativeStatus) -> NativeStatus:
        """Adds what the accounting says of a worker that did not exit by itself.

        On a large cluster the accounting is a long file, so this may take so much time and no more.
        """
        if self._accounting_s <= 0:
            return status
        began = time.monotonic()
        fields = parse_qacct(self._account(native_id))
        self._accounting_s -= time.monotonic() - began
        if not fields:
            return status
        text = f"{status.text}; Grid Engine's accounting: {account_summary(fields)}"
        return status._replace(text=text, cause=cause_of_account(fields))

    def _account(self, native_id: str) -> str:
        """Returns what qacct prints of a worker; "" when it knows nothing yet."""
        job, _, task = native_id.partition(".")
        code, output = _run("qacct", "-j", job, *(("-t", task) if task else ()))
        return output if code == 0 else ""

    def _status_of_foreign(self, ids: Iterable[str]) -> dict[str, NativeStatus]:
        """Asks qstat for workers that another session started: DRMAA does not know them.

        One that is not listed any more has ended, if that lasts: qstat lists no task between its
        being scheduled and its being sent to a node.
        """
        listed = {task.native_id: task.state for task in self._listed()}
        answer = {}
        now = time.monotonic()
        for native_id in ids:
            if native_id in listed:
                self._missing_since.pop(native_id, None)
                letters = listed[native_id]
                answer[native_id] = NativeStatus(state_of(letters), f"qstat says {letters}")
            elif now - self._missing_since.setdefault(native_id, now) >= GONE_AFTER_S:
                text = "the scheduler no longer knows it"
                answer[native_id] = NativeStatus(NativeState.FAILED, text)
        return answer

    def adopt(self, ids: Sequence[str]) -> None:
        """Takes over workers of another session; qstat and qdel reach them."""
        self._foreign.update(ids)

    def cancel(self, ids: Sequence[str]) -> None:
        """Deletes workers, a whole array at once where all that is left of it is meant."""
        foreign = [native_id for native_id in ids if native_id in self._foreign]
        for job, tasks in _jobs(foreign).items():
            self._canceled |= tasks
            for first, last in fold(int(x.partition(".")[2] or 1) for x in tasks):
                self._delete_stretch(job, first, last)
        ids = [native_id for native_id in ids if native_id not in self._foreign]
        for job, tasks in _jobs(ids).items():
            known = self._tasks.get(job, set())
            ended = self._reap(known | tasks).keys()
            live, left = tasks - ended, known - ended
            self._canceled |= live
            if left and left <= live:
                self._session.terminate(job)
            else:
                self._cancel_some(job, live)

    def find(self, run_tag: str) -> list[str]:
        """Returns the run's workers that qstat lists; none where there is no qstat."""
        if shutil.which("qstat") is None:
            log.warning("no qstat on PATH: the workers of run %s cannot be looked for", run_tag)
            return []
        ids = [task.native_id for task in self._listed() if is_of_run(task.name, run_tag)]
        for job, found in _jobs(ids).items():
            self._tasks.setdefault(job, found)
        return ids

    def _listed(self) -> list[QueuedTask]:
        """Returns this user's tasks that qstat lists.

        :raises BackendError: it does not answer
        """
        code, output = _run("qstat", "-xml", "-u", _user())
        if code != 0:
            raise BackendError(f"qstat: {output.strip()}", transient=True)
        try:
            return parse_qstat(output)
        except ValueError as error:
            raise BackendError(str(error)) from error

    def diagnose(self, native_id: str) -> str:
        """Returns what the session, the accounting, the queue and the worker's log say of it."""
        told = []
        try:
            status = self.status([native_id]).get(native_id)
            if status is not None:
                told.append(f"{self.scheduler} says: {status.state.value}, {status.text}")
        except BackendError as error:
            told.append(str(error))
        told += [*self._commands_say(native_id), *map(tail, self._logs(native_id))]
        return "\n".join(filter(None, told)) or "nothing is known of it"

    def _commands_say(self, native_id: str) -> Iterator[str]:
        """Yields what the scheduler's own commands say of a worker."""
        job = native_id.partition(".")[0]
        code, output = _run("qstat", "-j", job)
        if code == 0 and queue_summary(output):
            yield f"qstat -j {job}:\n{queue_summary(output)}"
        summary = account_summary(parse_qacct(self._account(native_id)))
        if summary:
            yield f"qacct: {summary}"

    def _logs(self, native_id: str) -> tuple[str, ...]:
        """Returns the files with a worker's output."""
        log_dir = self._log_dirs.get(native_id.partition(".")[0])
        return worker_logs(log_dir, native_id) if log_dir else ()

    def close(self) -> None:
        """Lets go of the session; the last to do so ends it."""
        if self._open:
            self._open = False
            self._session.close()

    def _template(self, request: SubmitRequest) -> Mapping[str, Any]:
        shell = bool(request.resources.interpreting_shell)
        try:
            specification = native_specification(
                request.resources, use_mem_free=self._use_mem_free, shell=shell
            )
        except ValueError as error:
            raise BackendError(str(error)) from error
        if "$" in request.log_dir or "\n" in request.log_dir:
            raise BackendError(f"Grid Engine cannot write logs to {request.log_dir!r}: '$' in it")
        words = list(request.command)
        if any("\n" in word for word in words) or sum(map(len, words)) > MOST_ARGUMENT_BYTES:
            raise BackendError(
                "Grid Engine would cut the worker's command: a new line, or too long"
            )
        if shell:
            words = [shlex.quote(word) for word in words]
        out, err = worker_logs(request.log_dir, "$JOB_ID.$drmaa_incr_ph$")
        return {
            "remoteCommand": words[0],
            "args": words[1:],
            "nativeSpecification": specification,
            "jobName": job_name(request.name, request.run_tag),
            "workingDirectory": request.working_dir,
            "outputPath": f":{out}",
            "errorPath": f":{err}",
            "joinFiles": False,
        }

    def _remember(self, ids: Sequence[str], log_dir: str) -> None:
        for job, tasks in _jobs(ids).items():
            self._tasks[job] = tasks
            self._log_dirs[job] = log_dir

    def _cancel_some(self, job: str, ids: Iterable[str]) -> None:
        """Deletes tasks of an array: a stretch of them by qdel, since DRMAA takes 1 ms for each."""
        tasks = [int(native_id.partition(".")[2] or 1) for native_id in ids]
        for first, last in fold(tasks):
            if last - first >= LONG_STRETCH and self._delete_stretch(job, first, last):
                continue
            for task in range(first, last + 1):
                self._session.terminate(f"{job}.{task}")

    def _delete_stretch(self, job: str, first: int, last: int) -> bool:
        code, output = _run("qdel", job, "-t", f"{first}-{last}")
        if code != 0:
            log.debug("qdel %s -t %d-%d: %s", job, first, last, output.strip())
        return code == 0

    def _cancel_after_failure(self, ids: Sequence[str]) -> None:
        try:
            self.cancel(ids)
        except BackendError as error:
            log.warning("workers %s remain submitted: %s", list(_jobs(ids)), error)

    def _in_turn(self, ids: Sequence[str]) -> Iterable[str]:
        start = self._next_poll % len(ids) if ids else 0
        chosen = [*ids[start:], *ids[:start]][:MOST_POLLS]
        self._next_poll = start + len(chosen)
        return chosen


def _jobs(ids: Iterable[str]) -> dict[str, set[str]]:
    """Returns the tasks of each array job."""
    jobs: defaultdict[str, set[str]] = defaultdict(set)
    for native_id in ids:
        jobs[native_id.partition(".")[0]].add(native_id)
    return dict(jobs)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "*"  # a user without an entry; the run's tag tells its workers from others


def _run(*command: str) -> tuple[int, str]:
    """Runs one of Grid Engine's commands; returns its exit status and output."""
    return run(*command, deadline_s=COMMAND_TIME_S)
