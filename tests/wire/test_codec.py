"""Round trips, limits, and what malformed frames do."""

from __future__ import annotations

import math
import tracemalloc
import typing
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gridmap.core import messages as m
from gridmap.errors import WireError
from gridmap.wire import codec
from gridmap.wire.codec import Limits, decode
from gridmap.wire.link import share
from gridmap.wire.messages import CHECKS, KINDS, MAX_INT, MAX_NAME_CHARS, MAX_PROSE_CHARS, Direction

DIGEST = "0123456789abcdef" * 4

naturals = st.integers(0, MAX_INT)
names = st.text(st.characters(exclude_categories=("C", "Z")), max_size=40)  # printable
finite = st.floats(0, 1e9)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
payloads = st.binary(max_size=30)


@st.composite
def keys(draw: st.DrawFn) -> m.Key:
    count = draw(st.integers(1, 2**40))
    return m.Key(draw(st.integers(0, MAX_INT - count)), count, draw(naturals))


@st.composite
def leases(draw: st.DrawFn) -> m.Lease:
    packet = st.tuples(naturals, st.integers(1, 2**30), st.integers(1, 2))
    packets = draw(st.lists(packet, min_size=1, max_size=3))
    count = sum(take for _, take, _ in packets)
    first, attempt = draw(st.integers(0, 2**62)), draw(naturals)
    context = draw(st.just("") | digests)
    return m.Lease(first, count, attempt, draw(digests), context, draw(st.booleans()), packets)


WITH_PAYLOAD = (
    m.Outcome.VALUE,
    m.Outcome.EXCEPTION,
    m.Outcome.RETRIABLE,
    m.Outcome.NO_MEMORY,
)


@st.composite
def results(draw: st.DrawFn) -> m.Result:
    outcome = draw(st.sampled_from(m.Outcome))
    least = 1 if outcome in WITH_PAYLOAD else 0
    most = 0 if outcome in (m.Outcome.RETURNED, m.Outcome.CANCELED) else 2
    frames = draw(st.integers(least, most))
    return m.Result(*draw(keys()), int(outcome), draw(finite), draw(naturals), frames)


@st.composite
def held(draw: st.DrawFn) -> m.Held:
    phase = int(draw(st.sampled_from(m.Phase)))
    current = draw(st.integers(-1, MAX_INT))
    return m.Held(
        *draw(keys()), phase, current, draw(naturals), draw(finite), draw(st.booleans()),
        draw(naturals),
    )  # fmt: skip


key_lists = st.lists(keys(), max_size=4)
outcomes = st.sampled_from([int(x) for x in m.Outcome])
EXAMPLES: dict[type[Any], st.SearchStrategy[Any]] = {
    m.Hello: st.builds(
        m.Hello,
        gridmap=names,
        python=names,
        protocol=naturals,
        native_id=names,
        incarnation=names,
        pool=naturals,
        host=names,
        pid=naturals,
        children=st.integers(1, MAX_INT),
        capacity=naturals,
        log_stdout=names,
        log_stderr=names,
    ),
    m.Credit: st.builds(m.Credit, naturals),
    m.NeedBlob: st.builds(m.NeedBlob, digests),
    m.Heartbeat: st.builds(
        m.Heartbeat, naturals, st.lists(held(), max_size=3), key_lists, st.integers(-1, MAX_INT)
    ),
    m.Results: st.builds(m.Results, st.lists(results(), max_size=4)),
    m.Bye: st.builds(m.Bye, names, naturals),
    m.Welcome: st.builds(
        m.Welcome, names, st.floats(0, allow_infinity=False, exclude_min=True), finite, finite
    ),
    m.Refuse: st.builds(m.Refuse, names),
    m.Work: st.builds(m.Work, st.lists(leases(), max_size=3)),
    m.Blob: st.builds(m.Blob, digests, st.booleans()),
    m.Pulse: st.builds(m.Pulse, naturals),
    m.Ack: st.builds(m.Ack, key_lists),
    m.Recall: st.builds(m.Recall, key_lists),
    m.Cancel: st.builds(m.Cancel, key_lists, outcomes),
    m.Drain: st.builds(m.Drain),
}


def encode(message: Any, frames: list[Any], limits: Limits = codec.LIMITS) -> list[Any]:
    """Encodes; returns frames as they arrive."""
    return list(codec.encode(message, frames, limits))


