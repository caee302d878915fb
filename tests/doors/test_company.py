"""GridMap among others: threads, runs inside runs, kernels, consoles, unusual clients."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import grid_map
from tests.doors.clients import client

THERE = {"local": True, "max_processes": 2}


def outcome(folder: Path, text: str, *command: str, within_s: float = 20) -> str:
    """Runs a program to its end; returns what it printed, and checks that it left nothing."""
    with client(folder / "client", text, *command) as one:
        status = one.ended(within_s)
        assert status == 0, one.err + one.out
        assert "Traceback" not in one.err and "Warning" not in one.err, one.err
        one.left_nothing()
        return one.out


# --- several at once ------------------------------------------------------------------------------


def test_several_runs_from_threads() -> None:
    def run(n: int) -> list[int]:
        return grid_map(lambda x: x * n, range(50), **THERE)

    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(run, range(5))) == [[x * n for x in range(50)] for n in range(5)]


def test_a_failure_in_one_run_leaves_the_other_alone() -> None:
    def run(bad: bool) -> Any:
        f = (lambda x: 1 // 0) if bad else (lambda x: x)
        try:
            return grid_map(f, range(30), **THERE)
        except ZeroDivisionError:
            return "failed"

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(run, [True, False])) == ["failed", list(range(30))]


@pytest.mark.parametrize(("outer", "inner"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_map_inside_a_job(outer: int, inner: int) -> None:
    def nested(n: int) -> list[int]:
        return gridmap.grid_map(lambda x: x + n, range(4), local=True, max_processes=inner)

    expected = [[x + n for x in range(4)] for n in range(3)]
    assert grid_map(nested, range(3), local=True, max_processes=outer) == expected


def test_a_map_inside_a_thread_of_a_job() -> None:
    def nested(n: int) -> list[int]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(
                gridmap.grid_map, lambda x: x + n, range(4), local=True, max_processes=2
            )
            return call.result()

    assert grid_map(nested, range(2), **THERE) == [[x + n for x in range(4)] for n in range(2)]


def test_a_job_may_use_other_pools() -> None:
    def pooled(n: int) -> list[int]:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-n, n])

    assert grid_map(pooled, range(3), **THERE) == [[n, n] for n in range(3)]


def test_a_client_with_threads() -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        before = set(threading.enumerate())
        factor = 3
        assert grid_map(lambda x: factor * x, range(9), **THERE) == [3 * x for x in range(9)]
        assert set(threading.enumerate()) == before
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# --- ways to start a program ----------------------------------------------------------------------

UNGUARDED = """
import sys, threading
import gridmap

class Point:
    def __init__(self, x):
        self.x = x

def move(point, by=1):
    return Point(point.x + by)

LIMIT = 4
print("started")
if "threads" in sys.argv:
    stop = threading.Event()
    threading.Thread(target=stop.wait).start()
moved = gridmap.grid_map(move, [Point(i) for i in range(LIMIT)], local=True, max_processes=8)
print([point.x for point in moved], {type(point) is Point for point in moved})
if "threads" in sys.argv:
    stop.set()
"""
EXPECTED = "started\n[1, 2, 3, 4] {True}\n"


@pytest.mark.parametrize("threads", [[], ["threads"]])
def test_a_script_without_a_guard(tmp_path: Path, threads: list[str]) -> None:
    for number, command in enumerate((["client.py"], ["-m", "client"])):
        out = outcome(tmp_path / str(number), UNGUARDED, *command, *threads)
        assert out == EXPECTED
    assert outcome(tmp_path / "c", UNGUARDED, "-c", UNGUARDED, *threads) == EXPECTED
    assert outcome(tmp_path / "stdin", UNGUARDED, "-", *threads) == EXPECTED


def test_a_console(tmp_path: Path) -> None:
    text = """
import code, sys
lines = iter('''import gridmap
def f(x):
    return x + 1

print(gridmap.grid_map(f, range(4), local=True, max_processes=2))
print(gridmap.grid_map(lambda x: -x, range(3), local=True, max_processes=2))'''.splitlines())
def read(prompt):
    try:
        return next(lines)
    except StopIteration:
        raise EOFError from None
