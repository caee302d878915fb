"""Real sockets over loopback TCP: who may talk, what survives, what is left behind."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket as tcp
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from gridmap.core import messages as m
from gridmap.errors import GridMapError, WireError
from gridmap.wire.address import AddressError
from gridmap.wire.caller import STAGGER_S, AgentLink
from gridmap.wire.codec import Buffer, Limits
from gridmap.wire.keys import Connection, KeyPair, RunKeys
from gridmap.wire.link import MonitorLink, share

DEADLINE_S = 10.0
DIGEST = "ab" * 32
HELLO = m.Hello("1.0", "3.11", 1, "7.1", "abc", 0, "node", 42, 1, 2)
KEYS = RunKeys.generate()

Got = tuple[bytes, m.FromAgent, list[Buffer]]
Told = tuple[m.ToAgent, list[Buffer]]


def connection_to(addresses: list[str], keys: RunKeys = KEYS, **changes: Any) -> Connection:
    connection = Connection(
        run="r1",
        addresses=addresses,
        server_public=keys.server.public.decode(),
        worker_public=keys.workers.public.decode(),
        worker_secret=keys.workers.secret.decode(),
        gridmap="1.0",
        protocol=1,
        python="3.11",
        sys_path=[],
        host="client",
        pid=1,
    )
    return msgspec.structs.replace(connection, **changes)


class Hub:
    """Drives a monitor's link and any number of agents' in one thread, with a deadline."""

    def __init__(self, monitor: MonitorLink) -> None:
        self.monitor = monitor
        self.got: list[Got] = []
        self.told: dict[AgentLink, list[Told]] = {}

    def agent(self, keys: RunKeys = KEYS, address: str = "", **changes: Any) -> AgentLink:
        addresses = [address] if address else self.monitor.addresses
        link = AgentLink(connection_to(addresses, keys, **changes))
        link.begin()
        self.told[link] = []
        return link

    def turn(self, wait_ms: int = 20) -> None:
        poller = zmq.Poller()
        for socket in self.monitor.sockets():
            poller.register(socket, zmq.POLLIN)
        for link in self.told:
            for socket in link.sockets():
                poller.register(socket, zmq.POLLIN)
        poller.poll(wait_ms)
        for link in self.told:
            link.keep_time(time.monotonic())
        self.got += self.monitor.receive()
        for link, told in self.told.items():
            told += link.receive()

    def until(self, condition: Callable[[], object], seconds: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "this did not happen in time"
            self.turn()

    def next(self) -> Got:
        self.until(lambda: self.got)
        return self.got.pop(0)

    def greet(self, agent: AgentLink) -> bytes:
        """Lets an agent say Hello; returns its name."""
        assert agent.send(HELLO)
        peer, message, _ = self.next()
        assert message == HELLO
        return peer


@pytest.fixture
def hub() -> Iterator[Hub]:
    with MonitorLink(KEYS, interface="127.0.0.1") as monitor:
        hub = Hub(monitor)
        try:
            yield hub
        finally:
            for link in hub.told:
                link.close()


@contextlib.contextmanager
def stranger(hub: Hub, server: bytes | None, pair: KeyPair | None) -> Iterator[zmq.Socket[bytes]]:
    """A plain DEALER with these keys, or with none."""
    context = zmq.Context()
    dealer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    dealer.linger = 0
    if server is not None and pair is not None:
        dealer.curve_serverkey = server
        dealer.curve_publickey, dealer.curve_secretkey = pair.public, pair.secret
    dealer.connect(hub.monitor.addresses[0])
    try:
        yield dealer
    finally:
        context.destroy(linger=0)


# --- a good agent ---------------------------------------------------------------------------------


def test_both_ways(hub: Hub) -> None:
    agent = hub.agent()
    peer = hub.greet(agent)
    assert hub.monitor.send(peer, m.Welcome("r1", 1.0, 2.0))
    lease = m.Lease(0, 3, 0, DIGEST, "", True, [(0, 3, 2)])
    assert hub.monitor.send(peer, m.Work([lease]), [b"pickle", bytearray(b"buffer")])
    hub.until(lambda: len(hub.told[agent]) == 2)
    assert hub.told[agent] == [
        (m.Welcome("r1", 1.0, 2.0), []),
        (m.Work([lease]), [b"pickle", b"buffer"]),
    ]
    result = m.Result(0, 3, 0, 0, 0.5, 1, 1)
    assert agent.send(m.Results([result]), [memoryview(b"values")])
    assert hub.next() == (peer, m.Results([result]), [b"values"])
    assert hub.monitor.malformed == hub.monitor.strangers == 0


def test_many_messages_arrive_in_order_and_none_is_lost(hub: Hub) -> None:
    agents = [hub.agent() for _ in range(4)]
    peers = {hub.greet(agent): agent for agent in agents}
    assert len(peers) == 4
    waiting = dict.fromkeys(agents, 0)
    sent = dict.fromkeys(peers, 0)
    count = 1500
    deadline = time.monotonic() + DEADLINE_S
    while len(hub.got) < 4 * count or any(len(told) < count for told in hub.told.values()):
        for agent, number in waiting.items():
            while number < count and agent.send(m.Credit(number)):
                number += 1
            waiting[agent] = number
        for peer, number in sent.items():
            while number < count and hub.monitor.send(peer, m.Pulse(number)):
                number += 1
            sent[peer] = number
        hub.turn()
        assert time.monotonic() < deadline
    for peer, agent in peers.items():
        assert [x for p, x, _ in hub.got if p == peer] == [m.Credit(i) for i in range(count)]
        assert [x for x, _ in hub.told[agent]] == [m.Pulse(i) for i in range(count)]


def test_50_megabytes_both_ways(hub: Hub) -> None:
    agent = hub.agent()
    peer = hub.greet(agent)
    data = os.urandom(1024) * (50 * 1024)
    assert hub.monitor.send(peer, m.Blob(DIGEST), [share(data), b"small"])
    hub.until(lambda: hub.told[agent])
    (_, frames) = hub.told[agent][0]
    assert bytes(frames[0]) == data and frames[1] == b"small"
    assert agent.send(m.Results([m.Result(0, 1, 0, 0, 0.1, 1, 1)]), [frames[0]])
    assert hub.next()[2][0] == data


def test_a_shared_frame_goes_to_many(hub: Hub) -> None:
    agents = [hub.agent() for _ in range(3)]
    frame = share(b"x" * 100_000)
    for agent in agents:
        assert hub.monitor.send(hub.greet(agent), m.Blob(DIGEST), [frame])
    hub.until(lambda: all(hub.told.values()))
    assert {bytes(hub.told[agent][0][1][0]) for agent in agents} == {b"x" * 100_000}


def test_receive_takes_no_more_than_its_limit(hub: Hub) -> None:
    agent = hub.agent()
    hub.greet(agent)
    for number in range(10):
        assert agent.send(m.Credit(number))
    found: list[m.FromAgent] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < 10 and time.monotonic() < deadline:
        hub.monitor.sockets()[0].poll(100)
        part = hub.monitor.receive(3)
        assert len(part) <= 3
        found += [message for _, message, _ in part]
    assert found == [m.Credit(i) for i in range(10)]


# --- strangers ------------------------------------------------------------------------------------


def refuses(hub: Hub, frames: list[bytes], server: bytes | None, pair: KeyPair | None) -> None:
    """Checks that a stranger is counted, unheard, and in nobody's way."""
    good = hub.agent()
    with stranger(hub, server, pair) as dealer:
        dealer.send_multipart(frames)
        hub.until(lambda: hub.monitor.strangers >= 1)
        hub.greet(good)
    assert hub.got == []
    assert hub.monitor.malformed == 0


