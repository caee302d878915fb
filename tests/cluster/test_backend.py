"""The DRMAA backend on a real Grid Engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gridmap.backends.base import SubmitRequest
from gridmap.backends.drmaa import DrmaaBackend, why_not, worker_logs
from gridmap.backends.drmaa_session import SESSION
from gridmap.backends.registry import open_backend
from gridmap.core.events import NativeState, NativeStatus
from gridmap.core.spec import Resources
from gridmap.errors import BackendError

ENDED = {NativeState.DONE, NativeState.FAILED, NativeState.DELETED}
END_S = 20.0

pytestmark = pytest.mark.only_on("drmaa")


@pytest.fixture
def backend() -> Iterator[DrmaaBackend]:
    opened = open_backend("drmaa")
    assert isinstance(opened, DrmaaBackend)
    yield opened
    opened.close()


@pytest.fixture
def request_for(shared: Path) -> Callable[..., SubmitRequest]:
    def make(
        *command: str, count: int = 1, log_dir: str = str(shared), **resources: object
    ) -> SubmitRequest:
        return SubmitRequest(
            run_tag=uuid.uuid4().hex,
            name="a test",
            command=command,
            count=count,
            resources=Resources(**resources),
            log_dir=log_dir,
            working_dir=str(shared),
        )

    return make


def until(
    backend: DrmaaBackend, ids: Sequence[str], states: set[NativeState], within_s: float = END_S
) -> dict[str, NativeStatus]:
    """Polls until each worker is in one of these states."""
    deadline = time.monotonic() + within_s
    seen: dict[str, NativeStatus] = {}
    while True:
        seen.update(backend.status(ids))
        if all(i in seen and seen[i].state in states for i in ids):
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"not {states} within {within_s:.0f} s: {seen}")
        time.sleep(0.05)


def run_to_end(backend: DrmaaBackend, request: SubmitRequest) -> NativeStatus:
    [native_id] = backend.submit(request)
    return until(backend, [native_id], ENDED)[native_id]


def test_the_library_loads_without_help() -> None:
    assert "DRMAA_LIBRARY_PATH" not in os.environ
    assert why_not() == ""
    assert "DRMAA_LIBRARY_PATH" not in os.environ


def test_more_workers_than_slots_and_all_deleted(backend, request_for) -> None:
    request = request_for("/bin/sleep", "100", count=8)
    ids = backend.submit(request)
    assert len(set(ids)) == 8

    seen = until(backend, ids, {NativeState.RUNNING, NativeState.PENDING})
    until(backend, ids[:1], {NativeState.RUNNING})
    assert sorted(backend.find(request.run_tag)) == sorted(ids)
    assert backend.find("another") == []

    backend.cancel(ids)
    backend.cancel(ids)
    seen = until(backend, ids, {NativeState.DELETED})
    assert any("before it started" in status.text for status in seen.values())
    assert backend.find(request.run_tag) == []


def test_one_worker_of_an_array_is_deleted(backend, request_for) -> None:
    ids = backend.submit(request_for("/bin/sleep", "100", count=3))
    until(backend, ids[1:2], {NativeState.RUNNING})
    backend.cancel(ids[1:2])
    assert "while it ran" in until(backend, ids[1:2], {NativeState.DELETED})[ids[1]].text
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


def test_arguments_arrive_through_a_shell(backend, request_for) -> None:
    words = ["a b", "$HOME", "it's", "*"]
    program = "import sys; print(ascii(sys.argv[1:]))"
    request = request_for("/usr/bin/python3", "-c", program, *words, interpreting_shell="/bin/bash")
    [native_id] = backend.submit(request)
    assert until(backend, [native_id], ENDED)[native_id].state is NativeState.DONE
    assert Path(worker_logs(request.log_dir, native_id)[0]).read_text().strip() == ascii(words)


def test_logs_and_working_directory(backend, request_for, shared) -> None:
    request = request_for("/bin/sh", "-c", "pwd; echo oops >&2", count=2)
    ids = backend.submit(request)
    until(backend, ids, {NativeState.DONE})
    for native_id in ids:
        out, err = worker_logs(str(shared), native_id)
        assert Path(out).read_text().strip() == str(shared)
        assert Path(err).read_text().strip() == "oops"


def test_exit_status(backend, request_for) -> None:
    status = run_to_end(backend, request_for("/bin/sh", "-c", "exit 3"))
    assert (status.state, status.exit_status) == (NativeState.FAILED, 3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_by_a_signal(backend, request_for, number) -> None:
    status = run_to_end(backend, request_for("/bin/sh", "-c", f"kill -{int(number)} $$"))
    assert (status.state, status.signal) == (NativeState.FAILED, number)


def test_time_limit(backend, request_for) -> None:
    status = run_to_end(backend, request_for("/bin/sleep", "100", h_rt="2"))
    assert (status.state, status.signal) == (NativeState.FAILED, signal.SIGKILL)


def test_deleted_by_somebody_while_pending(backend, request_for) -> None:
    ids = backend.submit(request_for("/bin/sleep", "100", count=6))
    until(backend, ids[:1], {NativeState.RUNNING})
    subprocess.run(["qdel", ids[5]], check=True, capture_output=True, timeout=20)
    status = until(backend, ids[5:], ENDED)[ids[5]]
    assert (status.state, status.text) == (NativeState.DELETED, "deleted before it started")
    backend.cancel(ids)
    until(backend, ids, ENDED)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"queue": "nosuch.q"}, 'unknown queue "nosuch.q"'),
        ({"extra": ("nosuch=1",)}, 'unknown resource "nosuch"'),
        ({"num_slots": 2, "par_env": "nosuch"}, 'parallel environment "nosuch" does not exist'),
        ({"project": "nosuch"}, 'project "nosuch" does not exist'),
        ({"h_vmem": "much"}, "h_vmem"),
        ({"hosts": ("nosuch",)}, 'can\'t resolve hostname "nosuch"'),
        ({"extra": ("mem_free=999T",)}, "no suitable queues"),
    ],
)
def test_what_the_scheduler_refuses_is_said_in_its_words(
    backend, request_for, wrong, words
) -> None:
    with pytest.raises(BackendError) as caught:
        backend.submit(request_for("/bin/true", **wrong))
    assert words in str(caught.value)
    assert not caught.value.transient


def test_a_worker_on_a_named_host_with_several_slots(backend, request_for) -> None:
    hosts = (os.uname().nodename, "nosuch")
    status = run_to_end(
        backend, request_for("/bin/true", hosts=hosts, num_slots=2, queue="all.q", h_rt="0:1:0")
    )
    assert status.state is NativeState.DONE


def test_a_worker_that_cannot_start_is_diagnosed(backend, request_for) -> None:
    [native_id] = backend.submit(request_for("/nosuch/python"))
    status = until(backend, [native_id], ENDED)[native_id]
    assert (status.state, status.exit_status) == (NativeState.FAILED, -1)
    told = backend.diagnose(native_id)
    assert "could not start" in told
    assert "failed 27" in told  # of the accounting: no such program


def test_logs_that_cannot_be_written_are_diagnosed(backend, request_for) -> None:
    [native_id] = backend.submit(request_for("/bin/true", log_dir="/nosuch"))
    assert until(backend, [native_id], ENDED)[native_id].state is NativeState.FAILED
    assert "failed 26" in backend.diagnose(native_id)


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
            backend = open_backend("drmaa")
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


def test_the_session_ends_with_its_last_user(request_for) -> None:
    first, second = open_backend("drmaa"), open_backend("drmaa")
    first.close()
    assert second.contact  # type: ignore[attr-defined]
    second.close()
    with pytest.raises(BackendError, match="no DRMAA session"):
        SESSION.contact  # noqa: B018
    again = open_backend("drmaa")
    assert run_to_end(again, request_for("/bin/true")).state is NativeState.DONE  # type: ignore[arg-type]
    again.close()


def test_workers_of_an_ended_session_are_found_and_deleted(backend, request_for) -> None:
    request = request_for("/bin/sleep", "100", count=6)
    ids = backend.submit(request)
    backend.close()
    later = open_backend("drmaa")
    assert sorted(later.find(request.run_tag)) == sorted(ids)
    later.cancel(ids)
    until(later, ids, {NativeState.FAILED, NativeState.DELETED})  # type: ignore[arg-type]
    later.close()


def python(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


OPEN = """
import time
from gridmap.backends.registry import open_backend
from gridmap.errors import BackendError, DRMAANotPresentException
started = time.monotonic()
try:
    open_backend("drmaa")
