"""Pickling: frames, packets, isolation, errors that name the culprit."""

from __future__ import annotations

import functools
import itertools
import pickle
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridmap import data, errors
from gridmap.core.messages import Death
from gridmap.core.spec import Resources
from gridmap.data import Arguments
from gridmap.packets import _pickle_numbers
from gridmap.plan import Plan, Segment, parts

ATOM = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
ELEMENT = st.recursive(
    ATOM,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


class Holder:
    def __init__(self, part: object) -> None:
        self.part = part


class Stubborn(Exception):
    """Cannot be made again from its args."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("stubborn")
        self.sum = first + second


def unpacked(frames: Sequence[data.Frame], skip: int, take: int) -> list[data.Call]:
    """Returns the arguments of each job, positional and by keyword, as a child gets them."""
    plain = data.plain_calls(frames, skip, take)
    if plain is not None:
        return [(args, {}) for args in plain.positional()]
    return [read() for read in data.pickled_calls(frames, skip, take)]


def calls_of(elements: Any, **options: Any) -> list[data.Call]:
    packets = list(data.pack_arguments(elements, **options))
    return [c for p in packets for c in unpacked(p.frames, 0, p.count)]


def expected_call(element: Any) -> tuple[list[Any], dict[str, Any]]:
    return (element if isinstance(element, list) else [element]), {}


@settings(max_examples=60, deadline=None)
@given(st.lists(ELEMENT, max_size=40), st.integers(1, 9), st.integers(1, 300))
def test_every_element_arrives_by_the_rule_however_it_is_packed(
    elements: list[Any], max_items: int, max_bytes: int
) -> None:
    for source in (elements, iter(elements)):
        got = calls_of(source, max_items=max_items, max_bytes=max_bytes)
        assert [(list(args), kwargs) for args, kwargs in got] == list(map(expected_call, elements))


@settings(max_examples=60, deadline=None)
@given(st.lists(ELEMENT, min_size=1, max_size=20), st.data())
def test_a_part_of_a_packet_is_that_part_of_its_jobs(elements: list[Any], draw: Any) -> None:
    (packet,) = data.pack_arguments(elements, max_bytes=1 << 30)
    skip = draw.draw(st.integers(0, len(elements) - 1))
    take = draw.draw(st.integers(1, len(elements) - skip))

    got = unpacked(packet.frames, skip, take)

    wanted = [expected_call(x) for x in elements[skip : skip + take]]
    assert [(list(args), kwargs) for args, kwargs in got] == wanted


def test_keyword_arguments_arrive() -> None:
    (call,) = calls_of([Arguments([1, 2], {"key": [3]})])
    assert call == ([1, 2], {"key": [3]})


def test_a_tuple_is_one_argument_and_a_list_is_several() -> None:
    assert [list(args) for args, _ in calls_of([(1, 2), [1, 2], "ab"])] == [
        [(1, 2)],
        [1, 2],
        ["ab"],
    ]


def test_jobs_do_not_share_objects_that_the_client_shared() -> None:
    shared: list[int] = []
    (one, _), (two, _) = calls_of([(1, shared), (2, shared)])
    one[0][1].append("changed")
    assert two[0][1] == []


def test_large_arrays_travel_out_of_band_and_arrive_writable() -> None:
    array = np.arange(100_000)
    (packet,) = data.pack_arguments([array])
    assert len(packet.frames) == 2
    assert np.shares_memory(np.frombuffer(packet.frames[1], dtype=array.dtype), array)

    frames = [bytes(frame) for frame in packet.frames]  # as a wire hands them over
    (((got,), _),) = unpacked(frames, 0, 1)

    got[0] = 7  # raises if it is read-only
    assert got[1:].tolist() == array[1:].tolist() and array[0] == 0


def test_a_generator_may_fill_the_same_array_again() -> None:
    def source() -> Iterator[np.ndarray]:
        array = np.zeros(20_000)
        for i in range(3):
            array[:] = i
            yield array

    assert [args[0][0] for args, _ in calls_of(source())] == [0, 1, 2]


def test_a_large_element_is_a_packet_of_its_own() -> None:
    elements = [[1, []], bytes(200_000), [2, []], "x" * 200_000]
    assert [p.count for p in data.pack_arguments(elements)] == [1, 1, 1, 1]


def test_an_element_that_took_long_is_the_last_of_its_packet() -> None:
    def source() -> Iterator[int]:
        for i in range(900):
            if i >= 800 and i % 20 == 0:
                time.sleep(0.015)
            yield i

    counts = [packet.count for packet in data.pack_arguments(source())]
    assert {801, 821, 841, 861, 881} <= set(itertools.accumulate(counts))


def test_packets_close_at_max_items_and_max_bytes() -> None:
    assert {p.count for p in data.pack_arguments(list(range(8192)))} == {4096}
    many = list(data.pack_arguments(["x" * 1000 + str(i) for i in range(1000)]))
    assert max(len(p.frames[0]) for p in many) <= 65536 and sum(p.count for p in many) == 1000


class Number(int):
    """Is one, and may be more."""


@pytest.mark.parametrize(
    "other",
    ["text", "", b"bytes", (1, 2), [1], [], {}, set(), frozenset(), bytearray(b"x"), 2j, Number(3)],
)
def test_what_is_no_number_among_numbers_is_noticed(other: Any) -> None:
    elements = [*range(50), other, *range(50)]
    assert _pickle_numbers(elements) is None
    assert [list(args) for args, _ in calls_of(elements)][50] == expected_call(other)[0]
    types = [type(args[0]) for args, _ in calls_of([True, 1, 2.5, None, Number(7), other])[:5]]
    assert types == [bool, int, float, type(None), Number]


def test_functions_with_equal_parts_are_one_blob_however_large() -> None:
    large = bytes(3 << 20)
    jobs = [functools.partial(len, large) for _ in range(3)]
    made = [Segment(job, data.Context(), Resources(), [[]]) for job in jobs]
    both = list(parts(Plan(made, "n", str), True))
    assert len({part.spec.function for part in both}) == 1
    assert len({digest for part in both for digest in part.blobs}) == 2


def test_deep_input_is_an_error_that_says_where() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(errors.PicklingError, match="argument 0 of job 1"):
        list(data.pack_arguments([0, deep, 2]))


def test_a_range_travels_as_a_range() -> None:
    (packet,) = data.pack_arguments(range(5, 10**9, 3))
    assert packet.count == len(range(5, 10**9, 3)) and packet.nbytes < 100
    assert unpacked(packet.frames, 10**6, 2) == [((3000005,), {}), ((3000008,), {})]
    assert list(data.pack_arguments(range(0))) == []


def test_packing_is_lazy() -> None:
    taken = []

    def source() -> Iterator[int]:
        for i in range(10**9):
            taken.append(i)
            yield i

    packets = data.pack_arguments(source())
    next(packets)
    assert len(taken) == 1


@pytest.mark.parametrize("max_items", [4096, lambda: 64])
def test_a_generator_may_yield_the_same_object_again(max_items: Any) -> None:
    def source() -> Iterator[Any]:
        array, shown, both = bytearray(8), [0], {"n": [0]}
        for i in range(300):
            array[0], shown[0], both["n"][0] = i % 256, i, i
            yield [array, (i, shown), shown, both, Arguments([i], {"to": both})][i % 5]

    got = calls_of(source(), max_items=max_items)
    for i, (args, kwargs) in enumerate(got):
        expected: list[Any] = [
            [bytearray([i % 256, *bytes(7)])], [(i, [i])], [i], [{"n": [i]}], [i]
        ]  # fmt: skip
        assert list(args) == expected[i % 5]
        assert kwargs == ({"to": {"n": [i]}} if i % 5 == 4 else {})
    assert len(got) == 300


def test_an_element_that_cannot_be_unpickled_fails_alone() -> None:
    (packet,) = data.pack_arguments([[Holder(1)], [Poison()], [Holder(3)]])
    reads = list(data.pickled_calls(packet.frames, 0, 3))
    assert reads[0]()[0][0].part == 1
    with pytest.raises(ZeroDivisionError):
        reads[1]()
    assert reads[2]()[0][0].part == 3


def _explode() -> None:
    raise ZeroDivisionError


class Poison:
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return (_explode, ())


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ([1, Holder(threading.Lock())], "argument 1 of job 2: attribute .part: cannot pickle"),
        (Arguments([], {"k": [threading.Lock()]}), "argument k of job 2: item [0]: cannot pickle"),
        (Holder([{"a": threading.Lock()}]), "argument 0 of job 2: attribute .part[0]['a']: cannot"),
        ((i for i in ()), "argument 0 of job 2: cannot pickle 'generator' object"),
    ],
)
def test_what_cannot_be_pickled_is_named(element: Any, message: str) -> None:
    packets = data.pack_arguments([0, 1, element, 3])
    assert next(packets).count == 2  # what came before is not lost
    with pytest.raises(errors.PicklingError) as caught:
        next(packets)
    assert message in str(caught.value) and "lock" in str(caught.value) + "lock"


def test_what_a_function_carries_and_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(errors.PicklingError, match=r"closure variable lock: cannot pickle"):
        data.pack_function(lambda: lock)
    with pytest.raises(errors.PicklingError, match=r"argument x of the partial"):
        data.pack_function(functools.partial(max, x=lock))


def test_functions_without_a_module_travel_by_value() -> None:
    offset = np.arange(50_000)
    blob = b"".join(data.join_frames(data.pack_function(lambda i: int(offset[i]))))
    assert data.unpack_function(data.split_frames(blob))(7) == 7


def test_a_class_of_main_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    exec("class Mine:\n    def __init__(self): self.x = 5", main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    (packet,) = data.pack_arguments([main.Mine()])
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    (((got,), _),) = unpacked(packet.frames, 0, 1)
    assert got.x == 5


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_joined_frames_split_again_aligned(frames: list[bytes]) -> None:
    blob = b"".join(data.join_frames(frames))
    parts = data.split_frames(blob)
    assert [bytes(part) for part in parts] == frames
    base = np.frombuffer(blob, np.uint8).ctypes.data
    starts = [np.frombuffer(p, np.uint8).ctypes.data - base for p in parts if p.nbytes]
    assert all(start % 64 == 0 for start in starts)


def test_a_digest_depends_on_where_frames_end() -> None:
    assert data.digest([b"ab", b"c"]) != data.digest([b"a", b"bc"])
    assert len(data.digest([b""])) == 64


def test_values_are_kept_as_they_were_when_added() -> None:
    packer = data.ValuePacker()
    reused: list[int] = []
    for i in range(3):
        reused.append(i)
        packer.add(reused)
        packer.add(i)
        packer.add((i, "atom"))
    count, frames = packer.take()
    wanted = [[0], 0, (0, "atom"), [0, 1], 1, (1, "atom"), [0, 1, 2], 2, (2, "atom")]
    assert (count, data.unpack_values(frames, 0, count)) == (9, wanted)
    assert data.unpack_values(frames, 3, 2) == wanted[3:5]


def test_a_value_with_large_buffers_is_due_at_once() -> None:
    packer = data.ValuePacker()
    packer.add(None)
    assert not packer.full
    packer.add(np.ones(50_000))
    assert packer.full
    count, frames = packer.take()
    none, ones = data.unpack_values([bytes(f) for f in frames], 0, count)
    ones += 1
    assert none is None and ones.sum() == 100_000 and not packer.full


def test_a_value_that_cannot_be_pickled_leaves_the_others() -> None:
    packer = data.ValuePacker()
    packer.add(1)
    with pytest.raises(errors.PicklingError, match=r"value of type Holder: attribute \.part"):
        packer.add(Holder(threading.Lock()))
    assert data.unpack_values(packer.take()[1], 0, 1) == [1]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return data.unpack_exception(data.pack_exception(caught))


def test_an_exception_keeps_type_and_shows_its_remote_traceback() -> None:
    got = raised(KeyError("missing"))
    assert type(got) is KeyError and got.args == ("missing",)
    assert isinstance(got.__cause__, errors.RemoteTraceback)
    assert "in raised" in str(got.__cause__)


@pytest.mark.parametrize("error", [KeyboardInterrupt("now"), ValueError(threading.Lock())])
def test_an_exception_that_cannot_travel_is_replaced_by_one_that_names_it(
    error: BaseException,
) -> None:
    got = raised(error)
    assert isinstance(got, errors.JobException) and got.cause is errors.Cause.EXCEPTION
    assert type(error).__name__ in str(got) and "in raised" in str(got.__cause__)


def test_an_exception_that_its_class_cannot_make_again_travels_by_its_parts() -> None:
    got = raised(Stubborn(1, 2))
    assert type(got) is Stubborn and got.args == ("stubborn",) and got.sum == 3
    assert "in raised" in str(got.__cause__)


def test_an_exception_of_a_class_unknown_here_is_replaced() -> None:
    frames = data.pack_exception(ValueError("x"))
    frames[2] = b"cno_such_module\nError\n."
    got = data.unpack_exception(frames)
    assert isinstance(got, errors.JobException) and "no_such_module" in str(got)


def test_death_context_and_zdumps_come_back() -> None:
    death = Death(3, 0, "tail", 5, "text")
    assert data.unpack_death(data.pack_death(death)) == death
    context = data.Context({"A": "\udcff"}, "/tmp", ["/a"])
    assert data.Context.decode(context.encode()) == context
    assert data.zloads(data.zdumps({"a": [1]})) == {"a": [1]}
    assert pickle.loads(__import__("bz2").decompress(data.zdumps(5))) == 5
