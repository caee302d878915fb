"""What a job uses is what all its processes use, wherever they went."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridmap.core import messages as m
from gridmap.node.tree import Process, Trees, age_s, read_process
from gridmap.node.usage import UsageMeter, used_since
from tests.node.driver import Driver, alive, own_rss_bytes, wait_for

MB = 1024**2


def ballast(place: str, megabytes: int = 80, spin: bool = True) -> None:
    """Uses memory, and the processor, and says that it does."""
    block = bytearray(megabytes * MB)
    Path(place).write_text(str(os.getpid()))
    while block:
        if not spin:
            time.sleep(0.05)


@pytest.fixture
def strays(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    """Ends what jobs left, by the pid files that they wrote."""

    def pids() -> list[int]:
        return [int(text) for x in tmp_path.glob("pid*") if (text := x.read_text())]

    yield pids
    for pid in pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def detach(place: str, steps: str) -> None:
    """Starts ballast whose parent ends at once; "s" in `steps`: in a session of its own."""
    first = os.fork()
    if first == 0:
        if "s" in steps:
            os.setsid()
        if os.fork() == 0:
            ballast(place)
        wait_for(lambda: Path(place).exists() and Path(place).read_text())
        time.sleep(0.5 if "l" in steps else 0)  # long enough to be seen
        os._exit(0)
    os.waitpid(first, 0)
    time.sleep(60)


@pytest.mark.parametrize(
    ("children", "steps"),
    [(1, ""), (1, "s"), (2, ""), (2, "sl")],
    ids=["double fork", "setsid", "double fork among others", "setsid among others, seen before"],
)
def test_a_process_that_lost_its_parent_counts(
    children: int, steps: str, tmp_path: Path, strays: Any
) -> None:
    place = str(tmp_path / "pid")
    with Driver(children=children, heartbeat_s=0.2) as node:
        node.until(lambda: len(psutil.Process(node.forkserver.pid).children()) >= children)
        # what its own process has is less than this one's: a fork maps no files anew
        own = psutil.Process(node.forkserver.pid).children()
        more = max(process.memory_info().rss for process in own) + 60 * MB
        node.lease(lambda x: detach(place, steps), [0])
        node.until(lambda: strays() and os.path.exists(f"/proc/{strays()[0]}"))
        (stray,) = strays()

        def orphaned() -> bool:
            process = read_process(stray)
            return process is not None and process.parent == node.forkserver.pid

        node.until(orphaned)
        node.said.clear()
        began, had_s = time.monotonic(), cpu_s(stray)

        def least() -> float:
            """Of what the stray gets; on a busy machine that is little. The job only sleeps."""
            return min(0.2, (cpu_s(stray) - had_s) / (time.monotonic() - began) / 2)

        node.until(
            lambda: any(h.rss_bytes > more and h.cpu_fraction > least() for h in node.beats())
        )
        known = least()
        node._inbox.append((m.Cancel([m.Key(0, 1, 1)], int(m.Outcome.STALLED)), []))
        node.until(lambda: node.outcomes.of)
        wait_for(lambda: not alive(stray))  # it goes with its job
        outcome, death = node.outcomes.of[0]
        assert outcome is m.Outcome.STALLED and death.rss_bytes > more
        assert death.peak_rss_bytes > more and death.cpu_fraction > known


@pytest.mark.parametrize("reuse", [False, True])
def test_what_a_job_left_on_purpose_stays_and_is_nobody_elses(
    reuse: bool, tmp_path: Path, strays: Any
) -> None:
    place, less = str(tmp_path / "pid"), own_rss_bytes() + 60 * MB

    def leave(_: int) -> None:
        first = os.fork()
        if first == 0:
            os.setsid()
            if os.fork() == 0:
                ballast(place, spin=False)
            os._exit(0)
        os.waitpid(first, 0)
        wait_for(lambda: Path(place).exists() and Path(place).read_text())

    with Driver(heartbeat_s=0.2) as node:
        assert node.run(leave, [0], reuse=reuse)[0][0] is m.Outcome.VALUE
        node.lease(time.sleep, [60], first=1)
        node.until(lambda: len([h for h in node.beats() if h.first == 1]) >= 3)
        held = node.beats()[-1]
        assert held.first == 1 and held.rss_bytes < less
        assert alive(strays()[0])


def test_orphans_that_end_leave_no_zombie() -> None:
    def leave(_: int) -> int:
        first = os.fork()
        if first == 0:
            orphan = os.fork()
            if orphan == 0:
                time.sleep(0.2)
                os._exit(0)
            os._exit(0)
        return os.waitpid(first, 0)[1]

    with Driver() as node:
        assert [value for _, value in node.run(leave, [0, 1, 2])] == [0, 0, 0]
        server = node.forkserver.pid
        wait_for(lambda: len(Trees().of(server)) == 2)  # itself and its child


def beats_of(job: Callable[..., Any], enough: Callable[[m.Held], bool], *args: Any) -> None:
    with Driver(heartbeat_s=0.5) as node:
        node.lease(job, args or [0])
        node.until(lambda: len(node.beats()) >= 2 and enough(node.beats()[-1]))


def test_a_parent_that_sleeps_while_its_child_works_is_at_work() -> None:
    def job(_: int) -> None:
        subprocess.run([sys.executable, "-c", "while 1: pass"])

    beats_of(job, lambda held: held.running and held.cpu_fraction > 0.3)


def test_a_thread_at_work_beside_a_main_thread_that_sleeps_is_at_work() -> None:
    def job(_: int) -> None:
        def spin() -> None:
            while True:
                pass

        threading.Thread(target=spin, daemon=True).start()
        while True:
            time.sleep(10)

    beats_of(job, lambda held: held.running and held.cpu_fraction > 0.3)


def test_processes_that_live_shorter_than_from_one_look_to_the_next_count() -> None:
    def job(_: int) -> None:
        while True:
            subprocess.run(["sh", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"])

    beats_of(job, lambda held: held.cpu_fraction > 0.3)


def test_a_job_that_waits_for_a_disk_is_at_work(tmp_path: Path) -> None:
    """A parent in vfork() waits like one that waits for a disk (state D)."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def job(_: int) -> int:
        opens = [(os.POSIX_SPAWN_OPEN, 0, str(fifo), os.O_RDONLY, 0)]  # until somebody writes
        return os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=opens), 0)[1]

    with Driver(heartbeat_s=0.3) as node:
        node.lease(job, [0])

        def waits() -> bool:
            process = read_process(node.pids()[0])
            return process is not None and process.state == "D"

        node.until(lambda: node.pids() and waits())
        node.said.clear()
        node.until(lambda: len(node.beats()) >= 3)
        for held in node.beats()[1:]:
            assert held.running and held.cpu_fraction < 0.01
        os.close(os.open(fifo, os.O_WRONLY))
        node.until(lambda: node.outcomes.of)
        assert node.outcomes.of[0] == (m.Outcome.VALUE, 0)


