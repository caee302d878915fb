"""Jobs that use too much memory, with the real limits of this machine's kernel."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridmap.core import messages as m
from gridmap.core.memory import CGROUP, H_VMEM, MACHINE, MAX_RSS, Mark, human
from gridmap.core.messages import Outcome
from gridmap.node import memory
from gridmap.node.memory import Group, Limits, own_group
from gridmap.node.tree import read_process, shared_once_bytes
from tests.node.driver import Driver, alive, own_rss_bytes, wait_for
from tests.node.test_serve import RUNNER, Monitor, start

MB = 1024**2


def fill(megabytes: int) -> bytearray:
    """Returns so much memory, in use."""
    block = bytearray(megabytes * MB)
    block[:: os.sysconf("SC_PAGE_SIZE")] = bytes(
        b"x" * len(range(0, len(block), os.sysconf("SC_PAGE_SIZE")))
    )
    return block


def hold(megabytes: int) -> None:
    """Grows to this over some looks, and stays so."""
    kept = []
    for step in range(20):  # all of it: what is lost by rounding may be what is wanted
        kept.append(fill(megabytes * (step + 1) // 20 - megabytes * step // 20))
        time.sleep(0.2)
    time.sleep(60)


def grow_to(megabytes: int) -> None:
    """Has so much memory, together with what it began with, which may be more or less.

    What it shares with the process that it was forked from counts in part, as it does for the node.
    """
    shared_once = shared_once_bytes(os.getpid())
    own = shared_once if shared_once >= 0 else own_rss_bytes()
    hold(max(0, megabytes - own // MB))


# --- the user's own limit -------------------------------------------------------------------------


def test_a_job_over_max_rss_is_ended_and_says_so() -> None:
    limit = own_rss_bytes() + 200 * MB
    with Driver(max_rss_bytes=limit) as node:
        values = node.run(lambda n: len(fill(n)), [1, 2])
        assert [outcome for outcome, _ in values] == [Outcome.VALUE] * 2
        outcome, death = node.run(grow_to, [limit // MB + 150], first=2)[0]
        assert outcome is Outcome.MEMORY
        assert death.text.endswith(f"of the {human(limit)} that max_rss allows")
        assert (death.limit, death.limit_bytes) == (MAX_RSS, limit)
        assert limit < death.rss_bytes <= death.peak_rss_bytes < limit + 250 * MB
        assert node.run(abs, [-1], first=3) == [(Outcome.VALUE, 1)]


def test_what_a_jobs_processes_use_counts_and_they_end_with_it(tmp_path: Path) -> None:
    place, limit = tmp_path / "pid", own_rss_bytes() + 200 * MB

    def job(_: int) -> None:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            grow_to(limit // MB + 200)
        place.write_text(str(pid))
        os.waitpid(pid, 0)
        time.sleep(60)

    # the fork has all of its parent's memory, and shares it
    with Driver(max_rss_bytes=limit) as node:
        assert node.run(job, [0])[0][0] is Outcome.MEMORY
        wait_for(lambda: not alive(int(place.read_text())))


@pytest.mark.skipif(shared_once_bytes(os.getpid()) < 0, reason="the kernel has no smaps_rollup")
def test_memory_that_processes_share_counts_once() -> None:
    def job(_: int) -> int:
        block = fill(100)
        pids = []
        for _ in range(4):
            pids.append(os.fork())
            if pids[-1] == 0:
                time.sleep(60)
        time.sleep(2.5)  # some looks
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return len(block) // MB

    own = own_rss_bytes()  # five times that and five times the block, if each counted all it has
    with Driver(max_rss_bytes=2 * own + 400 * MB) as node:
        assert node.run(job, [0]) == [(Outcome.VALUE, 100)]


def test_a_job_near_its_limit_is_told_of_before_a_heartbeat_is_due() -> None:
    limit = own_rss_bytes() + 300 * MB
    with Driver(heartbeat_s=60.0, max_rss_bytes=limit) as node:
        node.lease(grow_to, [limit // MB * 95 // 100])
        node.until(lambda: node.beats())
        (held,) = node.beats()
        assert 0.9 * limit <= held.rss_bytes <= limit == held.limit_bytes


# --- a limit on the address space, as of ulimit -v ------------------------------------------------


def limited(job: Callable[[], Any]) -> Any:
    """Runs a job that may have 1.5 GB of address space more than it begins with.

    :returns: its outcome, what came back, the node, the limit in bytes
    """
    process = read_process(os.getpid())
    assert process is not None
    most = process.address_bytes + 1500 * MB

    def limit(_: int) -> Any:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return job()

    with Driver(heartbeat_s=60.0) as node:
        ((outcome, value),) = node.run(limit, [0])
        return outcome, value, node, most


def use_up() -> None:
    """Takes all address space, over some looks; then nothing is left."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    for size in (100 * MB, 4 * MB):
        while libc.malloc(ctypes.c_size_t(size)):
            time.sleep(0.15 if size > 4 * MB else 0.05)


