"""quiet=False: the log says that a run begins, and how it ended."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from gridmap import Job, grid_imap, grid_map, process_jobs, submit
from tests.doors.functions import inverse

BOTH = [{"local": True, "max_processes": 1}, {"local": True, "max_processes": 2}]

BEGIN = re.compile(r"run (\S+) begins: (\d+ jobs|jobs as they are read), backend local")
END = re.compile(
    r"run (\S+) ended after \d+\.\d s: (\d+) jobs completed, (\d+) failed, (\d+) canceled"
)


DOORS: list[Callable[..., Any]] = [
    lambda xs, **how: grid_map(inverse, xs, **how),
    lambda xs, **how: process_jobs([Job(inverse, [x]) for x in xs], **how),
    lambda xs, **how: list(grid_imap(inverse, xs, **how)),
    lambda xs, **how: submit([Job(inverse, [x]) for x in xs], **how).results(),
]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [r for r in caplog.records if r.name.startswith("gridmap.report.progress")]
    assert all(record.levelno == logging.INFO for record in ours)
    return [record.getMessage() for record in ours]


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("door", DOORS)
def test_begin_and_end_are_logged(
    door: Callable[..., Any], how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gridmap")
    door([1, 0, 4], on_error="return", quiet=False, **how)
    begin, end = said(caplog)
    begun, ended = BEGIN.fullmatch(begin), END.fullmatch(end)
    assert begun and ended
    assert begun[1] == ended[1]
    assert begun[2] == "3 jobs"
    assert ended.groups()[1:] == ("2", "1", "0")


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("door", DOORS)
def test_a_quiet_run_is_quiet(
    door: Callable[..., Any], how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gridmap")
    door([1, 2], **how)
    door([1, 2], quiet=True, **how)
    assert said(caplog) == []


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("door", DOORS)
def test_the_end_of_a_run_that_fails_is_logged_too(
    door: Callable[..., Any], how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gridmap")
    with pytest.raises(ZeroDivisionError):
        door([0], quiet=False, **how)
    ended = END.fullmatch(said(caplog)[-1])
    assert ended and ended.groups()[1:] == ("0", "1", "0")


@pytest.mark.parametrize("how", BOTH)
def test_a_stream_that_is_closed_early(
    how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gridmap")
    results = grid_imap(inverse, iter(range(1, 10**6)), quiet=False, **how)
    assert said(caplog) == []
    next(results)
    assert len(said(caplog)) == 1
    results.close()
    begin, end = said(caplog)
    begun, ended = BEGIN.fullmatch(begin), END.fullmatch(end)
    assert begun and begun[2] == "jobs as they are read"
    assert ended and int(ended[2]) >= 1


def test_a_run_that_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gridmap")
    with submit([Job(inverse, [2])], local=True, max_processes=2, quiet=False) as run:
        assert run.wait(10)
        assert run.results() == [0.5]
    begin, end = said(caplog)
    assert run.id in begin and run.id in end
