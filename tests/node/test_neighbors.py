"""Agents of one run on one node: what one of them fetches, all have."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridmap import data
from gridmap.node import neighbors as rules
from gridmap.node.blobs import BlobStore, map_blob
from gridmap.node.neighbors import Neighbors
from tests.node.driver import Driver, wait_for

FRAMES = [b"abc", bytes(range(256)) * 1000]
DIGEST = data.digest(FRAMES)


class Agent:
    """As much of an agent as fetches blobs."""

    def __init__(self, run: str, folders: list[str] | None = None) -> None:
        self.store = BlobStore(folders)
        self.fetched: list[str] = []
        self.came: list[str] = []
        self.neighbors = Neighbors(
            run, self.store, self.fetched.append, lambda digest, now: self.came.append(digest)
        )

    def need(self, digest: str = DIGEST) -> None:
        self.neighbors.need(digest, time.monotonic())

    def put(self) -> None:
        self.store.put(DIGEST, FRAMES)
        self.neighbors.stored(DIGEST)

    def turn(self, now: float | None = None) -> None:
        poll = select.poll()
        for fd, events in self.neighbors.fds().items():
            poll.register(fd, events)
        for fd, _ in poll.poll(1):
            self.neighbors.ready(fd, time.monotonic() if now is None else now)
        self.neighbors.tick(time.monotonic() if now is None else now)

    def has_it(self) -> bool:
        place = self.store.place(DIGEST)
        return bool(place) and list(map(bytes, data.split_frames(map_blob(place)))) == FRAMES

    def close(self) -> None:
        self.neighbors.close()
        self.store.close()


Make = Callable[..., Agent]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes agents of one run."""
    made = []

    def make_one(folders: list[str] | None = None) -> Agent:
        made.append(Agent(str(tmp_path), folders))
        return made[-1]

    yield make_one
    for agent in made:
        agent.close()


def turn_until(condition: Callable[[], Any], *agents: Agent) -> None:
    def turned() -> Any:
        for agent in agents:
            agent.turn()
        return condition()

    wait_for(turned)


def is_taken(agent: Agent) -> bool:
    """Returns whether anybody listens at the blob's name."""
    name = agent.neighbors._name(DIGEST)[1:].decode()
    return f"@{name}" in Path("/proc/net/unix").read_text()


def test_one_fetches_and_all_have_it(make: Make) -> None:
    first, *others = make(), make(), make(), make()
    first.need()
    for agent in others:
        agent.need()
    first.turn()
    first.put()
    turn_until(lambda: all(agent.came == [DIGEST] for agent in others), first, *others)
    assert first.fetched == [DIGEST] and first.came == []
    assert [agent.fetched for agent in others] == [[], [], []]
    assert all(agent.has_it() for agent in (first, *others))


def test_who_comes_later_gets_it_too(make: Make) -> None:
    first, late = make(), make()
    first.need()
    first.put()
    late.need()
    turn_until(lambda: late.came, first, late)
    assert late.fetched == [] and late.has_it()


def test_it_is_one_file_which_outlives_whoever_fetched_it(make: Make) -> None:
    first, other = make(), make()
    first.need()
    first.put()
    other.need()
    turn_until(lambda: other.came, first, other)
    inodes = {os.fstat(agent.store.lend(DIGEST)[0]).st_ino for agent in (first, other)}
    assert len(inodes) == 1
    first.close()
    assert other.has_it()


def test_other_runs_and_other_blobs_have_nothing_to_do_with_it(make: Make, tmp_path: Path) -> None:
    first, other, stranger = make(), make(), Agent(f"{tmp_path}2")
    first.need()
    other.need("another")
    stranger.need()
    assert other.fetched == ["another"] and stranger.fetched == [DIGEST]
    stranger.close()


def test_an_agent_without_others_asks_for_itself() -> None:
    agents = Agent(""), Agent("")
    for agent in agents:
        agent.need()
    assert [agent.fetched for agent in agents] == [[DIGEST], [DIGEST]]
    assert all(agent.neighbors.fds() == {} for agent in agents)
    for agent in agents:
        agent.close()


def test_the_fetcher_killed_in_the_middle(make: Make, tmp_path: Path) -> None:
    """Another one fetches, and the third waits for that one."""
    ready, fetching = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            agent = Agent(str(tmp_path))
            agent.need()
            os.write(fetching, b"!")
            while True:
                agent.turn()
        os._exit(1)
    assert os.read(ready, 1) == b"!"
    second, third = make(), make()
    second.need()
    third.need()
    assert second.fetched == third.fetched == []
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    turn_until(lambda: second.fetched or third.fetched, second, third)
    heir, other = (second, third) if second.fetched else (third, second)
    turn_until(lambda: heir.neighbors._offers[DIGEST].waiting, second, third)
    heir.put()
    turn_until(lambda: other.came, second, third)
    assert other.fetched == [] and other.has_it()