def announced(message: Any) -> int:
    """Returns the number of payload frames that go with a message."""
    if isinstance(message, m.Results):
        return sum(item.frames for item in message.items)
    if isinstance(message, m.Work):
        return sum(packet[2] for lease in message.leases for packet in lease.packets)
    return int(isinstance(message, m.Blob) and message.found)


def direction_of(message: Any) -> Direction:
    to_monitor = isinstance(message, typing.get_args(m.FromAgent))
    return Direction.TO_MONITOR if to_monitor else Direction.TO_AGENT


def frames_of(message: Any) -> list[Any]:
    return encode(message, [b"payload"] * announced(message))


any_message = st.one_of(*EXAMPLES.values())


def test_tables_hold_every_message_once_and_in_one_direction() -> None:
    to_monitor = KINDS[Direction.TO_MONITOR]
    to_agent = KINDS[Direction.TO_AGENT]
    assert sorted(map(repr, to_monitor.values())) == sorted(map(repr, typing.get_args(m.FromAgent)))
    assert sorted(map(repr, to_agent.values())) == sorted(map(repr, typing.get_args(m.ToAgent)))
    assert not set(to_monitor) & set(to_agent)
    assert set(CHECKS) == set(typing.get_args(m.Message)) == set(EXAMPLES)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_round_trip(kind: type[Any]) -> None:
    @settings(max_examples=25, deadline=None)
    @given(EXAMPLES[kind], st.data())
    def holds(message: Any, data: st.DataObject) -> None:
        count = announced(message)
        payload = data.draw(st.lists(payloads, min_size=count, max_size=count))
        got, rest = decode(encode(message, payload), direction_of(message))
        assert got == message
        assert type(got) is kind
        assert rest == payload

    holds()


def test_inner_items_come_back_as_the_types_they_were() -> None:
    beat = m.Heartbeat(1, [m.Held(0, 2, 0, 1, 1, 5, 0.5, True)], [m.Key(3, 1, 0)])
    got, _ = decode(encode(beat, []), Direction.TO_MONITOR)
    assert isinstance(got, m.Heartbeat)
    assert got.held[0].cpu_fraction == 0.5 and got.unacknowledged[0].count == 1
    work = m.Work([m.Lease(0, 2, 0, DIGEST, "", True, [(0, 2, 1)])])
    told, _ = decode(encode(work, [b"x"]), Direction.TO_AGENT)
    assert isinstance(told, m.Work) and told.leases[0].key == m.Key(0, 2, 0)


def test_one_range_of_results_is_small() -> None:
    item = m.Result(123_456, 1000, 0, 0, 0.125, 50_000_000, 1)
    assert len(encode(m.Results([item]), [b""])[0]) < 40


@settings(max_examples=60, deadline=None)
@given(any_message)
def test_a_message_is_malformed_in_the_other_direction(message: Any) -> None:
    other = (
        Direction.TO_AGENT
        if direction_of(message) is Direction.TO_MONITOR
        else Direction.TO_MONITOR
    )
    with pytest.raises(WireError, match="is no message"):
        decode(frames_of(message), other)


@settings(max_examples=60, deadline=None)
@given(any_message, st.integers(-2, 2).filter(bool))
def test_a_wrong_number_of_payload_frames_is_refused(message: Any, difference: int) -> None:
    frames = frames_of(message)
    blob = isinstance(message, m.Blob) and message.found
    if (blob and difference > 0) or len(frames) + difference < 1:
        return  # a blob may fill several frames
    wrong = frames + [b"x"] * difference if difference > 0 else frames[:difference]
    with pytest.raises(WireError):
        decode(wrong, direction_of(message))
    with pytest.raises(WireError):
        encode(message, wrong[1:])


# --- bytes from anywhere --------------------------------------------------------------------------


def survives(frames: list[Any]) -> None:
    """Decodes what may be malformed: WireError or a message, nothing else."""
    for direction in Direction:
        try:
            message, payload = decode(frames, direction)
        except WireError:
            continue
        encode(message, payload)  # whatever is accepted is one that could have been sent


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_random_bytes(frames: list[bytes]) -> None:
    survives(list(frames))


