"""Workers on Slurm: sbatch, squeue, scancel, scontrol, and sacct where there is accounting."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence

from gridmap.backends.base import SubmitRequest
from gridmap.backends.commands import MISSING, run, tail, worker_logs
from gridmap.backends.native import is_of_run, job_name
from gridmap.backends.slurm_words import (
    FIELDS,
    SEPARATOR,
    fold_ids,
    knows_none,
    may_pass,
    parse_sacct,
    parse_squeue,
    sbatch_options,
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

WARNING_S = 60
"""How long before its end a worker is warned that was given no time limit."""


def present() -> bool:
    """Returns whether Slurm's commands are here; whether it answers, is not asked."""
    return all(map(shutil.which, COMMANDS))


def why_not() -> str:
    """Returns why Slurm cannot be used here, or "" when it can."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        return f"no {', '.join(missing)} on PATH"
    code, output = run("scontrol", "ping", deadline_s=PING_S)
    return "" if code == 0 else f"scontrol ping: {' '.join(output.split())}"


class SlurmBackend:
    """A Backend of one run.

    :raises BackendError: slurmctld does not answer (transient), or there is no Slurm
    """

    name = "slurm"

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._ended: dict[str, NativeStatus] = {}
        self._log_dirs: dict[str, str] = {}
        self._clusters: set[str] = set()
        self._canceled: set[str] = set()
        self._waits: set[str] = set()  # when it was last seen
        self._missing_since: dict[str, float] = {}
        self._in_doubt: set[str] = set()
        self._has_accounting = shutil.which("sacct") is not None
        reason = why_not()
        if reason:
            raise BackendError(reason, transient="scontrol ping" in reason)
        self._largest_array = _largest_array()

    # --- starting ---------------------------------------------------------------------------------

    def submit(self, request: SubmitRequest) -> list[str]:
        """Starts `count` workers as array jobs; all of them or none."""
        self._clear_doubt(request.run_tag)
        ids: list[str] = []
        while len(ids) < request.count:
            count = min(request.count - len(ids), self._largest_array)
            try:
                job = self._submit_array(request, count)
            except BackendError:
                if ids:
                    self._cancel_after_failure(ids)
                raise
            self._log_dirs[job] = request.log_dir
            ids += [f"{job}_{number}" for number in range(count)]
            self._known.update(ids)
        jobs = list(dict.fromkeys(map(_job, ids)))
        log.info("run %s: %d workers submitted as %s", request.run_tag, len(ids), jobs)
        return ids

    def _submit_array(self, request: SubmitRequest, count: int) -> str:
        command = self._command(request, count)
        shell = request.resources.interpreting_shell or "/bin/sh"
        # exec: the shell would not pass a warning on, nor the exit status as it is
        script = f"#!{shell}\nexec {shlex.join(request.command)}\n"
        code, output = run(*command, deadline_s=COMMAND_S, text=script, environment=_environment())
        if code != 0:
            transient = may_pass(output)
            if transient:  # slurmctld may have heard it all the same
                self._in_doubt.add(request.run_tag)
            raise BackendError(f"sbatch: {_words(output)}", transient=transient)
        try:
            job, cluster = submitted(output)
        except ValueError as error:
            raise BackendError(str(error)) from error
        if cluster:
            self._clusters.add(cluster)
        return job

    def _command(self, request: SubmitRequest, count: int) -> list[str]:
        """Returns the words of sbatch.

        :raises BackendError: Slurm has no words for what is wanted
        """
        resources = request.resources
        try:
            options = sbatch_options(resources)
            if resources.hosts:
                options += self._on_hosts(resources.hosts)
        except ValueError as error:
            raise BackendError(str(error)) from error
        if resources.walltime_s is None:
            options.append(f"--signal=B:USR1@{WARNING_S}")
        if re.search(r"[\n\\]", request.log_dir):
            raise BackendError(f"Slurm cannot write logs to {request.log_dir!r}")
        out, err = worker_logs(request.log_dir.replace("%", "%%"), "%A_%a")
        return [
            "sbatch",
            "--parsable",
            f"--array=0-{count - 1}",
            f"--job-name={job_name(request.name, request.run_tag)}",
            f"--chdir={request.working_dir}",
            f"--output={out}",
            f"--error={err}",
            "--open-mode=append",
            "--no-requeue",  # a worker that was lost is replaced by another
            "--export=ALL",
            *options,
        ]

    def _on_hosts(self, hosts: Sequence[str]) -> list[str]:
        """Returns the options that limit workers to some hosts: Slurm can only leave others out."""
        code, output = self._run("sinfo", "-h", "-N", "-o", "%N")
        if code != 0:
            raise BackendError(f"sinfo: {_words(output)}", transient=may_pass(output))
        known = set(output.split())
        unknown = sorted(set(hosts) - known)
        if unknown:
            raise ValueError(f"white_list has {', '.join(unknown)}, which Slurm does not know")
        others = sorted(known - set(hosts))
        return [f"--exclude={','.join(others)}"] if others else []

    def _clear_doubt(self, run_tag: str) -> None:
        """Deletes what an earlier submission started that seemed to have failed.

        :raises BackendError: that cannot be found out now
        """
        if run_tag in self._in_doubt:
            strays = set(self.find(run_tag)) - self._known
            if strays:
                log.info("run %s: %s came of a submission that seemed to fail", run_tag, strays)
                self._scancel(strays)
            self._in_doubt.discard(run_tag)

    def _cancel_after_failure(self, ids: Sequence[str]) -> None:
        try:
            self.cancel(ids)
        except BackendError as error:
            log.warning("workers %s remain submitted: %s", fold_ids(ids), error)

    # --- asking -----------------------------------------------------------------------------------

    def status(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        """Asks once for all of them; the accounting for those that squeue has forgotten."""
        answer = {x: self._ended[x] for x in ids if x in self._ended}
        asked = [x for x in ids if x not in answer]
        if not asked:
            return answer
        listed = self._listed("-t", "all", "-j", ",".join(sorted({_job(x) for x in asked})))
        now = time.monotonic()
        missing = []
        for native_id in asked:
            if native_id in listed:
                self._missing_since.pop(native_id, None)
                answer[native_id] = listed[native_id]
            else:
                missing.append(native_id)
        accounted = self._accounted(missing)
        for native_id in missing:
            status = accounted.get(native_id)
            if status is not None and status.state in _ENDED:
                answer[native_id] = status
            elif now - self._missing_since.setdefault(native_id, now) >= GONE_AFTER_S:
                answer[native_id] = self._gone(native_id)
        for native_id in asked:
            if native_id in answer:
                answer[native_id] = self._settled(native_id, answer[native_id])
        return answer

    def _gone(self, native_id: str) -> NativeStatus:
        """Returns the ending of an element that nothing is known of any more.

        One that is deleted while it waits leaves no trace (measured on Slurm 22.05).
        """
        if native_id in self._waits:
            text = "deleted before it started, as it seems: Slurm no longer knows it"
            return NativeStatus(NativeState.DELETED, text)
        return NativeStatus(NativeState.FAILED, "Slurm no longer knows it")

    def _settled(self, native_id: str, status: NativeStatus) -> NativeStatus:
        """Keeps an ending, and tells what was deleted on our own request."""
        if status.state not in _ENDED:
            waits = status.state in (NativeState.PENDING, NativeState.HELD)
            (self._waits.add if waits else self._waits.discard)(native_id)
            return status
        if status.text.startswith("will never start"):
            self._cancel_after_failure([native_id])
        elif native_id in self._canceled and status.state is NativeState.FAILED:
            text = f"deleted on GridMap's request; {status.text}"
            status = NativeStatus(NativeState.DELETED, text)
        self._ended[native_id] = status
        return status

    def _listed(self, *which: str) -> dict[str, NativeStatus]:
        """Returns what squeue lists.

        :raises BackendError: it does not answer
        """
        fields = ",".join(f"{field}:{SEPARATOR}" for field in FIELDS)
        code, output = self._run("squeue", "-h", "-r", "-O", fields, *which)
        if code != 0 and not knows_none(output):
            raise BackendError(f"squeue: {_words(output)}", transient=True)
        return {listed.native_id: listed.status for listed in parse_squeue(output)}

    def _accounted(self, ids: Sequence[str]) -> dict[str, NativeStatus]:
        """Returns what the accounting says; nothing where there is none."""
        answer: dict[str, NativeStatus] = {}
        for at in range(0, len(ids), MOST_IDS):
            if not self._has_accounting:
                break
            some = ",".join(ids[at : at + MOST_IDS])
            wanted = "JobID,State,ExitCode,NodeList"
            code, output = self._run("sacct", "-n", "-P", "-X", "-j", some, "-o", wanted)
            if code == MISSING or "disabled" in output:
                self._has_accounting = False
            elif code == 0:
                answer |= {listed.native_id: listed.status for listed in parse_sacct(output)}
        return answer

    def find(self, run_tag: str) -> list[str]:
        """Returns the run's workers that squeue lists.

        :raises BackendError: it does not answer
        """
        alive = "PENDING,CONFIGURING,RUNNING,SUSPENDED,STOPPED"  # not those that are ending
        words = ("-h", "-r", "--me", "-t", alive, "-o", f"%i{SEPARATOR}%j")
        code, output = self._run("squeue", *words)
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
        for at in range(0, len(folded), MOST_IDS):
            code, output = self._run("scancel", *folded[at : at + MOST_IDS])
            if code != 0 and not knows_none(output):
                raise BackendError(f"scancel: {_words(output)}", transient=may_pass(output))

    def close(self) -> None:
        """Does nothing: there is no connection; workers go on."""

    def _run(self, command: str, *words: str) -> tuple[int, str]:
        clusters = [f"--clusters={','.join(sorted(self._clusters))}"] if self._clusters else []
        return run(command, *clusters, *words, deadline_s=COMMAND_S)


_ENDED = (NativeState.DONE, NativeState.FAILED, NativeState.DELETED)


def _environment() -> dict[str, str]:
    """Returns what a worker needs of this program's environment, all of which sbatch passes on.

    The rest is none of Slurm's business: what jobs are to see comes over our own wire.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(("LC_", "SBATCH_"))
    }


_PASSED_ON = frozenset({
    "HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "SLURM_CLUSTERS", "SLURM_CONF",
    "TZ", "USER", "XDG_DATA_HOME",
})  # fmt: skip


def _job(native_id: str) -> str:
    return native_id.partition("_")[0]


def _words(output: str) -> str:
    """Returns Slurm's own words, without the name of the command before each line."""
    lines = (re.sub(r"^\w+: (error: )?", "", line.strip()) for line in output.splitlines())
    return "; ".join(line for line in lines if line) or "it said nothing"


def _largest_array() -> int:
    """Returns how many elements an array may have."""
    _, output = run("scontrol", "show", "config", deadline_s=COMMAND_S)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", output, re.MULTILINE)
    return max(1, int(found[1])) if found else SMALLEST_LARGEST_ARRAY
