"""A whole worker, as a scheduler would start it, against a real monitor's link."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import gridmap
from gridmap import data
from gridmap.core import messages as m
from gridmap.node.serve import native_id
from gridmap.wire.keys import Connection, RunKeys, read_connection, write_connection
from gridmap.wire.link import MonitorLink
from tests.node.driver import DEADLINE_S, Outcomes, alive, wait_for

RUNNER = Path(gridmap.__file__).parent / "runner.py"


class Monitor:
    """Leases jobs to one worker over the wire."""

    def __init__(self, run_dir: Path, **changes: Any) -> None:
        keys = RunKeys.generate()
        self.link = MonitorLink(keys, interface="lo")
        self.outcomes = Outcomes()
        self.said: list[m.Message] = []
        self.peer = b""
        self.heartbeat_s = 0.5
        self.walltime_s = 0.0
        run_dir.mkdir(mode=0o700, exist_ok=True)
        told: dict[str, Any] = {
            "run": "r1",
            "addresses": self.link.addresses,
            "server_public": keys.server.public.decode(),
            "worker_public": keys.workers.public.decode(),
            "worker_secret": keys.workers.secret.decode(),
            "gridmap": gridmap.__version__,
            "protocol": m.PROTOCOL,
            "python": "{}.{}".format(*sys.version_info),
            "sys_path": sys.path,
            "host": "localhost",
            "pid": os.getpid(),
        }
        write_connection(run_dir, Connection(**{**told, **changes}))
        self.blobs: dict[str, list[data.Frame]] = {}

    def turn(self, refuse: str = "") -> None:
        for peer, message, frames in self.link.receive():
            self.said.append(message)
            self.peer = peer
            if isinstance(message, m.Hello):
                self.link.send(
                    peer,
                    m.Refuse(refuse)
                    if refuse
                    else m.Welcome("r1", self.heartbeat_s, 30.0, self.walltime_s),
                )
            elif isinstance(message, m.NeedBlob):
                self.link.send(peer, m.Blob(message.digest), self.blobs[message.digest])
            elif isinstance(message, m.Results):
                at = 0
                for item in message.items:
                    self.outcomes.add(item, frames[at : at + item.frames])
                    at += item.frames
                self.link.send(peer, m.Ack([item.key for item in message.items]))

    def until(self, condition: Any, refuse: str = "") -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.said
            self.turn(refuse)
            time.sleep(0.002)

    def lease(self, function: Any, elements: list[Any]) -> None:
        frames = data.pack_function(function)
        digest = data.digest(frames)
        self.blobs[digest] = frames
        packets = list(data.pack_arguments(elements))
        shape = [(0, p.count, len(p.frames)) for p in packets]
        lease = m.Lease(0, len(elements), 1, digest, "", True, shape)
        self.link.send(self.peer, m.Work([lease]), [f for p in packets for f in p.frames])


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    made = Monitor(tmp_path / "run")
    yield made
    made.link.close()


def start(run_dir: Path, log: Path, *command: str) -> subprocess.Popen[bytes]:
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environ |= {"JOB_ID": "12", "SGE_TASK_ID": "3"}
    with log.open("wb") as file:
        return subprocess.Popen(
            [*(command or (sys.executable, str(RUNNER))), str(run_dir), "0"],
            env=environ,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd="/",
        )


def test_a_worker_joins_works_and_leaves_when_drained(monitor: Monitor, tmp_path: Path) -> None:
    worker = start(tmp_path / "run", tmp_path / "log")
    monitor.until(lambda: monitor.peer)
    hello = monitor.said[0]
    assert isinstance(hello, m.Hello)
    assert (hello.native_id, hello.pid) == ("12.3", worker.pid)
    assert hello.log_stdout == str(tmp_path / "log")

    def f(x: int) -> Any:
        sys.stderr.write(f"log line {x}\n")
        if x == 2:
            os._exit(3)
        return os.environ["JOB_ID"], os.getppid()

    monitor.lease(f, [0, 1, 2])
    monitor.until(lambda: len(monitor.outcomes.of) == 3)
    outcome, death = monitor.outcomes.of[2]
    assert outcome is m.Outcome.DIED and death.exit_status == 3 and "log line 2" in death.log_tail

    monitor.link.send(monitor.peer, m.Drain())
    monitor.until(lambda: isinstance(monitor.said[-1], m.Bye))
    assert worker.wait(10) == 0


def lease_a_long_job(monitor: Monitor, log: Path) -> subprocess.Popen[bytes]:
    """Starts a worker with a job that will not end, and that notes each warning that it hears."""

    def f(_: int) -> None:
        def heard(number: int, _: Any) -> None:
            log.with_name("heard").write_text(str(number))

        signal.signal(signal.SIGTERM, heard)
        sys.stderr.write("last words\n")
        while True:
            time.sleep(60)

    worker = start(log.with_name("run"), log)
    monitor.until(lambda: monitor.peer)
    monitor.lease(f, [0])

    def runs() -> bool:
        beats = [x for x in monitor.said if isinstance(x, m.Heartbeat) and x.held]
        return bool(beats) and beats[-1].held[0].current == 0

    monitor.until(runs)
    return worker


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_a_warned_worker_gives_its_job_back_and_leaves(
    monitor: Monitor, tmp_path: Path, signum: int
) -> None:
    worker = lease_a_long_job(monitor, tmp_path / "log")
    began = time.monotonic()
    worker.send_signal(signum)
    monitor.until(lambda: isinstance(monitor.said[-1], m.Bye))
    assert time.monotonic() - began < 1.5, "Grid Engine's least notice is 2 s here"
    assert monitor.outcomes.of[0][0] is m.Outcome.CANCELED
    assert worker.wait(10) == 0 and not (tmp_path / "heard").exists()


def test_a_warning_that_kills_a_child_too_is_not_held_against_its_job(
    monitor: Monitor, tmp_path: Path
) -> None:
    worker = start(tmp_path / "run", tmp_path / "log")
    monitor.until(lambda: monitor.peer)
    pids = tmp_path / "pids"

    def f(_: int) -> None:
        pids.write_text(f"{os.getpid()} .")
        time.sleep(60)

    monitor.lease(f, [0])
    monitor.until(lambda: pids.exists() and pids.read_text().endswith("."))
    child = int(pids.read_text().split()[0])
    worker.send_signal(signal.SIGSTOP)  # so that both are there when it looks
    os.kill(child, signal.SIGTERM)
    wait_for(lambda: not alive(child))
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGCONT)
    monitor.until(lambda: isinstance(monitor.said[-1], m.Bye))
    assert monitor.outcomes.of[0][0] is m.Outcome.CANCELED
    assert worker.wait(10) == 0


def test_a_job_is_cut_before_the_scheduler_ends_its_worker(
    monitor: Monitor, tmp_path: Path
) -> None:
    monitor.walltime_s = 12.0  # half of which, less a margin, a busy machine may need to begin
    began = time.monotonic()
    worker = lease_a_long_job(monitor, tmp_path / "log")
    monitor.until(lambda: isinstance(monitor.said[-1], m.Bye))
    assert 6.0 < time.monotonic() - began < 12.0
    outcome, death = monitor.outcomes.of[0]
    assert outcome is m.Outcome.WALLTIME and "last words" in death.log_tail
    assert death.text.endswith("shortly before the end of its worker's time limit of 12 s")
    assert death.rss_bytes > 0
    assert monitor.said[-1] == m.Bye("out of time", int(m.Departure.OUT_OF_TIME))
    assert worker.wait(10) == 0


def test_short_jobs_that_do_not_all_fit_go_back_uncharged(monitor: Monitor, tmp_path: Path) -> None:
    monitor.walltime_s = 10.0  # of which a busy machine may need some to begin
    worker = start(tmp_path / "run", tmp_path / "log")
    monitor.until(lambda: monitor.peer)
    monitor.lease(time.sleep, [0.2] * 60)
    monitor.until(lambda: isinstance(monitor.said[-1], m.Bye))
    kinds = [monitor.outcomes.of[i][0].name for i in range(60)]
    done, rest = kinds.count("VALUE"), kinds.count("RETURNED")
    assert 2 <= done <= 40 and rest >= 19 and done + rest + kinds.count("CANCELED") == 60
    assert kinds.count("CANCELED") <= 1
    assert worker.wait(10) == 0


def test_a_result_too_large_for_the_wire_says_so(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "run", max_frame_bytes=1_000_000)
    worker = start(tmp_path / "run", tmp_path / "log")
    try:
        monitor.until(lambda: monitor.peer)
        monitor.lease(lambda n: bytes(n), [10, 3_000_000, 20])
        monitor.until(lambda: len(monitor.outcomes.of) == 3)
        kinds = [monitor.outcomes.of[i][0].name for i in range(3)]
        assert kinds == ["VALUE", "UNPICKLABLE", "VALUE"]
        assert "cannot be sent" in monitor.outcomes.of[1][1]
    finally:
        worker.kill()
        worker.wait()
        monitor.link.close()


def test_a_killed_worker_takes_its_processes_along(monitor: Monitor, tmp_path: Path) -> None:
    worker = start(tmp_path / "run", tmp_path / "log")
    monitor.until(lambda: monitor.peer)
    monitor.lease(lambda x: (os.getpid(), os.getppid()), [0])
    monitor.until(lambda: monitor.outcomes.of)
    pids = monitor.outcomes.of[0][1]
    assert all(map(alive, pids))
    worker.kill()
    worker.wait()
    wait_for(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("dead", [True, False])
def test_a_worker_follows_a_monitor_that_took_the_run_over(
    monitor: Monitor, tmp_path: Path, dead: bool
) -> None:
    monitor.heartbeat_s = 60.0 if dead else 0.5
    worker = start(tmp_path / "run", tmp_path / "log")
    monitor.until(lambda: monitor.peer)
    began, go = tmp_path / "began", tmp_path / "go"

    def f(x: int) -> int:
        began.touch()
        while not go.exists():
            time.sleep(0.005)
        return x * x

    monitor.lease(f, [7])
    monitor.until(began.exists)
    if dead:
        monitor.link.close()  # else it lives and says nothing, as one whose host is cut off
    second = Monitor(tmp_path / "run", run="r1", pid=1)
    try:
        second.until(lambda: second.peer)
        assert second.said[0] == monitor.said[0]  # the same process says the same Hello
        second.until(lambda: any(isinstance(x, m.Heartbeat) for x in second.said))
        beat = next(x for x in second.said if isinstance(x, m.Heartbeat))
        assert [(held.first, held.count, held.current) for held in beat.held] == [(0, 1, 0)]
        go.touch()
        second.until(lambda: second.outcomes.of)
        assert second.outcomes.of == {0: (m.Outcome.VALUE, 49)}
        second.link.send(second.peer, m.Drain())
        second.until(lambda: isinstance(second.said[-1], m.Bye))
        assert worker.wait(10) == 0
        assert second.link.strangers == 0
    finally:
        second.link.close()
        worker.kill()
        worker.wait()


def test_a_worker_that_was_not_welcomed_follows_too(monitor: Monitor, tmp_path: Path) -> None:
    worker = start(tmp_path / "run", tmp_path / "log")
    wait_for(monitor.link.receive)  # its Hello, and nobody answers
    second = Monitor(tmp_path / "run", pid=1)
    try:
        second.until(lambda: second.peer)
        second.link.send(second.peer, m.Drain())
        second.until(lambda: isinstance(second.said[-1], m.Bye))
        assert worker.wait(10) == 0
    finally:
        second.link.close()
        worker.kill()
        worker.wait()


def test_a_refused_worker_says_why(monitor: Monitor, tmp_path: Path) -> None:
    worker = start(tmp_path / "run", tmp_path / "log")
    monitor.until(lambda: worker.poll() is not None, refuse="you are too old")
    assert worker.returncode == 1 and "you are too old" in (tmp_path / "log").read_text()


def test_a_worker_that_finds_nobody_says_what_it_tried(monitor: Monitor, tmp_path: Path) -> None:
    monitor.link.close()
    log = tmp_path / "log"
    code = (
        "import sys; from gridmap.node.serve import serve; sys.exit(serve(sys.argv[1], 0, 1, 1.0))"
    )
    environ = {**os.environ, "PYTHONPATH": str(RUNNER.parents[1])}
    with log.open("wb") as file:
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        assert subprocess.run(command, stderr=file, env=environ, timeout=20).returncode == 1
    said = log.read_text()
    for address in monitor.link.addresses:
        assert f"  {address.removeprefix('tcp://')}: refused" in said
    assert "set GRIDMAP_PORTS, for instance to 50000-50100" in said


def test_a_worker_that_is_connected_and_unheard_says_so(monitor: Monitor, tmp_path: Path) -> None:
    path = tmp_path / "run" / "connection.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "startup_deadline_s": 2.0}))
    worker = start(tmp_path / "run", tmp_path / "log")
    deadline = time.monotonic() + DEADLINE_S
    while worker.poll() is None:
        monitor.link.receive()  # and no answer
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert worker.returncode == 1
    assert "is connected to the run r1" in (tmp_path / "log").read_text()


def spoiled(run_dir: Path, what: str) -> tuple[Path, str]:
    path = run_dir / "connection.json"
    if what == "missing":
        path.unlink()
        return run_dir, "cannot read"
    if what == "open":
        path.chmod(0o644)
        return run_dir, "mode 644"
    told = json.loads(path.read_text())
    if what == "python":
        told["python"] = "3.9"
    elif what == "version":
        told["gridmap"] = "0.0.1"
    path.write_text("{" if what == "damaged" else json.dumps(told))
    said = {"python": "the client's is 3.9", "version": "gridmap 0.0.1", "damaged": "is damaged"}
    return run_dir, said[what]


@pytest.mark.parametrize("what", ["missing", "open", "python", "version", "damaged"])
def test_a_worker_that_cannot_start_says_one_clear_line(
    monitor: Monitor, tmp_path: Path, what: str
) -> None:
    run_dir, said = spoiled(tmp_path / "run", what)
    assert start(run_dir, tmp_path / "log").wait(20) == 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1 and said in lines[0] and lines[0].startswith("gridmap worker on ")


def test_an_interpreter_without_the_dependencies_says_so(monitor: Monitor, tmp_path: Path) -> None:
    told = json.loads((tmp_path / "run/connection.json").read_text())
    (tmp_path / "run/connection.json").write_text(json.dumps({**told, "sys_path": []}))
    bare = (sys.executable, "-S", str(RUNNER))  # without site-packages
    assert start(tmp_path / "run", tmp_path / "log", *bare).wait(20) == 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1 and "cannot import what gridmap needs" in lines[0]


def test_the_front_door_is_readable_for_python_3_6() -> None:
    import ast

    ast.parse(RUNNER.read_text(), feature_version=(3, 6))


def test_native_ids() -> None:
    assert native_id({"JOB_ID": "12", "SGE_TASK_ID": "3"}) == "12.3"
    assert native_id({"JOB_ID": "12", "SGE_TASK_ID": "undefined"}) == "12"
    assert native_id({"JOB_ID": "12", "GRIDMAP_NATIVE_ID": "x.7"}) == "x.7"
    assert native_id({"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}) == "5_2"
    assert native_id({"PBS_JOBID": "12[3].server", "PBS_ARRAY_INDEX": "3"}) == "12[3].server"
    assert native_id({"PBS_JOBID": "12.server"}) == "12.server"
    assert native_id({"LSB_JOBID": "12", "LSB_JOBINDEX": "3"}) == "12[3]"
    assert native_id({"LSB_JOBID": "12", "LSB_JOBINDEX": "0"}) == "12"
    assert native_id({"OAR_JOB_ID": "14", "OAR_ARRAY_ID": "12", "OAR_ARRAY_INDEX": "3"}) == "14"


class Relay:
    """Passes bytes on to a port; the connections that it has can be cut so that nobody notices."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.calls = 0
        self._cut: list[threading.Event] = []
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for event in self._cut:
            event.set()

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for it
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._port))
                self._ends += [near, far]
                self.calls += 1
                self._cut.append(cut := threading.Event())
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(one, other, cut), daemon=True).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := one.recv(65536)) and not cut.is_set():
                other.sendall(data)
            if not cut.is_set():
                other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relayed(
    tmp_path: Path, **changes: Any
) -> Iterator[tuple[Monitor, Relay, subprocess.Popen[bytes]]]:
    """A worker that speaks with its monitor through a relay."""
    monitor = Monitor(tmp_path / "run", **changes)
    relay = Relay(int(monitor.link.addresses[0].rpartition(":")[2]))
    connection = read_connection(tmp_path / "run")
    there = msgspec.structs.replace(connection, addresses=[f"tcp://127.0.0.1:{relay.port}"])
    write_connection(tmp_path / "run", there)
    worker = start(tmp_path / "run", tmp_path / "log")
    try:
        yield monitor, relay, worker
    finally:
        worker.kill()
        worker.wait()
        relay.close()
        monitor.link.close()