import types
module = types.ModuleType("__main__")
sys.modules["__main__"] = module
console = code.InteractiveConsole(module.__dict__)
console.raw_input = read
console.interact(banner="", exitmsg="")
"""
    assert outcome(tmp_path, text) == "[1, 2, 3, 4]\n[0, -1, -2]\n"


CELLS = [
    "import gridmap, os, threading\ndef f(x):\n    return x + 1",
    "print(gridmap.grid_map(f, range(5), local=True, max_processes=3))",
    "factor = 7\nprint(gridmap.grid_map(lambda x: factor * x, range(3), local=True))",
    "class P:\n    pass\nq = gridmap.grid_map(lambda x: P(), [1], local=True, max_processes=2)\n"
    "print(type(q[0]) is P)",
    "it = gridmap.grid_imap(f, iter(range(10)), local=True, max_processes=2); print(next(it))",
    "try:\n    gridmap.grid_map(lambda x: 1 // x, [0], local=True, max_processes=2)\n"
    "except ZeroDivisionError as e:\n    print('caught', e)",
]


def test_a_jupyter_kernel(tmp_path: Path) -> None:
    manager = pytest.importorskip("jupyter_client", reason="needs jupyter_client")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    said: list[str] = []

    def note(message: Any) -> None:
        content = message["content"]
        if message["msg_type"] == "stream" and content["name"] == "stdout":
            said.append(content["text"])
        assert message["msg_type"] != "error", json.dumps(content)

    kernel = manager.KernelManager(kernel_name="python3")
    kernel.start_kernel(cwd=str(tmp_path), env={**os.environ, "IPYTHONDIR": str(tmp_path)})
    shell = kernel.client()
    shell.start_channels()
    try:
        shell.wait_for_ready(timeout=30)
        for cell in CELLS:
            shell.execute_interactive(cell, output_hook=note, timeout=30)
    finally:
        shell.stop_channels()
        kernel.shutdown_kernel(now=True)
    expected = "[1, 2, 3, 4, 5]\n[0, 7, 14]\nTrue\n1\ncaught integer division or modulo by zero\n"
    assert "".join(said) == expected


# --- unusual clients ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_multiprocessing_child_as_the_client(tmp_path: Path, method: str) -> None:
    text = f"""
import multiprocessing as mp
import gridmap

def work(queue):
    queue.put(gridmap.grid_map(lambda x: x + 1, range(4), local=True, max_processes=2))

if __name__ == "__main__":
    context = mp.get_context("{method}")
    queue = context.Queue()
    for daemon in (False, True):
        child = context.Process(target=work, args=(queue,), daemon=daemon)
        child.start()
        print(queue.get(timeout=20))
        child.join()
        print(child.exitcode)
"""
    assert outcome(tmp_path, text) == "[1, 2, 3, 4]\n0\n" * 2


def test_a_fork_waits_for_threads_at_work(tmp_path: Path) -> None:
    """A lock of the standard library that one of them holds would stay locked in the child."""
    text = """
import os, tempfile, time
import gridmap

tempfile.tempdir = None
find = tempfile._get_default_tempdir
def slowly(*args):
    open("searching", "w").close()
    time.sleep(0.3)
    return find(*args)
tempfile._get_default_tempdir = slowly
state = os.statvfs
def full(folder):  # so that a folder for temporary files is sought
    if folder == "/dev/shm":
        raise OSError(28, "no space left on device")
    return state(folder)
os.statvfs = full
os.environ["TMPDIR"] = "."

run = gridmap.submit([gridmap.Job(abs, [-1])], local=True, max_processes=2)
while not os.path.exists("searching"):
    time.sleep(0.001)
import warnings
warnings.simplefilter("ignore")
pid = os.fork()
if pid == 0:
    print(gridmap.grid_map(abs, [-1, 2], local=True, max_processes=2), flush=True)
    raise SystemExit(0)
status = os.waitpid(pid, 0)[1]
print(status, run.results())
"""
    assert outcome(tmp_path, text) == "[1, 2]\n0 [1]\n"


def test_a_fork_of_a_client_with_a_run(tmp_path: Path) -> None:
    text = """
