"""grid_imap and grid_imap_unordered: lazy, bounded, and gone when nobody reads on."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridmap import JobException, PicklingError, grid_imap, grid_imap_unordered
from tests.doors.clients import until
from tests.doors.functions import double, odd_ones_fail

HERE = {"local": True, "max_processes": 1}
THERE = {"local": True, "max_processes": 3}
BOTH = [HERE, THERE]
DOORS = [grid_imap, grid_imap_unordered]


class Counted:
    """An input that knows how much of it was read."""

    def __init__(self, elements: Any) -> None:
        self.elements, self.read = elements, 0

    def __iter__(self) -> Iterator[Any]:
        for element in self.elements:
            self.read += 1
            yield element


def monitors() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("gridmap")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    until(lambda: not monitors(), "the monitors are gone")


@pytest.mark.parametrize("how", BOTH)
def test_all_values(how: dict[str, Any]) -> None:
    assert list(grid_imap(double, range(3000), **how)) == [2 * x for x in range(3000)]
    assert sorted(grid_imap_unordered(double, range(3000), **how)) == [2 * x for x in range(3000)]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("window", [1, 2, 7, 50, 400])
def test_an_endless_input_is_read_no_further_than_the_window(
    door: Callable[..., Any], window: int
) -> None:
    source = Counted(itertools.count())
    results = door(double, source, window=window, **THERE)
    assert source.read == 0
    for yielded in range(300):
        next(results)
        assert source.read - yielded <= window
    results.close()


@pytest.mark.parametrize("door", DOORS)
def test_one_process_reads_one_at_a_time(door: Callable[..., Any]) -> None:
    source = Counted(itertools.count())
    results = door(double, source, **HERE)
    for yielded in range(5):
        assert next(results) == 2 * yielded
        assert source.read == yielded + 1
    results.close()


def test_a_slow_consumer_holds_the_input_up(tmp_path: Path) -> None:
    def note(x: int) -> int:
        (tmp_path / str(x)).touch()
        return x

    source = Counted(itertools.count())
    results = grid_imap(note, source, window=20, **THERE)
    next(results)
    before = source.read
    until(lambda: len(list(tmp_path.iterdir())) == before, "all that was read has run")
    assert source.read == before <= 20
    results.close()


def test_large_arguments_and_values_are_fewer_at_a_time() -> None:
    source = Counted(np.ones(2_000_000) for _ in range(120))  # 16 MB each
    results = grid_imap(np.copy, source, **THERE)
    next(results)
    assert source.read < 40
    results.close()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", [list, iter])
def test_large_values_that_nobody_reads_are_few(
    door: Callable[..., Any], kind: Callable[[Any], Any], tmp_path: Path
) -> None:
    def large(x: int) -> bytes:
        (tmp_path / str(x)).touch()
        return bytes(16_000_000)

    results = door(large, kind(range(500)), **THERE)
    made = [0]

    def rests() -> bool:
        made.append(len(list(tmp_path.iterdir())))
        time.sleep(0.02)
        return len(made) > 25 and len(set(made[-25:])) == 1

    for _ in range(3):
        next(results)
        until(rests, "no more calls are made", 30)
    assert made[-1] <= 256 / 16 + 3 + 6
    results.close()


def test_the_first_values_come_before_a_slow_input_ends() -> None:
    seen: list[int] = []

    def slow() -> Iterator[int]:  # too slow to fill the window before the deadline
        deadline = time.monotonic() + 10
        for x in itertools.count():
            if seen:
                return
            assert time.monotonic() < deadline, "no value while the input was read"
            time.sleep(0.01)
            yield x

    source = Counted(slow())
    for value in grid_imap(double, source, **THERE):
        seen.append(value)
    assert seen == [2 * x for x in range(source.read)]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("making_s", [0, 0.3])
def test_an_input_that_needs_the_values_so_far_gets_them(
    door: Callable[..., Any], making_s: float
) -> None:
    seen: list[int] = []
    missed: list[int] = []

    def made_of_what_was_seen() -> Iterator[int]:
        for x in range(12):
            if len(seen) < x:  # waits in vain: who could yield it waits for this element
                missed.append(x)
                time.sleep(2)
            time.sleep(making_s)
            yield x

    for value in door(double, made_of_what_was_seen(), **THERE):
        seen.append(value)
    assert sorted(seen) == [2 * x for x in range(12)]
    assert len(missed) <= 8, missed  # the children start, and the machine may be busy


@pytest.mark.parametrize("door", DOORS)
def test_a_small_window_lets_an_input_depend_on_values(door: Callable[..., Any]) -> None:
    seen: list[int] = []

    def strict() -> Iterator[int]:
        for x in range(30):
            assert len(seen) == x
            yield x

    for value in door(double, strict(), window=1, **THERE):
        seen.append(value)
    assert seen == [2 * x for x in range(30)]


@pytest.mark.parametrize("door", DOORS)
def test_values_wait_for_one_slow_element_at_most(door: Callable[..., Any]) -> None:
    seen: list[int] = []
    late: list[int] = []

    def slow() -> Iterator[int]:
        yield from range(500)  # so packets have become large
        for x in range(500, 512):
            if x > 502 and len(seen) < x - 1:
                late.append(x)
            time.sleep(0.2)
            yield x

    for value in door(double, slow(), **THERE):
        seen.append(value)
    assert sorted(seen) == [2 * x for x in range(512)]
    assert len(late) <= 2, late  # the machine may be busy


@pytest.mark.parametrize("door", DOORS)
def test_values_come_in_the_order_of_the_input_or_as_they_end(
    door: Callable[..., Any], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    def first_waits(x: int) -> int:
        end = time.monotonic() + 10
        while x == 0 and not gate.exists() and time.monotonic() < end:
            time.sleep(0.005)
        return x

    results = door(first_waits, range(8), **THERE)
    if door is grid_imap:
        gate.touch()
        assert list(results) == list(range(8))
    else:
        assert next(results) != 0
        gate.touch()
        assert 0 in list(results)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("how", BOTH)
def test_early_close_and_garbage(door: Callable[..., Any], how: dict[str, Any]) -> None:
    results = door(double, itertools.count(), **how)
    next(results)
    results.close()
    assert not monitors()
    assert list(results) == []
    dropped = door(double, itertools.count(), **how)
    next(dropped)
    del dropped
    gc.collect()
    assert not monitors()
    for value in door(double, itertools.count(), **how):
        if value > 20:
            break
    door(double, itertools.count(), **how)  # never read


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("how", BOTH)
def test_an_input_that_fails_does_so_after_what_it_gave(
    door: Callable[..., Any], how: dict[str, Any]
) -> None:
    def broken(error: Exception, n: int) -> Iterator[int]:
        yield from range(n)
        raise error

    for n in (0, 1, 5, 700):
        got = []
        with pytest.raises(LookupError, match="the input broke"):
            for value in door(double, broken(LookupError("the input broke"), n), **how):
                got.append(value)
        assert sorted(got) == [2 * x for x in range(n)]


@pytest.mark.parametrize("door", DOORS)
def test_an_element_that_cannot_be_pickled(door: Callable[..., Any]) -> None:
    got = []
    with pytest.raises(PicklingError, match="call 3.*lock"):
        for value in door(type, [0, 1, 2, threading.Lock(), 4], **THERE):
            got.append(value)
    assert len(got) == 3


@pytest.mark.parametrize("how", BOTH)
def test_on_error(how: dict[str, Any]) -> None:
    got: list[Any] = []
    with pytest.raises(ValueError) as caught:
        for value in grid_imap(odd_ones_fail, range(9), **how):
            got.append(value)
    assert got == [0] or (how is THERE and got == [])  # another may fail before 1, and stop it
    assert caught.value.args[0] % 2
    for door in DOORS:
        got = []
        with pytest.raises(ValueError):
            for value in door(odd_ones_fail, range(9), on_error="finish", **how):
                got.append(value)
        assert sorted(got) == [0, 2, 4, 6, 8]
        back = list(door(odd_ones_fail, range(9), on_error="return", **how))
        assert sorted(x for x in back if isinstance(x, int)) == [0, 2, 4, 6, 8]
        assert sorted(x.args[0] for x in back if not isinstance(x, int)) == [1, 3, 5, 7]
        with pytest.raises(ValueError):
            list(door(odd_ones_fail, itertools.count(), **how))
    in_order = list(grid_imap(odd_ones_fail, range(9), on_error="return", **how))
    assert [type(x) for x in in_order[:4]] == [int, ValueError, int, ValueError]


def test_ordered_values_before_a_failure_are_never_skipped() -> None:
    def slow_then_failure(x: int) -> int:
        if x == 40:
            raise ValueError("fortieth")
        time.sleep(0.002)
        return x

    got = []
    with pytest.raises(ValueError, match="fortieth"):
        for value in grid_imap(slow_then_failure, itertools.count(), window=200, **THERE):
            got.append(value)
    assert got == list(range(len(got)))
    assert len(got) <= 40


def test_a_returned_exception_is_a_value() -> None:
    for how in BOTH:
        assert [type(x) for x in grid_imap(ValueError, range(3), **how)] == [ValueError] * 3


def test_a_death_is_raised() -> None:
    import os

    with pytest.raises(JobException, match="exited with"):
        list(grid_imap(os._exit, [4], **THERE))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("how", BOTH)
def test_a_mail_tells_of_the_end(
    door: Callable[..., Any], how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []

    def send(name: str, settings: Any, tally: Any) -> None:
        told.append((name, tally.completed, tally.failed))

    monkeypatch.setattr("gridmap.report.mail.send_completion_mail", send)
    results = door(double, range(3), name="my map", completion_mail=True, **how)
    next(results)
    assert told == []
    list(results)
    assert told == [("my_map", 3, 0)]
    early = door(double, range(3), completion_mail=True, **how)
    next(early)
    early.close()
    with pytest.raises(ValueError):
        list(door(odd_ones_fail, [0, 2, 1], name="odd", completion_mail=True, **how))
    list(door(double, range(3), **how))
    assert [one[::2] for one in told] == [("my_map", 0), ("odd", 1)]


def test_two_streams_at_once() -> None:
    one = grid_imap(double, range(200), **THERE)
    two = grid_imap(double, range(200), **THERE)
    assert list(zip(one, two, strict=True)) == [(2 * x, 2 * x) for x in range(200)]


def test_a_stream_as_the_input_of_another() -> None:
    inner = grid_imap(double, range(100), **THERE)
    assert list(grid_imap(double, inner, **THERE)) == [4 * x for x in range(100)]
