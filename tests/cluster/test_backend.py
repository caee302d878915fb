"""The scheduler's backend on its own."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from gridmap.backends.commands import worker_logs
from gridmap.backends.registry import open_backend
from gridmap.core.events import NativeState
from tests.cluster.polling import ENDED, run_to_end, until
from tests.cluster.scheduler import SCHEDULER


def test_more_workers_than_slots_and_all_deleted(backend, request_for) -> None:
    request = request_for("/bin/sleep", "100", count=8)
    ids = backend.submit(request)
    assert len(set(ids)) == 8

    until(backend, ids, {NativeState.RUNNING, NativeState.PENDING})
    until(backend, ids[:1], {NativeState.RUNNING})
    assert sorted(backend.find(request.run_tag)) == sorted(ids)
    assert backend.find("another") == []

    backend.cancel(ids)
    backend.cancel(ids)
    until(backend, ids, {NativeState.DELETED})
    assert backend.find(request.run_tag) == []


@pytest.mark.endings
def test_one_worker_of_an_array_is_deleted(backend, request_for) -> None:
    ids = backend.submit(request_for("/bin/sleep", "100", count=3))
    until(backend, ids[1:2], {NativeState.RUNNING})
    backend.cancel(ids[1:2])
    until(backend, ids[1:2], {NativeState.DELETED})
    assert backend.status(ids[:1])[ids[0]].state in {NativeState.RUNNING, NativeState.PENDING}
    backend.cancel(ids)


def test_a_long_stretch_of_an_array_is_deleted(backend, request_for) -> None:
    ids = backend.submit(request_for("/bin/sleep", "100", count=200))
    until(backend, ids[:1], {NativeState.RUNNING})
    backend.cancel(ids[100:])
    until(backend, ids[100:], {NativeState.DELETED})
    assert backend.status(ids[:1])[ids[0]].state is NativeState.RUNNING
    backend.cancel(ids[:100])
    until(backend, ids, {NativeState.DELETED})


def test_arguments_arrive_as_they_are(backend, request_for) -> None:
    words = ["a b", "$HOME", "it's", 'say "x"', "*", "", "ä", "a;b|c&d"]
    program = "import sys; print(ascii(sys.argv[1:]))"
    request = request_for("/usr/bin/python3", "-c", program, *words)
    [native_id] = backend.submit(request)
    assert until(backend, [native_id], ENDED)[native_id].state is NativeState.DONE
    out, err = worker_logs(request.log_dir, native_id)
    assert Path(err).read_text() == ""
    assert Path(out).read_text().strip() == ascii(words)


def test_logs_and_working_directory(backend, request_for, shared) -> None:
    request = request_for("/bin/sh", "-c", "pwd; echo oops >&2", count=2)
    ids = backend.submit(request)
    until(backend, ids, {NativeState.DONE})
    for native_id in ids:
        out, err = worker_logs(str(shared), native_id)
        assert Path(out).read_text().strip() == str(shared)
        assert Path(err).read_text().strip() == "oops"


@pytest.mark.endings
def test_exit_status(backend, request_for) -> None:
    status = run_to_end(backend, request_for("/bin/sh", "-c", "exit 3"))
    assert (status.state, status.exit_status) == (NativeState.FAILED, 3)


@pytest.mark.endings
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_by_a_signal(backend, request_for, number) -> None:
    status = run_to_end(backend, request_for("/bin/sh", "-c", f"kill -{int(number)} $$"))
    assert (status.state, status.signal) == (NativeState.FAILED, number)


@pytest.mark.endings
def test_deleted_by_somebody_while_pending(backend, request_for) -> None:
    ids = backend.submit(request_for("/bin/sleep", "100", count=6))
    until(backend, ids[:1], {NativeState.RUNNING})
    until(backend, ids[5:], {NativeState.PENDING})
    SCHEDULER.delete(ids[5])
    status = until(backend, ids[5:], ENDED)[ids[5]]
    assert status.state is NativeState.DELETED and "deleted before it started" in status.text
    backend.cancel(ids)
    until(backend, ids, ENDED)


@pytest.mark.endings
def test_diagnosis_shows_the_log(backend, request_for) -> None:
    [native_id] = backend.submit(request_for("/bin/sh", "-c", "echo no such module >&2; exit 1"))
    until(backend, [native_id], ENDED)
    told = backend.diagnose(native_id)
    assert "exited with 1" in told
    assert "no such module" in told


def test_diagnosis_of_a_worker_that_waits(backend, request_for) -> None:
    ids = backend.submit(request_for("/bin/sleep", "100", count=6))
    until(backend, ids[:1], {NativeState.RUNNING})
    told = backend.diagnose(ids[5])
    assert "pending" in told
    backend.cancel(ids)
    until(backend, ids, ENDED)


def test_two_runs_at_once_each_see_their_own(request_for) -> None:
    endings: dict[int, set[int]] = {}
    errors: list[BaseException] = []

    def run(exit_status: int) -> None:
        try:
            backend = open_backend(SCHEDULER.backend)
            ids = backend.submit(request_for("/bin/sh", "-c", f"exit {exit_status}", count=3))
            seen = until(backend, ids, ENDED, 40)  # type: ignore[arg-type]
            endings[exit_status] = {status.exit_status for status in seen.values()}
            backend.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert endings == {3: {3}, 4: {4}}


def test_workers_of_an_ended_session_are_found_and_deleted(backend, request_for) -> None:
    request = request_for("/bin/sleep", "100", count=6)
    ids = backend.submit(request)
    backend.close()
    later = open_backend(SCHEDULER.backend)
    assert sorted(later.find(request.run_tag)) == sorted(ids)
    later.cancel(ids)
    until(later, ids, {NativeState.FAILED, NativeState.DELETED})  # type: ignore[arg-type]
    later.close()