def test_a_worker_whose_first_connection_brings_nothing_calls_again(tmp_path: Path) -> None:
    """The network was cut between its Hello and the answer."""
    with relayed(tmp_path, startup_deadline_s=16.0) as (monitor, relay, worker):
        while not monitor.said:
            monitor.said += [message for _, message, _ in monitor.link.receive()]
        relay.cut()
        began = time.monotonic()
        monitor.until(lambda: monitor.peer)
        assert relay.calls == 2 and time.monotonic() - began < 6
        monitor.link.send(monitor.peer, m.Drain())
        monitor.until(lambda: isinstance(monitor.said[-1], m.Bye))
        assert worker.wait(10) == 0


def test_a_worker_that_hears_nothing_calls_again(tmp_path: Path) -> None:
    """As after a network was cut: the connection is dead, and neither end has noticed."""
    with relayed(tmp_path) as (monitor, relay, worker):
        monitor.until(lambda: any(isinstance(said, m.Heartbeat) for said in monitor.said))
        first, calls = monitor.peer, relay.calls
        relay.cut()
        began = time.monotonic()
        monitor.until(lambda: monitor.peer != first)
        assert relay.calls > calls and time.monotonic() - began < 8
        monitor.lease(str, [7])
        monitor.until(lambda: 0 in monitor.outcomes.of)
        monitor.link.send(monitor.peer, m.Drain())
        monitor.until(lambda: isinstance(monitor.said[-1], m.Bye))
        assert worker.wait(10) == 0
