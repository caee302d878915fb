"""Workers on Slurm: sbatch, squeue, scancel, scontrol, and sacct where there is accounting."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence

from gridmap.backends.base import SubmitRequest
from gridmap.backends.commands import MISSING, run, tail, worker_logs
from gridmap.backends.native import is_of_run, job_name
from gridmap.backends.options import SLURM, render
from gridmap.backends.slurm_words import (
    FIELDS,
    NEVER_STARTS,
    SEPARATOR,
    fold_ids,
    knows_none,
    may_pass,
    parse_sacct,
    parse_squeue,
    submitted,
)
from gridmap.core.events import NativeState, NativeStatus
from gridmap.errors import BackendError

log = logging.getLogger(__name__)

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")

COMMAND_S = 30.0
"""A command waits 19 s for a slurmctld that is not there (measured on Slurm 22.05)."""

PING_S = 10.0

GONE_AFTER_S = 3.0
"""An element that nobody lists for so long has ended."""

SMALLEST_LARGEST_ARRAY = 1001
"""What MaxArraySize is where nobody has set it. Source: slurm.conf(5)"""

MOST_IDS = 500
"""Elements in one call of scancel or sacct."""

MOST_ACCOUNTING_S = 60.0
"""Time that a run spends in all on asking the accounting what became of its workers."""

TRUSTED_S = 60.0
"""An element that waited so short a time ago and is gone was deleted: it could not run and end."""

WARNING_S = 60
"""How long before its end a worker is warned that was given no time limit."""


def present() -> bool:
    """Returns whether there is a Slurm here, though it may not answer at the moment."""
    if not all(map(shutil.which, COMMANDS)):
        return False
    code, output = _run("scontrol", "ping", deadline_s=PING_S)
    return code == 0 or "configuration source" not in output


def why_not() -> str:
    """Returns why Slurm cannot be used here, or "" when it can."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        return f"no {', '.join(missing)} on PATH"
    code, output = _run("scontrol", "ping", deadline_s=PING_S)
    return "" if code == 0 else f"scontrol ping: {_words(output)}"


