"""What Grid Engine's commands print, read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from xml.etree import ElementTree

from gridmap.backends.native import memory_bytes, walltime_s
from gridmap.core.events import NativeState
from gridmap.errors import Cause


class QueuedTask(NamedTuple):
    """One task that qstat lists."""

    native_id: str
    name: str
    state: str


def parse_qstat(xml: str) -> list[QueuedTask]:
    """Returns every task in the output of `qstat -xml`, array ranges unfolded.

    :raises ValueError: that is no output of qstat
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"qstat -xml printed something else: {error}") from error
    tasks = []
    for entry in root.iter("job_list"):
        job = entry.findtext("JB_job_number", "")
        name, state = entry.findtext("JB_name", ""), entry.findtext("state", "")
        for task in unfold(entry.findtext("tasks") or ""):
            tasks.append(QueuedTask(f"{job}.{task}" if task else job, name, state))
    return tasks


def state_of(letters: str) -> NativeState:
    """Returns what the letters in qstat's column "state" mean for a worker.

    Source: qstat(1) "state"
    """
    if "E" in letters:
        return NativeState.FAILED
    if "q" in letters:
        return NativeState.HELD if "h" in letters else NativeState.PENDING
    if any(letter in letters for letter in "sSTN"):
        return NativeState.SUSPENDED
    return (
        NativeState.RUNNING
        if any(letter in letters for letter in "rtRd")
        else (NativeState.UNKNOWN)
    )


def unfold(tasks: str) -> Iterator[str]:
    """Yields each task number of "1,4-10:2"; one empty string where there are none."""
    if not tasks:
        yield ""
        return
    for part in tasks.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip())
        if match is None:
            raise ValueError(f"qstat speaks of tasks {tasks!r}")
        first, last, step = (int(number) if number else 0 for number in match.groups())
        yield from map(str, range(first, max(first, last) + 1, step or 1))


def fold(tasks: Iterable[int]) -> list[tuple[int, int]]:
    """Returns first and last of each stretch of consecutive task numbers."""
    stretches: list[tuple[int, int]] = []
    for task in sorted(tasks):
        if stretches and stretches[-1][1] == task - 1:
            stretches[-1] = (stretches[-1][0], task)
        else:
            stretches.append((task, task))
    return stretches


_ACCOUNT_FIELDS = (
    *("hostname", "start_time", "end_time", "ru_wallclock", "cpu", "maxvmem", "category"),
    *("failed", "exit_status", "deleted_by"),
)


def parse_qacct(text: str) -> dict[str, str]:
    """Returns the fields of the last entry that `qacct -j` printed; empty when it has none."""
    entry = text.rpartition("=" * 20)[2] if "=" * 20 in text else ""
    pairs = (line.partition(" ") for line in entry.splitlines())
    return {name: value.strip() for name, _, value in pairs if name}


def account_summary(fields: Mapping[str, str]) -> str:
    """Returns what matters of an entry of the accounting in one line for a human, or ""."""
    told = (f"{name} {fields[name]}" for name in _ACCOUNT_FIELDS if fields.get(name))
    return ", ".join(re.sub(r"\s+", " ", item) for item in told)


_LIMIT_ENFORCED = 37
_REQUEST = re.compile(r"\b(h_rt|h_vmem)=([^,\s]+)")
_AMOUNT = re.compile(r"([\d.]+)([KMGT]?)B?")


def cause_of_account(fields: Mapping[str, str]) -> Cause | None:
    """Returns the cause of a death that Grid Engine itself brought about; None for any other.

    Its code for that, 37, stands for time and memory alike; the job's requests, which are in its
    category, and what it used tell them apart.

    Source: sge_status(5) "JOB EXIT STATUS"; tried on Son of Grid Engine 8.1.9
    """
    if fields.get("failed", "").split(" ")[0] != str(_LIMIT_ENFORCED):
        return None
    asked = dict(_REQUEST.findall(fields.get("category", "")))
    try:
        walltime = walltime_s(asked.get("h_rt"))
        allowed = memory_bytes("h_vmem", asked["h_vmem"]) if "h_vmem" in asked else 0
    except ValueError:
        return Cause.WALLTIME
    in_time = walltime is None or _amount(fields.get("ru_wallclock", "")) < walltime
    had = _amount(fields.get("maxvmem", ""))
    return Cause.MEMORY if in_time and allowed and had >= 0.9 * allowed else Cause.WALLTIME


def _amount(text: str) -> float:
    """Returns a number with a unit, "1.496MB" or "4s"; 0 when it is none."""
    found = _AMOUNT.match(text)
    return float(found[1]) * 1024.0 ** " KMGT".index(found[2] or " ") if found else 0.0


_TELLING = ("error reason", "job_state", "hard resource_list", "hard_queue_list", "parallel env")


def queue_summary(text: str) -> str:
    """Returns the lines of `qstat -j` that say why a job waits or failed, or ""."""
    lines = text.splitlines()
    told = [line.strip() for line in lines if line.lower().startswith(_TELLING)]
    for number, line in enumerate(lines):
        if line.startswith("scheduling info:"):
            reasons = [line.partition(":")[2], *lines[number + 1 :]]
            told += [f"scheduling info: {reason.strip()}" for reason in reasons if reason.strip()]
            break
    return "\n".join(re.sub(r"\s{2,}", " ", line) for line in told[:20])
