"""Who speaks for which worker, and what those cost that do not read; over real sockets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridmap import grid_map
from gridmap.core import messages as m
from gridmap.core.spec import Resources
from gridmap.monitor import cluster
from gridmap.monitor.cluster import ClusterTransport
from gridmap.monitor.transport import Received
from gridmap.wire.caller import AgentLink
from gridmap.wire.keys import Connection, RunKeys
from gridmap.wire.link import MonitorLink
from tests.wire.scheduler import ProcessBackend, until
from tests.wire.scheduler import cluster as a_cluster

MIB = 1 << 20
KEYS = RunKeys.generate()
DIGEST = "ab" * 32


class Wire:
    """A transport and its agents, in one thread."""

    def __init__(self) -> None:
        self.link = MonitorLink(KEYS, interface="127.0.0.1")
        self.transport = ClusterTransport("r", ProcessBackend(), self.link, _no_request, 5.0)
        self.agents: list[AgentLink] = []
        self.got: list[Received] = []

    def agent(self) -> AgentLink:
        told = Connection(
            "r", self.link.addresses, KEYS.server.public.decode(), KEYS.workers.public.decode(),
            KEYS.workers.secret.decode(), "1", 1, "3", [], "h", 1,
        )  # fmt: skip
        made = AgentLink(told)
        made.begin()
        self.agents.append(made)
        return made

    def hello(self, native_id: str, incarnation: str = "i", agent: AgentLink | None = None) -> Any:
        agent = agent or self.agent()
        agent.send(m.Hello("1", "3", 1, native_id, incarnation, 0, "h", 1, 1, 2))
        return agent

    def turn(self) -> None:
        self.got += self.transport.receive()
        for agent in self.agents:
            agent.keep_time(time.monotonic())
            agent.receive()

    def until(self, condition: Callable[[], Any]) -> None:
        def turned() -> Any:
            self.turn()
            return condition()

        until(turned, "this", 10)

    def heard(self, kind: type) -> list[tuple[str, str]]:
        return [(x.worker, x.incarnation) for x in self.got if isinstance(x.message, kind)]


def _no_request(pool: int, count: int) -> Any:
    raise AssertionError(f"nobody asked for {count} workers of {Resources()} in pool {pool}")


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    for agent in made.agents:
        agent.close()
    made.transport.close(1.0)


def test_a_name_that_lives_is_not_given_away(wire: Wire) -> None:
    first = wire.hello("1.1", "first")
    wire.until(lambda: wire.heard(m.Hello))
    thief = wire.hello("1.1", "thief")
    wire.until(lambda: thief.connected)
    thief.send(m.Credit(9))
    first.send(m.Credit(1))
    wire.until(lambda: wire.heard(m.Credit))
    assert wire.heard(m.Hello) == [("1.1", "first")]
    assert [x.message for x in wire.got if isinstance(x.message, m.Credit)] == [m.Credit(1)]


def test_the_name_of_a_process_that_is_gone_goes_to_the_next(wire: Wire) -> None:
    first = wire.hello("1.1", "first")
    wire.until(lambda: wire.heard(m.Hello))
    first.close()
    wire.agents.remove(first)
    second = wire.agent()

    def asks() -> bool:
        wire.hello("1.1", "second", second)  # as agents do, until they are answered
        return ("1.1", "second") in wire.heard(m.Hello)

    wire.until(asks)


def test_a_process_that_calls_again_comes_before_who_wants_its_name(wire: Wire) -> None:
    first = wire.hello("1.1", "first")
    wire.until(lambda: wire.heard(m.Hello))
    first.close()
    wire.agents.remove(first)
    thief = wire.hello("1.1", "thief")
    wire.until(lambda: thief.connected)
    for _ in range(20):
        wire.hello("1.1", "thief", thief)
    late = time.monotonic() + 1.0
    wire.until(lambda: time.monotonic() > late)
    wire.hello("1.1", "first")
    wire.until(lambda: len(wire.heard(m.Hello)) == 2)
    assert wire.heard(m.Hello) == [("1.1", "first")] * 2


def test_the_name_of_a_process_that_says_nothing_goes_to_the_next(wire: Wire) -> None:
    wire.transport._lively_s = 0.2
    wire.hello("1.1", "first")
    wire.until(lambda: wire.heard(m.Hello))
    second = wire.agent()

    def asks() -> bool:
        wire.hello("1.1", "second", second)
        return ("1.1", "second") in wire.heard(m.Hello)

    wire.until(asks)


def test_a_process_that_calls_again_keeps_its_name(wire: Wire) -> None:
    first = wire.hello("1.1")
    wire.until(lambda: wire.heard(m.Hello))
    first.begin()
    wire.until(lambda: len(wire.heard(m.Hello)) == 2)
    first.send(m.Credit(1))
    wire.until(lambda: wire.heard(m.Credit))


def test_a_connection_has_one_name(wire: Wire) -> None:
    agent = wire.hello("1.1")
    wire.until(lambda: wire.heard(m.Hello))
    wire.hello("1.2", "i", agent)
    wire.hello("1.1", "j", agent)
    agent.send(m.Credit(1))
    wire.until(lambda: wire.heard(m.Credit))
    assert wire.heard(m.Hello) == [("1.1", "i")] and wire.heard(m.Credit) == [("1.1", "i")]


def test_who_is_refused_is_forgotten(wire: Wire) -> None:
    agent = wire.hello("7.7")
    wire.until(lambda: wire.heard(m.Hello))
    wire.transport.send("7.7", m.Refuse("no"), [], 0.0)
    agent.send(m.Credit(1))
    wire.hello("8.8")
    wire.until(lambda: len(wire.heard(m.Hello)) == 2)
    assert not wire.heard(m.Credit)
    assert len(wire.transport._peer_of) == len(wire.transport._worker_of) == 1


def test_names_are_limited(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "MOST_NAMES", 3)
    for number in range(6):
        wire.hello(f"1.{number}")
    wire.until(lambda: all(agent.connected for agent in wire.agents))
    for agent in wire.agents:
        agent.send(m.Credit(1))
    wire.until(lambda: len(wire.heard(m.Credit)) == 3)
    assert len(wire.heard(m.Hello)) == 3 == len(wire.transport._peer_of)


def test_the_names_of_workers_that_have_gone_are_free(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "MOST_NAMES", 2)
    for number in range(2):
        wire.hello(f"1.{number}")
    wire.until(lambda: len(wire.heard(m.Hello)) == 2)
    for agent in wire.agents:
        agent.close()
    wire.agents.clear()
    wire.transport._heard_at = dict.fromkeys(wire.transport._heard_at, -100.0)
    wire.hello("2.1")
    wire.until(lambda: len(wire.heard(m.Hello)) == 3)


def test_blobs_that_are_not_there_are_not_remembered(wire: Wire) -> None:
    wire.hello("1.1")
    wire.until(lambda: wire.heard(m.Hello))
    for number in range(1000):
        wire.transport.send("1.1", m.Blob(f"{number:064x}", False), [], 0.0)
    assert not wire.transport._shared


def test_a_worker_that_does_not_read_costs_no_memory(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "MOST_UNREAD_BYTES", 4 * MIB)
    agent = wire.hello("1.1")
    wire.until(lambda: wire.heard(m.Hello))
    process = psutil.Process()
    arguments, function = bytes(range(256)) * (MIB // 256), [bytes(MIB)]
    before = process.memory_info().rss
    for number in range(200):
        lease = m.Lease(number, 1, 0, DIGEST, "", True, [(0, 1, 1)])
        wire.transport.send("1.1", m.Work([lease]), [arguments], 0.0)
        wire.transport.send("1.1", m.Blob(DIGEST), list(function), 0.0)
        wire.transport.send("1.1", m.Pulse(number), [], 0.0)
    assert process.memory_info().rss - before < 30 * MIB
    agent.send(m.Results([m.Result(0, 1, 0, 5, 0.0, 0, 0)]))  # it reads after all
    wire.until(lambda: wire.heard(m.Results))
    assert not wire.transport._unread_bytes


def test_calls_that_become_slow_all_at_once_are_shared_by_workers(tmp_path: Path) -> None:
    def f(i: int) -> tuple[int, int]:
        if i < 4:
            (tmp_path / str(os.getpid())).touch()
            while len(list(tmp_path.iterdir())) < 2:  # both have come
                time.sleep(0.01)
        if i >= 20_000:
            time.sleep(0.1)
        return i, os.getpid()

    with a_cluster(ProcessBackend()):
        got = grid_map(f, range(20_030), backend="drmaa", max_workers=2)
    assert [i for i, _ in got] == list(range(20_030))
    slow = [pid for _, pid in got[20_000:]]
    assert min(slow.count(pid) for pid in {pid for _, pid in got}) >= 8
