"""Jobs one after the other in this process: pdb, print and coverage work as ever."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridmap.job import Job


def run_inline(jobs: Iterable[Job], on_error: str) -> list[Any]:
    """Runs jobs here; returns their values in order.

    :param on_error: "raise" stops at the first failure, "finish" raises it after the last job,
        "return" puts exceptions in the place of values
    """
    results: list[Any] = []
    first: BaseException | None = None
    for job in jobs:
        with _at_home(job):
            if on_error == "raise":
                job.ret = job.function(*job.args, **job.kwlist)
                results.append(job.ret)
                continue
            try:
                job.ret = job.function(*job.args, **job.kwlist)
            except Exception as error:
                job.note_failure(error)
                first = first or error
            results.append(job.ret)
    if first is not None and on_error == "finish":
        raise first
    return results


@contextlib.contextmanager
def _at_home(job: Job) -> Iterator[None]:
    """Lets a job run in its working directory and with its environment."""
    here, variables = os.getcwd(), dict(os.environ)
    wanted = job.full_environment()
    moved = job.working_dir != here
    changed = wanted is not None and wanted != variables
    if moved:
        os.chdir(job.working_dir)
    if changed and wanted is not None:
        os.environ.clear()
        os.environ.update(wanted)
    try:
        yield
    finally:
        if moved:
            os.chdir(here)
        if changed:
            os.environ.clear()
            os.environ.update(variables)
