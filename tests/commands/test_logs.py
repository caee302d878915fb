"""Logs are followed: all of them, however fast they grow, until their run is over."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from gridmap.commands import logs
from gridmap.errors import GridMapError
from gridmap.views import ENDED, UNDER_WAY, JobRow, JobView, RunView, WorkerView


class Watched:
    """A run whose log grows whenever somebody looks how it is."""

    def __init__(self, log: Path, writes: list[str], view: RunView) -> None:
        self.path = log
        self._writes, self._view = writes, view
        self.row = JobRow(0, "", "queued")

    def run(self) -> RunView:
        if self._writes:
            with self.path.open("a") as file:
                file.write(self._writes.pop(0))
        state = UNDER_WAY if self._writes else ENDED
        return RunView("r", backend=self._view.backend, state=state)

    def workers(self) -> list[WorkerView]:
        return []

    def job(self, number: int) -> JobView:
        return JobView(self.row)


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setattr(logs, "LOOK_S", 0.0)
    monkeypatch.setattr(logs, "STATE_S", 0.0)
    return argparse.Namespace(bytes=8, follow=True, job=None, worker=None, json=False)


def followed(options: argparse.Namespace, watched: Watched, capsys: Any) -> str:
    logs._print(options, watched, {str(watched.path): "1"})  # type: ignore[arg-type]
    return str(capsys.readouterr().out)


def test_a_log_that_grows_faster_than_one_piece_at_a_time_is_printed_to_its_end(
    options: argparse.Namespace, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "log").write_text("before\n")
    many = ["".join(f"{n} {k}\n" for k in range(20_000)) for n in range(2)]
    last = "x" * 79 + "\n"
    last *= (logs.PIECES + 2) * logs.MOST_BYTES // len(last)  # more than one turn reads
    watched = Watched(tmp_path / "log", [*many, last], RunView("r", backend="slurm"))
    assert followed(options, watched, capsys) == "before\n" + "".join(many) + last


def test_only_what_comes_is_printed(
    options: argparse.Namespace, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "log").write_text("before\n")
    options.bytes = 0
    watched = Watched(tmp_path / "log", ["later\n", "last\n"], RunView("r", backend="slurm"))
    assert followed(options, watched, capsys) == "later\nlast\n"


@pytest.mark.parametrize(
    ("backend", "job", "said"),
    [
        ("local", None, "has no logs: its jobs run in processes of its client"),
        ("slurm", None, "has no logs: no worker has come yet"),
        ("slurm", "0", "has no logs of job 0: it is queued, and no worker had it"),
    ],
)
def test_why_there_are_no_logs(
    options: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    backend: str, job: str | None, said: str,
) -> None:  # fmt: skip
    class Observed(Watched):
        def __enter__(self) -> Observed:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    watched = Observed(tmp_path / "r", ["a", "b"], RunView("r", backend=backend))
    monkeypatch.setattr(logs, "observed", lambda options: watched)
    options.job = job
    with pytest.raises(GridMapError, match=said):
        logs.main(options)
