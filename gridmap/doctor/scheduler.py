"""Probe: is there a scheduler, does it answer, and which one would runs use?"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridmap.doctor.exam import LOCAL, Exam
from gridmap.doctor.findings import Finding, failed, ok, skipped, warning
from gridmap.profiles import with_profile

COMMAND_S = 20.0
OPEN_S = 60.0
HISTORIC_QUEUE = "all.q"
"""What DEFAULT_QUEUE has always been; on Slurm it stands for the cluster's own default."""


def examine(exam: Exam) -> Iterator[Finding]:
    """Finds the scheduler that a run would use, and connects to it."""
    if exam.settings is None:
        yield skipped("choice", "the settings have to be valid first")
        return
    yield from choose(exam)
    if not exam.backend or exam.is_local:
        return
    if exam.backend == "drmaa":
        yield from _drmaa(exam)
    elif exam.backend == "slurm":
        yield from _slurm()
    yield connect(exam)
    if exam.opened is not None:
        yield from _queue(exam)


def _queue(exam: Exam) -> Iterator[Finding]:
    try:
        queue = exam.job().queue
    except (TypeError, ValueError) as error:
        yield failed("queue", str(error), "correct the option, or the profile, that it names")
        return
    if exam.is_grid_engine:
        yield from grid_engine_queues(exam, queue, *command("qconf", "-sql"))
    elif exam.backend == "slurm":
        yield from partitions("" if queue == HISTORIC_QUEUE else queue, *sinfo())


# --- the choice -----------------------------------------------------------------------------------


@with_profile()
def _arguments(
    backend: str | None = None,
    temp_dir: str | None = None,
    white_list: list[str] | None = None,
    max_workers: int | None = None,
    local: bool | None = None,
    require_cluster: bool | None = None,
    profile: str | None = None,
) -> dict[str, Any]:
    """Returns what grid_map would be called with: what is given, else what the profile says."""
    return {
        "backend": backend or "auto",
        "temp_dir": temp_dir,
        "white_list": white_list,
        "max_workers": max_workers,
        "local": bool(local),
        "require_cluster": bool(require_cluster),
        "profile": profile,
    }


def choose(exam: Exam) -> Iterator[Finding]:
    """Asks GridMap itself which backend a run would use, and says why."""
    from gridmap.call import Call
    from gridmap.errors import DRMAANotPresentException

    options = exam.options
    try:
        given = _arguments(options.backend, options.temp_dir, profile=options.profile)
        try:
            call = Call.checked(**given)
        except OSError as error:
            yield failed("temp_dir", str(error), "name another folder, or none")
            call = Call.checked(**{**given, "temp_dir": ""})
    except DRMAANotPresentException as error:
        yield failed("choice", f"no Grid Engine: {error}", library_advice(str(error)))
        return
    except (TypeError, ValueError, OSError) as error:
        yield failed("choice", str(error), "correct what it names")
        return
    exam.backend, exam.temp_dir = call.options.backend, call.options.log_dir or ""
    exam.workers, exam.white_list = call.options.max_workers, call.white_list
    asked = LOCAL if given["local"] else given["backend"]
    if asked not in ("auto", LOCAL):
        exam.chosen_by_itself = Call.checked(backend="auto").options.backend == exam.backend
    yield _chosen(asked, exam.backend)


def _chosen(asked: str, backend: str) -> Finding:
    facts = {"asked": asked, "backend": backend}
    if asked == LOCAL:
        return ok("choice", "runs use this machine, as you asked", **facts)
    if backend == LOCAL:
        return warning(
            "choice",
            f"no cluster is found, so runs use this machine: {why_local()}",
            "for a cluster: load its module, so that sbatch is on PATH, or set SGE_ROOT; "
            "without one say so: --backend local, local=True",
            **facts,
        )
    why = "as you asked" if asked != "auto" else reason(backend)
    return ok("choice", f"backend={asked!r} uses {backend!r}: {why}", **facts)


def reason(backend: str) -> str:
    """Returns why "auto" chooses this one."""
    named = [name for name in ("SGE_ROOT", "DRMAA_LIBRARY_PATH") if os.environ.get(name)]
    if backend == "drmaa":
        told = f"{' and '.join(named)} set, " if named else "no Slurm here, "
        return f"{told}and a DRMAA library loads"
    if backend == "slurm":
        also = f" ({' and '.join(named)} set, but no DRMAA library loads)" if named else ""
        return f"Slurm's commands are on PATH{also}"
    return "no other is found"


