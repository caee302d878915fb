"""Probe: what the scheduler lets a user have, beside what a run may ask for.

The readers of commands' output are pure; what they read was recorded from Slurm 22.05 and Son of
Grid Engine 8.1.9 (tests/doctor/test_limits.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gridmap.backends.commands import MISSING
from gridmap.backends.drmaa import LARGEST_ARRAY
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, ok, skipped, warning
from gridmap.doctor.scheduler import command


def examine(exam: Exam) -> Iterator[Finding]:
    """Asks the scheduler for its limits."""
    if exam.settings is None or not exam.backend:
        yield skipped("limits", "no scheduler was chosen")
    elif exam.is_local:
        yield skipped("limits", "runs use this machine; max_processes says how much of it")
    elif exam.opened is None:
        yield skipped("limits", "the scheduler does not answer")
    elif exam.backend == "slurm":
        yield from _slurm(exam, exam.workers)
    elif exam.is_grid_engine:
        yield from _grid_engine(exam, exam.workers)
    else:
        yield skipped("limits", f"how to ask {exam.backend!r} for them is not known")


def compared(exam: Exam, name: str, most: int, workers: int, what: str) -> Finding:
    """Returns a limit on what may be submitted, beside GRIDMAP_MAX_WORKERS.

    :param most: 0 stands for no limit
    """
    if not most:
        return ok(name, f"{what}: no limit", limit=0)
    if most >= workers:
        return ok(name, f"{what}: {most} (GRIDMAP_MAX_WORKERS is {workers})", limit=most)
    exam.most_workers = min(most, exam.most_workers or most)
    exam.need("GRIDMAP_MAX_WORKERS", exam.most_workers)
    return warning(
        name,
        f"{what}: {most}, and a run may ask for {workers} workers; then it would be refused",
        f"set GRIDMAP_MAX_WORKERS={most}, or pass max_workers={most}",
        limit=most,
    )


# --- Slurm ----------------------------------------------------------------------------------------


def _slurm(exam: Exam, workers: int) -> Iterator[Finding]:
    code, output = command("scontrol", "show", "config")
    if code != 0:
        yield warning(
            "limits", f"scontrol show config: {output.strip()}", "see the scheduler above"
        )
        return
    config = slurm_config(output)
    array = int(config.get("MaxArraySize", "0") or 0)
    if array <= 1:
        yield ok(
            "MaxArraySize", f"MaxArraySize {array}: no arrays, so each worker is a job", limit=array
        )
    else:
        pieces = -(-workers // array)
        how = "one array" if pieces == 1 else f"{pieces} arrays"
        yield ok("MaxArraySize", f"MaxArraySize {array}: {workers} workers are {how}", limit=array)
    jobs = int(config.get("MaxJobCount", "0") or 0)
    yield compared(exam, "MaxJobCount", jobs, workers, "MaxJobCount, the jobs of all users")
    enforced = config.get("AccountingStorageEnforce", "none")
    if "limits" not in enforced and "safe" not in enforced:
        told = f"limits of accounts are not enforced (AccountingStorageEnforce is {enforced})"
        yield ok("MaxSubmitJobs", told, limit=0)
        return
    yield account_finding(exam, workers, *_associations())


def _associations() -> tuple[int, str]:
    import getpass

    fields = "Account,Partition,MaxSubmitJobs,GrpSubmitJobs,MaxJobs,QOS"
    return command(
        "sacctmgr", "-n", "-P", "show", "assoc", f"user={getpass.getuser()}", f"format={fields}"
    )


def account_finding(exam: Exam, workers: int, code: int, output: str) -> Finding:
    """Reads what sacctmgr says of the user's accounts."""
    if code == MISSING:
        return skipped("MaxSubmitJobs", "no sacctmgr on PATH")
    if code != 0:
        return skipped("MaxSubmitJobs", f"sacctmgr does not answer: {output.strip()}")
    account = exam.job().project or ""
    limits = submit_limits(output)
    if account:
        limits = {name: most for name, most in limits.items() if name == account}
    if not limits:
        which = f" with account {account!r}" if account else ""
        return warning(
            "MaxSubmitJobs",
            f"the accounting knows no association of yours{which}, and limits are enforced",
            "ask who runs the cluster for an account, and name it: project=",
        )
    most = min(filter(None, limits.values()), default=0)
    what = f"MaxSubmitJobs of account {', '.join(limits)}"
    return compared(exam, "MaxSubmitJobs", most, workers, what)


