"""Probe: what the tasks have found on their nodes. The judging is pure; on_node.py has looked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, failed, merged, ok, skipped, warning

CLOCK_TOLERANCE_S = 5.0
"""By so much clocks may differ: security services of clusters take some minutes amiss, and from
here on times in logs mislead."""

LEAST_DESCRIPTORS = 256
SLOW_FOLDER_S = 2.0
LITTLE_MEMORY_BYTES = 1 << 30

WITHOUT_CLUSTER = "runs use this machine: there is no node"


class Report(NamedTuple):
    """What a task has found, and when that was seen here.

    :param content: what on_node.py wrote last
    :param first_written_at: what the node's clock said when it wrote the first version that was
        seen here (seconds since 1970)
    :param submitted_at, seen_at: what this host's clock said before and after that
    :param heard_at: what it said when the task called; 0: it did not
    """

    content: Mapping[str, Any]
    first_written_at: float
    submitted_at: float
    seen_at: float
    heard_at: float = 0.0

    @property
    def host(self) -> str:
        return str(self.content.get("host", "?"))

    def step(self, name: str) -> Mapping[str, Any]:
        """Returns what a step found; nothing where it did not come to that."""
        found = self.content.get(name)
        return found if isinstance(found, Mapping) else {}


Judge = Callable[[Report, Mapping[str, Any]], Iterator[Finding]]


def examine(exam: Exam) -> Iterator[Finding]:
    """Judges what was found on the nodes, beside what is here."""
    if exam.is_local:
        yield skipped("node", WITHOUT_CLUSTER)
    elif not exam.submits:
        yield skipped("node", "--no-submit")
    elif not exam.reports:
        yield skipped("node", "no task has reported from a node")
    else:
        yield from judged(exam.reports, exam.questions, JUDGES)


def judged(
    reports: list[Report], questions: Mapping[str, Any], judges: tuple[Judge, ...]
) -> list[Finding]:
    """Returns what all tasks found, the same things once."""
    return merged(
        (report.host, finding)
        for judge in judges
        for report in reports
        for finding in judge(report, questions)
    )


# --- Python and packages --------------------------------------------------------------------------


def python(report: Report, questions: Mapping[str, Any]) -> Iterator[Finding]:
    here, there = questions["python"], report.content.get("python")
    told = f"{report.content.get('executable')} is Python {report.content.get('version')}"
    if there != here:
        yield failed(
            "python",
            f"{told}, and here it is {questions['version']}",
            "have the same Python under this path on the nodes, as by a virtual environment (or "
            "conda's) on a file system that they share, with an interpreter that they have",
            version=report.content.get("version"),
        )
    else:
        yield ok("python", told, version=report.content.get("version"))


def packages(report: Report, questions: Mapping[str, Any]) -> Iterator[Finding]:
    found = report.step("modules")
    if not found:
        return
    same, other = {}, {}
    for package, here in questions["versions"].items():
        answer = found.get(package) or {"error": "was not looked for"}
        if answer.get("error"):
            yield failed(
                package if package == "gridmap" else "dependencies",
                f"{package} cannot be imported: {answer['error']}",
                f"install {package} for {report.content.get('executable')} where the nodes see it",
                package=package,
            )
            continue
        there = answer.get("version", "")
        if package == "gridmap":
            yield _gridmap(there, here, answer.get("path", ""))
        elif there == here or not (there and here):
            same[package] = there
        else:
            other[package] = f"{there}, here {here}"
    if other:
        yield warning(
            "dependencies",
            "other versions than here: " + ", ".join(f"{n} {v}" for n, v in other.items()),
            "install the same versions on the nodes: functions and messages travel between them",
            **other,
        )
    if same:
        yield ok("dependencies", ", ".join(f"{n} {v}" for n, v in same.items()), **same)


def _gridmap(there: str, here: str, path: str) -> Finding:
    told = f"gridmap {there} in {path}"
    if there == here:
        return ok("gridmap", told, version=there)
    return failed(
        "gridmap", f"{told}, and here it is {here}", "install the same version", version=there
    )


# --- folders --------------------------------------------------------------------------------------


def folder(report: Report, questions: Mapping[str, Any]) -> Iterator[Finding]:
    seconds = float(report.content.get("seen_after_s", 0.0))
    told = f"the run's folder is seen, with what was written here, after {seconds:.1f} s"
    if report.content.get("uid") != questions["uid"]:
        yield failed(
            "run_folder",
            f"{told}, but there you are user {report.content.get('uid')}, here {questions['uid']}",
            "have the same user ids on all hosts: the keys of a run are for one user",
        )
    elif seconds > SLOW_FOLDER_S:
        yield warning(
            "run_folder",
            f"{told}: workers wait that long at their start",
            "set GRIDMAP_RUN_DIR to a file system that shows new files sooner (NFS: lookupcache, "
            "acdirmax)",
            seconds=seconds,
        )
    else:
        yield ok("run_folder", told, seconds=seconds)


def lock(report: Report, questions: Mapping[str, Any]) -> Iterator[Finding]:
    found = report.step("locks")
    if not found:
        return
    if found.get("refused"):
        yield ok("locks", "the lock that is held here is refused there, too")
    else:
        why = f": {found['error']}" if found.get("error") else ", and is given there at once"
        yield warning(
            "locks",
            f"the lock that is held here is not known there{why}",
            "call gridmap.attach on the host where a run was begun only, or set GRIDMAP_RUN_DIR to "
            "a file system with locks that hosts share",
        )


def working_folder(report: Report, questions: Mapping[str, Any]) -> Iterator[Finding]:
    found = report.step("folders").get("working directory")
    if not found:
        return
    path, sample = found["path"], questions["folders"]["working directory"]["sample"]
    if not found.get("there"):
        yield failed(
            "working_directory",
            f"{path}, where jobs run, is not there",
            "start your program in a folder that the nodes see under the same path",
        )
    elif sample and not found.get("seen"):
        yield warning(
            "working_directory",
            f"{path} is there, but has none of the files that it has here: another folder",
            "start your program in a folder that the nodes share, if jobs read files or import "
            "modules of it",
        )
    else:
        yield ok("working_directory", f"{path} is seen")


def temp_folders(report: Report, questions: Mapping[str, Any]) -> Iterator[Finding]:
    found = report.step("folders")
    chosen = found.get("temp_dir")
    if chosen:
        trouble = "it is not there" if not chosen.get("there") else chosen.get("error")
        if trouble:
            yield failed(
                "temp_dir",
                f"workers cannot write their output to {chosen['path']}: {trouble}",
                "set DEFAULT_TEMP_DIR (temp_dir=) to a folder that this host and the nodes can "
                "write, or leave it alone: the output then goes to the run's folder",
            )
        else:
            yield ok("temp_dir", f"{chosen['path']} can be written")
    elif found:
        yield ok("temp_dir", "none is set: workers write their output to the run's folder")
    temporary = found.get("temporary") or {}
    if temporary.get("error"):
        yield failed(
            "temporary_files",
            f"none can be written: {temporary.get('path')} {temporary['error']}",
            "set TMPDIR on the nodes to a folder with room, or tell who runs the cluster",
        )


# --- the node -------------------------------------------------------------------------------------


def limits(report: Report, questions: Mapping[str, Any]) -> Iterator[Finding]:
    found = report.step("limits")
    if not found or found.get("error"):
        return
    files = found["open_files"][0]
    told = (
        f"open files {_limit(files)}, address space {_memory(found['address_space'][0])}, "
        f"locked memory {_memory(found['memory_lock'][0])}"
    )
    if 0 <= files < LEAST_DESCRIPTORS:
        yield warning(
            "limits",
            f"{told}: few files for a worker and its jobs",
            "have the nodes' limit raised (ulimit -n; Slurm: PropagateResourceLimits)",
            **found,
        )
    elif 0 <= found["address_space"][0] < LITTLE_MEMORY_BYTES:
        yield warning(
            "limits",
            f"{told}: little for Python with large packages",
            "ask for more: h_vmem=",
            **found,
        )
    else:
        yield ok("limits", told, **found)


def _limit(value: int) -> str:
    return "without limit" if value < 0 else str(value)


def _memory(value: int) -> str:
    from gridmap.doctor.machine import human

    return "without limit" if value < 0 else human(value)


def clock(report: Report, questions: Mapping[str, Any]) -> Iterator[Finding]:
    """Compares the clocks: exactly where the task has called, else by what it wrote and when."""
    skew_s, exact = clock_skew(report)
    about = "" if exact else " or more"
    if abs(skew_s) > CLOCK_TOLERANCE_S:
        way = "ahead of" if skew_s > 0 else "behind"
        yield warning(
            "clock",
            f"its clock is {abs(skew_s):.0f} s{about} {way} this host's",
            "have the clocks set (NTP, chrony): munge and Kerberos refuse what is too far off, and "
            "times in logs mislead",
            skew_s=round(skew_s, 3),
            exact=exact,
        )
    else:
        told = f"{abs(skew_s):.2f} s" if exact else "nothing that can be seen"
        most = f"up to {CLOCK_TOLERANCE_S:.0f} s is well"
        yield ok(
            "clock",
            f"its clock differs from this host's by {told} ({most})",
            skew_s=round(skew_s, 3),
            exact=exact,
        )


def clock_skew(report: Report) -> tuple[float, bool]:
    """Returns by how much a node's clock is ahead of ours [s], and whether that is exact.

    Where the task has called, both clocks were read at that moment.  Else it wrote its file between
    two moments here: it is off by as much, at least, as it says that it was before or after.
    """
    called_at = report.step("hello").get("at")
    if called_at and report.heard_at:
        return float(called_at) - report.heard_at, True
    if report.first_written_at > report.seen_at:
        return report.first_written_at - report.seen_at, False
    return min(0.0, report.first_written_at - report.submitted_at), False


def ending(report: Report, questions: Mapping[str, Any]) -> Iterator[Finding]:
    """Tells of a task that did not come to its end."""
    if report.content.get("done"):
        return
    step = report.content.get("doing") or "the start"
    what = {
        "modules": "importing gridmap and its dependencies",
        "hello": "calling this host",
        "tcp": "connecting to this host",
        "folders": "looking at folders",
        "locks": "trying a lock",
    }.get(step, step)
    yield failed(
        "end",
        f"the task ended, or hung, while {what}",
        "see what the scheduler says of it above; memory (h_vmem) or a file system that hangs "
        "are likely",
        step=step,
    )


JUDGES: tuple[Judge, ...] = (
    python, packages, folder, lock, working_folder, temp_folders, limits, clock, ending,
)  # fmt: skip


def questions_of(exam: Exam, folder: str, addresses: list[str]) -> dict[str, Any]:
    """Returns what tasks are to find out, and what is so here.

    :param folder: the doctor's, which the tasks are to see
    """
    import sys

    import gridmap
    from gridmap.doctor.machine import DEPENDENCIES, FOR_PEOPLE, NOT_IMPORTED, installed_version
    from gridmap.launch import PYTHON
    from gridmap.plan import client_sys_path

    left_out = NOT_IMPORTED | FOR_PEOPLE
    modules = {name: module for name, module in DEPENDENCIES.items() if name not in left_out}
    here = os.getcwd()
    folders = {"working directory": {"path": here, "sample": _sample(here), "written": False}}
    if exam.temp_dir:
        folders["temp_dir"] = {"path": exam.temp_dir, "sample": [], "written": True}
    return {
        "folder": folder,
        "uid": os.geteuid(),
        "python": PYTHON,
        "version": ".".join(map(str, sys.version_info[:3])),
        "modules": {"gridmap": "gridmap", **modules},
        "versions": {"gridmap": gridmap.__version__, **{n: installed_version(n) for n in modules}},
        "sys_path": client_sys_path(),
        "addresses": addresses,
        "folders": folders,
        "seconds": max(30, min(120, int(exam.options.timeout))),
    }


MOST_NAMES = 20


def _sample(folder: str) -> list[str]:
    """Returns the names of some of a folder's entries."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for _, entry in zip(range(MOST_NAMES), entries, strict=False))