except (BackendError, DRMAANotPresentException) as error:
    print(type(error).__name__, getattr(error, "transient", None), error)
assert time.monotonic() - started < 5
"""


def test_no_qmaster() -> None:
    told = python(OPEN, SGE_QMASTER_PORT="1")
    assert told.startswith("BackendError True")
    assert "qmaster using port 1" in told


def test_no_cell() -> None:
    told = python(OPEN, SGE_CELL="nosuch")
    assert told.startswith("BackendError False")
    assert "nosuch" in told


def test_no_library() -> None:
    told = python(OPEN, DRMAA_LIBRARY_PATH="/nosuch/libdrmaa.so")
    assert told.startswith("DRMAANotPresentException")
    assert "/nosuch/libdrmaa.so" in told


def test_a_session_of_the_users_own() -> None:
    told = python(
        "from gridmap.backends.drmaa_library import load_drmaa\n"
        "session = load_drmaa().Session()\nsession.initialize()\n" + OPEN
    )
    assert told.startswith("BackendError False")
    assert "permits one a process" in told


def test_a_forked_child_leaves_its_parents_session_alone() -> None:
    told = python(
        "import os\n"
        "from gridmap.backends.registry import open_backend\n"
        "from gridmap.errors import BackendError\n"
        "backend = open_backend('drmaa')\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        open_backend('drmaa')\n"
        "    except BackendError as error:\n"
        "        print('child:', error, flush=True)\n"
        "    raise SystemExit\n"
        "os.wait()\n"
        "print('parent:', backend.contact)\n"
    )
    assert "child: this process was forked" in told
    assert "parent: session=" in told
