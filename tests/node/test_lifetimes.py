"""Who outlives whom: children, forkserver, agent."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gridmap.core import messages as m
from gridmap.core.messages import Outcome
from gridmap.data import split_frames
from gridmap.node.blobs import BlobStore, map_blob
from gridmap.node.forkserver import Died, Forkserver, Started
from gridmap.node.usage import UsageMeter, get_cpu_load, get_job_status, get_memory_usage
from tests.node.driver import Driver, alive, wait_for


@pytest.mark.parametrize("launch", [False, True])
def test_close_leaves_no_process_and_no_zombie(launch: bool) -> None:
    node = Driver(children=3, launch=launch)
    node.lease(time.sleep, [60, 60])
    node.until(lambda: len(node.pids()) == 3)
    pids = [*node.pids(), node.forkserver.pid]

    begun = time.monotonic()
    node.runtime.close()

    assert time.monotonic() - begun < 2.0
    assert not [pid for pid in pids if alive(pid)]
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[-1], os.WNOHANG)


def test_close_works_where_the_user_ignores_sigchld() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        for launch in (False, True):
            with Driver(launch=launch) as node:
                assert node.run(abs, [-1])[0][1] == 1
                died = node.run(lambda x: os._exit(3), [0], first=1)[0]
                assert died[0] is Outcome.DIED and died[1].exit_status == 3
                pid = node.forkserver.pid
            assert not alive(pid)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_when_the_forkserver_is_killed_another_one_takes_over() -> None:
    with Driver(children=2) as node:
        node.lease(lambda x: time.sleep(60), [0])
        node.until(lambda: len(node.pids()) == 2)
        # the lease must have started, else nobody would be blamed
        node.until(lambda: any(child.current == 0 for child in node.runtime._children.values()))
        children, server = node.pids(), node.forkserver.pid
        os.kill(server, signal.SIGKILL)
        node.until(lambda: 0 in node.outcomes.of)
        assert node.outcomes.of[0][0] is Outcome.DIED
        wait_for(lambda: not any(map(alive, children)))
        assert node.run(abs, [-5], first=1) == [(Outcome.VALUE, 5)]
        assert node.forkserver.pid != server


@pytest.mark.parametrize("launch", ["", "launch"])
def test_when_the_agent_is_killed_everything_else_ends(launch: str, tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, subprocess, sys, time
            from tests.node.driver import Driver
            def job(x):
                started = subprocess.Popen(["sleep", "60"])
                with open({str(tmp_path / "pids")!r}, "w") as file:
                    file.write(f"{{os.getpid()}} {{os.getppid()}} {{started.pid}} .")
                time.sleep(60)
            node = Driver(launch={bool(launch)})
            node.lease(job, [0])
            node.until(lambda: False, 60)
            """
        )
    )
    agent = subprocess.Popen(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    pids = tmp_path / "pids"
    try:
        wait_for(lambda: pids.exists() and pids.read_text().endswith("."))
        found = [int(pid) for pid in pids.read_text().split()[:-1]]
        assert all(map(alive, found))
    finally:
        agent.kill()
        agent.wait()
    wait_for(lambda: not any(map(alive, found)), 5.0)


def test_a_process_with_threads_is_not_forked() -> None:
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, daemon=True)
    thread.start()
    try:
        with pytest.raises(RuntimeError):
            Forkserver.fork()
        server = Forkserver.make()
        server.close()
    finally:
        gate.set()
        thread.join()


