"""What Slurm's commands print, read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gridmap.backends.base import BACK_IN_QUEUE, NEVER_STARTS
from gridmap.backends.grid_engine import fold
from gridmap.core.events import NativeState, NativeStatus
from gridmap.errors import Cause, signal_name

FIELDS = ("JobArrayID", "State", "Reason", "exit_code", "NodeList", "RestartCnt")
"""What squeue is asked for."""

SEPARATOR = "|"

NEVER = re.compile(
    "AccountNotAllowed|BadConstraints|DependencyNeverSatisfied|InvalidAccount|InvalidQOS"
    "|PartitionConfig|PartitionTimeLimit|QOSNotAllowed"
    r"|(Assoc|QOS)(Max|Min)\w+Per(Job|Node)\w*|QOSMin\w+"  # what one job asks for
    "|launch[ _]failed[ _]requeued[ _]held"
)
"""Reasons of a job that waits and that nothing but its owner or an administrator can mend.

Source: squeue(1) "JOB REASON CODES"; some of them tried on Slurm 22.05
"""

_STATES = {
    "PENDING": NativeState.PENDING,
    "REQUEUED": NativeState.PENDING,
    "REQUEUE_FED": NativeState.PENDING,
    "REQUEUE_HOLD": NativeState.HELD,
    "SPECIAL_EXIT": NativeState.HELD,
    "RESV_DEL_HOLD": NativeState.HELD,
    "CONFIGURING": NativeState.RUNNING,
    "RUNNING": NativeState.RUNNING,
    "RESIZING": NativeState.RUNNING,
    "SIGNALING": NativeState.RUNNING,
    "COMPLETING": NativeState.RUNNING,
    "STAGE_OUT": NativeState.RUNNING,
    "STOPPED": NativeState.SUSPENDED,
    "SUSPENDED": NativeState.SUSPENDED,
    "COMPLETED": NativeState.DONE,
    "CANCELLED": NativeState.DELETED,
    "BOOT_FAIL": NativeState.FAILED,
    "DEADLINE": NativeState.FAILED,
    "FAILED": NativeState.FAILED,
    "NODE_FAIL": NativeState.FAILED,
    "OUT_OF_MEMORY": NativeState.FAILED,
    "PREEMPTED": NativeState.FAILED,
    "TIMEOUT": NativeState.FAILED,
}
"""Source: squeue(1) "JOB STATE CODES" """

_CAUSES = {
    "OUT_OF_MEMORY": Cause.MEMORY,
    "TIMEOUT": Cause.WALLTIME,
    "DEADLINE": Cause.WALLTIME,
    "PREEMPTED": Cause.PREEMPTED,
}

_HELD = ("JobHeldUser", "JobHeldAdmin", "JobHold")

_PASSING = (
    "socket timed out", "unable to contact slurm controller", "connection refused",
    "connection reset", "temporarily unable to accept", "resource temporarily unavailable",
    "zero bytes were transmitted", "slurmctld is in standby", "in standby mode",
    "communication connection failure", "no answer within", "try again later",
)  # fmt: skip
"""Parts of messages after which the same command may succeed later."""

_UNKNOWN = "invalid job id specified"


class Listed(NamedTuple):
    """One element of an array that squeue or sacct lists."""

    native_id: str
    status: NativeStatus


def may_pass(text: str) -> bool:
    """Returns whether what a command said is a trouble that may pass."""
    return any(part in text.lower() for part in _PASSING)


def knows_none(text: str) -> bool:
    """Returns whether squeue said that it knows none of the jobs."""
    return _UNKNOWN in text.lower()


def submitted(text: str) -> tuple[str, str]:
    """Returns the job and the cluster ("" for the only one) of `sbatch --parsable`.

    :raises ValueError: it printed something else
    """
    for line in reversed(text.splitlines()):  # there may be warnings before it
        found = re.fullmatch(r"(\d+)(?:;([\w.-]+))?", line.strip())
        if found:
            return found[1], found[2] or ""
    raise ValueError(f"sbatch printed {text.strip()!r}, and no job id")


def parse_squeue(text: str) -> Iterator[Listed]:
    """Yields each element in the output of squeue with FIELDS."""
    for line in text.splitlines():
        words = [word.strip() for word in line.split(SEPARATOR)]
        if len(words) > len(FIELDS) and re.fullmatch(r"\d+(_\d+)?", words[0]):
            native_id, state, reason, code, nodes, restarts = words[: len(FIELDS)]
            status = _status(state, reason, _number(code), nodes, "squeue", _number(restarts))
            yield Listed(native_id, status)


def parse_sacct(text: str) -> Iterator[Listed]:
    """Yields each element in the output of `sacct -P -n -X -o JobID,State,ExitCode,NodeList`."""
    for line in text.splitlines():
        words = [word.strip() for word in line.split(SEPARATOR)]
        if len(words) == 4 and re.fullmatch(r"\d+(_\d+)?", words[0]):
            exit_status, _, signum = words[2].partition(":")
            code = int(exit_status or 0) << 8 | int(signum or 0)
            yield Listed(words[0], _status(words[1], "", code, words[3], "sacct"))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _status(
    state: str, reason: str, code: int, nodes: str, who: str, restarts: int = 0
) -> NativeStatus:
    """Returns a status; `code` is that of wait(2)."""
    word = state.split(" ")[0].rstrip("+")  # "CANCELLED by 1000"
    known = _STATES.get(word, NativeState.UNKNOWN)
    told = [f"{who} says {state}"]
    if reason not in ("", "None"):
        told.append(f"reason {reason}")
    if nodes:
        told.append(f"on {nodes}")
    if known is NativeState.PENDING:
        if NEVER.fullmatch(reason):
            hopeless = None if reason.startswith("launch") else Cause.NEVER_STARTED
            text = f"{NEVER_STARTS}: {', '.join(told)}"
            return NativeStatus(NativeState.FAILED, text, cause=hopeless)
        if restarts:  # somebody did that; a new worker starts two minutes sooner
            text = f"{BACK_IN_QUEUE}: {', '.join(told)}"
            return NativeStatus(NativeState.FAILED, text, cause=Cause.PREEMPTED)
        if reason in _HELD:
            known = NativeState.HELD
    if known not in (NativeState.DONE, NativeState.FAILED, NativeState.DELETED):
        return NativeStatus(known, ", ".join(told))
    if word not in ("COMPLETED", "FAILED", "CANCELLED"):  # then it is a mark of Slurm's own
        return NativeStatus(known, ", ".join(told), cause=_CAUSES.get(word))
    signum, exit_status = code & 0x7F, code >> 8 & 0xFF
    if signum:
        told.append(f"ended by {signal_name(signum)}")
    elif exit_status:
        told.append(f"exited with {exit_status}")
    return NativeStatus(known, ", ".join(told), -1 if signum else exit_status, signum)


def fold_ids(ids: Iterable[str]) -> list[str]:
    """Returns elements of arrays in the words of scancel: "12_[1-3,7]"."""
    elements: dict[str, list[int]] = {}
    for native_id in ids:
        job, _, element = native_id.partition("_")
        numbers = elements.setdefault(job, [])
        if element:
            numbers.append(int(element))
    folded = []
    for job, numbers in elements.items():
        parts = [f"{a}" if a == b else f"{a}-{b}" for a, b in fold(numbers)]
        folded.append(f"{job}_[{','.join(parts)}]" if parts else job)
    return folded


def usual_time_s(queue: str, text: str) -> float:
    """Returns how long a job may run that asks for no time; 0: for ever, or it is not known.

    :param queue: partitions, with commas between; "": the default one
    :param text: rows of sinfo's %P|%L|%l: partition, DefaultTime, MaxTime
    """
    rows = [line.strip().split("|") for line in text.splitlines() if line.count("|") == 2]
    chosen = queue.split(",") if queue else [row[0].rstrip("*") for row in rows if "*" in row[0]]
    limits = [
        time_s(row[1]) if row[1] not in ("n/a", "") else time_s(row[2])
        for row in rows
        if row[0].rstrip("*") in chosen
    ]
    return min(filter(None, limits), default=0.0)


def time_s(text: str) -> float:
    """Returns a time in seconds as sinfo writes it: 1-12:00:00, 2:00:00, 30:00; 0: infinite.

    Source: sinfo(1), "%l"
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