def why_local() -> str:
    from gridmap.backends import drmaa, slurm

    return f"no Slurm ({slurm.why_not()}), no Grid Engine ({drmaa.why_not()})"


def library_advice(error: str) -> str:
    """Returns what to do about a DRMAA library that is not found, or does not load."""
    if "static TLS" in error:
        return (
            "start Python with GLIBC_TUNABLES=glibc.rtld.optional_static_tls=4096 or "
            "LD_PRELOAD=libjemalloc.so.2 in its environment"
        )
    if "no DRMAA library found" in error:
        return (
            "set SGE_ROOT, or DRMAA_LIBRARY_PATH to the path of libdrmaa.so (Debian: "
            "apt-get install gridengine-drmaa1.0)"
        )
    if "package drmaa is missing" in error:
        return "pip install drmaa"
    return "set DRMAA_LIBRARY_PATH to the path of your scheduler's libdrmaa.so"


def connect(exam: Exam) -> Finding:
    """Opens the backend as a run does."""
    from gridmap.backends.registry import open_backend, takes_settings
    from gridmap.errors import BackendError, DRMAANotPresentException
    from gridmap.monitor.submitter import Opening

    of_backend: dict[str, Any] = {}
    if takes_settings(exam.backend) and exam.settings is not None:
        of_backend["use_mem_free"] = exam.settings.use_mem_free
    began = time.monotonic()
    try:
        exam.opened = Opening(lambda: open_backend(exam.backend, **of_backend)).wait(OPEN_S)
    except (BackendError, DRMAANotPresentException) as error:
        return failed("answer", str(error), no_answer_advice(exam.backend, error))
    except Exception as error:  # a backend of somebody else's
        told = f"{type(error).__name__}: {error}"
        return failed("answer", told, f"see whether the backend {exam.backend!r} is installed well")
    seconds = time.monotonic() - began
    return ok("answer", f"it answers, after {seconds:.2f} s", seconds=round(seconds, 3))


def no_answer_advice(backend: str, error: Exception) -> str:
    if backend == "slurm":
        return (
            "see whether scontrol ping and sinfo work here: slurmctld may be down, SLURM_CONF "
            "wrong, or munge not running on this host"
        )
    if isinstance(error, ImportError):
        return library_advice(str(error))
    if backend == "drmaa" and not os.environ.get("SGE_ROOT") and "SGE_ROOT" in str(error):
        return (
            "set SGE_ROOT (settings.sh of your Grid Engine does); where there is no cluster, say "
            "so: --backend local, local=True"
        )
    if backend == "drmaa":
        return (
            "see whether qstat works here: sge_qmaster may be down, SGE_ROOT, SGE_CELL or "
            "SGE_QMASTER_PORT wrong, or this host no submit host (qconf -ss)"
        )
    return "see whether the scheduler's own commands work here"


# --- Grid Engine ----------------------------------------------------------------------------------


def _drmaa(exam: Exam) -> Iterator[Finding]:
    from gridmap.backends import drmaa
    from gridmap.backends.drmaa_library import loaded

    exam.is_grid_engine = drmaa.is_grid_engine()
    library = loaded()
    if library is not None:
        way = (
            " (a copy in memory, without libjemalloc: this process could not load it otherwise)"
            if library.copied
            else ""
        )
        words = drmaa.words_here()
        of = f", of {words.name}" if words else ""
        yield ok("library", f"DRMAA library {library.path}{of}{way}", path=library.path)
    if not exam.is_grid_engine:
        return
    root, cell = os.environ.get("SGE_ROOT", ""), os.environ.get("SGE_CELL", "default")
    yield cell_finding(root, cell)
    missing = [name for name in ("qstat", "qacct", "qconf", "qdel") if shutil.which(name) is None]
    if missing:
        yield warning(
            "commands",
            f"not on PATH: {', '.join(missing)}; so attach finds no workers again, and errors "
            "tell less",
            "put Grid Engine's bin folder on PATH (its settings.sh does)",
            missing=missing,
        )


def cell_finding(root: str, cell: str) -> Finding:
    """Looks for the cell that the variables name."""
    if not root:
        return warning(
            "cell",
            "SGE_ROOT is not set",
            "source settings.sh of your Grid Engine, in its folder common",
        )
    common = Path(root, cell, "common")
    try:
        master = (common / "act_qmaster").read_text().strip()
    except OSError as error:
        return warning(
            "cell",
            f"SGE_ROOT={root} and SGE_CELL={cell}, but {common / 'act_qmaster'}: {error.strerror}",
            "set SGE_ROOT and SGE_CELL to those of your cluster (its settings.sh does)",
            root=root,
            cell=cell,
        )
    return ok("cell", f"cell {cell} in {root}, qmaster on {master}", root=root, cell=cell)


