"""What answers of a broken or hostile worker do to the program that reads them: nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from gridmap import data, outcomes
from gridmap.commands import results
from gridmap.core.messages import Outcome
from gridmap.core.spec import Resources, Span
from gridmap.errors import Cause, JobException, JobUnpicklable
from gridmap.ledger.directory import RunDirectory
from gridmap.ledger.facts import ValuesFact
from gridmap.monitor.sink import Failure, Place, Values
from gridmap.outcomes import Failed, error_of


def values_of(frames: list[Any], count: int = 3, skip: int = 0) -> list[Any]:
    batch = outcomes.values_of(Values(Span(0, count), frames, skip, 1, Place("1.1", "node")))
    assert len(batch.values) == count
    return list(batch.values)


@pytest.mark.parametrize(
    "content", [[1], [], {}, "abc", (1, 2, 3), 7, False], ids=lambda content: repr(content)
)
def test_a_packet_of_another_length_or_kind_fails_its_jobs(content: Any) -> None:
    values = values_of([pickle.dumps(content)])
    for number, value in enumerate(values):
        if content == [1] and number == 0:
            assert value == 1  # it is there
        elif not isinstance(content, (str, tuple)):
            assert isinstance(value, Failed) and isinstance(value.error, JobUnpicklable)


@pytest.mark.parametrize(
    "frames", [[b""], [b"E"], [b"E\xff\xff\xff"], [b"\x80garbage"], [b"x"] * 9]
)
def test_a_packet_that_is_none_fails_its_jobs(frames: list[bytes]) -> None:
    assert all(isinstance(value, Failed) for value in values_of(frames))


def test_a_good_packet_is_read() -> None:
    assert values_of([pickle.dumps([1, 2, 3, 4])], 3, 1) == [2, 3, 4]


@pytest.mark.parametrize("outcome", [x for x in Outcome if x is not Outcome.VALUE])
@pytest.mark.parametrize("frames", [[b""], [b"x"], [b"x", b"y"], [b"\xc1", b"", b"garbage"], []])
def test_a_failure_that_cannot_be_read_is_still_told(outcome: Outcome, frames: list[Any]) -> None:
    failure = Failure(3, Cause.DIED, outcome, frames, 1, "", Place("1.1", "node"))
    error = error_of(failure, "name", Resources())
    assert isinstance(error, JobException)


def test_an_exception_is_still_itself() -> None:
    frames = data.pack_exception(ValueError("mine"))
    failure = Failure(3, Cause.EXCEPTION, Outcome.EXCEPTION, frames, 1, "", Place())
    assert isinstance(error_of(failure, "name", Resources()), ValueError)


def test_names_of_logs_remove_nothing_but_logs(tmp_path: Path) -> None:
    directory = RunDirectory.make(str(tmp_path), "run", str(tmp_path / "prints"))
    mine, log, folder = (directory.logs / name for name in ("thesis.tex", "worker.1.1.err", "dir"))
    mine.touch(), log.touch(), folder.mkdir()
    outside = tmp_path / "outside"
    outside.touch()
    named = [
        str(log), f"{directory.logs}/..", f"{directory.logs}/../outside", str(outside),
        str(folder), "/", "", "no\0path", f"{directory.logs}/no\0path",
    ]  # fmt: skip
    directory.end(named, keep_logs=False)
    assert outside.exists() and folder.exists() and mine.exists() and not log.exists()
    assert not directory.path.exists()


def test_the_command_reads_no_packet_of_another_kind_as_values() -> None:
    fact = ValuesFact(
        Span(4, 3), 0, 1, "1.1", "node", 0.0, 0, 0.0, [pickle.dumps({1: 2, 3: 4, 5: 6})]
    )
    told = list(results._values(fact))
    assert [job for job, _, _ in told] == [4, 5, 6]
    assert all(value is None and "it cannot be read here" in wrong for _, value, wrong in told)