def slurm_config(text: str) -> dict[str, str]:
    """Returns the settings that `scontrol show config` printed."""
    found = re.findall(r"^(\w+) *= (.*)$", text, re.MULTILINE)
    return {name: value.strip() for name, value in found}


def submit_limits(text: str) -> dict[str, int]:
    """Returns the most jobs that each account lets this user have; 0 for no limit.

    :param text: rows of Account|Partition|MaxSubmitJobs|GrpSubmitJobs|MaxJobs|QOS
    """
    limits: dict[str, int] = {}
    for line in text.splitlines():
        words = line.strip().split("|")
        if len(words) < 5:
            continue
        most = [int(word) for word in words[2:4] if word.isdecimal()]
        before = [limits[words[0]]] if limits.get(words[0]) else []
        limits[words[0]] = min([*most, *before], default=0)
    return limits


# --- Grid Engine ----------------------------------------------------------------------------------


def _grid_engine(exam: Exam, workers: int) -> Iterator[Finding]:
    code, output = command("qconf", "-sconf")
    if code == MISSING:
        yield skipped("limits", "no qconf on PATH")
        return
    if code != 0:
        yield skipped("limits", f"qconf -sconf does not answer: {output.strip()}")
        return
    config = grid_engine_config(output)
    code, output = command("qconf", "-ssconf")
    scheduler = grid_engine_config(output) if code == 0 else {}
    yield from grid_engine_limits(exam, workers, config, scheduler)


def grid_engine_config(text: str) -> dict[str, int]:
    """Returns the limits that `qconf -sconf` or `qconf -ssconf` printed; 0 is no limit.

    Source: sge_conf(5), sched_conf(5)
    """
    names = "max_u_jobs|max_jobs|max_aj_tasks|max_aj_instances|maxujobs"
    found = re.findall(rf"^({names})\s+(\d+)\s*$", text, re.MULTILINE)
    return {name: int(value) for name, value in found}


def grid_engine_limits(
    exam: Exam, workers: int, config: Mapping[str, int], scheduler: Mapping[str, int]
) -> Iterator[Finding]:
    tasks = config.get("max_aj_tasks", 0)
    if not 0 < tasks < min(workers, LARGEST_ARRAY):
        told = f"max_aj_tasks, the tasks of an array: {tasks or 'no limit'}"
        yield ok("max_aj_tasks", told, limit=tasks)
    else:
        yield compared(exam, "max_aj_tasks", tasks, workers, "max_aj_tasks, the tasks of an array")
    for name, what in (("max_u_jobs", "jobs of a user"), ("max_jobs", "jobs of all users")):
        most = config.get(name, 0)
        # an array is one job, and a run has one for each kind of job, and one for each replacement
        if 0 < most < FEW_JOBS:
            yield warning(
                name,
                f"{name}, the {what}: {most}, an array being one; with several runs at a time, "
                "submissions are refused",
                "ask who runs the cluster for more",
                limit=most,
            )
        else:
            yield ok(name, f"{name}, the {what}: {most or 'no limit'}", limit=most)
    for name, most in (
        ("max_aj_instances", config.get("max_aj_instances", 0)),
        ("maxujobs", scheduler.get("maxujobs", 0)),
    ):
        what = "of an array at work" if name == "max_aj_instances" else "of a user at work"
        told = f"{name}, tasks {what}: {most or 'no limit'}"
        if 0 < most < workers:
            told += f"; more workers than that wait (GRIDMAP_MAX_WORKERS is {workers})"
        yield ok(name, told, limit=most)


FEW_JOBS = 10
