"""What Grid Engine's commands print, read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from gridmap.core.events import NativeState


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
    *("hostname", "start_time", "end_time", "ru_wallclock", "cpu", "maxvmem"),
    *("failed", "exit_status", "deleted_by"),
)


def parse_qacct(text: str) -> dict[str, str]:
    """Returns the fields of the last entry that `qacct -j` printed; empty when it has none."""
    entry = text.rpartition("=" * 20)[2] if "=" * 20 in text else ""
    pairs = (line.partition(" ") for line in entry.splitlines())
    return {name: value.strip() for name, _, value in pairs if name}


def account_summary(text: str) -> str:
    """Returns what matters of `qacct -j` in one line for a human, or ""."""
    fields = parse_qacct(text)
    told = (f"{name} {fields[name]}" for name in _ACCOUNT_FIELDS if fields.get(name))
    return ", ".join(re.sub(r"\s+", " ", item) for item in told)


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
