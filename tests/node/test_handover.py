"""Large frames that go from process to process by their memory's descriptor."""

from __future__ import annotations

import gc
import os
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridmap.data import Frame
from gridmap.node import handover
from gridmap.node.channel import MAX_HANDED_OVER, MAX_TO_AGENT, WORKING, Answer, Channel
from gridmap.node.reserve import Reserve

LARGE = handover.LEAST_BYTES
RESERVE = Reserve(MAX_TO_AGENT)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def bytes_of(frames: list[Frame]) -> list[bytes]:
    return [bytes(frame) for frame in frames]


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    pair = Channel(ours, Answer, RESERVE), Channel(theirs, Answer, RESERVE)
    yield pair
    for end in pair:
        end.close()


def passed(ends: tuple[Channel, Channel], frames: list[Frame]) -> list[Frame]:
    sender, receiver = ends
    sender.send(Answer(WORKING, []), frames)
    while (got := receiver.receive()) is None:
        sender.flush()
    assert got[0].state == WORKING
    return got[1]


@pytest.mark.parametrize(
    "sizes",
    [
        [LARGE],
        [0, LARGE, 0],
        [10, LARGE, LARGE - 1, 20, 3 * LARGE + 1, 0, 5],
        [LARGE] * (MAX_HANDED_OVER + 3),
        [20_000, 1, LARGE + 7, 20_000],
    ],
)
def test_frames_arrive_as_they_were(ends: tuple[Channel, Channel], sizes: list[int]) -> None:
    sent = [os.urandom(min(size, 64)) * (size // 64) + bytes(size % 64) for size in sizes]
    before = descriptors()
    for _ in range(2):
        assert bytes_of(passed(ends, list(sent))) == sent
    assert descriptors() == before


def test_what_is_received_can_be_written_and_is_nobody_elses(ends: tuple[Channel, Channel]) -> None:
    sent = bytearray(LARGE)
    (first,) = passed(ends, [sent])
    (second,) = passed(ends, [first])
    memoryview(first)[:5] = b"first"
    memoryview(sent)[:5] = b"sent."
    assert bytes(memoryview(second)[:5]) == bytes(5) and bytes(memoryview(first)[:5]) == b"first"


def test_a_thousand_frames_held_need_no_descriptor(ends: tuple[Channel, Channel]) -> None:
    gc.collect()  # what others left behind is not to go meanwhile
    before = descriptors()
    held = [passed(ends, [bytes(LARGE)])[0] for _ in range(1000)]
    assert descriptors() == before and len(held) == 1000


def test_without_such_memory_frames_are_copied(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "no space left on device")

    frames: list[Frame] = [b"a" * LARGE, b"b", b"c" * LARGE]
    monkeypatch.setattr(os, "write", full)
    assert bytes_of(passed(ends, frames)) == frames
    monkeypatch.undo()
    monkeypatch.setattr(os, "memfd_create", full)
    assert bytes_of(passed(ends, frames)) == frames


def test_without_room_for_mappings_frames_are_copied(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Frame:
        raise OSError(12, "cannot allocate memory")

    monkeypatch.setattr(handover, "_mapped", full)
    before = descriptors()
    assert bytes_of(passed(ends, [b"a" * LARGE])) == [b"a" * LARGE]
    assert descriptors() == before


def test_no_descriptors_left_is_no_end(ends: tuple[Channel, Channel]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, limits[1]))
    try:
        frames: list[Frame] = [bytes([n]) * LARGE for n in range(20)]
        assert bytes_of(passed(ends, frames)) == frames
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_who_is_short_of_descriptors_gets_copies() -> None:
    """The kernel would drop what it cannot give, without a word to the sender."""
    ours, theirs = socket.socketpair()
    frames: list[Frame] = [bytes([n]) * LARGE for n in range(5)]
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            other = Channel(theirs, Answer)
            while other.receive() is not None:
                other.send(Answer(WORKING, []), frames)
        finally:
            os._exit(0)
    theirs.close()
    end = Channel(ours, Answer)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        for left in (100, 10, 0):
            while not taken or taken[-1] < 255 - left:
                taken.append(os.dup(ours.fileno()))
            for _ in range(2):
                end.send(Answer(WORKING, []), [])
                got = end.receive()
                assert got is not None and bytes_of(got[1]) == frames
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)
        end.close()
        os.waitpid(pid, 0)


def test_with_too_many_descriptors_on_their_way_frames_are_copied() -> None:
    """The kernel counts them by user, except for root."""
    ours, theirs = socket.socketpair()
    stuck, tells = os.pipe()
    frames: list[Frame] = [bytes([n]) * LARGE for n in range(MAX_HANDED_OVER)]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            sender = Channel(theirs, Answer, RESERVE)
            for _ in range(12):
                sender.send(Answer(WORKING, []), frames)
            os.write(tells, b"!")
            while sender.wants_to_send:
                select.select([], [theirs], [])
                sender.flush()
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    os.close(tells)
    assert os.read(stuck, 1) == b"!", "it can send no more for now"
    os.close(stuck)
    receiver = Channel(ours, Answer)
    for _ in range(12):
        got = receiver.receive()
        assert got is not None and bytes_of(got[1]) == frames
    assert os.waitpid(pid, 0)[1] == 0
    receiver.close()


def test_what_is_received_no_other_program_inherits(ends: tuple[Channel, Channel]) -> None:
    sender, receiver = ends
    sender.send(Answer(WORKING, []), [bytes(LARGE)])
    next(receiver._fill(memoryview(bytearray(4))), None)
    assert [os.get_inheritable(fd) for fd in receiver._fds] == [False]


def test_what_its_sender_did_not_live_to_see_taken_is_there(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        Channel(theirs, Answer).send(Answer(WORKING, []), [b"x" * LARGE, b"y"])
        os.kill(os.getpid(), 9)
    theirs.close()
    os.waitpid(pid, 0)
    receiver = Channel(ours, Answer, RESERVE)
    got = receiver.receive()
    assert got is not None and bytes_of(got[1]) == [b"x" * LARGE, b"y"]
    assert receiver.receive() is None and receiver.closed
    receiver.close()


def test_who_hangs_up_lets_go_of_everything() -> None:
    before = descriptors()
    ours, theirs = socket.socketpair()
    sender = Channel(ours, Answer, RESERVE)
    receiver = Channel(theirs, Answer, RESERVE)
    for _ in range(3):
        sender.send(Answer(WORKING, []), [bytes(LARGE), bytes(LARGE - 1), bytes(LARGE - 1)] * 9)
    assert sender.wants_to_send
    assert receiver.receive() is None, "it has not all come"
    for end in (sender, receiver):
        end.close()
    assert descriptors() == before


def test_a_frame_whose_memory_did_not_come_ends_the_channel(ends: tuple[Channel, Channel]) -> None:
    sender, receiver = ends
    fd = os.memfd_create("short")
    os.write(fd, b"short")
    with pytest.raises(OSError, match="memory of fewer"):
        handover.pick_up(fd, LARGE)
    header = sender._encode(Answer(WORKING, [], [-LARGE]))
    sender._sock.send(len(header).to_bytes(4, "little") + header)
    assert receiver.receive() is None and receiver.closed