@settings(max_examples=150, deadline=None)
@given(any_message, st.data())
def test_truncated(message: Any, data: st.DataObject) -> None:
    head, *rest = frames_of(message)
    cut = data.draw(st.integers(0, len(head) - 1))
    with pytest.raises(WireError):
        decode([head[:cut], *rest], direction_of(message))
    with pytest.raises(WireError):
        decode([head + b"\x00", *rest], direction_of(message))


@settings(max_examples=300, deadline=None)
@given(any_message, st.data())
def test_mutated_bytes(message: Any, data: st.DataObject) -> None:
    head, *rest = frames_of(message)
    changed = bytearray(head)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    survives([bytes(changed), *rest])


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=2).filter(lambda x: all(-(2**63) <= i < 2**64 for i in x)),
)


def places(value: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Returns the path of everything in nested lists."""
    found = [path]
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += places(item, (*path, number))
    return found


@settings(max_examples=400, deadline=None)
@given(any_message, ODD, st.data())
def test_any_part_exchanged_for_something_odd(message: Any, odd: Any, data: st.DataObject) -> None:
    head, *rest = frames_of(message)
    body = msgspec.msgpack.decode(head)
    *above, last = data.draw(st.sampled_from(places(body)[1:]))
    target = body
    for number in above:
        target = target[number]
    target[last] = odd
    survives([msgspec.msgpack.encode(body), *rest])


def test_nesting_without_end() -> None:
    for head in (b"\x91" * 100_000, b"\x93\x01\x05" + b"\x91" * 100_000):
        with pytest.raises(WireError):
            decode([head], Direction.TO_MONITOR)


def test_no_frames() -> None:
    with pytest.raises(WireError, match="no frames"):
        decode([], Direction.TO_MONITOR)


def test_another_protocol_is_named() -> None:
    head = msgspec.msgpack.encode((m.PROTOCOL + 1, 2, (4,)))
    with pytest.raises(WireError, match=f"protocol {m.PROTOCOL + 1}"):
        decode([head], Direction.TO_MONITOR)


# --- values that types allow ----------------------------------------------------------------------

HELLO = m.Hello("1.0", "3.11", 1, "7.1", "abc", 0, "node", 42, 1, 2)
RESULT = m.Result(0, 1, 0, 0, 0.1, 1, 1)
LEASE = m.Lease(0, 3, 0, DIGEST, DIGEST, True, [(0, 3, 1)])
HELD = m.Held(0, 1, 0, 1, 0, 1, 0.5, True)


def bad_key(**changes: Any) -> m.Key:
    return m.Key(0, 1, 0)._replace(**changes)


BAD: dict[str, tuple[Any, int]] = {
    "count 0": (m.Ack([bad_key(count=0)]), 0),
    "count negative": (m.Recall([bad_key(count=-1)]), 0),
    "first negative": (m.Cancel([bad_key(first=-1)]), 0),
    "attempt negative": (m.Ack([bad_key(attempt=-1)]), 0),
    "end beyond 64 bits": (m.Ack([m.Key(MAX_INT, 1, 0)]), 0),
    "attempt beyond 64 bits": (m.Ack([bad_key(attempt=2**63)]), 0),
    "no such outcome": (m.Results([RESULT._replace(outcome=99)]), 1),
    "no such outcome to cancel with": (m.Cancel([], 99), 0),
    "value without payload": (m.Results([RESULT._replace(frames=0)]), 0),
    "returned with payload": (m.Results([RESULT._replace(outcome=5)]), 1),
    "frames negative": (m.Results([RESULT._replace(frames=-1, outcome=2)]), 0),
    "seconds NaN": (m.Results([RESULT._replace(seconds=math.nan)]), 1),
    "seconds infinite": (m.Results([RESULT._replace(seconds=math.inf)]), 1),
    "seconds negative": (m.Results([RESULT._replace(seconds=-0.1)]), 1),
    "seconds beyond reason": (m.Results([RESULT._replace(seconds=1.1e9)]), 1),
    "cpu negative": (m.Heartbeat(0, [HELD._replace(cpu_fraction=-0.1)]), 0),
    "cpu beyond reason": (m.Heartbeat(0, [HELD._replace(cpu_fraction=1e300)]), 0),
    "inventory without end": (m.Heartbeat(0, [HELD] * 10_001), 0),
    "id too long": (replace(HELLO, native_id="1" * 257), 0),
    "memory negative": (m.Results([RESULT._replace(peak_rss_bytes=-1)]), 1),
    "memory beyond 64 bits": (m.Results([RESULT._replace(peak_rss_bytes=2**63)]), 1),
    "phase": (m.Heartbeat(0, [HELD._replace(phase=7)]), 0),
    "current": (m.Heartbeat(0, [HELD._replace(current=-2)]), 0),
    "cpu NaN": (m.Heartbeat(0, [HELD._replace(cpu_fraction=math.nan)]), 0),
    "unacknowledged": (m.Heartbeat(0, [], [bad_key(count=0)]), 0),
    "held count": (m.Heartbeat(0, [HELD._replace(count=0)]), 0),
    "seq": (m.Heartbeat(-1), 0),
    "heard": (m.Heartbeat(1, heard=-2), 0),
    "departure": (m.Bye("", -1), 0),
    "digest short": (m.NeedBlob(DIGEST[1:]), 0),
    "digest upper case": (m.NeedBlob(DIGEST.upper()), 0),
    "digest no hex": (m.Blob("g" * 64), 1),
    "function": (m.Work([LEASE._replace(function="")]), 1),
    "context": (m.Work([LEASE._replace(context="x")]), 1),
    "takes too few": (m.Work([LEASE._replace(packets=[(0, 2, 1)])]), 1),
    "takes too many": (m.Work([LEASE._replace(packets=[(0, 2, 1), (0, 2, 1)])]), 2),
    "no packets": (m.Work([LEASE._replace(packets=[])]), 0),
    "take 0": (m.Work([LEASE._replace(packets=[(0, 3, 1), (0, 0, 1)])]), 2),
    "skip negative": (m.Work([LEASE._replace(packets=[(-1, 3, 1)])]), 1),
    "packet without frames": (m.Work([LEASE._replace(packets=[(0, 3, 0)])]), 0),
    "blob found but absent": (m.Blob(DIGEST), 0),
    "blob absent but sent": (m.Blob(DIGEST, found=False), 1),
    "heartbeat interval 0": (m.Welcome("r", 0.0, 1.0), 0),
    "heartbeat interval NaN": (m.Welcome("r", math.nan, 1.0), 0),
    "grace infinite": (m.Welcome("r", 1.0, math.inf), 0),
    "walltime negative": (m.Welcome("r", 1.0, 1.0, -1.0), 0),
    "no children": (replace(HELLO, children=0), 0),
    "pid negative": (replace(HELLO, pid=-1), 0),
    "pid beyond 64 bits": (replace(HELLO, pid=2**63), 0),
    "name too long": (replace(HELLO, host="x" * (MAX_NAME_CHARS + 1)), 0),
    "prose too long": (m.Bye("x" * (MAX_PROSE_CHARS + 1)), 0),
    "text that is no Unicode": (m.Bye("\ud800"), 0),
    "capacity negative": (m.Credit(-1), 0),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused_by_both_ends(name: str) -> None:
    message, frames = BAD[name]
    with pytest.raises(WireError):
        encode(message, [b"x"] * frames)
    if name == "text that is no Unicode":
        return
    kind = next(k for t in KINDS.values() for k, cls in t.items() if cls is type(message))
    values = tuple(getattr(message, name) for name in message.__struct_fields__)
    head = msgspec.msgpack.encode((m.PROTOCOL, kind, values))
    with pytest.raises(WireError):
        decode([head, *[b"x"] * frames], direction_of(message))


def test_the_good_neighbours_of_the_bad_values_pass() -> None:
    frames_of(HELLO)
    frames_of(m.Results([RESULT]))
    frames_of(m.Work([LEASE]))
    frames_of(m.Heartbeat(0, [HELD, HELD._replace(current=-1)]))
    frames_of(m.Bye("x" * MAX_PROSE_CHARS))


def test_what_is_no_message_is_refused() -> None:
    for thing in (object(), LEASE, m.Death()):
        with pytest.raises(WireError, match="no message"):
            encode(thing, [])


# --- limits ---------------------------------------------------------------------------------------

BLOB = m.Blob(DIGEST)


@pytest.mark.parametrize(
    ("limits", "payload"),
    [
        (Limits(frames=2), [b"x"] * 3),
        (Limits(frame_bytes=10), [b"x" * 11]),
        (Limits(frame_bytes=10), [memoryview(b"x" * 12).cast("i")]),
        (Limits(payload_bytes=10), [b"x" * 6, b"x" * 6]),
        (Limits(head_bytes=10), [b"x"]),
    ],
    ids=["frames", "frame", "wide items", "payload", "head"],
)
def test_limits_hold_at_both_ends(limits: Limits, payload: list[Any]) -> None:
    with pytest.raises(WireError, match="allowed"):
        encode(BLOB, payload, limits)
    sent = encode(BLOB, payload)
    with pytest.raises(WireError, match="allowed"):
        decode(sent, Direction.TO_AGENT, limits)


def test_an_inventory_beyond_frame_0_is_refused_and_one_just_below_is_not() -> None:
    fits = m.Ack([m.Key(2**40, 1, 0)] * 40_000)
    assert decode(encode(fits, []), Direction.TO_AGENT)[0] == fits
    with pytest.raises(WireError, match="frame 0 has"):
        encode(m.Ack([m.Key(2**40, 1, 0)] * 50_000), [])


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31mb", "\x00", "\u2028"])
def test_names_that_would_disturb_a_log_are_refused(text: str) -> None:
    for name in ("native_id", "host", "incarnation", "gridmap", "python"):
        with pytest.raises(WireError, match=name):
            codec.encode(replace(HELLO, **{name: text}))
    with pytest.raises(WireError, match="reason"):
        codec.encode(m.Bye(text))


# --- payload frames in parts ----------------------------------------------------------------------


def large(*sizes: int) -> tuple[Any, list[bytes]]:
    """Returns results with payload frames of these sizes."""
    return m.Results([RESULT._replace(frames=len(sizes))]), [
        bytes([number + 1]) * size for number, size in enumerate(sizes)
    ]


P = codec.PART_BYTES


@pytest.mark.parametrize("sizes", [(P,), (P + 1,), (2 * P,), (0, 2 * P + 5, 7, P), (P + 1, 0)])
@pytest.mark.parametrize("shared", [False, True])
def test_large_frames_travel_in_parts(sizes: tuple[int, ...], shared: bool) -> None:
    message, frames = large(*sizes)
    sent = encode(message, [share(x) for x in frames] if shared else frames)
    assert max(map(len, sent)) <= P
    arrived = [part.bytes if isinstance(part, zmq.Frame) else bytes(part) for part in sent]
    got, payload = decode(arrived, Direction.TO_MONITOR)
    assert got == message and [bytes(x) for x in payload] == frames


def test_a_frame_of_other_items_than_bytes_travels_in_parts() -> None:
    message, (frame,) = large(2 * P)
    arrived = list(encode(message, [memoryview(frame).cast("q")]))
    assert decode(arrived, Direction.TO_MONITOR)[1] == [frame]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_parts_that_do_not_fit_their_sizes(data: st.DataObject) -> None:
    message, frames = large(P + 5, 3)
    head, *parts = encode(message, frames)
    protocol, kind, (sizes, body) = msgspec.msgpack.decode(head)
    odd = st.integers(-(2**63), 2**64 - 1) | st.integers(-2, 2 * P)
    told = data.draw(st.lists(odd | st.sampled_from(sizes), max_size=4))
    cut = data.draw(st.lists(st.sampled_from([bytes(x) for x in parts] + [b"", b"x"]), max_size=4))
    head = msgspec.msgpack.encode((protocol, kind, (told, body)))
    if (told, cut) == (sizes, [bytes(x) for x in parts]):
        return
    try:
        got = decode([head, *cut], Direction.TO_MONITOR)[1]
    except WireError:
        return
    assert [len(x) for x in got] == told and b"".join(map(bytes, got)) == b"".join(cut)


def test_sizes_that_are_told_cost_no_memory() -> None:
    message, frames = large(P + 5)
    protocol, kind, (_, body) = msgspec.msgpack.decode(encode(message, frames)[0])
    head = msgspec.msgpack.encode((protocol, kind, ([2**31], body)))
    tracemalloc.start()
    with pytest.raises(WireError, match="no parts"):
        decode([head, b"x"], Direction.TO_MONITOR)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_sizes_are_limited_before_they_are_joined() -> None:
    message, frames = large(P + 5)
    sent = list(encode(message, frames))
    with pytest.raises(WireError, match="allowed"):
        decode(sent, Direction.TO_MONITOR, Limits(frame_bytes=P + 4))
