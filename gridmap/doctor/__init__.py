"""`gridmap doctor`: looks at what a run needs, one thing after the other, and says what to change.

::

    machine -> settings -> scheduler -> run_dir -> limits       what can be seen from here
                               |           |
                               v           v
                            submit: two tasks on nodes -------> node.TOKEN.json, and a call
                               |                                        |
                               v                                        v
                            node, connection: judged here       grid_map, mail

Each probe is a generator of findings (findings.py); what one has found out, later ones read from
the Exam.  Nothing but the standard library is imported before a probe needs it: what is missing is
what the doctor is to tell.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from gridmap.doctor.findings import Examined, Finding, Probe, Status, failed, worst
from gridmap.doctor.screen import Screen, Silent, as_object, print_object

if TYPE_CHECKING:
    from gridmap.doctor.exam import Exam

__all__ = ["add_arguments", "main"]

TIMEOUT_S = 120.0
INTERRUPTED = 130


def _of(module: str) -> Callable[[Exam], Iterator[Finding]]:
    """Returns a probe's function, whose module is imported when it is called."""

    def examine(exam: Exam) -> Iterator[Finding]:
        yield from importlib.import_module(f"gridmap.doctor.{module}").examine(exam)

    return examine


PROBES = (
    Probe("machine", "This machine", "versions and limits", _of("machine")),
    Probe("settings", "Settings", "every setting read and checked", _of("configuration")),
    Probe("scheduler", "Scheduler", "found and connected to, as a run does", _of("scheduler")),
    Probe("run_dir", "Run directory", "a folder made, filled and locked", _of("run_folder")),
    Probe("limits", "Limits", "what the scheduler lets a user have", _of("limits")),
    Probe("submit", "Submission", "an array job of two tasks", _of("submission")),
    Probe("node", "Nodes", "what the tasks found there", _of("node")),
    Probe("connection", "Connection", "from nodes to this host, with keys", _of("connection")),
    Probe("grid_map", "grid_map", "a real one, of two calls", _of("proof")),
    Probe("mail", "Mail", "the server asked, nothing sent", _of("mail_server")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the doctor's options."""
    parser.add_argument("--profile", metavar="NAME", help="as of grid_map")
    parser.add_argument("--backend", metavar="NAME", help="as of grid_map; default: auto")
    parser.add_argument("--temp-dir", metavar="FOLDER", help="as of grid_map")
    asked = parser.add_argument_group("what the tasks ask for, as gridmap.Resources")
    asked.add_argument("--queue", metavar="NAME")
    asked.add_argument("--project", metavar="NAME")
    asked.add_argument("--slots", type=_number(1), metavar="N")
    asked.add_argument("--gpus", type=_number(0), metavar="N")
    asked.add_argument("--memory", type=_amount("memory"), metavar="4G")
    asked.add_argument("--walltime", type=_amount("walltime"), metavar="1h30m")
    asked.add_argument("--host", dest="hosts", metavar="NAME", action="append", help="repeatable")
    asked.add_argument(
        "--native", metavar="OPTION", action="append", help="the scheduler's own; repeatable"
    )
    parser.add_argument(
        "--no-submit", action="store_true", help="only what costs nothing: no job is submitted"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=TIMEOUT_S, metavar="S",
        help="seconds that jobs may take to start and to end; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--mail", action="store_true", help="send a mail, as a run would")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--write-config", action="store_true",
        help="write what was found to be needed to your gridmap.toml, and show what changes",
    )  # fmt: skip


def _seconds(text: str) -> float:
    value = float(text) if text.replace(".", "", 1).isdecimal() else 0.0
    if not 1 <= value <= 86_400:
        raise argparse.ArgumentTypeError("must be between 1 and 86400 seconds")
    return value


def _number(least: int) -> Callable[[str], int]:
    """Returns what reads a whole number that is no smaller than this."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more")
        return int(text)

    return read


def _amount(what: str) -> Callable[[str], str]:
    """Returns what takes memory or a length of time as Resources do, and as it was said."""

    def read(text: str) -> str:
        with contextlib.suppress(ImportError):  # the doctor is to tell what is missing
            resources = importlib.import_module("gridmap.resources")
            try:
                resources.Resources(**{what: text})
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return read


def main(options: argparse.Namespace) -> int:
    """Runs all probes; returns the exit status.

    :returns: 0 when all is well or there are warnings only, 1 when a probe failed, 130 when it was
        interrupted
    """
    from gridmap.doctor.exam import Exam

    screen = (Silent if options.json else Screen)(sys.stdout)
    exam = Exam(options, screen.say)
    results: list[Examined] = []
    interrupted = False
    began = time.monotonic()
    with _orderly():
        try:
            screen.text(_headline())
            for result in examine(exam, PROBES, screen):
                results.append(result)
        except (KeyboardInterrupt, _Ended):
            interrupted = True
            screen.text("interrupted; what was begun is put in order")
        finally:
            with _undisturbed():
                _put_in_order(exam, screen)
    if not interrupted:
        screen.end(results)
    written = (
        _write_config(exam, results, screen) if options.write_config and not interrupted else ""
    )
    if options.json:
        print_object(sys.stdout, _summary(exam, results, time.monotonic() - began, written))
    if interrupted:
        return INTERRUPTED
    return int(worst(result.status for result in results) is Status.FAILED)


def _put_in_order(exam: Exam, screen: Screen) -> None:
    try:
        exam.close()
    except Exception as error:
        screen.text(f"not all could be put in order: {type(error).__name__}: {error}")


def examine(exam: Exam, probes: Sequence[Probe], screen: Screen) -> Iterator[Examined]:
    """Runs probes, one after the other; a probe that breaks is a finding, and the next one runs."""
    for probe in probes:
        screen.begin(probe)
        began = time.monotonic()
        findings: list[Finding] = []
        for finding in _unbroken(probe, exam):
            findings.append(finding)
            screen.finding(finding)
        yield Examined(probe, tuple(findings), time.monotonic() - began)


def _unbroken(probe: Probe, exam: Exam) -> Iterator[Finding]:
    try:
        yield from probe.examine(exam)
    except Exception as error:
        logging.getLogger(__name__).debug("the probe %s broke", probe.name, exc_info=True)
        advice = "report this, with --json"
        if isinstance(error, ImportError):
            advice = "install what is missing, as said above"
        elif isinstance(error, OSError):
            advice = "see to what is named there; the working directory, too, has to be readable"
        told = f"this could not be looked at: {type(error).__name__}: {error}"
        yield failed("broken", told, advice)


# --- signals and the log --------------------------------------------------------------------------


class _Ended(BaseException):
    """SIGTERM or SIGHUP."""


@contextlib.contextmanager
def _orderly() -> Iterator[None]:
    """Has signals that end the program unwind it, and keeps GridMap's log off the screen."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended

    logger = logging.getLogger("gridmap")
    quiet = logging.NullHandler()
    logger.addHandler(quiet)
    propagates, logger.propagate = logger.propagate, False
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        logger.propagate = propagates
        logger.removeHandler(quiet)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Puts signals off: what deletes jobs is not to be interrupted, and takes a bounded time."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


# --- the end --------------------------------------------------------------------------------------


def _headline() -> str:
    from gridmap import __version__

    when = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"gridmap {__version__} doctor on {socket.gethostname()}, {when}"


def _summary(
    exam: Exam, results: list[Examined], seconds: float, written: str
) -> dict[str, object]:
    from gridmap import __version__

    return as_object(
        results,
        gridmap=__version__,
        host=socket.gethostname(),
        backend=exam.backend,
        seconds=round(seconds, 3),
        needed={".".join(path): value for path, value in exam.needed.items()},
        written=written,
    )


def _write_config(exam: Exam, results: list[Examined], screen: Screen) -> str:
    """Writes what is needed; returns the file's path, "" when nothing was to be written."""
    from gridmap.doctor.needs import gather
    from gridmap.doctor.write_config import write_needed

    gather(exam, results)
    return write_needed(exam, screen)
