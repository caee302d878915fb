"""Runs that go on, with right values, while somebody attacks their monitor.

The client is a process of its own with real agents; attackers are here, so that what they cost is
measured in the client.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket as tcp
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from gridmap.core import messages as m
from gridmap.wire.codec import PART_BYTES, encode
from gridmap.wire.gate import MOST_STRANGERS, Gate
from gridmap.wire.keys import Connection, KeyPair, read_connection
from tests.wire.scheduler import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
DIGEST = "ab" * 32


class Client:
    """A program in the middle of a run."""

    def __init__(self, folder: Path, jobs: int = 150, **environment: str) -> None:
        self.jobs = jobs
        self._marks = folder / "marks"
        self._marks.mkdir()
        self._real = 2 - int(environment.get("PHANTOMS", "0"))
        self._err = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.wire.scheduler", str(jobs)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "GRIDMAP_RUN_DIR": str(folder / "runs"),
                 "HEARTBEAT_FREQUENCY": "0.5", "GRIDMAP_INTERFACE": "lo", "WORKERS": "2",
                 "PAUSE_S": "0.02", "MARKS": str(self._marks), **environment},
            stdout=subprocess.PIPE,
            stderr=self._err,
            text=True,
        )  # fmt: skip
        pattern = "*/connection.json"
        path = until(lambda: next((folder / "runs").glob(pattern), None), "a connection file")
        self.connection: Connection = read_connection(path.parent)
        self._ps = psutil.Process(self.process.pid)
        host, _, port = self.connection.addresses[0].removeprefix("tcp://").rpartition(":")
        self.address = (host, int(port))
        self.rss = self._ps.memory_info().rss
        self.most_rss = self.most_fds = 0
        self._over = threading.Event()
        self._meter = threading.Thread(target=self._measure)
        self._meter.start()

    def _measure(self) -> None:
        while not self._over.wait(0.01):
            with contextlib.suppress(psutil.Error):
                self.most_rss = max(self.most_rss, self._ps.memory_info().rss)
                self.most_fds = max(self.most_fds, self._ps.num_fds())

    def wait_until_it_works(self) -> None:
        until(lambda: len(list(self._marks.iterdir())) >= self._real, "jobs that run")

    def end(self, within_s: float = 30.0) -> dict[str, Any]:
        """Returns what came of the run, which must be what it should be."""
        out, _ = self.process.communicate(timeout=within_s)
        told: dict[str, Any] = json.loads(out)
        assert told.get("values") == [x * x for x in range(self.jobs)], told
        assert "Traceback" not in self.log
        return told

    @property
    def log(self) -> str:
        self._err.flush()
        return Path(self._err.name).read_text()

    @property
    def growth(self) -> int:
        return self.most_rss - self.rss

    def close(self) -> None:
        self._over.set()
        self._meter.join()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self._err.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    clients: list[Client] = []

    def begin(**how: Any) -> Client:
        clients.append(Client(tmp_path, **how))
        return clients[-1]

    yield begin
    for client in clients:
        client.close()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def dealer(
    context: zmq.Context[zmq.Socket[bytes]],
    client: Client,
    server: bytes | None = None,
    pair: KeyPair | None = None,
) -> zmq.Socket[bytes]:
    """Returns a socket with these keys, on its way to the client."""
    made: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    made.linger = 0
    if server is not None and pair is not None:
        made.curve_serverkey = server
        made.curve_publickey, made.curve_secretkey = pair.public, pair.secret
    made.connect(client.connection.addresses[0])
    return made


class Rogue:
    """Who has the workers' key, and says what it likes."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], client: Client) -> None:
        told = client.connection
        pair = KeyPair(told.worker_public.encode(), told.worker_secret.encode())
        self._told = told
        self.socket = dealer(context, client, told.server_public.encode(), pair)
        self.socket.sndtimeo = 500

    def says(self, message: Any, *frames: bytes) -> None:
        self.raw(*encode(message, frames))

    def raw(self, *frames: Any) -> bool:
        """Sends these; returns whether they found room within a while."""
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart(frames)
            return True
        return False

    def hello(self, native_id: str, incarnation: str = "rogue") -> None:
        told = self._told
        self.says(
            m.Hello(told.gridmap, told.python, told.protocol, native_id, incarnation, 0, "x", 1, 1,
                    1)
        )  # fmt: skip

    def hears(self, wait_ms: int = 3000) -> list[Any]:
        """Returns the kind of the next message, and its body."""
        assert self.socket.poll(wait_ms), "nothing was answered"
        head: list[Any] = msgspec.msgpack.decode(self.socket.recv_multipart()[0])
        return head[1:]


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