class SlurmBackend:
    """A Backend of one run.

    :param use_mem_free: the cluster is asked for `mem_free`, too
    :raises BackendError: slurmctld does not answer (transient), or there is no Slurm
    """

    name = "slurm"

    def __init__(self, *, use_mem_free: bool = False) -> None:
        self._use_mem_free = use_mem_free
        self._known: set[str] = set()
        self._ended: dict[str, NativeStatus] = {}
        self._log_dirs: dict[str, str] = {}
        self._clusters: set[str] = set()
        self._canceled: set[str] = set()
        self._strays: set[str] = set()
        self._waits: dict[str, float] = {}  # at the last look, which was then
        self._missing_since: dict[str, float] = {}
        self._in_doubt: set[str] = set()
        self._accounting_s = MOST_ACCOUNTING_S if shutil.which("sacct") else 0.0
        reason = why_not()
        if reason:
            raise BackendError(reason, transient="scontrol ping" in reason)
        self._largest_array = _largest_array()

    # --- starting ---------------------------------------------------------------------------------

    def submit(self, request: SubmitRequest) -> list[str]:
        """Starts `count` workers as array jobs; all of them or none."""
        self._delete_strays()
        ids: list[str] = []
        try:
            while len(ids) < request.count:
                count = min(request.count - len(ids), self._largest_array or 1)
                job = self._submit_array(request, count)
                self._log_dirs[job] = request.log_dir
                elements = [f"{job}_{number}" for number in range(count)]
                ids += elements if self._largest_array else [job]
        except BackendError:
            if ids:
                self._in_doubt.add(request.run_tag)
                self._cancel_after_failure(ids)
            raise
        self._known.update(ids)
        jobs = list(dict.fromkeys(map(_job, ids)))
        log.info("run %s: %d workers submitted as %s", request.run_tag, len(ids), jobs)
        return ids

    def _submit_array(self, request: SubmitRequest, count: int) -> str:
        script = self._script(request)
        code, output = _run(*self._command(request, count), text=script, environment=_passed_on())
        transient = code < 0 or may_pass(output)
        if code != 0:
            if transient:  # slurmctld may have heard it all the same
                self._in_doubt.add(request.run_tag)
            raise BackendError(f"sbatch: {_words(output)}{_advice(output)}", transient=transient)
        try:
            job, cluster = submitted(output)
        except ValueError as error:
            self._in_doubt.add(request.run_tag)
            raise BackendError(str(error)) from error
        if cluster:
            self._clusters.add(cluster)
        return job

    def _script(self, request: SubmitRequest) -> str:
        shell = request.resources.interpreting_shell or "/bin/sh"
        lines = [f"#!{shell}"]
        if request.resources.hosts:
            others = self._other_hosts(request.resources.hosts)
            lines += [f"#SBATCH --exclude={','.join(others)}"] if others else []
        # exec: the shell would not pass a warning on, nor the exit status as it is
        return "\n".join([*lines, f"exec {shlex.join(request.command)}\n"])

    def _command(self, request: SubmitRequest, count: int) -> list[str]:
        """Returns the words of sbatch.

        :raises BackendError: Slurm has no words for what is wanted
        """
        try:
            options = render(SLURM, request.resources, self._use_mem_free)
        except ValueError as error:
            raise BackendError(str(error)) from error
        if request.resources.walltime_s is None:
            options.append(f"--signal=B:USR1@{WARNING_S}")
        if re.search(r"[\n\\]", request.log_dir):
            raise BackendError(f"Slurm cannot write logs to {request.log_dir!r}")
        array = [f"--array=0-{count - 1}"] if self._largest_array else []
        pattern = "%A_%a" if array else "%j"
        out, err = worker_logs(request.log_dir.replace("%", "%%"), pattern)
        return [
            "sbatch",
            "--parsable",
            *array,
            f"--job-name={job_name(request.name, request.run_tag)}",
            f"--chdir={request.working_dir}",
            f"--output={out}",
            f"--error={err}",
            "--open-mode=append",
            "--no-requeue",  # a worker that was lost is replaced by another
            "--export=ALL",
            *options,
        ]

    def _other_hosts(self, hosts: Sequence[str]) -> list[str]:
        """Returns all nodes but these: Slurm can leave some out, and has no word for "one of".

        :raises BackendError: it does not know one of them
        """
        code, output = self._ask("sinfo", "-h", "-a", "-N", "-o", "%N")
        if code != 0:
            raise BackendError(f"sinfo: {_words(output)}", transient=may_pass(output))
        known = set(re.findall(r"^(\S+)$", output, re.MULTILINE))
        unknown = sorted(set(hosts) - known)
        if unknown:
            raise BackendError(
                f"white_list has {', '.join(unknown)}, which Slurm does not know, or does not show "
                "to you: sinfo lists the nodes"
            )
        return sorted(known - set(hosts))

    def _delete_strays(self) -> None:
        """Deletes what came of submissions that seemed to fail, however late it came.

        :raises BackendError: that cannot be found out now
        """
        for run_tag in self._in_doubt:
            strays = set(self.find(run_tag)) - self._known
            if strays:
                log.info("run %s: %s came of a submission that seemed to fail", run_tag, strays)
                self._strays |= strays
                self._scancel(sorted(strays))

    def _cancel_after_failure(self, ids: Sequence[str]) -> bool:
        """Deletes workers that nobody is told of; returns whether that was possible."""
        self._canceled.update(ids)
        try:
            self._scancel(ids)
        except BackendError as error:
            log.warning("workers %s remain submitted: %s", fold_ids(ids), error)
            return False
        return True

    # --- asking -----------------------------------------------------------------------------------

    def status(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        """Asks once for all of them; the accounting for those that squeue has forgotten."""
        answer = {x: self._ended[x] for x in ids if x in self._ended}
        asked = [x for x in ids if x not in answer]
        if not asked:
            return answer
        listed = self._listed("-t", "all", "-j", ",".join(sorted({_job(x) for x in asked})))
        missing = [x for x in asked if x not in listed]
        accounted = self._accounted(missing)
        now = time.monotonic()
        for native_id in asked:
            status = listed.get(native_id) or accounted.get(native_id)
            if status is None:
                since = self._missing_since.setdefault(native_id, now)
                if now < since + GONE_AFTER_S:
                    continue
                status = self._gone(native_id, now)
            else:
                self._missing_since.pop(native_id, None)
            answer[native_id] = self._settled(native_id, status, now)
        never = [x for x in asked if x in answer and answer[x].text.startswith(NEVER_STARTS)]
        if never and not self._cancel_after_failure(never):
            for native_id in never:  # it is tried again
                del self._ended[native_id]
        return answer

    def _gone(self, native_id: str, now: float) -> NativeStatus:
        """Returns the ending of an element that nothing is known of any more.

        One that is deleted while it waits leaves no trace (measured on Slurm 22.05).
        """
        if now < self._waits.get(native_id, -math.inf) + TRUSTED_S:
            text = "deleted before it started, as it seems: Slurm no longer knows it"
            return NativeStatus(NativeState.DELETED, text)
        return NativeStatus(NativeState.FAILED, "Slurm no longer knows it")

    def _settled(self, native_id: str, status: NativeStatus, now: float) -> NativeStatus:
        """Keeps an ending, and tells what was deleted on our own request."""
        if status.state not in _ENDED:
            if status.state in (NativeState.PENDING, NativeState.HELD):
                self._waits[native_id] = now
            else:
                self._waits.pop(native_id, None)
            return status
        if native_id in self._strays:
            status = NativeStatus(NativeState.FAILED, "it came of a submission that seemed to fail")
        elif (
            native_id in self._canceled
            and status.state is NativeState.FAILED
            and not status.text.startswith(NEVER_STARTS)
        ):
            text = f"deleted on GridMap's request; {status.text}"
            status = NativeStatus(NativeState.DELETED, text)
        self._ended[native_id] = status
        return status

    def _listed(self, *which: str) -> dict[str, NativeStatus]:
        """Returns what squeue lists.

        :raises BackendError: it does not answer
        """
        fields = ",".join(f"{field}:{SEPARATOR}" for field in FIELDS)
        code, output = self._ask("squeue", "-h", "-a", "-r", "-O", fields, *which)
        if code != 0 and not knows_none(output):
            raise BackendError(f"squeue: {_words(output)}", transient=True)
        return {listed.native_id: listed.status for listed in parse_squeue(output)}

    def _accounted(self, ids: Sequence[str]) -> dict[str, NativeStatus]:
        """Returns what the accounting says; nothing where there is none, or it takes long."""
        answer: dict[str, NativeStatus] = {}
        for at in range(0, len(ids), MOST_IDS):
            if self._accounting_s <= 0:
                break
            began = time.monotonic()
            wanted = ("-o", "JobID,State,ExitCode,NodeList")
            some = ",".join(ids[at : at + MOST_IDS])
            code, output = self._ask("sacct", "-n", "-P", "-X", "-j", some, *wanted)
            self._accounting_s -= time.monotonic() - began
            if code == MISSING or "disabled" in output:
                self._accounting_s = 0.0
            if code != 0:
                break
            answer |= {listed.native_id: listed.status for listed in parse_sacct(output)}
        return answer

    def find(self, run_tag: str) -> list[str]:
        """Returns the run's workers that squeue lists, without those that are ending.

        :raises BackendError: it does not answer
        """
        alive = "PENDING,CONFIGURING,RUNNING,SUSPENDED,STOPPED"
        words = ("-h", "-a", "-r", "--me", "-t", alive, "-o", f"%i{SEPARATOR}%j")
        code, output = self._ask("squeue", *words)
        if code != 0:
            raise BackendError(f"squeue: {_words(output)}", transient=True)
        pairs = (line.strip().partition(SEPARATOR) for line in output.splitlines())
        return [native_id for native_id, _, name in pairs if is_of_run(name, run_tag)]

    def adopt(self, ids: Sequence[str]) -> None:
        """Takes workers over; Slurm's commands reach those of any process."""
        self._known.update(ids)

    def diagnose(self, native_id: str) -> str:
        """Returns what Slurm, its accounting and the worker's log say of it."""
        told = []
        try:
            status = self.status([native_id]).get(native_id)
            if status is not None:
                told.append(f"Slurm says: {status.state.value}, {status.text}")
        except BackendError as error:
            told.append(str(error))
        accounted = self._accounted([native_id]).get(native_id)
        if accounted is not None:
            told.append(accounted.text)
        if _job(native_id) in self._log_dirs:
            told += map(tail, worker_logs(self._log_dirs[_job(native_id)], native_id))
        return "\n".join(filter(None, told)) or "nothing is known of it"

    # --- ending -----------------------------------------------------------------------------------

    def cancel(self, ids: Sequence[str]) -> None:
        """Deletes workers."""
        self._canceled.update(ids)
        self._scancel(x for x in ids if x not in self._ended)

    def _scancel(self, ids: Iterable[str]) -> None:
        folded = fold_ids(ids)
        failed: BackendError | None = None
        for at in range(0, len(folded), MOST_IDS):
            code, output = self._ask("scancel", *folded[at : at + MOST_IDS])
            if code != 0 and not knows_none(output):
                transient = code < 0 or may_pass(output)
                failed = BackendError(f"scancel: {_words(output)}", transient=transient)
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Deletes what came late of submissions that seemed to fail; workers go on."""
        try:
            self._delete_strays()
        except BackendError as error:
            log.warning("workers may be left of a submission that seemed to fail: %s", error)

    def _ask(self, command: str, *words: str) -> tuple[int, str]:
        clusters = [f"--clusters={','.join(sorted(self._clusters))}"] if self._clusters else []
        return _run(command, *clusters, *words)


_ENDED = (NativeState.DONE, NativeState.FAILED, NativeState.DELETED)

_PASSED_ON = frozenset({
    "HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "SLURM_CONF", "TZ", "USER",
    "XDG_DATA_HOME",
})  # fmt: skip

_DISTURBING = ("SBATCH_ARRAY_INX", "SBATCH_CLUSTERS", "SBATCH_EXPORT", "SBATCH_REQUEUE",
               "SBATCH_WAIT", "SBATCH_SIGNAL", "SBATCH_OPEN_MODE")  # fmt: skip


def _passed_on() -> dict[str, str]:
    """Returns what a worker needs of this program's environment, all of which sbatch passes on.

    The rest is none of Slurm's business: what jobs are to see comes over our own wire.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or (name.startswith(("LC_", "SBATCH_")) and name not in _DISTURBING)
    }


