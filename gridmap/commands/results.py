"""`gridmap results`: values of a run that nobody runs any more, out of its ledger."""

from __future__ import annotations

import argparse
import os
import reprlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridmap._numbers import counted
from gridmap.commands.common import FAILED, OK, path_of, run_dir
from gridmap.commands.printing import console, put_json, put_line, safe
from gridmap.commands.writing import Target
from gridmap.errors import JobException, LedgerError, LedgerInUse
from gridmap.ledger import reading
from gridmap.ledger.directory import HISTORY
from gridmap.ledger.facts import Facts, ValuesFact
from gridmap.outcomes import unpacked
from gridmap.wire.keys import ConnectionFileError, check_private

FEW = 10


def main(options: argparse.Namespace) -> int:
    """Prints the values, or writes them; nothing is started."""
    path = path_of(options.run, run_dir(options))
    if path.parent.name == HISTORY:
        raise LedgerError(
            f"run {path.name} is over, and only its history is left: no values, no jobs"
        )
    _check(path)
    target = Target(options) if options.output else None
    try:
        facts = reading.read(path)
    except LedgerInUse:
        said = "is under way: its values go to its client; gridmap status shows how it is"
        raise LedgerInUse(f"run {path.name} {said}") from None
    values, errors = _all(facts)
    if target is not None:
        target.write(path.name, values, errors)
    _tell(options, path.name, target, values, errors)
    return FAILED if errors else OK


def _check(path: Path) -> None:
    """Refuses what is not ours alone: pickles run code.

    :raises LedgerError: others own it, or may write it
    """
    try:
        check_private(os.lstat(path), path, folder=True)
    except ConnectionFileError as error:
        raise LedgerError(str(error)) from None


def _all(facts: Facts) -> tuple[list[Any], dict[int, str]]:
    """Returns the values, an exception in the place of each that is missing, and why it is."""
    total = sum(part.span.count for part in facts.parts)
    errors = dict.fromkeys(range(total), "it has not ended")
    for end in facts.ends:
        errors.update(
            dict.fromkeys(range(end.span.first, end.span.stop), f"{end.cause}: {end.text}")
        )
    for failure in facts.failures:
        errors[failure.job] = f"{failure.cause}: {failure.error}"
    found: dict[int, Any] = {}
    for fact in facts.values:
        for job, value, wrong in _values(fact):
            found[job] = value
            errors.pop(job, None)
            if wrong:
                errors[job] = wrong
    for job, error in errors.items():
        found[job] = JobException(f"job {job} has no value: {error}", job=job)
    return [found[job] for job in range(total)], dict(sorted(errors.items()))


def _values(fact: ValuesFact) -> Iterator[tuple[int, Any, str]]:
    """Yields the jobs of a packet: number, value, and why it cannot be read here."""
    values, errors = unpacked(fact.frames, fact.skip, fact.span.count)
    for n, value in enumerate(values):
        error = errors.get(n)
        wrong = f"it cannot be read here: {type(error).__name__}: {error}" if error else ""
        yield fact.span.first + n, value, wrong


def _tell(
    options: argparse.Namespace,
    run: str,
    target: Target | None,
    values: list[Any],
    errors: dict[int, str],
) -> None:
    path = str(target.path) if target is not None else None
    if options.json:
        told = {str(job): error for job, error in errors.items()}
        shown = (
            None if target else [None if n in errors else _short(v) for n, v in enumerate(values)]
        )
        put_json({"run": run, "total": len(values), "path": path, "values": shown, "errors": told})
        return
    out = console()
    if target is None:
        for job, value in enumerate(values):
            put_line(out, f"{job}\t{'-' if job in errors else safe(_short(value))}")
    else:
        put_line(out, f"written to {safe(path)} ({target.format})")
    sys.stdout.flush()
    have = len(values) - len(errors)
    print(f"run {run}: {counted(have, 'value')} of {counted(len(values), 'job')}", file=sys.stderr)
    for job, error in list(errors.items())[:FEW]:
        line = safe(error.strip().partition("\n")[0])
        print(f"job {job} has none: {line}", file=sys.stderr)
    if len(errors) > FEW:
        print(f"... and {len(errors) - FEW} more", file=sys.stderr)


def _short(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except Exception as error:  # a value may do anything when it is shown
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"
