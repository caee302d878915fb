"""A client that is interrupted, terminated, killed or just over leaves nothing behind."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from tests.doors.clients import client, until

HEAD = """
import itertools, os, signal, subprocess, sys, threading, time
import gridmap
from gridmap import Job

HERE = os.environ["HERE"]
LOCAL = dict(local=True, max_processes=2)

def busy(x):
    child = subprocess.Popen(["sleep", "1000"])
    with open(os.path.join(HERE, "started"), "a") as file:
        file.write("x")
    child.wait()

def quick(x):
    return x

def ready():
    while not os.path.exists(os.path.join(HERE, "started")):
        time.sleep(0.005)
    with open(os.path.join(HERE, "ready"), "w") as file:
        file.write("ready")
"""

CALLS = {
    "process_jobs": "gridmap.process_jobs([Job(busy, [i]) for i in range(3)], **LOCAL)",
    "grid_map": "gridmap.grid_map(busy, range(3), **LOCAL)",
    "launched": "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    "gridmap.grid_map(busy, range(3), **LOCAL)",
    "in a thread": "t = threading.Thread(target=lambda: gridmap.grid_map(busy, range(3), **LOCAL),"
    " daemon=True)\nt.start()\nready()\nt.join()",
    "nested": "gridmap.grid_map(lambda x: gridmap.grid_map(busy, range(2), **LOCAL), range(2),"
    " **LOCAL)",
    "imap": "it = gridmap.grid_imap(lambda x: x if x < 5 else busy(x), itertools.count(),"
    " window=40, **LOCAL)\nnext(it)\nready()\ntime.sleep(1000)",
    "imap waiting": "it = gridmap.grid_imap(lambda x: x if x < 5 else busy(x), itertools.count(),"
    " window=40, **LOCAL)\nlist(it)",
    "submit": "run = gridmap.submit([Job(busy, [i]) for i in range(3)], **LOCAL)\nready()\n"
    "time.sleep(1000)",
    "wait": "run = gridmap.submit([Job(busy, [i]) for i in range(3)], **LOCAL)\nrun.wait()",
    "one process": "gridmap.grid_map(busy, range(3), local=True)",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("call", CALLS)
def test_signals(tmp_path: Path, call: str, number: int) -> None:
    with client(tmp_path / "client", HEAD + CALLS[call]) as one:
        one.file("started")
        if "ready()" in CALLS[call]:
            one.file("ready")
        begun = time.monotonic()
        one.signal(number)
        status = one.ended(2.0)
        if number == signal.SIGINT:
            assert status in (130, -signal.SIGINT)
            assert "KeyboardInterrupt" in one.err
        else:
            assert status in (128 + number, -number)
        if call == "one process":  # what a job starts in the client is the client's affair
            return
        one.left_nothing(2.0 - (time.monotonic() - begun) + 0.5)


@pytest.mark.parametrize("call", ["process_jobs", "launched", "nested", "imap", "submit"])
def test_kill_9_of_the_client(tmp_path: Path, call: str) -> None:
    with client(tmp_path / "client", HEAD + CALLS[call]) as one:
        one.file("started")
        one.signal(signal.SIGKILL)
        assert one.ended(2) == -signal.SIGKILL
        one.left_nothing(3)


RUN = "run = gridmap.submit([Job(busy, [i]) for i in range(3)], **LOCAL)\nready()\n"
ENDS = {
    "the end": (RUN, 0),
    "the end of a half-read stream": (
        "it = gridmap.grid_imap(lambda x: x if x < 5 else busy(x), itertools.count(), window=40,"
        " **LOCAL)\nnext(it)\nready()",
        0,
    ),
    "sys.exit": (RUN + "sys.exit(7)", 7),
    "an exception": (RUN + "1 / 0", 1),
    "an exception in the block": (
        "with gridmap.submit([Job(busy, [i]) for i in range(3)], **LOCAL) as run:\n"
        "    ready()\n    1 / 0",
        1,
    ),
    "sys.exit in a thread, then the end": (
        RUN + "threading.Thread(target=sys.exit).start()",
        0,
    ),
    "os._exit": (RUN + "os._exit(5)", 5),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_a_program(tmp_path: Path, how: str) -> None:
    text, expected = ENDS[how]
    with client(tmp_path / "client", HEAD + text) as one:
        one.file("ready")
        assert one.ended(2) == expected, one.err
        one.left_nothing()
        assert ("ZeroDivisionError" in one.err) == ("1 / 0" in text)
        assert one.err.count("Traceback") == ("1 / 0" in text), one.err


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("gap_s", [0, 0.0002, 0.002, 0.02, 0.05, 0.15])
def test_interrupted_twice(tmp_path: Path, second: int, gap_s: float) -> None:
    with client(tmp_path / "client", HEAD + CALLS["grid_map"]) as one:
        one.file("started")
        one.signal(signal.SIGINT)
        threading.Event().wait(gap_s)
        if one.process.poll() is None:
            one.signal(second)
        assert one.ended(2) in (130, -signal.SIGINT, 143, -signal.SIGTERM)
        one.left_nothing()


def test_a_caught_interrupt_lets_the_program_go_on(tmp_path: Path) -> None:
    text = HEAD + (
        "try:\n"
        "    gridmap.grid_map(busy, range(3), **LOCAL)\n"
        "except KeyboardInterrupt:\n"
        "    print('caught', threading.active_count())\n"
        "print(gridmap.grid_map(quick, range(3), **LOCAL))\n"
        "fatal = signal.SIGTERM, signal.SIGHUP\n"
        "print(all(signal.getsignal(one) is signal.SIG_DFL for one in fatal))\n"
    )
    with client(tmp_path / "client", text) as one:
        one.file("started")
        one.signal(signal.SIGINT)
        assert one.ended(4) == 0, one.err
        assert one.out == "caught 1\n[0, 1, 2]\nTrue\n"
        one.left_nothing()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_handler_of_the_users_own_is_the_one_that_counts(tmp_path: Path, name: str) -> None:
    text = HEAD + (
        "def handler(number, frame):\n"
        "    open(os.path.join(HERE, 'handled'), 'w').write('yes')\n"
        f"signal.signal(signal.{name}, handler)\n"
        "def waits(x):\n"
        "    open(os.path.join(HERE, 'started'), 'a').write('x')\n"
        "    while not os.path.exists(os.path.join(HERE, 'handled')):\n"
        "        time.sleep(0.005)\n"
        "    return x\n"
        "print(gridmap.grid_map(waits, range(3), **LOCAL))\n"
        f"print(signal.getsignal(signal.{name}) is handler)\n"
    )
    with client(tmp_path / "client", text) as one:
        one.file("started")
        one.signal(getattr(signal, name))
        assert one.ended(5) == 0, one.err
        assert one.out == "[0, 1, 2]\nTrue\n"
        one.left_nothing()


def test_a_program_under_nohup_is_not_ended_by_a_hangup(tmp_path: Path) -> None:
    text = HEAD + (
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "def hangs_up(x):\n"
        "    os.kill(int(os.environ['CLIENT']), signal.SIGHUP)\n"
        "    return x\n"
        "os.environ['CLIENT'] = str(os.getpid())\n"
        "print(gridmap.grid_map(hangs_up, range(3), **LOCAL))\n"
    )
    with client(tmp_path / "client", text) as one:
        assert one.ended(10) == 0, one.err
        assert one.out == "[0, 1, 2]\n"


def test_a_handler_set_during_a_run_stays(tmp_path: Path) -> None:
    text = HEAD + (
        "run = gridmap.submit([Job(quick, [1])], **LOCAL)\n"
        "def handler(number, frame): pass\n"
        "signal.signal(signal.SIGTERM, handler)\n"
        "run.results()\n"
        "print(signal.getsignal(signal.SIGTERM) is handler)\n"
    )
    with client(tmp_path / "client", text) as one:
        assert one.ended(10) == 0, one.err
        assert one.out == "True\n"


def test_a_job_that_ignores_signals_is_ended_all_the_same(tmp_path: Path) -> None:
    text = HEAD + (
        "def stubborn(x):\n"
        "    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        "    busy(x)\n"
        "gridmap.grid_map(stubborn, range(3), **LOCAL)\n"
    )
    with client(tmp_path / "client", text) as one:
        one.file("started")
        one.signal(signal.SIGINT)
        assert one.ended(2) in (130, -signal.SIGINT)
        one.left_nothing()


def test_an_interrupt_while_the_arguments_are_made(tmp_path: Path) -> None:
    text = HEAD + (
        "def slow():\n"
        "    yield 1\n"
        "    open(os.path.join(HERE, 'started'), 'w').write('x')\n"
        "    time.sleep(1000)\n"
        "list(gridmap.DOOR(quick, slow(), **LOCAL))\n"
    )
    for door in ("grid_map", "grid_imap"):
        with client(tmp_path / door, text.replace("DOOR", door)) as one:
            one.file("started")
            one.signal(signal.SIGINT)
            assert one.ended(2) in (130, -signal.SIGINT)
            one.left_nothing()


def test_runs_in_threads_end_with_the_program(tmp_path: Path) -> None:
    text = HEAD + (
        "threads = [threading.Thread(target=lambda: gridmap.grid_map(busy, range(2), **LOCAL))\n"
        "           for _ in range(3)]\n"
        "for t in threads: t.daemon = True; t.start()\n"
        "ready()\n"
    )
    with client(tmp_path / "client", text) as one:
        one.file("ready")
        assert one.ended(2) == 0
        one.left_nothing()
        until(lambda: not one.family(), "nothing is left")