GREETING = (
    b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
)  # ZMTP 3.0, RFC 23
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(200)


# --- strangers ------------------------------------------------------------------------------------


def test_strangers_get_nothing_and_disturb_nobody(
    start: Any, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    client = start()
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    words = encode(m.Results([m.Result(0, 150, 0, 0, 0.1, 1, 1)]), [trap])
    client.wait_until_it_works()
    raw = []
    for garbage in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", TLS_HELLO, os.urandom(100_000),
                    GREETING, GREETING + os.urandom(1000), b"\xff" * 10_000, trap):  # fmt: skip
        for _ in range(5):
            one = tcp.create_connection(client.address)
            raw.append(one)
            with contextlib.suppress(OSError):
                one.sendall(garbage)
    told = client.connection
    server = told.server_public.encode()
    workers = KeyPair(told.worker_public.encode(), told.worker_secret.encode())
    plain: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    plain.linger = 0
    plain.plain_username, plain.plain_password = b"worker", b"worker"
    plain.connect(told.addresses[0])
    for one in (
        dealer(context, client),
        plain,
        dealer(context, client, server, KeyPair.generate()),
        dealer(context, client, KeyPair.generate().public, workers),
        dealer(context, client, server, KeyPair(workers.public, KeyPair.generate().secret)),
    ):
        one.sndtimeo = 0
        with contextlib.suppress(zmq.Again):
            for _ in range(100):
                one.send_multipart(words)
    answer = client.end()
    assert answer["seconds"] < 20
    assert client.growth < 100 * MIB
    assert not (tmp_path / "sprung").exists()
    assert "refused" in client.log and len(client.log.splitlines()) < 30
    for one in raw:
        one.close()


def test_what_a_stranger_sends_is_not_collected(start: Any) -> None:
    client = start()
    client.wait_until_it_works()
    claimed = 1 << 30
    floods = []
    for _ in range(4):
        one = tcp.create_connection(client.address)
        one.sendall(GREETING + b"\x06" + struct.pack(">Q", claimed))  # a long command
        floods.append(threading.Thread(target=flood, args=(one, 256 * MIB)))
        floods[-1].start()
    for thread in floods:
        thread.join()
    client.end()
    assert client.growth < 64 * MIB