def test_a_fetcher_that_says_nothing_is_not_waited_for(make: Make) -> None:
    stopped, other = make(), make()
    stopped.need()
    other.need()
    now = time.monotonic()
    other.turn(now + rules.SILENCE_S - 0.5)
    assert other.fetched == []
    other.turn(now + rules.SILENCE_S + 0.5)
    assert other.fetched == [DIGEST]
    other.need()
    assert other.fetched == [DIGEST, DIGEST] and other.neighbors.fds() == {}


def test_those_who_wait_are_told_that_it_is_on_the_way(make: Make) -> None:
    first, other = make(), make()
    first.need()
    other.need()
    now = time.monotonic()
    for at in range(int(2 * rules.SILENCE_S)):
        first.turn(now + at)
        other.turn(now + at)
    assert other.fetched == []
    for at in range(int(rules.PATIENCE_S) + 2):
        first.turn(now + at)
        other.turn(now + at)
    assert other.fetched == [DIGEST]


def test_a_full_disk_is_no_reason_to_wait(make: Make, tmp_path: Path) -> None:
    """Who cannot keep it lets go, and the next one asks for a copy of its own."""
    first, other = make([str(tmp_path / "missing")]), make()
    first.need()
    other.need()
    first.turn()
    with pytest.raises(OSError):
        first.store.put(DIGEST, FRAMES)
    first.neighbors.lacks(DIGEST)
    turn_until(lambda: other.fetched, other)
    assert other.fetched == [DIGEST]


def test_a_blob_that_is_not_what_its_digest_says_is_fetched(make: Make) -> None:
    liar, other = make(), make()
    liar.need()
    liar.store.put(DIGEST, [b"something else"])
    other.need()
    turn_until(lambda: other.fetched, liar, other)
    assert other.came == [] and other.store.place(DIGEST) == ""


@pytest.mark.parametrize("text", [b"", b"+" * 16, b"?"])
def test_nonsense_from_the_other_end(make: Make, text: bytes) -> None:
    first, other = make(), make()
    first.need()
    other.need()
    sock, _ = first.neighbors._offers[DIGEST].listener.accept()
    sock.send(text)
    first.close()
    sock.close()
    turn_until(lambda: other.fetched, other)
    assert other.fetched == [DIGEST]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_talked_to(make: Make, tmp_path: Path) -> None:
    """Neither who has taken the name, nor who connects to it."""
    mine = make()
    name = mine.neighbors._name(DIGEST)
    taken, done = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.setuid(65534)
            squatter = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            squatter.bind(name)
            squatter.listen()
            done.send(b"!")
            done.recv(1)
            squatter.close()
            done.send(b"!")
            done.recv(1)
            knocking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            knocking.settimeout(10)
            knocking.connect(name)
            done.send(knocking.recv(100) or b"nothing")
        os._exit(1)
    assert taken.recv(1) == b"!"
    mine.need()
    assert mine.fetched == [DIGEST] and mine.neighbors.fds() == {}
    taken.send(b"!")
    assert taken.recv(1) == b"!"
    another = make()
    another.need()
    another.put()
    taken.send(b"!")
    taken.setblocking(False)
    told = b""

    def answered() -> bytes:
        nonlocal told
        with contextlib.suppress(BlockingIOError):
            told = taken.recv(100)
        return told

    turn_until(answered, another)
    assert told == b"nothing"
    os.waitpid(pid, 0)


def test_nothing_is_left(make: Make, tmp_path: Path) -> None:
    files = set(os.listdir("/proc/self/fd"))
    first, other = make([str(tmp_path)]), make([str(tmp_path)])
    first.need()
    first.put()
    other.need()
    turn_until(lambda: other.came, first, other)
    assert not list(tmp_path.iterdir()) and is_taken(first)
    first.close()
    other.close()
    assert set(os.listdir("/proc/self/fd")) <= files
    assert not is_taken(first)


def test_so_many_blobs_are_offered_and_no_more(make: Make) -> None:
    agent = make()
    wanted = [str(number) for number in range(rules.MOST_OFFERS + 5)]
    for digest in wanted:
        agent.need(digest)
    assert agent.fetched == wanted
    assert len(agent.neighbors.fds()) == rules.MOST_OFFERS


def test_whole_agents_share_a_function(tmp_path: Path) -> None:
    """Two of them, each with a process for jobs, and one transfer."""
    with Driver(run=str(tmp_path)) as one, Driver(run=str(tmp_path)) as other:
        table = bytes(range(256)) * 10_000

        def look_up(number: int) -> int:
            return table[number]

        assert [value for _, value in one.run(look_up, range(3))] == [0, 1, 2]
        stop = other.lease(look_up, range(3))

        def done() -> bool:
            one.turn(0.001)
            return len(other.outcomes.of) == stop

        other.until(done)
        assert [other.outcomes.of[i][1] for i in range(3)] == [0, 1, 2]
        said = [type(message).__name__ for message in (*one.said, *other.said)]
        assert said.count("NeedBlob") == 1
