"""What becomes of calls in real child processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridmap import errors
from gridmap.core import effects as do
from gridmap.core.messages import Key, Outcome, Recall
from gridmap.data import Context
from gridmap.node.calls import FLUSH_INTERVAL_S
from tests.node.driver import Driver, alive, wait_for

VALUE, EXCEPTION, DIED = Outcome.VALUE, Outcome.EXCEPTION, Outcome.DIED
UNPICKLABLE, UNREADABLE, RETURNED = Outcome.UNPICKLABLE, Outcome.UNREADABLE, Outcome.RETURNED


@pytest.fixture(params=["fork", "launch"])
def node(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with Driver(launch=request.param == "launch") as driver:
        yield driver


@pytest.fixture
def forked() -> Iterator[Driver]:
    with Driver() as driver:
        yield driver


def test_values_of_many_kinds_come_in_order(node: Driver) -> None:
    elements = [1, "a", None, [[1, 2]], (3, 4), np.arange(3), ValueError("returned")]
    got = node.run(lambda x: x, elements)
    assert [outcome for outcome, _ in got] == [VALUE] * 7
    values = [value for _, value in got]
    assert values[:5] == [1, "a", None, [1, 2], (3, 4)]
    assert values[5].tolist() == [0, 1, 2] and isinstance(values[6], ValueError)


def test_many_small_calls_come_as_few_results(forked: Driver) -> None:
    got = forked.run(lambda x: 2 * x, range(20_000))
    assert got == [(VALUE, 2 * i) for i in range(20_000)]
    assert len(forked.outcomes.items) < 50


def seconds_of(driver: Driver) -> dict[int, float]:
    """Returns the time of each job, as its result tells it."""
    return {
        item.first + at: item.seconds / item.count
        for item in driver.outcomes.items
        for at in range(item.count)
    }


@pytest.mark.parametrize("kind", [int, lambda x: {x}], ids=["atoms", "pickled"])
def test_a_long_call_has_its_own_time(forked: Driver, kind: Callable[[int], Any]) -> None:
    def call(x: int) -> Any:
        time.sleep(0.3 if x == 20 else 0.001)
        return kind(x)

    assert forked.run(call, range(40)) == [(VALUE, kind(x)) for x in range(40)]
    took = seconds_of(forked)
    assert 0.29 < took.pop(20) < 0.5 and max(took.values()) < 0.1


def test_a_call_that_raises_has_its_own_time(forked: Driver) -> None:
    def call(x: int) -> int:
        time.sleep(0.3 if x == 20 else 0.001)
        return 1 // (x - 20)

    got = forked.run(call, range(40))
    assert [x for x, (outcome, _) in enumerate(got) if outcome is EXCEPTION] == [20]
    took = seconds_of(forked)
    assert 0.29 < took.pop(20) < 0.5 and max(took.values()) < 0.1


def test_an_exception_concerns_its_job_alone(node: Driver) -> None:
    got = node.run(lambda x: 6 // x, [1, 0, 2])
    assert (got[0], got[2]) == ((VALUE, 6), (VALUE, 3))
    assert got[1][0] is EXCEPTION and isinstance(got[1][1], ZeroDivisionError)
    text = str(got[1][1].__cause__)
    assert "6 // x" in text and "gridmap/node" not in text


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("end", ["raises", "leaves", "lock", "large"])
def test_a_call_takes_its_own_time_and_not_that_of_others(
    forked: Driver, plain: bool, end: str
) -> None:
    """What came before it in its packet is answered only when it has ended, and took no time."""

    def f(x: Any) -> Any:
        if x not in (2, [2]):
            return 1
        time.sleep(0.3)
        if end == "raises":
            raise LookupError(x)
        if end == "leaves":
            sys.exit(3)
        return threading.Lock() if end == "lock" else b"x" * 1_000_000

    forked.run(f, range(4) if plain else [[n] for n in range(4)])
    took = {item.first: item.seconds for item in forked.outcomes.items}
    assert took[2] > 0.29, took
    assert sum(seconds for first, seconds in took.items() if first < 2) < took[2], took


@pytest.mark.parametrize(
    ("death", "exit_status", "signum"),
    [
        (lambda: ctypes.string_at(0), -1, signal.SIGSEGV),
        (lambda: os._exit(3), 3, 0),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -1, signal.SIGKILL),
        (lambda: os.closerange(3, 256) or time.sleep(60), None, None),
    ],
)
def test_a_death_names_its_culprit_and_the_rest_goes_on(
    forked: Driver, death: Any, exit_status: int | None, signum: int | None
) -> None:
    def f(x: int) -> int:
        if x == 5:
            death()
        return x

    got = forked.run(f, range(10))
    assert got[5][0] is DIED
    if exit_status is not None:
        assert (got[5][1].exit_status, got[5][1].signal) == (exit_status, signum)
    assert {outcome for i, (outcome, _) in enumerate(got) if i != 5} <= {VALUE, RETURNED}
    assert [outcome for outcome, _ in got[6:]] == [RETURNED] * 4
    assert forked.run(f, [1, 2]) == [(VALUE, 1), (VALUE, 2)]


def test_sys_exit_ends_its_job_and_not_the_child(forked: Driver) -> None:
    def f(x: int) -> int:
        if x == 1:
            sys.exit(4)
        return os.getpid()

    before, exited, after = forked.run(f, range(3))
    assert exited[0] is DIED and exited[1].exit_status == 4 and "sys.exit(4)" in exited[1].text
    assert before == after


def test_other_base_exceptions_are_exceptions_of_the_job(forked: Driver) -> None:
    def f(kind: str) -> None:
        raise {"k": KeyboardInterrupt, "g": GeneratorExit}[kind]

    for outcome, error in forked.run(f, "kg"):
        assert outcome is EXCEPTION and isinstance(error, errors.JobException)


def test_values_and_exceptions_that_cannot_be_pickled_say_so(forked: Driver) -> None:
    class Odd:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    def f(x: int) -> Any:
        return Odd() if x == 1 else x

    got = forked.run(f, range(3))
    assert (got[0], got[2]) == ((VALUE, 0), (VALUE, 2))
    assert got[1][0] is UNPICKLABLE and "attribute .lock" in got[1][1] and "Odd" in got[1][1]


def test_arguments_that_cannot_be_unpickled_concern_their_job_alone(forked: Driver) -> None:
    got = forked.run(lambda x: 1, [[[1]], [OnlyHere()], [[2]]])
    assert [outcome for outcome, _ in got] == [VALUE, UNREADABLE, VALUE]
    assert "only in the client" in got[1][1]


class OnlyHere:
    def __reduce__(self) -> Any:
        return (_refuse, (os.getpid(),))


def _refuse(pid: int) -> int:
    if os.getpid() != pid:
        raise RuntimeError("only in the client")
    return pid


def test_a_function_whose_module_is_missing_says_so(forked: Driver) -> None:
    forked.blobs["0" * 64] = [b"cno_such_module\nf\n."]
    forked.blob = lambda frames: "0" * 64  # type: ignore[method-assign]
    got = forked.run(len, range(3))
    assert [outcome for outcome, _ in got] == [UNREADABLE] * 3
    assert "no_such_module" in got[0][1]


def test_what_a_job_changes_no_other_job_sees(forked: Driver) -> None:
    shared = {"seen": 0}

    def f(argument: dict[str, int], keep: list[Any] = []) -> dict[str, int]:  # noqa: B006
        argument["seen"] += 1
        keep.append(argument)
        for old in keep[:-1]:
            old["seen"] = -1  # values returned before must not change
        return argument

    got = forked.run(f, [shared] * 5)
    assert got == [(VALUE, {"seen": 1})] * 5


def test_a_large_array_returned_again_and_again_is_each_time_what_it_was(forked: Driver) -> None:
    def f(x: int, keep: list[Any] = []) -> np.ndarray:  # noqa: B006
        if not keep:
            keep.append(np.zeros(100_000))
        keep[0][:] = x
        return keep[0]

    got = forked.run(f, range(5))
    assert [value[-1] for _, value in got] == [0, 1, 2, 3, 4]


def test_large_data_both_ways_at_once_does_not_deadlock(node: Driver) -> None:
    elements = [np.full(10_000_000, i, np.uint8) for i in range(4)]
    got = node.run(lambda a: a + 1, elements)
    assert [(v.nbytes, int(v[0])) for _, v in got] == [(10_000_000, i + 1) for i in range(4)]


def test_results_are_streamed_before_the_lease_ends(forked: Driver, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def f(x: int) -> int:
        due = time.monotonic() + FLUSH_INTERVAL_S
        wait_for(lambda: gate.exists() if x == 3 else time.monotonic() >= due)
        return x

    forked.lease(f, range(4))
    forked.until(lambda: 2 in forked.outcomes.of)
    assert 3 not in forked.outcomes.of
    gate.touch()
    forked.until(lambda: 3 in forked.outcomes.of)


@pytest.mark.parametrize("plain", [True, False])
def test_a_lease_that_is_recalled_ends_after_the_call_that_runs(
    node: Driver, tmp_path: Path, plain: bool
) -> None:
    gate = tmp_path / "gate"

    def f(x: Any) -> tuple[int, int]:
        time.sleep(FLUSH_INTERVAL_S)
        wait_for(gate.exists)
        return int(np.sum(x)), os.getpid()

    elements = range(6000) if plain else (np.array([i]) for i in range(6000))
    stop = node.lease(f, elements)
    node.until(lambda: node.pids() and node.runtime._children[0].current == 0)
    for count in (stop, stop - 1):  # the second one is of no lease of ours
        node.tell(Recall([Key(0, count, node.attempt)]))
    for _ in range(3):
        node.turn()
    gate.touch()
    node.until(lambda: len(node.outcomes.of) == stop)
    ran = [value for outcome, value in node.outcomes.of.values() if outcome is VALUE]
    assert [value for value, _ in ran] == list(range(len(ran))) and 0 < len(ran) < 5
    assert [node.outcomes.of[i] for i in range(len(ran), stop)] == [(RETURNED, None)] * (
        stop - len(ran)
    )
    again = node.run(f, [7, 8], first=stop)
    assert again == [(VALUE, (7, ran[0][1])), (VALUE, (8, ran[0][1]))], "the same process goes on"


def test_a_word_to_end_another_lease_is_passed_over(forked: Driver) -> None:
    def f(x: int) -> int:
        time.sleep(FLUSH_INTERVAL_S)
        return x

    def end_early(first: int, attempt: int) -> None:
        key = Key(first, 3, attempt)
        forked.runtime._do_end_early(do.EndEarly(0, key), time.monotonic())

    assert forked.run(f, [0]) == [(VALUE, 0)]
    end_early(0, forked.attempt)  # between two leases
    forked.lease(f, range(3), first=1)
    forked.until(lambda: forked.runtime._children[0].current == 1)
    end_early(0, forked.attempt)  # of the one before
    end_early(1, forked.attempt + 1)
    forked.until(lambda: len(forked.outcomes.of) == 4)
    assert set(forked.outcomes.of.values()) == {(VALUE, i) for i in range(3)}
    assert forked.run(f, [5], first=9) == [(VALUE, 5)]


def test_without_reuse_each_lease_has_a_fresh_process(forked: Driver) -> None:
    pids = [forked.run(lambda x: os.getpid(), [0], first=i, reuse=False)[0][1] for i in range(5)]
    assert len(set(pids)) == 5
    again = {forked.run(lambda x: os.getpid(), [0], first=i)[0][1] for i in (10, 11)}
    assert len(again) == 1


def test_a_job_runs_in_the_clients_context(node: Driver, tmp_path: Path) -> None:
    (tmp_path / "gm_test_module.py").write_text("ANSWER = 42\n")
    context = Context({"PATH": "/bin", "GM_TEST": "é=1"}, str(tmp_path), [str(tmp_path)])

    def f(x: int) -> Any:
        import gm_test_module

        found = (dict(os.environ), os.getcwd(), gm_test_module.ANSWER)
        os.environ["GM_TEST"] = "changed"
        os.chdir("/")
        return found

    for first in (0, 1):
        ((outcome, (environ, folder, answer)),) = node.run(f, [0], first=first, context=context)
        assert (outcome, environ.get("GM_TEST"), folder, answer) == (
            VALUE,
            "é=1",
            str(tmp_path),
            42,
        )
        assert "HOME" not in environ


def test_a_missing_working_directory_is_named(forked: Driver) -> None:
    got = forked.run(abs, [1, 2], context=Context(None, "/no/such/folder"))
    assert [outcome for outcome, _ in got] == [EXCEPTION] * 2
    for _, error in got:
        assert isinstance(error, FileNotFoundError) and "/no/such/folder" in str(error)


def test_user_code_cannot_disturb_the_protocol(forked: Driver, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def f(x: int) -> int:
        print("noise")
        if x == 0:
            os.close(0)
        if x == 2 and os.fork() == 0:
            return -1  # comes back into the child's loop
        with log.open("a") as file:
            file.write(f"{x} {os.getpid()}\n")
        return x

    got = forked.run(f, range(6))
    assert [value for _, value in got] == list(range(6))
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [x for x, _ in lines] == list("012345") and len({pid for _, pid in lines}) == 1


def test_user_code_may_use_multiprocessing(forked: Driver) -> None:
    def f(x: int) -> int:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return sum(pool.map(abs, range(x)))

    assert forked.run(f, [5, 6]) == [(VALUE, 10), (VALUE, 15)]


def test_a_job_may_have_a_forkserver_of_its_own(forked: Driver) -> None:
    def f(x: int) -> Any:
        with Driver() as inner:
            return inner.run(lambda y: y + 1, range(x))

    ((outcome, value),) = forked.run(f, [3])
    assert outcome is VALUE and [v for _, v in value] == [1, 2, 3]


def test_children_draw_different_random_numbers(tmp_path: Path) -> None:
    with Driver(children=2) as node:

        def f(x: int) -> Any:
            (tmp_path / str(os.getpid())).touch()
            wait_for(lambda: len(list(tmp_path.iterdir())) == 2)  # both run at once
            return os.getpid(), float(np.random.random())

        for i in range(2):
            node.lease(f, [0], first=i)
        node.until(lambda: len(node.outcomes.of) == 2)
        (_, (pid0, number0)), (_, (pid1, number1)) = node.outcomes.of[0], node.outcomes.of[1]
        assert pid0 != pid1 and number0 != number1


def test_what_a_dead_child_started_ends_with_it(forked: Driver, tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def f(x: int) -> None:
        import subprocess

        note.write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        os._exit(1)

    forked.run(f, [0])
    wait_for(lambda: not alive(int(note.read_text())))