def test_a_job_that_sleeps_is_not_at_work() -> None:
    def job(_: int) -> None:
        subprocess.run(["sleep", "60"])

    beats_of(job, lambda held: not held.running and held.cpu_fraction < 0.01)


def look(pid: int, own_s: float, waited_s: float = 0.0, started: float = 1.0) -> Process:
    return Process(pid, "p", 1, 1, 1, "S", own_s, waited_s, 1, started, 0, 0)


@pytest.mark.parametrize(
    ("before", "now", "used_s"),
    [
        ([], [look(1, 2.0, 1.0)], 3.0),
        ([look(1, 2.0, 1.0)], [look(1, 2.5, 1.0)], 0.5),
        ([look(1, 1.0), look(2, 5.0)], [look(1, 1.0, 5.5)], 0.5),  # 2 ended, and was waited for
        ([look(1, 1.0)], [look(1, 1.0, 0.25)], 0.25),  # one that nobody has seen
        ([look(1, 1.0), look(2, 5.0)], [look(1, 1.5)], 0.5),  # 2 ended elsewhere
        ([look(1, 1.0), look(2, 5.0)], [look(1, 1.0, 5.0), look(2, 0.5, started=9.0)], 0.5),
    ],
)
def test_processor_time_counts_once_though_processes_end(
    before: list[Process], now: list[Process], used_s: float
) -> None:
    assert used_since(now, {p.pid: p for p in before}) == pytest.approx(used_s)


def test_a_process_knows_its_age_and_name() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        process = wait_for(lambda: (p := read_process(sleeper.pid)) and p.name == "sleep" and p)
        assert process.parent == os.getpid() and 0 <= age_s(process) < 10
    finally:
        sleeper.kill()
        sleeper.wait()
    assert read_process(sleeper.pid) is None
    assert UsageMeter().read(sleeper.pid).rss_bytes == 0
