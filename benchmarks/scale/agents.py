"""Many agents in one process: `python -m benchmarks.scale.agents RUN_DIR IDS MODE`.

They run nothing.  Each has a connection of its own to the monitor, encrypted like any worker's,
says Hello, and sends heartbeats with what it holds. IDS is FIRST:COUNT, the tasks of job 1. MODE is
what becomes of a lease: "answer" (its values are sent at once: the calls return their argument) or
"hold" (kept until the word comes on standard input: "answer" answers all but job 0, which dies).
"ready" is printed, as JSON, when all have been welcomed.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import sys
import time
from collections.abc import Sequence
from typing import Any

import zmq

from gridmap import data
from gridmap.core import messages as m
from gridmap.wire.codec import LIMITS, decode, encode
from gridmap.wire.keys import Connection, read_connection
from gridmap.wire.messages import Direction
from gridmap.wire.sockets import PING_TIMEOUT_MS, configure, put, take

CALLERS = 32
"""So many of one process's agents introduce themselves at a time."""

DEATH = data.pack_death(m.Death(signal=9, text="killed for the benchmark"))


class Agent:
    """One agent: a socket, and what it holds."""

    def __init__(self, process: Process, native_id: str) -> None:
        self._process = process
        self._native_id = native_id
        self._held: dict[m.Key, tuple[m.Lease, list[Any]]] = {}
        self._seq = 0
        self._heard = -1
        self.beat_at = 0.0
        self.welcome = False
        self.left = False
        connection = process.connection
        self.socket = socket = process.context.socket(zmq.DEALER)
        configure(socket, LIMITS, PING_TIMEOUT_MS)
        socket.curve_serverkey = connection.server_public.encode()
        socket.curve_publickey = connection.worker_public.encode()
        socket.curve_secretkey = connection.worker_secret.encode()
        socket.routing_id = b"\x01" + secrets.token_bytes(15)
        socket.connect(process.address)
        log = f"{process.run_dir}/logs/worker.{native_id}"
        self._say(
            m.Hello(
                gridmap=connection.gridmap, python=connection.python, protocol=m.PROTOCOL,
                native_id=native_id, incarnation=secrets.token_hex(8), pool=0,
                host=f"node{native_id.rpartition('.')[2]}", pid=os.getpid(), children=1,
                capacity=2, log_stdout=f"{log}.out", log_stderr=f"{log}.err",
            )
        )  # fmt: skip

    def _say(self, message: m.FromAgent, frames: Sequence[Any] = ()) -> None:
        if not put(self.socket, encode(message, frames)):
            raise RuntimeError(f"agent {self._native_id} cannot send")

    def read(self, now: float) -> None:
        """Takes in all that has come."""
        while not self.left and (parts := take(self.socket, LIMITS.parts)) is not None:
            message, frames = decode(parts, Direction.TO_AGENT)
            self._take(message, frames, now)

    def _take(self, message: m.ToAgent, frames: list[Any], now: float) -> None:
        if isinstance(message, m.Pulse):
            self._heard = max(self._heard, message.seq)
        elif isinstance(message, m.Work):
            for lease in message.leases:
                count = sum(taken[2] for taken in lease.packets)
                self._held[lease.key], frames = (lease, frames[:count]), frames[count:]
            if self._process.answers:
                self.answer()
        elif isinstance(message, m.Welcome):
            if not self.welcome:
                self.welcome = True
                self._process.welcomed(self, message, now)
        elif isinstance(message, m.Recall):
            for key in message.keys:
                if key in self._held and key != next(iter(self._held)):  # the first one runs
                    del self._held[key]
                    self._say(m.Results([m.Result(*key, m.Outcome.RETURNED, 0.0, 0, 0)]))
        elif isinstance(message, (m.Cancel, m.Drain, m.Refuse)):
            self._held.clear()
            self._say(m.Bye("asked to", m.Departure.DRAINED))
            self.left = True
            self._process.gone(self)

    def answer(self) -> None:
        """Answers all leases, as a child would whose calls return their argument."""
        for key, (lease, frames) in list(self._held.items()):
            if self._process.deadly and key.first == 0 and key.attempt == 0:
                self._say(m.Results([m.Result(0, 1, 0, m.Outcome.DIED, 1.0, 0, 1)]), DEATH)
            else:
                self._say_values(lease, frames)
        self._held.clear()

    def _say_values(self, lease: m.Lease, frames: list[Any]) -> None:
        began = time.monotonic()
        packer = data.ValuePacker()
        for skip, taken, count in lease.packets:
            calls = data.plain_calls(frames[:count], skip, taken)
            assert calls is not None, "arguments that are no atoms"
            packer.items += calls.arguments
            frames = frames[count:]
        _, values = packer.take()
        seconds = time.monotonic() - began
        value = m.Result(*lease.key, m.Outcome.VALUE, seconds, 20 << 20, len(values))
        self._say(m.Results([value]), values)

    def beat(self) -> None:
        """Sends a heartbeat."""
        held = [
            m.Held(*key, m.Phase.WAITING if number else m.Phase.RUNNING,
                   -1 if number else key.first, 20 << 20, 1.0, True)
            for number, key in enumerate(self._held)
        ]  # fmt: skip
        self._say(m.Heartbeat(self._seq, held, [], self._heard))
        self._seq += 1


