"""What cannot work is refused at once, by name; of small inputs, before anything was started."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import Job, PicklingError, grid_imap, grid_imap_unordered, grid_map, process_jobs
from tests.doors.functions import identity

THERE = {"local": True, "max_processes": 2}


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.function is test_unpicklable_result:  # known only once it ran
        return

    def start(*_: Any) -> None:
        pytest.fail("something was started")

    monkeypatch.setattr("gridmap.node.forkserver.Forkserver.make", start)


class Holder:
    def __init__(self) -> None:
        self.inner = {"deep": threading.Lock()}


def test_unpicklable_function() -> None:
    lock = threading.Lock()

    def with_lock(x: int) -> int:
        with lock:
            return x

    for function in (with_lock, Holder().inner["deep"].acquire):
        with pytest.raises(PicklingError, match=r"function .*lock"):
            grid_map(function, [1], **THERE)
    with pytest.raises(PicklingError, match="with_lock.*closure variable lock"):
        process_jobs([Job(with_lock, [1])], **THERE)


def test_unpicklable_argument() -> None:
    with pytest.raises(PicklingError, match=r"argument 0 of .*2.*inner.*deep.*lock"):
        grid_map(identity, [0, 1, Holder(), 3], **THERE)
    with pytest.raises(PicklingError, match=r"argument 1 of .*1.*\bother\b.*lock"):
        process_jobs([Job(max, [1, 2]), Job(max, [1, threading.Lock()], name="other")], **THERE)
    with pytest.raises(PicklingError, match=r"argument key of .*0.*lock"):
        process_jobs([Job(max, [1, 2], {"key": threading.Lock()})], **THERE)
    with pytest.raises(PicklingError, match=r"argument 0 of .*0"):
        gridmap.submit([Job(identity, [(i for i in range(3))])], **THERE)


def test_unpicklable_result() -> None:
    def made(x: int) -> Any:
        return Holder() if x == 2 else x

    back = grid_map(made, range(4), on_error="return", **THERE)
    assert [back[0], back[1], back[3]] == [0, 1, 3]
    assert isinstance(back[2], gridmap.JobUnpicklable)
    assert back[2].cause is gridmap.Cause.UNPICKLABLE and back[2].job == 2
    for word in ("Holder", "inner", "deep", "lock", "gridmap_job2"):
        assert word in str(back[2])
    assert back[2].attempts == 1
    with pytest.raises(gridmap.JobUnpicklable):
        grid_map(made, range(4), **THERE)


@pytest.mark.parametrize("bad", [3, None, 2.5, len])
def test_args_list_that_cannot_be_iterated(bad: Any) -> None:
    for max_processes in (1, 2):
        for call in (grid_map, grid_imap, grid_imap_unordered):
            with pytest.raises(TypeError, match=r"args_list.*iterable"):
                call(identity, bad, local=True, max_processes=max_processes)


CALLS = [
    lambda **options: grid_map(identity, [1], **options),
    lambda **options: process_jobs([Job(identity, [1])], **options),
    lambda **options: gridmap.submit([Job(identity, [1])], **options),
    lambda **options: grid_imap(identity, [1], **options),
    lambda **options: grid_imap_unordered(identity, [1], **options),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_processes": 0}, ValueError),
        ({"max_processes": -1}, ValueError),
        ({"max_processes": "2"}, TypeError),
        ({"max_processes": 1.5}, TypeError),
        ({"max_processes": None}, TypeError),
        ({"max_processes": True}, TypeError),
        ({"max_workers": 0}, ValueError),
        ({"max_workers": "many"}, TypeError),
        ({"on_error": "rise"}, ValueError),
        ({"on_error": None}, ValueError),
        ({"backend": "slrum"}, ValueError),
        ({"backend": "slrum", "local": True}, ValueError),
        ({"backend": "drmaa", "local": True}, ValueError),
        ({"backend": None}, ValueError),
        ({"backend": "local", "require_cluster": True}, ValueError),
        ({"white_list": "host"}, TypeError),
        ({"white_list": 3}, TypeError),
        ({"nonsense": 1}, TypeError),
    ],
)
def test_wrong_options(call: Any, options: dict[str, Any], kind: type[Exception]) -> None:
    given = {"local": True, **options} if "backend" not in options else options
    with pytest.raises(kind, match=next(iter(options))):
        call(**given)


@pytest.mark.parametrize("call", [grid_imap, grid_imap_unordered])
@pytest.mark.parametrize("option", ["nonsense", "args_list", "kwlist", "args", "ordered"])
def test_a_stream_refuses_what_it_does_not_know_by_its_own_name(call: Any, option: str) -> None:
    words = rf"^{call.__name__}\(\) got an unexpected keyword argument '{option}'$"
    with pytest.raises(TypeError, match=words):
        call(identity, [1], **{option: [1]}, **THERE)


@pytest.mark.parametrize("call", CALLS)
def test_a_host_name_that_the_scheduler_would_not_understand(call: Any) -> None:
    with pytest.raises(ValueError, match="a b"):
        call(white_list=["a b"], **THERE)


def test_numpy_numbers_are_numbers() -> None:
    import numpy as np

    with pytest.raises(PicklingError):
        grid_map(identity, [threading.Lock()], local=True, max_processes=np.int64(2))


@pytest.mark.parametrize(
    ("window", "kind"), [(0, ValueError), (-3, ValueError), ("4", TypeError), (None, TypeError)]
)
def test_window(window: Any, kind: type[Exception]) -> None:
    for call in (grid_imap, grid_imap_unordered):
        with pytest.raises(kind, match="window"):
            call(identity, [1], window=window, **THERE)


@pytest.mark.parametrize("max_processes", [1, 2])
def test_jobs_that_are_none(max_processes: int) -> None:
    job = Job(identity, [1], name="twin")
    for call in (process_jobs, gridmap.submit):
        for jobs, kind, words in [
            ([job, Job(identity, [2]), job], ValueError, r"twin.*jobs\[0\].*jobs\[2\]"),
            ([job, "job"], TypeError, r"jobs\[1\].*'job'"),
            ([identity], TypeError, r"jobs\[0\]"),
            (job, TypeError, "list of Job"),
            (None, TypeError, "list of Job"),
            (3, TypeError, "list of Job"),
            ("jobs", TypeError, "jobs"),
        ]:
            with pytest.raises(kind, match=words):
                call(jobs, local=True, max_processes=max_processes)


@pytest.mark.parametrize("bad", ["ab", b"ab", 3, None])
def test_args_of_a_job_are_a_list(bad: Any) -> None:
    with pytest.raises(TypeError, match="arguments of a Job"):
        Job(identity, bad)


@pytest.mark.parametrize("bad", ["len", None, 3])
def test_what_cannot_be_called(bad: Any) -> None:
    with pytest.raises(TypeError, match="call"):
        Job(bad, [1])
    for call in (grid_map, grid_imap, grid_imap_unordered):
        with pytest.raises(TypeError, match="call"):
            call(bad, [1], **THERE)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"validation_level": "x"}, ValueError),
        ({"num_slots": 0}, ValueError),
        ({"num_slots": "2"}, TypeError),
        ({"gpu": "2"}, TypeError),
        ({"gpu": -1}, ValueError),
        ({"h_vmem": 2}, TypeError),
        ({"mem_free": 2}, TypeError),
        ({"queue": 7}, TypeError),
        ({"h_rt": "soon"}, ValueError),
        ({"kwlist": [1]}, TypeError),
        ({"kwlist": {1: 2}}, TypeError),
        ({"resources": "a=b"}, TypeError),
        ({"add_env": "a=b"}, TypeError),
        ({"add_env": {"A": 1}}, TypeError),
    ],
)
def test_wrong_options_of_a_job(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=next(iter(options))):
        Job(identity, [1], **options)


def test_an_iterator_that_fails_is_the_callers_error() -> None:
    def broken() -> Any:
        yield 1
        raise LookupError("the input broke")

    with pytest.raises(LookupError, match="the input broke"):
        grid_map(identity, broken(), **THERE)
    with pytest.raises(LookupError, match="the input broke"):
        process_jobs((Job(identity, [x]) for x in broken()), **THERE)


def test_that_there_is_no_cluster_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = "/nowhere/libdrmaa.so"
    monkeypatch.setenv("DRMAA_LIBRARY_PATH", nowhere)
    monkeypatch.delitem(sys.modules, "drmaa", raising=False)
    for _ in range(2):
        assert grid_map(identity, [1, 2]) == [1, 2]
    (said,) = [x.getMessage() for x in caplog.records if "no cluster" in x.getMessage()]
    assert said.count(nowhere) == 1


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match="working directory, in which jobs run, does not"):
        grid_map(abs, [1], local=True)
