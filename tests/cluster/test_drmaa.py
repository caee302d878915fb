"""What only the DRMAA backend on a real Grid Engine does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gridmap.backends.commands import worker_logs
from gridmap.backends.drmaa import why_not
from gridmap.backends.drmaa_session import SESSION
from gridmap.backends.registry import open_backend
from gridmap.core.events import NativeState
from gridmap.errors import BackendError
from tests.cluster.polling import ENDED, run_to_end, until

pytestmark = pytest.mark.only_on("drmaa")


def test_the_library_loads_without_help() -> None:
    assert "DRMAA_LIBRARY_PATH" not in os.environ
    assert why_not() == ""
    assert "DRMAA_LIBRARY_PATH" not in os.environ


def test_arguments_arrive_through_a_shell(backend, request_for) -> None:
    words = ["a b", "$HOME", "it's", "*"]
    program = "import sys; print(ascii(sys.argv[1:]))"
    request = request_for("/usr/bin/python3", "-c", program, *words, interpreting_shell="/bin/bash")
    [native_id] = backend.submit(request)
    assert until(backend, [native_id], ENDED)[native_id].state is NativeState.DONE
    assert Path(worker_logs(request.log_dir, native_id)[0]).read_text().strip() == ascii(words)


def test_time_limit(backend, request_for) -> None:
    status = run_to_end(backend, request_for("/bin/sleep", "100", h_rt="2"))
    assert (status.state, status.signal) == (NativeState.FAILED, signal.SIGKILL)


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


def test_every_thread_learns_what_the_library_is_for() -> None:
    told = python(
        "import threading\n"
        "from gridmap.backends.drmaa import is_grid_engine, words_here\n"
        "def tell():\n"
        "    print(is_grid_engine(), words_here().name)\n"
        "for _ in range(2):\n"
        "    tell()\n"
        "    thread = threading.Thread(target=tell)\n"
        "    thread.start()\n"
        "    thread.join()\n"
    )
    assert told.splitlines() == ["True Grid Engine"] * 4