def flood(one: tcp.socket, size: int) -> None:
    one.settimeout(10)
    with one, contextlib.suppress(OSError):
        for _ in range(size // MIB):
            one.sendall(bytes(MIB))


def test_strangers_are_held_off_before_they_are_many(start: Any) -> None:
    client = start(jobs=200)
    client.wait_until_it_works()
    before = client.most_fds
    crowd = []
    until_s = time.monotonic() + 2
    while len(crowd) < 4 * MOST_STRANGERS and time.monotonic() < until_s:
        one = tcp.socket()
        one.setblocking(False)
        one.connect_ex(client.address)
        crowd.append(one)
        time.sleep(0.0005)
    answer = client.end()
    assert answer["seconds"] < 25
    assert len(crowd) > 3 * MOST_STRANGERS
    assert MOST_STRANGERS // 2 < client.most_fds - before < 2 * MOST_STRANGERS
    for one in crowd:
        one.close()


# --- who has the workers' key ---------------------------------------------------------------------


def test_a_name_and_a_lease_belong_to_who_has_them(
    start: Any, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    client = start()
    client.wait_until_it_works()
    trap = pickle.dumps([Trap(tmp_path / "sprung")] * 150)
    everything = m.Results([m.Result(0, 150, 0, 0, 0.1, 1, 1)])
    nameless, thief, invented = (Rogue(context, client) for _ in range(3))
    nameless.says(everything, trap)
    nameless.says(m.Bye("I am nobody"))
    for number in range(20):
        thief.hello("1.1", f"thief-{number}")
        thief.says(everything, trap)
        thief.says(m.Heartbeat(2**62, []))
        thief.says(m.Bye("gone"))
    invented.hello("77.1")
    assert invented.hears()[0] == 66  # Refuse
    invented.says(everything, trap)
    told = client.end()
    assert told["seconds"] < 15 and not (tmp_path / "sprung").exists()
    assert "resubmission" not in client.log and "started anew" not in client.log
    assert told["statuses"] == [0, 0]
    assert "somebody claims to be worker 1.1" in client.log
    assert "77.1" not in told["canceled"]


def test_a_worker_that_lies_about_others_and_never_works(
    start: Any, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    client = start(PHANTOMS="1", MAX_TIME_BETWEEN_HEARTBEATS="1.5", CHECK_FREQUENCY="1")
    trap = pickle.dumps([Trap(tmp_path / "sprung")])
    rogue = Rogue(context, client)
    client.wait_until_it_works()
    rogue.hello("1.2")
    assert rogue.hears()[0] == 65  # Welcome
    kind, (leases,) = rogue.hears(10_000)
    assert kind == 67  # Work, which it could spoil; it lies about the rest
    first, count = leases[0][:2]
    rogue.hello("1.1", "rogue")  # a second name for the same connection
    for job in range(150):
        for attempt in (0, 1, 7, 2**62):
            if not first <= job < first + count:
                rogue.says(m.Results([m.Result(job, 1, attempt, 0, 1e9, 2**62, 1)]), trap)
    held = [m.Held(job, 2**40, 0, 1, job, 2**62, 1e9, False) for job in range(9000)]
    for seq in (5, 2**62, 3):
        rogue.says(m.Heartbeat(seq, held, [m.Key(0, 2**40, 2**60)] * 1000))
    for number in range(3000):
        rogue.says(m.NeedBlob(f"{number:064x}"))
    told = client.end(60)
    assert not (tmp_path / "sprung").exists()
    assert told["seconds"] < 30 and client.growth < 100 * MIB


def test_malformed_messages_and_floods_of_who_has_the_key(
    start: Any, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    client = start()
    client.wait_until_it_works()
    rogue = Rogue(context, client)
    one = m.Result(0, 1, 0, 0, 0.1, 1, 1)
    good = encode(m.Results([one]), [b"x"])
    head = good[0]
    for bad in (
        [b""],
        [head],
        [head, b"x", b"y"],
        [head] * 5000,
        [b"\xdf\xff\xff\xff\xff"],
        [b"\x91" * 400_000],
        [msgspec.msgpack.encode((m.PROTOCOL, -5, ([2**40], [])))],
        [msgspec.msgpack.encode((m.PROTOCOL, 5, [[(0, 1, 0, 0, float("nan"), 1, 1)]])), b"x"],
        [msgspec.msgpack.encode((m.PROTOCOL, 5, [[(-5, 1, 0, 0, 0.1, 1, 1)]])), b"x"],
        [msgspec.msgpack.encode((m.PROTOCOL, 65, ("r", 1.0, 1.0, 1.0)))],
    ):
        for _ in range(5):
            rogue.raw(*bad)
    rogue.raw(head, bytes(PART_BYTES * 4))  # ends the connection
    for _ in range(20):
        rogue.hello("1.1")
        rogue.raw(*encode(m.Heartbeat(1, [m.Held(0, 1, 0, 1, 0, 1, 0.1, True)] * 9000)))
    flooded = time.monotonic() + 3
    while time.monotonic() < flooded and client.process.poll() is None:
        for _ in range(1000):
            if not rogue.raw(head, b"x"):
                break
    told = client.end()
    assert told["seconds"] < 25 and client.growth < 150 * MIB
    assert client.log.count("malformed") <= 3


# --- the gate by itself ---------------------------------------------------------------------------


def test_a_gate_that_could_not_be_opened_is_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(10)
    fails = [False]

    def filters(descriptor: int, drop: bool) -> None:
        if fails[0]:
            raise OSError(24, "too many open files")

    monkeypatch.setattr("gridmap.wire.gate._filter", filters)
    gate.saw(zmq.Event.LISTENING, 5, 0.0)
    for descriptor in range(100, 120):
        gate.saw(zmq.Event.ACCEPTED, descriptor, 1.0)
    gate.look(1.0)
    assert gate.shut
    fails[0] = True
    gate.look(100.0)
    assert gate.shut
    fails[0] = False
    gate.look(101.0)
    assert not gate.shut


def test_the_gate_counts_who_has_no_key() -> None:
    gate = Gate(10)
    with tcp.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        gate.saw(zmq.Event.LISTENING, server.fileno(), 0.0)
        for descriptor in range(100, 140):  # workers: each shows a key
            gate.saw(zmq.Event.ACCEPTED, descriptor, 1.0)
            gate.saw(zmq.Event.HANDSHAKE_SUCCEEDED, 0, 1.1)
        gate.look(1.2)
        assert gate.strangers == 0 and not gate.shut
        for descriptor in range(200, 211):
            gate.saw(zmq.Event.ACCEPTED, descriptor, 2.0)
        gate.look(2.0)
        assert gate.strangers == 11 and gate.shut
        waits = tcp.socket()
        waits.setblocking(False)
        waits.connect_ex(address)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
        for descriptor in range(200, 206):
            gate.saw(zmq.Event.DISCONNECTED, descriptor, 3.0)
        gate.look(3.0)
        assert not gate.shut
        server.settimeout(5)
        server.accept()[0].close()  # it has tried again
        waits.close()
        gate.look(100.0)
        assert gate.strangers == 0
