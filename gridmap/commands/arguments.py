"""The arguments of the commands about runs; light, so that a shell completes them at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable

STATES = ("completed", "failed", "canceled", "running", "queued")
SORTS = ("job", "seconds", "memory", "ended")
FORMATS = ("pickle", "json")
SHELLS = ("bash", "zsh", "fish")

RUN_HELP = "id of the run, the beginning of one, or last"
"""What is meant by RUN."""


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of a command."""
    _OF[command](parser)


def _where(parser: argparse.ArgumentParser, json: bool = True) -> None:
    place = parser.add_argument("--run-dir", metavar="FOLDER", help="where runs are kept")
    place.completer = _folders  # type: ignore[attr-defined]
    parser.add_argument("--profile", metavar="NAME", help="a profile, which may say where that is")
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON document")


def _run(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    run.completer = run_ids  # type: ignore[attr-defined]


def _yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _output(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help=f"write the values here; {default}")
    parser.add_argument(
        "--format", choices=FORMATS, help="of that file; json where its name ends so, else pickle"
    )
    parser.add_argument("--force", action="store_true", help="replace that file")


# --- the commands ---------------------------------------------------------------------------------


def _runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--limit", type=_number, default=20, metavar="N",
        help="only the latest N; 0: all; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--live", action="store_true", help="only those that are under way")
    _where(parser)


def _status(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("-w", "--watch", action="store_true", help="until the run is over")
    _interval(parser)
    _where(parser)


def _interval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="S",
        help="seconds between two looks; default: %(default)s",
    )  # fmt: skip


def _jobs(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--failed", dest="state", action="store_const", const="failed", default="")
    which.add_argument("--state", choices=STATES, help="only these")
    parser.add_argument(
        "--search", metavar="TEXT", default="",
        help="a job's number or name; or part of a host's or worker's name, or of an error",
    )  # fmt: skip
    parser.add_argument("--sort", choices=SORTS, default="job", help="default: %(default)s")
    parser.add_argument("--descending", action="store_true", help="the largest first")
    parser.add_argument(
        "-n", "--limit", type=_number, default=50, metavar="N",
        help="no more than N; 0: all; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--after", metavar="PLACE", default="", help="go on there: `next` of the page before"
    )
    _where(parser)


def _show(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("job", metavar="JOB", help="number or name of the job")
    _where(parser)


def _logs(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("job", metavar="JOB", nargs="?", help="of the worker that ran this job")
    parser.add_argument("--worker", metavar="ID", help="of this worker")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="print what comes, until the run is over"
    )
    parser.add_argument(
        "--bytes", type=_number, default=65_536, metavar="N",
        help="of the end of each log; default: %(default)s",
    )  # fmt: skip
    _where(parser)


def _cancel(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("jobs", metavar="JOB", nargs="*", help="only these; without any, the run")
    parser.add_argument("--reason", metavar="TEXT", default="", help="what its jobs are told")
    _yes(parser)
    _where(parser)


def _attach(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    _output(parser, "default: gridmap-RUN.pkl in the working directory")
    _where(parser)


def _retry(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument(
        "--failed", action="store_true", help="what ended without a value; that is the default"
    )
    _output(parser, "default: gridmap-RUN.pkl in the working directory")
    _where(parser)


def _results(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    _output(parser, "without it they are printed, in short")
    _where(parser)


def _top(parser: argparse.ArgumentParser) -> None:
    _interval(parser)
    _where(parser)


def _report(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    _where(parser)


def _clean(parser: argparse.ArgumentParser) -> None:
    runs = parser.add_argument("runs", metavar="RUN", nargs="*", help="only these")
    runs.completer = run_ids  # type: ignore[attr-defined]
    parser.add_argument("--ended", action="store_true", help="none whose client died")
    parser.add_argument(
        "--older-than", type=_days, metavar="DAYS", help="only those that began so long ago"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    _yes(parser)
    _where(parser)


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


_OF: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "runs": _runs,
    "status": _status,
    "jobs": _jobs,
    "show": _show,
    "logs": _logs,
    "cancel": _cancel,
    "retry": _retry,
    "attach": _attach,
    "results": _results,
    "top": _top,
    "report": _report,
    "clean": _clean,
    "completion": _completion,
}


# --- what they take -------------------------------------------------------------------------------


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _seconds(text: str) -> float:
    return _between(text, 0.1, 3600, "seconds")


def _days(text: str) -> float:
    return _between(text, 0, 100_000, "days")


def _between(text: str, least: float, most: float, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not between {least:g} and {most:g} {unit}")
    return value


# --- completion -----------------------------------------------------------------------------------


def run_ids(prefix: str, parsed_args: argparse.Namespace, **more: object) -> list[str]:
    """Returns the ids of all runs, for a shell; no ledger is opened."""
    import os

    folder = getattr(parsed_args, "run_dir", None)
    if not folder:
        from gridmap.conf import settings

        folder = settings(getattr(parsed_args, "profile", None)).run_dir
    found = ["last"]
    for parent in (folder, os.path.join(folder, "history")):
        if os.path.isdir(parent):
            found += [name for name in os.listdir(parent) if name[:1].isdecimal()]
    return found


def _folders(prefix: str, **more: object) -> list[str]:
    from argcomplete.completers import DirectoriesCompleter

    return list(DirectoriesCompleter()(prefix))
