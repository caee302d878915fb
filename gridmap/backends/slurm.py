"""Workers on Slurm: sbatch, squeue, scancel, scontrol, and sacct where there is accounting."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence

from gridmap.backends.asked import HISTORIC_QUEUE
from gridmap.backends.base import SubmitRequest
from gridmap.backends.bookkeeping import MOST_IDS, BackendByCommands, InDoubt, job_of
from gridmap.backends.commands import (
    MISSING,
    needed_environment,
    run,
    words_said,
    worker_logs,
)
from gridmap.backends.native import is_of_run, job_name
from gridmap.backends.options import SLURM, native_words, render
from gridmap.backends.slurm_words import (
    FIELDS,
    SEPARATOR,
    fold_ids,
    knows_none,
    may_pass,
    parse_sacct,
    parse_squeue,
    submitted,
    usual_time_s,
)
from gridmap.core.events import NativeStatus
from gridmap.core.spec import Resources
from gridmap.errors import BackendError

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")

COMMAND_S = 30.0
"""A command waits 19 s for a slurmctld that is not there (measured on Slurm 22.05)."""

PING_S = 10.0

SMALLEST_LARGEST_ARRAY = 1001
"""What MaxArraySize is where nobody has set it. Source: slurm.conf(5)"""

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
    return "" if code == 0 else f"scontrol ping: {words_said(output)}"


class SlurmBackend(BackendByCommands):
    """A Backend of one run.

    :param use_mem_free: the cluster is asked for `mem_free`, too
    :raises BackendError: slurmctld does not answer (transient), or there is no Slurm
    """

    name, scheduler = "slurm", "Slurm"

    def __init__(self, *, use_mem_free: bool = False) -> None:
        super().__init__()
        self._use_mem_free = use_mem_free
        self._clusters: set[str] = set()
        self._partitions: str | None = None
        if shutil.which("sacct") is None:
            self._history_s = 0.0
        reason = why_not()
        if reason:
            raise BackendError(reason, transient="scontrol ping" in reason)
        self.largest_array = _largest_array()

    # --- starting ---------------------------------------------------------------------------------

    def _start(self, request: SubmitRequest, count: int) -> list[str]:
        script = self._script(request)
        code, output = _run(*self._command(request, count), text=script, environment=_passed_on())
        if code != 0:
            reason = f"sbatch: {words_said(output)}{_advice(output)}"
            if code < 0 or may_pass(output):  # slurmctld may have heard it all the same
                raise InDoubt(reason, transient=True)
            raise BackendError(reason)
        try:
            job, cluster = submitted(output)
        except ValueError as error:
            raise InDoubt(str(error)) from error
        if cluster:
            self._clusters.add(cluster)
        return [f"{job}_{number}" for number in range(count)] if self.largest_array else [job]

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
        array = [f"--array=0-{count - 1}"] if self.largest_array else []
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
            "--nodes=1",  # all of it on one: a worker is a process
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
            raise BackendError(f"sinfo: {words_said(output)}", transient=may_pass(output))
        known = set(re.findall(r"^(\S+)$", output, re.MULTILINE))
        unknown = sorted(set(hosts) - known)
        if unknown:
            raise BackendError(
                f"hosts (white_list) has {', '.join(unknown)}, which Slurm does not know, "
                "or does not show to you: sinfo lists the nodes"
            )
        return sorted(known - set(hosts))

    def walltime_s(self, resources: Resources) -> float:
        """Returns the time limit of workers that ask for none: the partition's; 0: not known.

        It is DefaultTime, and MaxTime only where there is no such default.
        """
        words = native_words(resources)
        said = ("-t", "--ti", "-q", "--qos", "-p", "--pa")
        if "SBATCH_TIMELIMIT" in os.environ or any(word.startswith(said) for word in words):
            return 0.0
        queue = "" if resources.queue == HISTORIC_QUEUE else resources.queue
        if self._partitions is None:
            code, output = self._ask("sinfo", "-h", "-a", "-o", "%P|%L|%l")
            self._partitions = output if code == 0 else ""
        return usual_time_s(queue or os.environ.get("SBATCH_PARTITION", ""), self._partitions)

    # --- asking -----------------------------------------------------------------------------------

    def _listed(self, ids: Sequence[str]) -> dict[str, NativeStatus]:
        fields = ",".join(f"{field}:{SEPARATOR}" for field in FIELDS)
        jobs = ",".join(sorted(set(map(job_of, ids))))
        words = ("-h", "-a", "-r", "-O", fields, "-t", "all", "-j", jobs)
        code, output = self._ask("squeue", *words)
        if code != 0 and not knows_none(output):
            raise BackendError(f"squeue: {words_said(output)}", transient=True)
        return {listed.native_id: listed.status for listed in parse_squeue(output)}

    def _history(self, ids: Sequence[str]) -> dict[str, NativeStatus] | None:
        wanted = ("-o", "JobID,State,ExitCode,NodeList")
        code, output = self._ask("sacct", "-n", "-P", "-X", "-j", ",".join(ids), *wanted)
        if code == MISSING or "disabled" in output:
            self._history_s = 0.0
        if code != 0:
            return None
        return {listed.native_id: listed.status for listed in parse_sacct(output)}

    def _named(self, run_tag: str) -> list[str]:
        alive = "PENDING,CONFIGURING,RUNNING,SUSPENDED,STOPPED"
        words = ("-h", "-a", "-r", "--me", "-t", alive, "-o", f"%i{SEPARATOR}%j")
        code, output = self._ask("squeue", *words)
        if code != 0:
            raise BackendError(f"squeue: {words_said(output)}", transient=True)
        pairs = (line.strip().partition(SEPARATOR) for line in output.splitlines())
        return [native_id for native_id, _, name in pairs if is_of_run(name, run_tag)]

    # --- ending -----------------------------------------------------------------------------------

    def _delete(self, ids: Sequence[str]) -> None:
        folded = fold_ids(ids)
        failed: BackendError | None = None
        for at in range(0, len(folded), MOST_IDS):
            code, output = self._ask("scancel", *folded[at : at + MOST_IDS])
            if code != 0 and not knows_none(output):
                transient = code < 0 or may_pass(output)
                failed = BackendError(f"scancel: {words_said(output)}", transient=transient)
        if failed is not None:
            raise failed

    def _ask(self, command: str, *words: str) -> tuple[int, str]:
        clusters = [f"--clusters={','.join(sorted(self._clusters))}"] if self._clusters else []
        return _run(command, *clusters, *words)


_DISTURBING = ("SBATCH_ARRAY_INX", "SBATCH_CLUSTERS", "SBATCH_EXPORT", "SBATCH_REQUEUE",
               "SBATCH_WAIT", "SBATCH_SIGNAL", "SBATCH_OPEN_MODE")  # fmt: skip


def _passed_on() -> dict[str, str]:
    """Returns what sbatch is started with, all of which it passes on to the worker."""
    chosen = needed_environment(("SLURM_CONF", "SBATCH_*"))
    return {name: value for name, value in chosen.items() if name not in _DISTURBING}


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