def test_nothing_of_the_clients_runs_or_is_written_twice(tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(
        textwrap.dedent(
            """
            import atexit, sys
            from tests.node.driver import Driver
            atexit.register(print, "at exit")
            sys.stdout.write("once ")
            with Driver(children=2) as node:
                node.run(print, ["from job"])
            """
        )
    )
    ran = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert sorted(ran.stdout.split()) == sorted(["once", "from", "job", "at", "exit"]), ran
    assert ran.stderr == ""


def test_the_forkserver_does_not_keep_the_clients_sockets_open() -> None:
    import socket

    ours, theirs = socket.socketpair()
    with Driver() as node:
        node.until(node.pids)
        theirs.close()
        ours.settimeout(5)
        assert ours.recv(1) == b""


def test_a_cancelled_lease_frees_its_child() -> None:
    with Driver() as node:
        node.lease(lambda x: time.sleep(60), [0])
        node.until(lambda: any(child.current == 0 for child in node.runtime._children.values()))
        node._inbox.append((m.Cancel([m.Key(0, 1, 1)], int(Outcome.STALLED)), []))
        node.until(lambda: 0 in node.outcomes.of)
        outcome, death = node.outcomes.of[0]
        assert outcome is Outcome.STALLED and death.signal == signal.SIGKILL
        assert node.run(abs, [-1], first=5) == [(Outcome.VALUE, 1)]


def test_a_heartbeat_tells_what_a_job_uses() -> None:
    def spin(x: int) -> None:
        block = bytearray(50_000_000)
        while block:
            pass

    with Driver(heartbeat_s=0.3) as node:
        node.lease(spin, [0])

        def busy() -> bool:
            beats = [x for x in node.said if isinstance(x, m.Heartbeat) and x.held]
            held = beats[-1].held[0] if beats else None
            return bool(held and held.rss_bytes > 50e6 and held.cpu_fraction > 0.3 and held.running)

        node.until(busy)


def test_memory_is_given_back_when_results_are_acknowledged() -> None:
    with Driver() as node:
        node.run(lambda x: bytes(x), [100_000] * 10)
        node.until(lambda: not node._inbox)
        assert not node.runtime._payloads and not node.runtime._arguments


def test_usage_counts_descendants_and_leaves_out_the_heart() -> None:
    # the parent sleeps and its child spins, which is no idle job
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while 1: pass'])"
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        (spinning,) = wait_for(psutil.Process(parent.pid).children)
        meter = UsageMeter()

        def busy() -> bool:
            usage = meter.read(parent.pid)
            return usage.running and usage.cpu_fraction > 0.1

        wait_for(lambda: spinning.cpu_times().user > 0.2)
        wait_for(busy)
        wait_for(lambda: get_cpu_load(parent.pid, -1)[0] > 5)
        wait_for(lambda: get_cpu_load(parent.pid, -1)[1])
        assert not get_cpu_load(parent.pid, spinning.pid)[1]
        assert get_memory_usage(parent.pid, -1) > 5
        assert get_memory_usage(parent.pid, spinning.pid) < get_memory_usage(parent.pid, -1)
        assert get_job_status(parent.pid, -1)["memory"] > 5
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
    assert meter.read(parent.pid).rss_bytes == 0


@pytest.mark.parametrize("tmpfile", [True, False])
def test_blobs_have_no_name_and_are_shared_and_bounded(
    tmp_path: Path, tmpfile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tmpfile:  # as on a file system that does not know it
        monkeypatch.delattr(os, "O_TMPFILE")
    store = BlobStore([str(tmp_path / "missing"), str(tmp_path)], max_bytes=10_000)
    place = store.put("d1", [b"abc", b"x" * 5000])
    assert store.put("d1", [b"abc"]) == place == store.place("d1")
    other = store.put("d2", [b"def"])
    assert list(tmp_path.iterdir()) == []  # so nothing can be left, whoever is killed
    mapped = map_blob(place)
    frames = [b"abc", b"x" * 5000]
    assert list(map(bytes, split_frames(memoryview(mapped)))) == frames
    assert list(map(bytes, split_frames(memoryview(map_blob(other))))) == [b"def"]
    mapped[0] ^= 255  # of this mapping alone
    assert list(map(bytes, split_frames(memoryview(map_blob(place))))) == frames
    with pytest.raises(OSError, match="blobs of more than"):
        store.put("d3", [bytes(10_000)])
    store.close()
    assert store.place("d1") == ""
    with pytest.raises(OSError):
        map_blob(place)


def test_a_blob_that_does_not_fit_harms_no_other(tmp_path: Path) -> None:
    store = BlobStore([str(tmp_path)])
    first = store.put("d1", [b"abc"])
    with file_size_limit(8192), pytest.raises(OSError, match="File too large"):
        store.put("d2", [bytes(1 << 20)])
    second = store.put("d3", [b"def"])
    assert list(map(bytes, split_frames(memoryview(map_blob(first))))) == [b"abc"]
    assert list(map(bytes, split_frames(memoryview(map_blob(second))))) == [b"def"]
    store.close()


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Makes every write beyond this size of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("hard", [64, 1024])
def test_a_start_whose_descriptors_the_kernel_refuses_is_told(hard: int) -> None:
    """Those on their way are counted by user, except for root, and compared with the limit."""
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
            full, _unread = socket.socketpair()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    socket.send_fds(full, [b"x"], [0] * 16)
            server = Forkserver.fork()
            ours, theirs = socket.socketpair()
            server.spawn(1, theirs, os.memfd_create("slot"))
            select.select([server], [], [], 10)
            status = [type(news) for news in server.receive()].index(
                Died if hard == 64 else Started
            )
            server.close()
            del ours
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_without_shared_memory_of_the_kernel_a_file_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refused)
    with Driver() as driver:
        assert driver.run(abs, [-3]) == [(m.Outcome.VALUE, 3)]


def test_a_function_that_cannot_be_kept_says_why(tmp_path: Path) -> None:
    with Driver() as driver:
        driver.runtime._blobs = BlobStore([str(tmp_path / "gone")])
        ((outcome, death),) = driver.run(abs, [-3])
    assert outcome is m.Outcome.DIED
    assert "its function cannot be kept on this node" in death.text and "gone" in death.text


def test_a_small_blob_may_use_what_is_kept_free(monkeypatch: pytest.MonkeyPatch) -> None:
    state = os.statvfs("/dev/shm")
    nearly_full = os.statvfs_result([*state[:3], 100, 100, *state[5:]])
    monkeypatch.setattr(os, "statvfs", lambda folder: nearly_full)
    store = BlobStore(["/dev/shm"])
    try:
        assert store.put("small", [b"x" * (9 * state.f_frsize)])
        with pytest.raises(OSError, match="no room in /dev/shm"):
            store.put("large", [b"x" * (11 * state.f_frsize)])
    finally:
        store.close()
