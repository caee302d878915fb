"""Values, functions and errors on this machine, in this process and in others."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gridmap
from gridmap import Job, grid_map, process_jobs
from gridmap.inline import _Home
from tests.doors.functions import Careful, Picky, Scaler, cached, odd_ones_fail

HERE = {"local": True, "max_processes": 1}
THERE = {"local": True, "max_processes": 8}
BOTH = [HERE, THERE]


@pytest.mark.parametrize("how", BOTH)
def test_whatever_can_be_called(how: dict[str, Any]) -> None:
    factor = 3
    functions = [
        lambda x: factor * x,
        Scaler(3).scale,
        Scaler(3),
        Scaler.triple,
        functools.partial(Scaler.scale, Scaler(3)),
        (3).__mul__,
        cached,
    ]
    for function in functions:
        assert grid_map(function, range(20), **how) == [3 * x for x in range(20)]
    assert grid_map(Scaler, [3], **how)[0].factor == 3


@pytest.mark.parametrize("how", BOTH)
def test_values_come_back_as_they_are(how: dict[str, Any]) -> None:
    values = [
        None, NotImplemented, Ellipsis, ..., 0, "", b"x" * 100, (), [], {}, {1}, float("inf"),
        1 << 200, int, len, np.float64(3), np.arange(4), np.array([]), True, "é\ud800",
    ]  # fmt: skip
    back = grid_map(lambda i: values[i], range(len(values)), **how)
    assert len(back) == len(values)
    for one, other in zip(back, values, strict=True):
        assert type(one) is type(other)
        assert np.all(one == other)


@pytest.mark.parametrize("on_error", ["raise", "finish", "return"])
@pytest.mark.parametrize("how", BOTH)
def test_a_returned_exception_is_a_value(how: dict[str, Any], on_error: str) -> None:
    def returned(x: int) -> Exception:
        return ValueError(x)

    jobs = [Job(returned, [i]) for i in range(5)]
    values = process_jobs(jobs, on_error=on_error, **how)
    assert [type(v) for v in values] == [ValueError] * 5
    assert [v.args for v in values] == [(i,) for i in range(5)]
    assert [job.cause_of_death for job in jobs] == [""] * 5
    assert [job.traceback for job in jobs] == [None] * 5


def test_big_arrays_both_ways() -> None:
    big = np.arange(4_000_000, dtype=np.float64)
    back = grid_map(lambda i, a: a + i, [[i, big] for i in range(4)], **THERE)
    for i, array in enumerate(back):
        assert np.array_equal(array, big + i)
        array[0] = -1  # is its receiver's
    assert big[0] == 0


def test_many_small_calls() -> None:
    assert grid_map(abs, range(-50_000, 0), **THERE) == list(range(50_000, 0, -1))


def test_calls_that_become_slow_all_at_once_are_shared() -> None:
    def f(i: int) -> tuple[int, int, float]:
        if i >= 20_000:
            time.sleep(0.1)
        return i, os.getpid(), time.monotonic()

    got = grid_map(f, range(20_040), local=True, max_processes=4)
    assert [i for i, _, _ in got] == list(range(20_040))
    slow = got[20_000:]
    assert len({pid for _, pid, _ in slow}) >= 3
    ended = [at for _, _, at in slow]
    assert max(ended) - min(ended) < 3.0  # 3.9 s one after the other, 0.9 s shared


@pytest.mark.parametrize("how", BOTH)
def test_jobs_of_different_functions(how: dict[str, Any]) -> None:
    jobs = []
    for i in range(60):
        jobs.append(Job([abs, str, Scaler(i).scale][i % 3], [i], h_rt=3600 * (1 + i % 2)))
    expected = [[i, str(i), i * i][i % 3] for i in range(60)]
    assert process_jobs(jobs, **how) == expected


# --- in this process ------------------------------------------------------------------------------


def test_one_process_is_this_one(capsys: pytest.CaptureFixture[str]) -> None:
    def told(x: int) -> int:
        print("call", x)
        return os.getpid()

    assert set(grid_map(told, range(3), **HERE)) == {os.getpid()}
    assert capsys.readouterr().out == "call 0\ncall 1\ncall 2\n"
    for on_error in ("raise", "finish", "return"):
        pids = gridmap.grid_imap(told, range(3), on_error=on_error, **HERE)
        assert set(pids) == {os.getpid()}


def test_what_a_call_does_to_its_environment_the_next_does_not_see(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOORS_MARK", "mine")
    monkeypatch.chdir(tmp_path)

    def moves(x: int) -> tuple[str | None, str]:
        seen = os.environ.get("DOORS_MARK"), os.getcwd()
        os.environ["DOORS_MARK"] = str(x)
        os.chdir("/")
        return seen

    assert grid_map(moves, range(3), **HERE) == [("mine", str(tmp_path))] * 3


def test_a_job_at_home_changes_nothing() -> None:
    """Or each call would take as long as the environment has variables."""
    home = _Home()
    assert home.suits(Job(abs, [1])) and not home.suits(Job(abs, [1], add_env={"DOORS": "1"}))


def test_several_processes_are_others() -> None:
    def told(x: int) -> int:
        time.sleep(0.01)
        return os.getpid()

    pids = set(grid_map(told, range(100), **THERE))
    assert os.getpid() not in pids
    assert 2 <= len(pids) <= 8


def test_debugger(tmp_path: Path) -> None:
    script = tmp_path / "debugged.py"
    script.write_text(
        "import gridmap\n"
        "def f(x):\n"
        "    breakpoint()\n"
        "    return x\n"
        "print('got', gridmap.grid_map(f, [41], local=True, max_processes=1))\n"
    )
    for start in (["-m", "pdb", "-c", "continue"], []):
        done = subprocess.run(
            [sys.executable, *start, str(script)],
            input="p 'x is', x\nc\nq\n" if start else "p 'x is', x\nc\n",
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert "('x is', 41)" in done.stdout, done.stderr
        assert "got [41]" in done.stdout


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", BOTH)
def test_an_exception_is_raised_as_itself(how: dict[str, Any]) -> None:
    def fails(x: int) -> int:
        if x == 3:
            try:
                raise KeyError("inner one")
            except KeyError as error:
                raise Careful(7, "the door") from error
        return x

    with pytest.raises(Careful) as caught:
        grid_map(fails, range(6), **how)
    assert caught.value.args == (7, "the door") and caught.value.code == 7
    if how is THERE:
        text = str(caught.value.__cause__)
        assert isinstance(caught.value.__cause__, gridmap.RemoteTraceback)
        assert "inner one" in text and "in fails" in text and "direct cause" in text
        assert "gridmap/node" not in text


def test_an_exception_that_its_class_cannot_make_again_is_raised_as_itself() -> None:
    def fails(x: int) -> None:
        raise Picky(5, where="home")

    with pytest.raises(Picky, match="5 at home") as caught:
        grid_map(fails, [1], **THERE)
    assert (caught.value.code, caught.value.where) == (5, "home")
    assert "in fails" in str(caught.value.__cause__)


def test_an_exception_that_cannot_travel_is_told_by_name() -> None:
    def fails(x: int) -> None:
        error = Picky(5, where="home")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(gridmap.JobException, match=r"Picky: 5 at home") as caught:
        grid_map(fails, [1], **THERE)
    assert caught.value.cause is gridmap.Cause.EXCEPTION
    assert "in fails" in str(caught.value.__cause__)


def test_an_exception_of_main_keeps_its_type(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import gridmap\n"
        "class Mine(Exception):\n"
        "    pass\n"
        "def f(x):\n"
        "    raise Mine(x)\n"
        "try:\n"
        "    gridmap.grid_map(f, [41, 42], local=True, max_processes=2)\n"
        "except Mine as error:\n"
        "    print(type(error) is Mine, error.args)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("True (4"), done.stderr


@pytest.mark.parametrize("how", BOTH)
def test_on_error(how: dict[str, Any], tmp_path: Path) -> None:
    def marks(x: int) -> int:
        (tmp_path / str(x)).touch()
        return odd_ones_fail(x)

    with pytest.raises(ValueError) as caught:
        grid_map(marks, range(9), on_error="finish", **how)
    assert caught.value.args == (1,)
    assert len(list(tmp_path.iterdir())) == 9
    jobs = [Job(marks, [i]) for i in range(9)]
    back = process_jobs(jobs, on_error="return", **how)
    assert [x for x in back if not isinstance(x, ValueError)] == [0, 2, 4, 6, 8]
    assert [x.args[0] for x in back[1::2]] == [1, 3, 5, 7]
    with pytest.raises(ValueError):
        grid_map(marks, range(9), on_error="raise", **how)


def test_raise_stops_the_rest(tmp_path: Path) -> None:
    def marks(x: int) -> int:
        (tmp_path / str(x)).touch()
        time.sleep(0.005)
        return odd_ones_fail(x)

    with pytest.raises(ValueError):
        grid_map(marks, range(2000), **THERE)
    assert len(list(tmp_path.iterdir())) < 500


@pytest.mark.parametrize("how", BOTH)
def test_keyboard_interrupt_and_generator_exit_of_a_job(how: dict[str, Any]) -> None:
    def interrupts(x: int) -> None:
        raise KeyboardInterrupt

    kind = KeyboardInterrupt if how is HERE else gridmap.JobException
    with pytest.raises(kind):
        grid_map(interrupts, [1], **how)