class Process:
    """Many agents, one thread.

    ZeroMQ's descriptors tell of changes only, so after each use of a socket all is read from it.
    """

    def __init__(self, run_dir: str, first: int, count: int, answers: bool) -> None:
        self.run_dir = run_dir
        self.connection: Connection = read_connection(run_dir)
        port = self.connection.addresses[0].rpartition(":")[2]
        self.address = f"tcp://127.0.0.1:{port}"
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, count + 64)
        self.answers = answers
        self.deadly = not answers
        self._to_come = [f"1.{number}" for number in range(first + count - 1, first - 1, -1)]
        self._calling = 0
        self._agents: dict[int, Agent] = {}
        self._beats: dict[Agent, None] = {}  # in the order in which they are due
        self._heartbeat_s = 10.0
        self._epoll = select.epoll()

    def serve(self) -> None:
        """Goes on until all agents have left."""
        self._epoll.register(sys.stdin, select.EPOLLIN)
        self._call()
        while self._agents or self._to_come:
            due = next(iter(self._beats)).beat_at if self._beats else time.monotonic() + 60
            ready = self._epoll.poll(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            for fd, _ in ready:
                if fd == sys.stdin.fileno():
                    if not self._order():
                        return
                elif fd in self._agents:
                    self._agents[fd].read(now)
            self._beat(now)

    def _call(self) -> None:
        """Has more of the agents introduce themselves."""
        while self._to_come and self._calling < CALLERS:
            self._calling += 1
            agent = Agent(self, self._to_come.pop())
            fd = agent.socket.FD
            self._agents[fd] = agent
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
            agent.read(time.monotonic())

    def welcomed(self, agent: Agent, welcome: m.Welcome, now: float) -> None:
        self._heartbeat_s = welcome.heartbeat_s
        agent.beat_at = now + self._heartbeat_s
        self._beats[agent] = None
        self._calling -= 1
        self._call()
        if not self._to_come and not self._calling:
            print(json.dumps({"what": "ready", "at": time.monotonic()}), flush=True)

    def gone(self, agent: Agent) -> None:
        self._beats.pop(agent, None)
        del self._agents[agent.socket.FD]
        self._epoll.unregister(agent.socket.FD)
        agent.socket.close(500)

    def _order(self) -> bool:
        """Takes the word on standard input; returns whether to go on."""
        line = sys.stdin.readline()
        if line == "answer\n":
            self.answers = True
            now = time.monotonic()
            for agent in list(self._agents.values()):
                agent.answer()
                agent.read(now)
        return bool(line)

    def _beat(self, now: float) -> None:
        while self._beats and (agent := next(iter(self._beats))).beat_at <= now:
            del self._beats[agent]
            self._beats[agent] = None
            agent.beat_at = now + self._heartbeat_s
            agent.beat()
            agent.read(now)


def main(run_dir: str, ids: str, mode: str) -> None:
    first, count = map(int, ids.split(":"))
    Process(run_dir, first, count, mode == "answer").serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