def crash() -> None:
    """Writes where a failed malloc says."""
    use_up()
    ctypes.memset(0, 1, 1)


def give_up() -> None:
    use_up()
    os._exit(1)


def abort() -> None:
    """As C++ does for an uncaught std::bad_alloc."""
    use_up()
    os.abort()


@pytest.mark.parametrize(
    ("job", "signum", "exit_status"),
    [(crash, signal.SIGSEGV, -1), (abort, signal.SIGABRT, -1), (give_up, 0, 1)],
)
def test_whoever_used_up_its_address_space_died_for_that(
    job: Callable[[], Any], signum: int, exit_status: int
) -> None:
    outcome, death, node, most = limited(job)
    assert outcome is Outcome.MEMORY
    assert (death.signal, death.exit_status) == (signum, exit_status)
    assert (death.limit, death.limit_bytes) == (H_VMEM, most)
    assert f"of the {human(most)} of address space that h_vmem allows" in death.text
    assert node.beats()[-1].limit_bytes == most  # it was told before


@pytest.mark.parametrize(
    "job",
    [
        lambda: ctypes.memset(0, 1, 1),
        lambda: os._exit(1),
        os.abort,
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        lambda: (fill(500), time.sleep(1.5), ctypes.memset(0, 1, 1)),
    ],
    ids=["segfault", "exit", "abort", "SIGKILL", "segfault with much memory"],
)
def test_an_ordinary_end_under_a_limit_is_none_for_want_of_memory(job: Callable[[], Any]) -> None:
    outcome, death, *_ = limited(job)
    assert outcome is Outcome.DIED and death.limit == ""


# --- control groups -------------------------------------------------------------------------------


def cannot(reason: str) -> None:
    """Skips a test; where everything is permitted, that would hide a fault."""
    if os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail(reason)
    pytest.skip(reason)


def make_group(own: Group) -> Group | str:
    """Makes a control group inside the own one, or one around it; else says why not."""
    why = ""
    for around in own._around:
        made = Group(around / f"gridmap-test-{os.getpid()}", around, own.version)
        try:
            if own.version == 2 and "memory" not in (around / "cgroup.subtree_control").read_text():
                (around / "cgroup.subtree_control").write_text("+memory")
            made.folder.mkdir()
            (made.folder / made._limit).write_text(str(200 * MB))
            return made
        except OSError as error:
            why = f"{why}; {error}"
            with contextlib.suppress(OSError):
                made.folder.rmdir()
    return f"no control group can be made here{why}"


@pytest.fixture
def group() -> Iterator[Group]:
    """Returns a control group of 200 MB."""
    own = own_group()
    made = "no memory control group is to be seen here" if own is None else make_group(own)
    if isinstance(made, str):
        cannot(made)
        return
    folder = made.folder
    yield made
    deadline = time.monotonic() + 10
    while True:
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    made = Monitor(tmp_path / "run")
    made.heartbeat_s = 60.0
    yield made
    made.link.close()


