"""What it means when a submission is refused, or a task ends without a word. Pure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from gridmap.core.events import NativeStatus
from gridmap.doctor import on_node

SHARE_FOLDER = (
    "set GRIDMAP_RUN_DIR to a folder that the nodes see under the same path, as in a home folder "
    "that they share"
)
SHARE_PYTHON = (
    "install Python and gridmap where the nodes see them under the same path, as in a virtual "
    "environment in your home folder"
)


class Meaning(NamedTuple):
    """What a message of a scheduler means.

    :param pattern: a regular expression, found in what it said, whatever the case
    """

    pattern: str
    change: str


REFUSALS = (
    Meaning(
        r"no submit host|neither submit nor admin host|access denied",
        "run this on a submit host (qconf -ss lists them), or ask who runs the cluster to make "
        "this one such a host (qconf -as)",
    ),
    Meaning(
        r"unknown queue|queue .* does not exist|invalid partition",
        "name a queue that there is: queue=, or DEFAULT_QUEUE (qconf -sql, sinfo)",
    ),
    Meaning(
        r"unknown resource|invalid (generic resource|feature)|gres",
        "leave out the resource that it names, or ask for one that the cluster has (qconf -sc, "
        "scontrol show node)",
    ),
    Meaning(
        r"no suitable queues|node configuration is not available|requested .* configuration",
        "ask for less: no queue has what is asked for together (h_vmem, h_rt, num_slots, gpu)",
    ),
    Meaning(
        r"invalid account|no project|project .* does not exist|assoc",
        "name an account or project of yours: project= (sacctmgr show assoc, qconf -sprjl)",
    ),
    Meaning(
        r"time limit|not a time value",
        "ask for a time that the queue allows: h_rt=",
    ),
    Meaning(
        r"parallel environment|no such pe",
        "name a parallel environment that there is: par_env= (qconf -spl)",
    ),
    Meaning(
        r"job submit limit|max_u_jobs|max_aj_tasks|maxsubmit|exceed|not allowed to submit more",
        "wait for other jobs of yours to end, or have fewer workers: GRIDMAP_MAX_WORKERS",
    ),
    Meaning(
        r"timed out|contact|connection refused|communication|no answer",
        "see whether the scheduler's own commands work here: its daemon may be down or overloaded",
    ),
)


def refused(words: str) -> str:
    """Returns what to do about a submission that was refused with these words."""
    for meaning in REFUSALS:
        if re.search(meaning.pattern, words, re.IGNORECASE):
            return meaning.change
    return "correct what the scheduler names; its words are above"


def died(status: NativeStatus, diagnosis: str, python: str, folder: Path) -> tuple[str, str]:
    """Returns what a task died of that left no report, and what to do.

    :param diagnosis: what the backend found out about it, its log among it
    :param python: the interpreter that was to be started
    """
    told = f"{status.text}\n{diagnosis}".strip()
    code = status.exit_status
    log = _log_line(diagnosis)
    if code == on_node.ANOTHER:
        return f"the node has another folder at {folder}{log}", SHARE_FOLDER
    if code == on_node.NOT_SEEN:
        return f"the node does not see {folder}{log}", SHARE_FOLDER
    if code == on_node.NOT_WRITTEN:
        return (
            f"the node sees {folder} and cannot write it{log}",
            "make room there, or have it exported for writing to the nodes (root: no_root_squash)",
        )
    if code in (126, 127) or _accounted(told, 27):
        return f"the node cannot start {python}{log}", SHARE_PYTHON
    if "can't open file" in told or "No module named" in told:
        return f"the node has {python}, and not gridmap at the same path{log}", SHARE_PYTHON
    if "SyntaxError" in told:
        return (
            f"{python} on the node is a Python too old to read gridmap{log}",
            "have the same Python under this path on the nodes",
        )
    if _accounted(told, 26) or _accounted(told, 28) or "0:53" in told:
        return (
            f"the node cannot open the task's output or working folder in {folder}: {status.text}",
            SHARE_FOLDER,
        )
    if "will never start" in told:
        return status.text, "ask for something else: the reason is the scheduler's own"
    return (
        f"it ended without a word: {told}",
        "see what the scheduler and the end of its log say of it",
    )


def _accounted(text: str, code: int) -> bool:
    """Returns whether Grid Engine's accounting names this failure.

    Source: sge_status(5); tried on Son of Grid Engine 8.1.9: 26 output, 27 command, 28 folder
    """
    return re.search(rf"\bfailed {code}\b", text) is not None


def _log_line(diagnosis: str) -> str:
    """Returns the last line of a task's log, for the end of a sentence."""
    found = re.findall(r"^gridmap doctor on .*|^.*[Nn]o such file.*", diagnosis, re.MULTILINE)
    return f": {found[-1]}" if found else ""