def grid_engine_queues(exam: Exam, queue: str, code: int, output: str) -> Iterator[Finding]:
    """Looks for the queue that jobs name, in what `qconf -sql` printed."""
    from gridmap.backends.commands import MISSING

    if code == MISSING:
        yield skipped("queue", "no qconf on PATH")
        return
    if code != 0:
        yield warning("queue", f"qconf -sql: {output.strip()}", "see whether qconf works here")
        return
    queues = output.split()
    name = queue.partition("@")[0]
    if not queue or name in queues or re.search(r"[*?,|&!\[]", queue):
        named = f"queue {queue}" if queue else "no queue named"
        yield ok("queue", f"{named}; there are: {', '.join(queues)}", queues=queues)
        return
    if len(queues) == 1 and queue == HISTORIC_QUEUE:
        exam.need("DEFAULT_QUEUE", queues[0])
    yield failed(
        "queue",
        f"there is no queue {queue!r}; there are: {', '.join(queues) or 'none'}",
        "set DEFAULT_QUEUE (or queue=) to one of them, or to nothing for the scheduler's choice",
        queues=queues,
    )


# --- Slurm ----------------------------------------------------------------------------------------


def _slurm() -> Iterator[Finding]:
    code, output = command("scontrol", "ping")
    told = "; ".join(line.strip() for line in output.splitlines() if line.strip())
    if code == 0 and " DOWN" in told:
        yield warning("controllers", told, "one of the controllers is down: tell who runs them")
    elif code == 0:
        yield ok("controllers", told)
    # else: to connect fails, too, and says why


def sinfo() -> tuple[int, str]:
    """Returns what sinfo says of partitions: name, up or not, time limits, nodes, state."""
    return command("sinfo", "-h", "-o", "%P|%a|%l|%D|%T|%L")


def partitions(queue: str, code: int, output: str) -> Iterator[Finding]:
    """Looks for the partition that jobs go to, in the output of `sinfo`.

    :param queue: the partition that is named; "" for the cluster's default
    """
    if code != 0:
        yield warning("queue", f"sinfo: {output.strip()}", "see whether sinfo works here")
        return
    rows = [line.strip().split("|") for line in output.splitlines() if line.count("|") in (4, 5)]
    names = list(dict.fromkeys(row[0].rstrip("*") for row in rows))
    default = next((row[0].rstrip("*") for row in rows if row[0].endswith("*")), "")
    chosen = queue or default
    facts = {"partitions": names, "default": default}
    if not chosen:
        yield warning(
            "queue",
            f"no partition is the default one; there are: {', '.join(names) or 'none'}",
            "name one: queue=, or DEFAULT_QUEUE",
            **facts,
        )
        return
    of_it = [row for part in chosen.split(",") for row in rows if row[0].rstrip("*") == part]
    if not of_it:
        yield failed(
            "queue",
            f"there is no partition {chosen!r} that you can see; there are: {', '.join(names)}",
            "name one of them: queue=, or DEFAULT_QUEUE",
            **facts,
        )
        return
    nodes = ", ".join(f"{row[3]} {row[4]}" for row in of_it)
    limit = of_it[0][2]
    told = f"partition {chosen}: nodes {nodes}; time limit {limit}"
    usual = of_it[0][5] if len(of_it[0]) > 5 else ""
    if usual not in ("", "n/a", limit):
        told += f", and {usual} (DefaultTime) where walltime is not said"
    if not any(row[1] == "up" and _works(row[4]) for row in of_it):
        yield warning(
            "queue",
            f"{told}; no node of it takes jobs now",
            "sinfo -R says why; until then jobs wait",
            **facts,
        )
    else:
        yield ok("queue", told, **facts)


def _works(state: str) -> bool:
    """Returns whether a node in this state takes jobs, or will by itself.

    Source: sinfo(1) "NODE STATE CODES"; a "*" stands for a node that does not answer
    """
    word = state.lower()
    return not word.endswith("*") and word.rstrip("*~#!%$@^-+").split("_")[0] in {
        "idle", "mixed", "mix", "allocated", "alloc", "completing", "comp", "planned", "powering",
        "powered", "power",
    }  # fmt: skip


def command(*words: str) -> tuple[int, str]:
    """Runs a command of the scheduler's; returns its exit status and output."""
    from gridmap.backends.commands import run

    return run(*words, deadline_s=COMMAND_S)
