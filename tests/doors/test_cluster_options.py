"""What the doors ask of a cluster, seen by a scheduler that refuses everything."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import BackendError, Job, grid_imap, grid_map, process_jobs, submit
from gridmap.backends.base import SubmitRequest


class Refusing:
    """A backend that writes down what it is asked, and refuses it."""

    name = "drmaa"

    def __init__(self) -> None:
        self.requests: list[SubmitRequest] = []

    def submit(self, request: SubmitRequest) -> list[str]:
        self.requests.append(request)
        raise BackendError("there is no such queue")

    def status(self, ids: Any) -> dict[str, Any]:
        return {}

    def find(self, run_tag: str) -> list[str]:
        return []

    def cancel(self, ids: Any) -> None: ...

    def diagnose(self, native_id: str) -> str:
        return ""

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _there_is_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridmap.backends.drmaa.why_not", lambda: "")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    backend = Refusing()
    monkeypatch.setattr("gridmap.backends.registry.open_backend", lambda name, **how: backend)
    return backend


def asked(cluster: Refusing, call: Callable[..., Any], *args: Any, **options: Any) -> SubmitRequest:
    """Returns what a call asks of the scheduler."""
    cluster.requests.clear()
    with pytest.raises(BackendError, match="no such queue"):
        call(*args, **options)
    return cluster.requests[0]


def streamed(*args: Any, **options: Any) -> list[Any]:
    return list(grid_imap(*args, **options))


# --- white_list -----------------------------------------------------------------------------------


def test_a_white_list_counts_for_one_call_only(cluster: Refusing) -> None:
    job = Job(abs, [-1])
    assert asked(cluster, process_jobs, [job], white_list=["a", "b"]).resources.hosts == ("a", "b")
    assert asked(cluster, process_jobs, [job]).resources.hosts == ()
    assert asked(cluster, process_jobs, [job], white_list=["c"]).resources.hosts == ("c",)
    assert job.white_list == []


def test_a_white_list_of_the_job_stays(cluster: Refusing) -> None:
    job = Job(abs, [-1])
    job.white_list = ["mine"]
    assert asked(cluster, process_jobs, [job], white_list=["a"]).resources.hosts == ("a",)
    assert asked(cluster, process_jobs, [job]).resources.hosts == ("mine",)


# --- temp_dir -------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [grid_map, streamed])
def test_the_workers_output_goes_to_temp_dir(
    cluster: Refusing, tmp_path: Path, call: Callable[..., Any]
) -> None:
    assert asked(cluster, call, abs, [-1], temp_dir=str(tmp_path)).log_dir == str(tmp_path)
    assert asked(cluster, call, abs, [-1], temp_dir=tmp_path).log_dir == str(tmp_path)


def test_without_temp_dir_it_goes_to_default_temp_dir(
    cluster: Refusing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEFAULT_TEMP_DIR", str(tmp_path))
    assert asked(cluster, grid_map, abs, [-1]).log_dir == str(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    gridmap.DEFAULT_TEMP_DIR = str(other)
    assert asked(cluster, grid_map, abs, [-1]).log_dir == str(other)
    assert asked(cluster, grid_map, abs, [-1], temp_dir=str(tmp_path)).log_dir == str(tmp_path)


@pytest.mark.parametrize("given", [None, "/scratch/", "/scratch"])
def test_the_historic_default_stands_for_the_run_directory(
    cluster: Refusing, given: str | None
) -> None:
    request = asked(cluster, grid_map, abs, [-1], temp_dir=given)
    assert request.log_dir == f"{gridmap.GRIDMAP_RUN_DIR}/{request.run_tag}/logs"


def test_a_folder_that_cannot_be_written_is_refused_by_name(
    cluster: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (grid_map, grid_imap):
        with pytest.raises(OSError, match="temp_dir '/nosuch'.*written"):
            call(abs, [-1], temp_dir="/nosuch")
        with pytest.raises(TypeError, match="temp_dir is a path, not 3"):
            call(abs, [-1], temp_dir=3)
    monkeypatch.setenv("DEFAULT_TEMP_DIR", "/nosuch")
    with pytest.raises(OSError, match="DEFAULT_TEMP_DIR '/nosuch'.*written"):
        grid_map(abs, [-1])
    assert cluster.requests == []
    assert grid_map(abs, [-1], local=True) == [1]  # there it does not matter


# --- children -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda **how: grid_map(abs, [-1], num_slots=2, gpu=1, **how),
        lambda **how: process_jobs([Job(abs, [-1], num_slots=2, gpu=1)], **how),
        lambda **how: submit([Job(abs, [-1], num_slots=2, gpu=1)], **how).results(),
        lambda **how: list(grid_imap(abs, [-1], num_slots=2, gpu=1, **how)),
    ],
)
def test_a_worker_asks_for_what_its_children_need(
    cluster: Refusing, call: Callable[..., Any]
) -> None:
    for how, children in (({}, 1), ({"children": 3}, 3)):
        request = asked(cluster, call, **how)
        assert request.command[-2:] == ("0", str(children))
        assert (request.resources.num_slots, request.resources.gpu) == (2 * children, children)


def test_as_many_workers_are_asked_for_as_the_jobs_fill(cluster: Refusing) -> None:
    assert asked(cluster, grid_map, abs, range(9), children=4).count == 3
    assert asked(cluster, grid_map, abs, range(9), children=4, max_workers=2).count == 2
    assert asked(cluster, grid_map, abs, range(9)).count == 9


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True, None])
def test_children_are_a_whole_number(cluster: Refusing, wrong: Any) -> None:
    for call in (grid_map, grid_imap):
        with pytest.raises((TypeError, ValueError), match="children (must be a whole|is) "):
            call(abs, [-1], children=wrong)
        with pytest.raises((TypeError, ValueError), match="children (must be a whole|is) "):
            call(abs, [-1], children=wrong, local=True)
    assert cluster.requests == []


def test_on_this_machine_max_processes_counts(cluster: Refusing) -> None:
    def place(_: int) -> tuple[int, int]:
        time.sleep(0.01)
        return os.getpid(), os.getppid()

    here = grid_map(place, range(4), local=True, children=4)
    assert {pid for pid, _ in here} == {os.getpid()}
    there = grid_map(place, range(20), local=True, max_processes=2, children=16)
    assert 1 <= len({pid for pid, _ in there}) <= 2 and not cluster.requests


# --- a scheduler that is away ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: grid_map(abs, [-1]),
        lambda: process_jobs([Job(abs, [-1])]),
        lambda: submit([Job(abs, [-1])]),
        lambda: next(grid_imap(abs, [-1])),
    ],
)
@pytest.mark.parametrize("transient", [True, False])
def test_a_scheduler_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], transient: bool
) -> None:
    def away(name: str, **how: Any) -> Any:
        raise BackendError("cannot connect to the scheduler: no answer", transient)

    monkeypatch.setattr("gridmap.backends.registry.open_backend", away)
    with pytest.raises(BackendError) as caught:
        call()
    words = str(caught.value)
    assert words.startswith("cannot connect to the scheduler: no answer; ")
    assert "local=True" in words and "qstat" in words
    assert caught.value.transient is transient