@pytest.fixture
def worker(monitor: Monitor, group: Group, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a worker in a control group of its own."""
    shell = f'echo $$ > {group.folder}/cgroup.procs; exec "$0" "$@"'
    started = start(
        tmp_path / "run", tmp_path / "log", "sh", "-c", shell, sys.executable, str(RUNNER)
    )
    monitor.until(lambda: monitor.peer)
    yield started
    started.kill()
    started.wait()


def end_of(monitor: Monitor, job: Callable[..., Any]) -> tuple[Outcome, Any]:
    monitor.lease(job, [0])
    monitor.until(lambda: monitor.outcomes.of)
    outcome, value = monitor.outcomes.of[0]
    return outcome, value


def held_by(monitor: Monitor) -> list[m.Held]:
    return [h for x in monitor.said if isinstance(x, m.Heartbeat) for h in x.held]


@pytest.mark.parametrize("slowly", [True, False])
def test_a_job_that_the_kernel_ended_for_its_groups_memory(
    monitor: Monitor, worker: Any, slowly: bool
) -> None:
    outcome, death = end_of(monitor, lambda _: hold(400) if slowly else fill(400))
    assert outcome is Outcome.MEMORY and death.signal == signal.SIGKILL
    assert (death.limit, death.limit_bytes) == (CGROUP, 200 * MB)
    assert death.text.endswith("for want of memory: its control group may have 200.0 MB")
    assert death.peak_rss_bytes > 100 * MB
    if slowly:  # the monitor knew before
        assert held_by(monitor)[-1].limit_bytes == 200 * MB
        assert death.rss_bytes > 150 * MB


def test_a_job_that_somebody_killed_in_a_group_died_of_that(monitor: Monitor, worker: Any) -> None:
    def job(_: int) -> None:
        fill(50)
        os.kill(os.getpid(), signal.SIGKILL)

    outcome, death = end_of(monitor, job)
    assert outcome is Outcome.DIED and death.limit == "" and death.signal == signal.SIGKILL


def test_files_in_memory_are_not_used_up(group: Group, tmp_path: Path) -> None:
    code = (
        f"import os; open('{group.folder}/cgroup.procs', 'w').write('0')\n"
        f"open('{tmp_path}/file', 'wb').write(bytes(150 * {MB})); input()"
    )
    writer = subprocess.Popen(["python3", "-c", code], stdin=subprocess.PIPE)
    try:
        usage = group.folder / group._usage
        wait_for(lambda: int(usage.read_text()) > 100 * MB)
        wait_for(lambda: (mark := group.mark()) and 0 < mark.used_bytes < 60 * MB)
    finally:
        writer.kill()
        writer.wait()


# --- what the kernel's files say ------------------------------------------------------------------


def files(folder: Path, **contents: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_the_nearest_limit_of_a_group_or_of_one_around_it(tmp_path: Path, version: int) -> None:
    limit, usage, none = "memory__max", "memory__current", "max\n"
    stat = "anon 1\nactive_file 5\ninactive_file 10\n"
    if version == 1:
        limit, usage = "memory__limit_in_bytes", "memory__usage_in_bytes"
        none = "9223372036854771712\n"
        stat = "active_file 0\ntotal_active_file 5\ntotal_inactive_file 10\n"
    top = files(tmp_path / "top")
    middle = files(top / "job", **{limit: "100\n", usage: "95\n", "memory__stat": stat})
    inner = files(middle / "task", **{limit: none, usage: "30\n", "memory__stat": stat})
    assert Group(inner, top, version).mark() == Mark(CGROUP, 80, 100)
    files(inner, **{limit: "16\n"})
    assert Group(inner, top, version).mark() == Mark(CGROUP, 15, 16)
    assert Group(top, top, version).mark() is None


@pytest.mark.parametrize(
    ("cgroup", "mounts", "inside", "version"),
    [
        ("0::/user/a\n", "31 23 0:2 / {top} rw - cgroup2 cgroup2 rw\n", "user/a", 2),
        # a container: its own group is the top of what it sees
        ("0::/\n", "31 23 0:2 / {top} rw shared:1 - cgroup2 cgroup2 rw\n", "", 2),
        ("4:memory:/d/c\n", "35 31 0:3 /d/c {top} rw - cgroup cgroup rw,memory\n", "", 1),
        # both versions: memory belongs to the first
        (
            "4:memory:/job\n3:cpuset:/\n0::/\n",
            "41 31 0:9 / /nosuch rw - cgroup2 cgroup2 rw\n"
            "33 31 0:2 / /nosuch rw - cgroup cgroup rw,cpuset\n"
            "35 31 0:3 / {top} rw - cgroup cgroup rw,memory\n",
            "job",
            1,
        ),
        ("0::/elsewhere\n", "31 23 0:2 /job {top} rw - cgroup2 cgroup2 rw\n", "", 2),
        ("0::/gone\n", "31 23 0:2 / {top} rw - cgroup2 cgroup2 rw\n", None, 2),
        ("", "", None, 0),
    ],
)
def test_where_the_files_of_the_own_group_are(
    tmp_path: Path, cgroup: str, mounts: str, inside: str | None, version: int
) -> None:
    top = files(tmp_path / "top")
    if inside is not None:
        (top / inside).mkdir(parents=True, exist_ok=True)
    files(tmp_path, cgroup=cgroup, mounts=mounts.format(top=top))
    group = own_group(str(tmp_path / "cgroup"), str(tmp_path / "mounts"))
    if inside is None:
        assert group is None
    else:
        assert group is not None and (group.folder, group.version) == (top / inside, version)


@pytest.mark.parametrize("version", [1, 2])
def test_who_was_ended_before_a_job_began_does_not_matter(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(memory.time, "monotonic", lambda: clock[0])
    name = {1: "memory__oom_control", 2: "memory__events"}[version]

    def ended(count: int) -> None:
        files(tmp_path, **{name: f"oom_kill_disable 0\noom_kill {count}\n"})

    ended(1)
    limits = Limits(Group(tmp_path, tmp_path, version))
    clock[0] = 100.0
    ended(2)
    limits.begin()
    assert limits.killed().limit is None
    ended(3)
    assert limits.killed().limit == CGROUP
    for clock[0] in (101.0, 102.0):
        limits.note()
    assert limits.killed().limit == CGROUP
    for clock[0] in (103.0, 104.0):
        limits.note()
    assert limits.killed().limit is None, "whom that had ended is known by now"


def test_where_no_group_counts_the_machine_does() -> None:
    limits = Limits()
    assert limits.killed().limit is None and limits.group_mark() == ()
    limits._ends[0] = (limits._ends[0][0], limits._ends[0][1] - 1)
    assert limits.killed().limit == MACHINE