import os, time
import gridmap

def waits(x):
    while not os.path.exists("gate"):
        time.sleep(0.005)
    return x

run = gridmap.submit([gridmap.Job(waits, [i]) for i in range(4)], local=True, max_processes=2)
import warnings
warnings.simplefilter("ignore")
pid = os.fork()
if pid == 0:
    print(gridmap.grid_map(abs, [-1, 2], local=True, max_processes=2), flush=True)
    raise SystemExit(0)  # its atexit must not end the parent's run
status = os.waitpid(pid, 0)[1]
open("gate", "w").close()
print(status, run.results())
"""
    assert outcome(tmp_path, text) == "[1, 2]\n0 [0, 1, 2, 3]\n"


def test_asyncio(tmp_path: Path) -> None:
    text = """
import asyncio
import gridmap

async def main():
    calls = [
        asyncio.to_thread(
            gridmap.grid_map, lambda x, n=n: x * n, range(4), local=True, max_processes=2
        )
        for n in range(3)
    ]
    print(await asyncio.gather(*calls))
    print(gridmap.grid_map(abs, [-1], local=True, max_processes=2))

asyncio.run(main())
"""
    expected = "[[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 4, 6]]\n[1]\n"
    assert outcome(tmp_path, text) == expected


def test_what_jobs_print_is_printed_once(tmp_path: Path) -> None:
    text = """
import sys, threading
import gridmap
print("before", end=" ")
gridmap.grid_map(lambda x: print("job", x), range(3), local=True, max_processes=2)
threading.Thread(target=threading.Event().wait, daemon=True).start()
gridmap.grid_map(lambda x: print("job", x), range(3, 6), local=True, max_processes=2)
print("after")
"""
    out = outcome(tmp_path, text)
    assert sorted(out.replace("before ", "").split("\n")) == [
        "", "after", *(f"job {i}" for i in range(6))
    ]  # fmt: skip
    assert out.count("before") == 1


def test_closed_standard_streams(tmp_path: Path) -> None:
    text = """
import os, sys
import gridmap
for fd in (0, 1, 2):
    os.close(fd)
sys.stdout = sys.stderr = None
values = gridmap.grid_map(abs, [-1, -2], local=True, max_processes=2)
open("values", "w").write(repr(values))
"""
    with client(tmp_path / "client", text) as one:
        assert one.ended(20) == 0
        assert one.file("values") == "[1, 2]"
        one.left_nothing()


def test_a_fork_is_told_at_once_that_the_run_is_not_its_own(tmp_path: Path) -> None:
    text = """
import os, time, warnings
import gridmap
warnings.simplefilter("ignore")

def waits(x):
    while not os.path.exists("gate"):
        time.sleep(0.005)
    return x

run = gridmap.submit([gridmap.Job(waits, [i]) for i in range(2)], local=True, max_processes=2)
stream = gridmap.grid_imap(abs, iter([1, 2]), local=True, max_processes=2)
next(stream)
pid = os.fork()
if pid == 0:
    for call in (run.results, run.wait, run.status):
        try:
            call()
        except gridmap.GridMapError as error:
            print("belongs to process %d" % os.getppid() in str(error), flush=True)
    run.cancel()
    os._exit(0)
os.waitpid(pid, 0)
open("gate", "w").close()
print(run.results(), list(stream))
"""
    assert outcome(tmp_path, text) == "True\nTrue\nTrue\n[0, 1] [2]\n"


def test_one_map_after_the_other_never_needs_a_fresh_interpreter(tmp_path: Path) -> None:
    """The thread of the map before may still be on its way out, which is no reason not to fork."""
    text = """
import gridmap
from gridmap.node.forkserver import Forkserver

launched = []
launch = Forkserver.launch
Forkserver.launch = lambda: launched.append(1) or launch()
for _ in range(30):
    gridmap.grid_map(abs, [-1, 2], local=True, max_processes=2)
print(len(launched))
"""
    assert outcome(tmp_path, text, within_s=60) == "0\n"
