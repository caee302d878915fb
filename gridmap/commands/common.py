"""What commands share: the run and the job that their words mean, questions, exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from gridmap.conf import settings
from gridmap.errors import GridMapError, LedgerError, LedgerInUse
from gridmap.ledger.directory import LEDGER_NAME
from gridmap.views import DAMAGED, ENDED, UNDER_WAY, JobsAsked, RunView
from gridmap.watching.observer import Observer, UnknownRun, find, folders
from gridmap.watching.pages import MOST_ROWS, UnknownJob

OK, FAILED, USAGE, NOT_FOUND, GOES_ON = 0, 1, 2, 3, 4

LAST = "last"
MANY_S = 5.0
"""How long each of many runs may take to answer."""
AT_ONCE = 16

T = TypeVar("T")


class Misused(GridMapError):
    """The words of a command make no sense together, or not here."""


def run_dir(options: argparse.Namespace) -> Path:
    """Returns where runs are kept."""
    return Path(options.run_dir or settings(options.profile).run_dir)


def path_of(word: str, parent: Path) -> Path:
    """Returns the directory of the run that a word means.

    :raises UnknownRun: there is none, or several
    """
    if word == ".":
        here = Path.cwd()
        if (here / LEDGER_NAME).is_file():
            return here
    if word in (".", LAST):
        known = folders(parent)
        if not known:
            raise UnknownRun(f"there are no runs in {parent}")
        return known[-1]
    return find(word, parent)


def observed(options: argparse.Namespace) -> Observer:
    """Returns what looks at the run that the options name.

    :raises UnknownRun: there is none, or several
    """
    return Observer(path_of(options.run, run_dir(options)))


def number_of(word: str, observer: Observer) -> int:
    """Returns the number of the job that a word means.

    :raises UnknownJob: there is none of this number or name, or several have the name
    """
    if word.isdecimal() and len(word) <= 18:
        return int(word)
    asked, found = JobsAsked(search=word, most=MOST_ROWS), []
    while True:
        page = observer.jobs(asked)
        found += [row.job for row in page.rows if row.name == word]
        if not page.next:
            break
        asked = msgspec.structs.replace(asked, after=page.next)
    if len(found) == 1:
        return found[0]
    name = observer.path.name
    if not found:
        raise UnknownJob(f"run {name} has no job {word!r}: say its number, or its whole name")
    numbers = ", ".join(map(str, found[:10]))
    raise UnknownJob(f"run {name} has {len(found)} jobs {word!r}; say which number: {numbers}")


def views(paths: Iterable[Path], answer_s: float = MANY_S) -> list[RunView]:
    """Returns how runs are; one that does not answer does not hold up the others."""

    def look(path: Path) -> RunView:
        try:
            with Observer(path, answer_s) as observer:
                return observer.run()
        except LedgerError as error:  # not ours alone, or gone by now
            return RunView(path.name, state=DAMAGED, error=str(error), path=str(path))

    return at_once(look, paths)


def at_once(call: Callable[[Path], T], paths: Iterable[Path]) -> list[T]:
    """Returns what each call returns; they are made together."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, paths))


def status_of(view: RunView) -> int:
    """Returns the exit status that says how a run is."""
    if view.state == UNDER_WAY:
        return GOES_ON
    well = view.state == ENDED and view.completed == view.total
    return OK if well and not view.error else FAILED


def exit_status(error: BaseException) -> int:
    """Returns the exit status of an error."""
    if isinstance(error, UnknownRun | UnknownJob):
        return NOT_FOUND
    if isinstance(error, Misused):
        return USAGE
    return GOES_ON if isinstance(error, LedgerInUse) else FAILED


def agreed(question: str, yes: bool) -> bool:
    """Asks on a terminal; elsewhere, and with --yes, all is agreed."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def is_terminal() -> bool:
    """Returns whether somebody sits there who can be asked."""
    return os.isatty(0) and sys.stderr.isatty()
