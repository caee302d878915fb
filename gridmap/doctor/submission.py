"""Probe: an array job of two tasks, submitted as a run submits its workers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gridmap.doctor import node, on_node
from gridmap.doctor.endings import died, refused
from gridmap.doctor.exam import JOB_NAME, Exam
from gridmap.doctor.findings import Finding, failed, ok, skipped, warning

TASKS = 2
POLL_S = 1.0
TURN_S = 0.1
SAY_S = 10.0
CLOSE_S = 45.0
LOOKS_S = 10.0
"""How long a report may come later than the scheduler's word that the task has ended."""


def examine(exam: Exam) -> Iterator[Finding]:
    """Submits the tasks, and waits for what they write."""
    reason = why_not(exam)
    if reason:
        yield skipped("submit", reason)
        return
    submission = Submission(exam)
    yield submission.submit()
    if submission.ids:
        yield from submission.wait()


def why_not(exam: Exam) -> str:
    """Returns why nothing can be submitted, or ""."""
    if exam.is_local:
        return node.WITHOUT_CLUSTER
    if not exam.submits:
        return "--no-submit"
    if exam.opened is None:
        return "the scheduler does not answer"
    if exam.directory is None:
        return "there is no folder for it"
    return ""


class Submission:
    """Two tasks, from their submission until both have reported, or ended, or it takes too long."""

    def __init__(self, exam: Exam) -> None:
        from gridmap.core.events import NativeStatus
        from gridmap.monitor.submitter import Submitter

        assert exam.directory is not None, "why_not() has looked"
        self._exam = exam
        self._folder = exam.directory.path
        self._timeout_s = float(exam.options.timeout)
        self.ids: list[str] = []
        self._status: dict[str, NativeStatus] = {}
        self._diagnoses: dict[str, str] = {}
        self._ended_at: dict[str, float] = {}
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._first: dict[str, tuple[float, float]] = {}
        self._polled_at = 0.0
        self._submitted_at = 0.0
        self._listen()
        tag = self._folder.name
        self._submitter = Submitter(tag, exam.hand_over(), self._answers.put)
        exam.undo.callback(self._end)

    def _listen(self) -> None:
        from gridmap.doctor.listener import Listener
        from gridmap.errors import GridMapError
        from gridmap.wire.keys import write_connection

        exam = self._exam
        assert exam.settings is not None
        addresses: list[str] = []
        try:
            exam.listener = Listener(self._folder.name, exam.settings)
            exam.undo.callback(exam.listener.close)
            write_connection(self._folder, exam.listener.connection)
            addresses = exam.listener.connection.addresses
        except (GridMapError, OSError) as error:
            exam.not_listening = str(error)
        exam.questions = node.questions_of(exam, str(self._folder), addresses)

    def _end(self) -> None:
        """Deletes what is left of the tasks."""
        if not self._submitter.close(CLOSE_S):
            self._exam.say(
                "the scheduler does not answer: look for jobs called "
                f"{JOB_NAME}-{self._folder.name}, and delete them"
            )

    # --- submitting -------------------------------------------------------------------------------

    def submit(self) -> Finding:
        """Submits the tasks."""
        from gridmap.backends.base import SubmitRequest
        from gridmap.core.events import SubmissionFailed, WorkersSubmitted

        exam = self._exam
        assert exam.directory is not None
        content = json.dumps(exam.questions).encode()
        path = self._folder / on_node.QUESTIONS_NAME
        path.touch(mode=0o600)
        path.write_bytes(content)
        try:
            resources = exam.job().resources_wanted(exam.white_list or None)
        except (TypeError, ValueError) as error:
            return failed("submit", str(error), "correct the option that it names")
        digest = hashlib.sha256(content).hexdigest()
        request = SubmitRequest(
            run_tag=self._folder.name,
            name=JOB_NAME,
            command=(sys.executable, on_node.__file__, str(self._folder), digest),
            count=TASKS,
            resources=resources,
            log_dir=str(exam.directory.logs),
            working_dir=str(self._folder),
        )
        self._submitted_at, began = time.time(), time.monotonic()
        self._submitter.submit(0, request)
        try:
            answer = self._answers.get(timeout=self._timeout_s)
        except queue.Empty:
            text = f"the scheduler has not answered for {self._timeout_s:.0f} s"
            return failed("submit", text, "see whether its own commands work here")
        seconds = time.monotonic() - began
        if isinstance(answer, SubmissionFailed):
            return failed("submit", answer.reason, refused(answer.reason))
        assert isinstance(answer, WorkersSubmitted)
        self.ids = list(answer.workers)
        told = f"an array job of {TASKS} tasks is taken, in {seconds:.2f} s: {', '.join(self.ids)}"
        return ok("submit", told, ids=self.ids, seconds=round(seconds, 3))

    # --- waiting ----------------------------------------------------------------------------------

    def wait(self) -> Iterator[Finding]:
        """Waits for the tasks' reports, and tells what became of the tasks."""
        began = time.monotonic()
        said_at = began
        while not self._all_over() and time.monotonic() < began + self._timeout_s:
            self._turn()
            now = time.monotonic()
            if now >= said_at + SAY_S:
                said_at = now
                self._say(now - began)
        self._exam.reports = list(self._read().values())
        started = len(self._exam.reports)
        if started == TASKS:
            waited_s = max(report.seen_at for report in self._exam.reports) - self._submitted_at
            told = f"both tasks had started after {waited_s:.1f} s"
            yield ok("start", told, seconds=round(waited_s, 3))
        yield from self._without_report(TASKS - started, time.monotonic() - began)

    def _turn(self) -> None:
        """Listens for a moment, and asks the scheduler now and then."""
        from gridmap.core.events import NativeState, WorkerDiagnosed, WorkersPolled

        if self._exam.listener is not None:
            self._exam.listener.wait(TURN_S)
        else:
            time.sleep(TURN_S)
        now = time.monotonic()
        if now >= self._polled_at + POLL_S:
            self._polled_at = now
            self._submitter.poll(tuple(self.ids))
            self._look_anew()
        while not self._answers.empty():
            answer = self._answers.get()
            if isinstance(answer, WorkersPolled):
                self._status.update(answer.status)
            elif isinstance(answer, WorkerDiagnosed):
                self._diagnoses[answer.worker] = answer.text
        for native_id, status in self._status.items():
            if status.state in (NativeState.DONE, NativeState.FAILED, NativeState.DELETED):
                self._ended_at.setdefault(native_id, now)

    def _look_anew(self) -> None:
        """Has a network file system show what is in the folder now.

        NFS may keep a listing for a minute; a change of our own makes it ask again.
        """
        with contextlib.suppress(OSError):
            path = self._folder / "look"
            path.touch()
            path.unlink()

    def _all_over(self) -> bool:
        """Returns whether all tasks have said everything, or will not say any more."""
        reports = self._read().values()
        done = sum(bool(report.content.get("done")) for report in reports)
        latest = max(self._ended_at.values(), default=0.0)
        gone = len(self._ended_at) == TASKS and time.monotonic() > latest + LOOKS_S
        return done == TASKS or gone

    def _read(self) -> dict[str, node.Report]:
        """Returns the reports that are there."""
        reports = {}
        heard = self._exam.listener.heard if self._exam.listener is not None else {}
        for path in sorted(self._folder.glob("node.*.json")):
            content = _content(path)
            if content is None:
                continue
            written_at = float(content.get("wrote_at", 0.0))
            first, seen_at = self._first.setdefault(path.name, (written_at, time.time()))
            called = heard.get(content.get("hello", {}).get("incarnation", ""))
            reports[path.name] = node.Report(
                content, first, self._submitted_at, seen_at, called.at_s if called else 0.0
            )
        return reports

    def _say(self, waited_s: float) -> None:
        """Tells what is waited for, with the scheduler's reason."""
        for native_id in self.ids:
            status = self._status.get(native_id)
            if status is not None and native_id not in self._ended_at:
                self._submitter.diagnose(native_id)
                break
        self._exam.say(f"{waited_s:.0f} s: {self._states()}")

    def _states(self) -> str:
        """Returns the scheduler's last word on each task."""
        told = []
        for native_id in self.ids:
            status = self._status.get(native_id)
            word = f"{status.state.value} ({status.text})" if status else "nothing known"
            told.append(f"{native_id} {word}")
        reason = next(iter(self._reasons()), "")
        return "; ".join(told) + (f"; {reason}" if reason else "")

    def _reasons(self) -> Iterator[str]:
        """Yields why tasks wait, in the words of qstat -j."""
        for text in self._diagnoses.values():
            for line in text.splitlines():
                if line.startswith("scheduling info:"):
                    yield line

    # --- what became of them ----------------------------------------------------------------------

    def _without_report(self, missing: int, waited_s: float) -> Iterator[Finding]:
        if not missing:
            return
        ended = [x for x in self.ids if x in self._ended_at]
        silent = self._without(ended)[:missing]
        for native_id in silent:
            yield self._died(native_id)
        waiting = [x for x in self.ids if x not in self._ended_at][: missing - len(silent)]
        if not waiting:
            return
        running = [x for x in waiting if self._runs(x)]
        if running:
            yield failed(
                "start",
                f"the scheduler says that {', '.join(running)} runs, and nothing is heard of it in "
                f"{waited_s:.0f} s: {self._states()}",
                "see whether the node sees the run's folder, and Python under the same path",
            )
        else:
            yield self._still_waiting(waiting, waited_s)

    def _without(self, ended: list[str]) -> list[str]:
        """Returns those that have ended and of which there is no report."""
        told = {_native_id(report.content) for report in self._exam.reports}
        return [native_id for native_id in ended if native_id not in told]

    def _runs(self, native_id: str) -> bool:
        from gridmap.core.events import NativeState

        status = self._status.get(native_id)
        return status is not None and status.state is NativeState.RUNNING

    def _still_waiting(self, waiting: list[str], waited_s: float) -> Finding:
        """Waiting is no fault of anybody's, but then nothing is known of the nodes."""
        return warning(
            "start",
            f"{', '.join(waiting)} still waits after {waited_s:.0f} s: {self._states()}",
            "try again with a longer --timeout, in another queue, or when the cluster is less busy",
            status=self._states(),
        )

    def _died(self, native_id: str) -> Finding:
        """Returns what a task died of that has left no report."""
        self._diagnoses.pop(native_id, None)
        self._submitter.diagnose(native_id)
        deadline = time.monotonic() + 30
        while native_id not in self._diagnoses and time.monotonic() < deadline:
            self._turn()
        diagnosis = self._diagnoses.get(native_id, "")
        found, change = died(self._status[native_id], diagnosis, sys.executable, self._folder)
        return failed("start", f"task {native_id}: {found}", change, diagnosis=diagnosis)


def _content(path: Path) -> Mapping[str, Any] | None:
    """Returns what a task has written; None when it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _native_id(content: Mapping[str, Any]) -> str:
    """Returns the scheduler's id of the task that wrote this."""
    from gridmap.node.serve import native_id

    return native_id(content.get("native", {}))