VALID = msgspec.msgpack.encode((m.PROTOCOL, 2, (7,)))


def test_a_stranger_without_encryption(hub: Hub) -> None:
    refuses(hub, [VALID], None, None)


def test_a_stranger_with_a_key_of_its_own(hub: Hub) -> None:
    refuses(hub, [VALID], KEYS.server.public, KeyPair.generate())


def test_a_worker_of_another_run(hub: Hub) -> None:
    refuses(hub, [VALID], KeyPair.generate().public, KEYS.workers)


def test_the_monitors_own_key_is_no_workers_key(hub: Hub) -> None:
    refuses(hub, [VALID], KEYS.server.public, KEYS.server)


def test_bytes_that_are_no_zeromq(hub: Hub) -> None:
    host, _, port = hub.monitor.addresses[0].removeprefix("tcp://").rpartition(":")
    with tcp.create_connection((host, int(port))) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        hub.greet(hub.agent())
    assert hub.monitor.malformed == 0


def test_an_agent_does_not_talk_to_a_false_monitor() -> None:
    false = RunKeys(KeyPair.generate(), KEYS.workers)
    with MonitorLink(false, interface="127.0.0.1") as monitor:
        hub = Hub(monitor)
        agent = hub.agent(KEYS)
        try:
            assert agent.send(HELLO)
            hub.until(lambda: monitor.strangers >= 1)
            assert hub.got == []
        finally:
            agent.close()