def _run(
    *command: str,
    deadline_s: float = COMMAND_S,
    text: str = "",
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Runs one of Slurm's commands, without the user's wishes for what it shows or deletes."""
    if environment is None:
        wishes = ("SQUEUE_", "SCANCEL_", "SINFO_", "SACCT_", "SLURM_CLUSTERS")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(wishes)}
    return run(*command, deadline_s=deadline_s, text=text, environment=environment)


def _job(native_id: str) -> str:
    return native_id.partition("_")[0]


def _words(output: str) -> str:
    """Returns Slurm's own words, without the name of the command before each line."""
    lines = (re.sub(r"^\w+: (error: )?", "", line.strip()) for line in output.splitlines())
    return "; ".join(line for line in lines if line) or "it said nothing"


def _advice(output: str) -> str:
    too_many = "job submit limit" in output or "MaxSubmit" in output
    return "; a lower max_workers may be allowed" if too_many else ""


def _largest_array() -> int:
    """Returns how many elements an array may have; 0 where there are no arrays."""
    _, output = _run("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", output, re.MULTILINE)
    most = int(found[1]) if found else SMALLEST_LARGEST_ARRAY
    fewer = re.search(r"\bmax_array_tasks=(\d+)", output)
    return min(most, int(fewer[1])) if fewer else most
