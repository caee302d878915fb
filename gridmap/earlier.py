"""Doors to runs that another process began: `attach` and `runs`."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridmap import __version__, data
from gridmap.conf import configured, settings
from gridmap.engine import Engine
from gridmap.errors import GridMapError, LedgerError
from gridmap.kinds import NO_PROFILE
from gridmap.launch import LOCAL, PYTHON
from gridmap.ledger.directory import LEDGER_NAME
from gridmap.ledger.facts import Header
from gridmap.options import ON_ERROR, Options
from gridmap.plan import Plan
from gridmap.report.progress import Progress
from gridmap.resume import Resumption
from gridmap.run import Run
from gridmap.stories import JobWatcher, MapWatcher
from gridmap.views import DAMAGED
from gridmap.watching.observer import Observer
from gridmap.wire.keys import ConnectionFileError, check_private
from gridmap.work import Job

log = logging.getLogger(__name__)

ANSWER_S = 3.0
"""How long each run that is under way may take to say how it is."""


@dataclass(frozen=True)
class RunInfo:
    """One run, as its folder tells.

    :param state: "under way", "interrupted" (its client died) or "ended"
    :param created_s: seconds since 1970
    :param total: number of jobs; None where the run's client does not answer
    """

    id: str
    name: str
    state: str
    created_s: float
    path: str
    total: int | None = None
    completed: int | None = None
    failed: int | None = None


def attach(
    run_id: str,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    on_error: str | None = None,
    again: bool = False,
    quiet: bool = True,
    profile: str | None = None,
) -> Run:
    """Returns a run that another process began and did not end, from its ledger.

    What was finished is there at once.  Workers that live go on under this process, and what is
    missing runs, on workers of the kind that was asked for then.

    :param run_id: as `Run.id`, the log and `runs` tell it
    :param run_dir: where runs are kept; GRIDMAP_RUN_DIR when not given
    :param on_error: as in `grid_map`; as it was then when not given
    :param again: run anew what failed, was canceled or was skipped
    :param quiet: False logs the begin and the end, at info level
    :param profile: a profile of the configuration files, whose settings hold, also of where runs
        are kept; when not given, the one of then for how the run goes on, if it is still there
    :raises LedgerInUse: the run is under way in a process that lives
    :raises LedgerError: there is no such run, or it had no ledger, or that is damaged
    """
    if on_error is not None and on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; it must be one of {', '.join(ON_ERROR)}")
    path = _folder_of(run_id, Path(os.fspath(run_dir) if run_dir else settings(profile).run_dir))
    earlier = Resumption(path, again)
    try:
        header = earlier.header
        _check_version(header)
        if not earlier.input_ended:
            log.warning(
                "run %s: its client died before it had handed over all of its input; only the "
                "first %d jobs are known", earlier.run, earlier.total,
            )  # fmt: skip
        then: dict[str, Any] = header.options
        config = settings(_profile_of(earlier.run, then) if profile is None else profile)
        options = Options(
            settings=config,
            backend=header.backend,
            processes=then["processes"],
            max_workers=then["max_workers"],
            on_error=on_error or then["on_error"],
            reuse=then["reuse"],
            log_dir=then["log_dir"],
            keep_logs=then["keep_logs"],
            durable=True,
            children=then.get("children", 1),
        )
        plan = Plan([], header.name, "job {}".format, options.reuse, header.names,
                    header.one_by_one, pools=header.pools)  # fmt: skip
        jobs = _jobs(earlier)
        mails = config if header.backend != LOCAL and config.send_error_mail else None
        watcher = JobWatcher(jobs, mails) if header.one_by_one else MapWatcher(jobs[0], mails)
        engine = Engine(plan, options, watcher, earlier=earlier)
        return Run(engine, jobs, Progress(header.backend, quiet, options.children))
    except BaseException:
        earlier.book.close()
        raise


def runs(
    run_dir: str | os.PathLike[str] | None = None, *, profile: str | None = None
) -> list[RunInfo]:
    """Returns the runs that have a ledger, the oldest first.

    :param run_dir: where runs are kept; GRIDMAP_RUN_DIR when not given
    :param profile: a profile of the configuration files, which may say where runs are kept
    """
    parent = Path(os.fspath(run_dir) if run_dir else settings(profile).run_dir)
    if not parent.is_dir():
        return []
    found = []
    for path in parent.iterdir():
        with contextlib.suppress(OSError):  # gone by now, or not ours
            if (path / LEDGER_NAME).is_file():
                found.append(_info(path))
    return sorted(found, key=lambda info: info.created_s)


def _profile_of(run: str, then: dict[str, Any]) -> str | None:
    """Returns the profile that a run was begun with; None where it is not there any more.

    :param then: the options in its ledger
    """
    name: str | None = then.get("profile")
    if name is None or name == NO_PROFILE or name in configured().profiles:
        return name
    log.warning(
        "run %s was begun with profile %r, which no configuration file has now: its settings are "
        "those that hold without it", run, name,
    )  # fmt: skip
    return None


def _check_version(header: Header) -> None:
    """Refuses a run whose functions cannot be read here."""
    if (header.python, header.gridmap) != (PYTHON, __version__):
        raise LedgerError(
            f"run {header.run} was begun with Python {header.python} and gridmap {header.gridmap}, "
            f"and this is Python {PYTHON} with gridmap {__version__}: use the same as then"
        )


def _folder_of(run_id: str, parent: Path) -> Path:
    if not run_id or run_id in (".", "..") or "/" in run_id:
        raise ValueError(f"{run_id!r} is no id of a run")
    path = parent.absolute() / run_id
    try:
        check_private(os.lstat(path), path, folder=True)  # what lies there will be unpickled
    except FileNotFoundError:
        known = ", ".join(info.id for info in runs(parent)[-5:]) or "none"
        raise LedgerError(
            f"there is no run {run_id} in {parent}; the last ones there are: {known}. Runs that "
            "succeeded are removed"
        ) from None
    except ConnectionFileError as error:
        raise LedgerError(str(error)) from None
    return path


def _info(path: Path) -> RunInfo:
    created = path.stat().st_mtime
    try:
        with Observer(path, ANSWER_S) as observer:
            view = observer.run()
    except GridMapError:  # it is not ours alone, or gone by now
        return RunInfo(path.name, "", DAMAGED, created, str(path))
    if view.error:
        return RunInfo(path.name, "", view.state, created, str(path))
    return RunInfo(
        view.id, view.name, view.state, view.created_s, str(path), view.total, view.completed,
        view.failed,
    )  # fmt: skip


def _jobs(earlier: Resumption) -> list[Job]:
    """Returns the jobs that were made by hand; for a map one that has its name."""
    names = earlier.header.names
    if not earlier.header.one_by_one:
        return [Job(_unknown, [], name=names[0])]
    jobs: list[Job] = []
    functions: dict[str, Any] = {}
    blobs = earlier.parts[0].blobs if earlier.parts else {}
    for part in earlier.parts:
        if part.spec.function not in functions:
            functions[part.spec.function] = _function(blobs.get(part.spec.function))
        for args, kwargs in _calls(part.packet):
            job = Job(functions[part.spec.function], args, kwargs, name=names[len(jobs)])
            job.uniq_id = str(len(jobs))
            job.home_address = earlier.run
            jobs.append(job)
    return jobs


def _function(frames: Any) -> Any:
    try:
        return data.unpack_function(frames)
    except Exception:  # its module is not here; on the nodes it is
        return _unknown


def _calls(packet: data.Packet) -> list[data.Call]:
    try:
        plain = data.plain_calls(packet.frames, 0, packet.count)
        if plain is not None:
            return [(args, {}) for args in plain.positional()]
        return [read() for read in data.pickled_calls(packet.frames, 0, packet.count)]
    except Exception:
        return [((), {})] * packet.count


def _unknown(*args: Any, **kwargs: Any) -> Any:
    raise GridMapError("this function is only known to the run's workers")