def test_strangers_do_not_flood_the_log(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(stranger(hub, KEYS.server.public, KeyPair.generate()))
        hub.until(lambda: hub.monitor.strangers >= 12)
    lines = [r for r in caplog.records if "refused" in r.message]
    assert 1 <= len(lines) <= hub.monitor.strangers.bit_length()


# --- the right key, the wrong words ---------------------------------------------------------------


def test_garbage_of_a_worker_is_counted_logged_once_and_dropped(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    good = hub.agent()
    with caplog.at_level(logging.WARNING), stranger(hub, KEYS.server.public, KEYS.workers) as bad:
        bad.send_multipart([os.urandom(50), b"x"])
        bad.send_multipart([b""])
        bad.send_multipart([VALID, b"not announced"])
        bad.send_multipart([msgspec.msgpack.encode((m.PROTOCOL, 65, ("r", 1.0, 1.0)))])
        bad.send_multipart([b"\x91" * 100_000])
        hub.until(lambda: hub.monitor.malformed == 5)
        bad.send_multipart([VALID])
        assert hub.next()[1] == m.Credit(7)
        hub.greet(good)
    assert hub.monitor.strangers == 0
    assert len([r for r in caplog.records if "malformed" in r.message]) == 1


def test_a_frame_that_is_too_large_ends_the_connection_of_its_sender_only() -> None:
    limits = Limits(head_bytes=1000, frame_bytes=10_000, payload_bytes=15_000, frames=3)
    with MonitorLink(KEYS, interface="127.0.0.1", limits=limits) as monitor:
        hub = Hub(monitor)
        good = hub.agent(max_frame_bytes=10_000, max_payload_bytes=15_000)
        try:
            hub.greet(good)
            with stranger(hub, KEYS.server.public, KEYS.workers) as bad:
                bad.send_multipart([VALID, b"x" * 20_000])
                # What was sent before the connection ended is lost; the next one works.
                hub.until(lambda: hub.got or bad.send_multipart([VALID]))
                assert hub.next()[1] == m.Credit(7)
                settled = m.Credit(8)
                bad.send_multipart([msgspec.msgpack.encode((m.PROTOCOL, 2, (8,)))])
                hub.until(lambda: settled in [message for _, message, _ in hub.got])
                hub.got.clear()
                bad.send_multipart([VALID, b"x" * 9000, b"x" * 9000])
                bad.send_multipart([VALID, *[b""] * 100])
                bad.send_multipart([b"x" * 2000])
                hub.until(lambda: monitor.malformed == 3)
                assert hub.got == []
            assert good.send(m.Credit(3))
            assert hub.next()[1] == m.Credit(3)
            with pytest.raises(WireError, match="allowed"):
                good.send(m.Results([m.Result(0, 1, 0, 0, 0.1, 1, 1)]), [b"x" * 10_001])
        finally:
            good.close()


def test_a_malformed_message_of_the_monitor_is_dropped_by_the_agent(hub: Hub) -> None:
    agent = hub.agent()
    peer = hub.greet(agent)
    router = hub.monitor.sockets()[0]
    router.send_multipart([peer, b"garbage"])
    assert hub.monitor.send(peer, m.Pulse(1))
    hub.until(lambda: hub.told[agent])
    assert hub.told[agent] == [(m.Pulse(1), [])]
    assert agent.malformed == 1


# --- peers that are gone, queues that are full ----------------------------------------------------


def test_sending_to_nobody_is_false(hub: Hub) -> None:
    assert hub.monitor.send(b"nobody", m.Drain()) is False
    agent = hub.agent()
    peer = hub.greet(agent)
    agent.close()
    hub.until(lambda: not hub.monitor.send(peer, m.Drain()))


def test_a_full_queue_is_false_and_does_not_block(hub: Hub) -> None:
    agent = hub.agent()
    peer = hub.greet(agent)
    frame = share(b"x" * 200_000)
    sent = 0
    while hub.monitor.send(peer, m.Blob(DIGEST), [frame]):  # the agent does not read
        sent += 1
        assert sent < 20_000
    other = hub.agent()
    assert hub.monitor.send(hub.greet(other), m.Pulse(1))  # others are not held up
    hub.until(lambda: hub.told[other])


def test_an_agent_that_nobody_answers_fills_its_queue_and_goes_on() -> None:
    with tcp.create_server(("127.0.0.1", 0)) as deaf:
        address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        with AgentLink(connection_to([address])) as agent:
            agent.begin()
            sent = 0
            while agent.send(m.Credit(1)):
                sent += 1
                assert sent < 20_000
            assert sent >= 100
            assert agent.receive() == []


def dead_address() -> str:
    with tcp.create_server(("127.0.0.1", 0)) as dead:
        return f"tcp://127.0.0.1:{dead.getsockname()[1]}"


def test_whichever_address_answers_is_kept(hub: Hub) -> None:
    good = hub.monitor.addresses[0]
    with tcp.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and says nothing
        silent = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        agent = AgentLink(connection_to([dead_address(), silent, good]))
        hub.told[agent] = []
        agent.begin()
        assert agent.send(HELLO) is True
        assert agent.send(m.Credit(1)) is True  # kept for it
        assert agent.send(m.Heartbeat(1)) is False  # will not be true any more
        started = time.monotonic()
        peer, message, _ = hub.next()
        assert message == HELLO  # said by the link itself, first of all
        assert hub.next() == (peer, m.Credit(1), [])
        assert agent.address == good and agent.connected
        assert time.monotonic() - started < 2
        assert len(agent.sockets()) == 2  # the other calls have ended


def test_results_that_are_said_again_are_kept_once() -> None:
    result = m.Result(0, 1, 0, 0, 0.1, 1, 1)
    with AgentLink(connection_to([dead_address()])) as agent:
        agent.begin()
        for _ in range(10):
            assert agent.send(m.Results([result]), [b"x" * 1000])
        assert agent.send(m.Results([result._replace(first=1)]), [b"y"])
        assert len(agent._outbox) == 2


def test_a_lost_monitor_with_one_address_is_called_without_haste() -> None:
    with AgentLink(connection_to([address := dead_address()])) as agent:
        agent.begin(first=address)
        agent.keep_time(agent.next_deadline())
        assert agent.next_deadline() == math.inf and len(agent.sockets()) == 1


def test_a_name_that_nobody_knows_at_first_is_asked_for_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridmap.wire.caller.NAMES_S", 0.05)
    known: list[str] = []
    monkeypatch.setattr("gridmap.wire.address.resolve", lambda name: list(known))
    port = hub.monitor.addresses[0].rpartition(":")[2]
    agent = AgentLink(connection_to([f"tcp://login1:{port}"]))
    hub.told[agent] = []
    agent.begin()
    agent.send(HELLO)
    assert not agent.connected and agent.next_deadline() < time.monotonic() + 1
    known.append("127.0.0.1")
    deadline = time.monotonic() + 5
    while not agent.connected and time.monotonic() < deadline:
        agent.keep_time(time.monotonic())
        hub.turn()
    assert agent.connected


def test_addresses_are_called_one_after_the_other(hub: Hub) -> None:
    agent = AgentLink(connection_to([dead_address(), dead_address(), hub.monitor.addresses[0]]))
    hub.told[agent] = []
    agent.begin()
    assert len(agent.sockets()) == 1
    due = agent.next_deadline()
    assert 0 < due - time.monotonic() <= STAGGER_S
    agent.keep_time(due - 0.001)
    assert len(agent.sockets()) == 1
    agent.keep_time(due)
    assert len(agent.sockets()) == 2  # the first goes on calling
    agent.keep_time(agent.next_deadline())
    assert len(agent.sockets()) == 3 and agent.next_deadline() == math.inf


def test_the_first_address_alone_is_used_where_it_answers(hub: Hub) -> None:
    with tcp.create_server(("127.0.0.1", 0)) as second:
        unused = f"tcp://127.0.0.1:{second.getsockname()[1]}"
        agent = AgentLink(connection_to([hub.monitor.addresses[0], unused]))
        hub.told[agent] = []
        agent.begin()
        hub.until(lambda: agent.connected)
        second.settimeout(2 * STAGGER_S)
        with pytest.raises(TimeoutError):
            second.accept()


def test_the_address_that_worked_is_called_first_when_the_connection_is_lost() -> None:
    first, second = MonitorLink(KEYS, interface="127.0.0.1"), MonitorLink(KEYS, interface="lo")
    worked = second.addresses[0]
    hub = Hub(second)
    port = int(worked.rpartition(":")[2])
    agent = AgentLink(connection_to([dead_address(), worked]))
    hub.told[agent] = []
    try:
        agent.begin()
        agent.send(HELLO)
        assert hub.next()[1] == HELLO and agent.address == worked
        second.close()
        hub.until(lambda: not agent.connected)
        assert len(agent.sockets()) == 1  # it alone, for a while
        assert agent.next_deadline() > time.monotonic() + 1
        with MonitorLink(KEYS, interface="127.0.0.1", port=port) as again:
            hub.monitor = again
            assert hub.next()[1] == HELLO and agent.address == worked
    finally:
        agent.close()
        first.close()
        second.close()


def test_a_new_connection_has_a_new_name(hub: Hub) -> None:
    agent = hub.agent()
    one = hub.greet(agent)
    agent.begin()
    other, message, _ = hub.next()
    assert message == HELLO and other != one
    hub.until(lambda: not hub.monitor.send(one, m.Drain()))
    assert hub.monitor.send(other, m.Drain())


def test_an_address_that_is_none_is_an_error() -> None:
    for nonsense in ("nonsense", "tcp://host", "udp://127.0.0.1:1", "tcp://127.0.0.1:1:2"):
        with (
            AgentLink(connection_to([nonsense])) as agent,
            pytest.raises(GridMapError, match="cannot connect"),
        ):
            agent.begin()
    with pytest.raises(GridMapError, match="closed"):
        agent.begin()


def test_a_name_is_called_at_each_of_its_addresses(hub: Hub) -> None:
    port = hub.monitor.addresses[0].rpartition(":")[2]
    agent = AgentLink(connection_to(["tcp://nosuch.invalid:1", f"tcp://localhost:{port}"]))
    hub.told[agent] = []
    agent.begin()
    hub.until(lambda: agent.connected)
    assert agent.address == f"tcp://127.0.0.1:{port}"


# --- losing the connection ------------------------------------------------------------------------


def test_a_monitor_that_restarts_at_the_same_address_is_found_again() -> None:
    monitor = MonitorLink(KEYS, interface="127.0.0.1")
    port = int(monitor.addresses[0].rpartition(":")[2])
    hub = Hub(monitor)
    agent = hub.agent()
    try:
        hub.greet(agent)
        monitor.close()
        with MonitorLink(KEYS, interface="127.0.0.1", port=port) as again:
            hub.monitor = again
            peer, message, _ = hub.next()
            assert message == HELLO
            assert agent.send(m.Credit(2))
            assert hub.next()[:2] == (peer, m.Credit(2))
            assert again.send(peer, m.Pulse(1))
            hub.until(lambda: hub.told[agent])
    finally:
        agent.close()
        monitor.close()


class Proxy:
    """Passes bytes on, and can cut the agent's half of its connections, or swallow everything."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._server = tcp.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.pairs: list[tuple[tcp.socket, tcp.socket]] = []
        self.swallow = False
        self._stop_in, self._stop_out = tcp.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        other: dict[tcp.socket, tcp.socket] = {}
        open_ones: set[tcp.socket] = set()
        while True:
            ready, _, _ = select.select([self._server, self._stop_out, *open_ones], [], [])
            if self._stop_out in ready:
                return
            for source in ready:
                if source is self._server:
                    near, far = self._server.accept()[0], tcp.create_connection(self._target)
                    other.update({near: far, far: near})
                    open_ones |= {near, far}
                    self.pairs.append((near, far))
                    continue
                data = b""
                with contextlib.suppress(OSError):
                    data = source.recv(65536)
                if not data:
                    open_ones.discard(source)
                elif not self.swallow:
                    with contextlib.suppress(OSError):
                        other[source].sendall(data)

    def cut_agents_half(self) -> None:
        """The agent sees its connections end; the monitor sees nothing."""
        for near, _ in self.pairs:
            with contextlib.suppress(OSError):
                near.shutdown(tcp.SHUT_RDWR)

    def close(self) -> None:
        self._stop_in.send(b"x")
        self._thread.join(DEADLINE_S)
        for one in (self._server, self._stop_in, self._stop_out, *sum(self.pairs, ())):
            one.close()


@pytest.fixture
def proxy(hub: Hub) -> Iterator[Proxy]:
    proxy = Proxy(hub.monitor.addresses[0])
    yield proxy
    proxy.close()


def told(hub: Hub, agent: AgentLink, last: Told) -> None:
    hub.until(lambda: hub.told[agent][-1:] == [last])


def test_a_loss_that_only_the_agent_sees(hub: Hub, proxy: Proxy) -> None:
    agent = hub.agent(address=proxy.address)
    old = hub.greet(agent)
    for number in range(1, 4):
        pulse: Told = (m.Pulse(number), [])
        proxy.cut_agents_half()
        peer, message, _ = hub.next()
        assert message == HELLO and peer != old
        assert agent.send(m.Credit(number))
        assert hub.next()[:2] == (peer, m.Credit(number))
        assert hub.monitor.send(peer, m.Pulse(number))
        told(hub, agent, pulse)
        old = peer


def test_pings_notice_a_connection_that_went_silent() -> None:
    with MonitorLink(KEYS, interface="127.0.0.1", ping_timeout_ms=300) as monitor:
        hub = Hub(monitor)
        proxy = Proxy(monitor.addresses[0])
        agent = hub.agent(address=proxy.address)
        try:
            peer = hub.greet(agent)
            proxy.swallow = True
            hub.until(lambda: not monitor.send(peer, m.Drain()))
        finally:
            agent.close()
            proxy.close()


# --- another monitor ------------------------------------------------------------------------------


def test_an_agent_follows_another_monitor_with_keys_addresses_and_limits_of_its_own(
    hub: Hub,
) -> None:
    agent = hub.agent()
    hub.greet(agent)
    hub.until(lambda: agent.connected)
    keys = RunKeys.generate()
    with tcp.create_server(("127.0.0.1", 0)) as dead:
        closed = f"tcp://127.0.0.1:{dead.getsockname()[1]}"
    with MonitorLink(keys, interface="127.0.0.1") as second:
        other = Hub(second)
        other.told[agent] = hub.told.pop(agent)
        addresses = [closed, second.addresses[0]]
        try:
            agent.follow(connection_to(addresses, keys, max_frame_bytes=1000))
            assert not agent.connected
            peer, message, _ = other.next()
            assert message == HELLO  # said again by the link itself
            other.until(lambda: agent.connected)
            assert second.send(peer, m.Pulse(1))
            told(other, agent, (m.Pulse(1), []))
            assert agent.send(m.Credit(1)) and other.next() == (peer, m.Credit(1), [])
            with pytest.raises(WireError, match="allowed"):
                agent.send(m.Results([m.Result(0, 1, 0, 0, 0.1, 1, 1)]), [b"x" * 1001])
            assert second.strangers == 0
            assert agent.address == second.addresses[0]
        finally:
            agent.close()


def test_an_agent_knows_whether_it_is_connected(hub: Hub) -> None:
    monitor = MonitorLink(KEYS, interface="127.0.0.1")
    other = Hub(monitor)
    agent = other.agent()
    try:
        assert not agent.connected
        other.greet(agent)
        other.until(lambda: agent.connected)
        monitor.close()
        other.until(lambda: not agent.connected)
        agent.close()
        assert not agent.connected
    finally:
        agent.close()
        monitor.close()


# --- listening ------------------------------------------------------------------------------------


def test_a_range_of_ports_is_kept_and_its_end_is_told() -> None:
    with tcp.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=rf"TCP port {port} is taken .* GRIDMAP_PORTS"):
            MonitorLink(KEYS, interface="127.0.0.1", port=(port, port))
    first = min(port, 65_000)
    with MonitorLink(KEYS, interface="127.0.0.1", port=(first, first + 500)) as monitor:
        assert first <= int(monitor.addresses[0].rpartition(":")[2]) <= first + 500


def test_an_unknown_interface_is_an_error_and_leaves_nothing_open() -> None:
    before = open_things()
    with pytest.raises(AddressError, match="this host has"):
        MonitorLink(KEYS, interface="nosuch0")
    assert_gone(before)


def test_every_interface_is_offered_and_loopback_is_the_last() -> None:
    with MonitorLink(KEYS) as monitor:
        hub = Hub(monitor)
        loopback = next(a for a in monitor.addresses if a.startswith("tcp://127.0.0.1:"))
        agent = hub.agent(address=loopback)
        try:
            hub.greet(agent)
        finally:
            agent.close()


@pytest.mark.skipif(not tcp.has_ipv6, reason="this Python has no IPv6")
def test_ipv6() -> None:
    try:
        monitor = MonitorLink(KEYS, interface="::1")
    except AddressError:
        pytest.skip("this host has no IPv6 loopback")
    with monitor:
        hub = Hub(monitor)
        assert monitor.addresses[0].startswith("tcp://[::1]:")
        agent = hub.agent()
        try:
            hub.greet(agent)
        finally:
            agent.close()


# --- leaving --------------------------------------------------------------------------------------


def open_things() -> tuple[int, int]:
    """Returns the numbers of open files and of threads, ZeroMQ's own among them."""
    process = psutil.Process()
    return process.num_fds(), process.num_threads()


def assert_gone(before: tuple[int, int]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while open_things() > before or open_things()[1] > before[1]:
        assert time.monotonic() < deadline, f"{before} before, {open_things()} now"


def test_close_leaves_no_thread_and_no_file() -> None:
    before = open_things()
    for _ in range(3):
        monitor = MonitorLink(KEYS, interface="127.0.0.1")
        hub = Hub(monitor)
        agent = hub.agent()
        peer = hub.greet(agent)
        assert monitor.send(peer, m.Blob(DIGEST), [b"x" * 1_000_000])
        monitor.receive()
        assert open_things() > before
        agent.close()
        monitor.close()
        assert monitor.receive() == [] and agent.receive() == []
        assert not monitor.send(peer, m.Drain()) and not agent.send(m.Credit(0))
        agent.close()
        monitor.close()
    assert_gone(before)


CLOSES = """
import zmq
from tests.wire.test_link import DIGEST, KEYS, Hub, MonitorLink, m, share
data = share(bytes(8_000_000))
for _ in range(80):
    monitor = MonitorLink(KEYS, interface="127.0.0.1")
    hub = Hub(monitor)
    agent = hub.agent()
    assert monitor.send(hub.greet(agent), m.Blob(DIGEST), [data])
    agent.close()
    monitor.close()
"""


def test_who_hangs_up_in_the_middle_of_a_message_does_no_harm() -> None:
    command = [sys.executable, "-c", CLOSES]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_close_lets_the_last_word_leave(hub: Hub) -> None:
    agent = hub.agent()
    hub.greet(agent)
    assert agent.send(m.Bye("done"))
    agent.close(linger_ms=5000)
    assert hub.next()[1] == m.Bye("done")


def test_close_does_not_wait_for_who_never_answers() -> None:
    agent = AgentLink(connection_to(["tcp://127.0.0.1:1"]))
    agent.begin()
    assert agent.send(m.Bye("done"))
    started = time.monotonic()
    agent.close(linger_ms=100)
    assert time.monotonic() - started < 5


def test_no_secret_in_a_repr(hub: Hub) -> None:
    agent = hub.agent()
    text = repr(agent) + repr(hub.monitor)
    assert "127.0.0.1" in text
    for pair in (KEYS.server, KEYS.workers):
        assert pair.secret.decode() not in text
