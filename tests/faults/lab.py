"""Three hosts with a Grid Engine, to break and to mend; tools/grid_hosts makes them."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridmap.backends.grid_engine import QueuedTask, parse_qstat
from tests.faults import program

TOOL = os.environ.get("FAULTS_HOSTS", "")
USER = os.environ.get("FAULTS_USER", "griduser")
CELL = os.environ.get("SGE_CELL", "")
STATE = Path(f"/var/tmp/gridmap-grid-engine-{CELL}")
NODES = ("node1", "node2")
SLOTS = 4  # on both nodes together
END_S = 30.0

SETTINGS = {
    "HEARTBEAT_FREQUENCY": "0.5",
    "MAX_TIME_BETWEEN_HEARTBEATS": "3",
    "MAX_IDLE_HEARTBEATS": "1000",
    "CHECK_FREQUENCY": "1",
    "GRIDMAP_STARTUP_DEADLINE": "15",
    "GRIDMAP_GRACE": "60",
    "GRIDMAP_MAX_WORKERS": str(SLOTS),
    "SEND_ERROR_MAIL": "0",
    "PYTHONUNBUFFERED": "1",
}


def eventually(condition: Callable[[], Any], within_s: float = END_S, what: str = "") -> Any:
    """Returns the condition's first true value; fails when it has none in time."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:.0f} s: {what or condition}")
        time.sleep(0.05)


def tool(*arguments: str) -> str:
    """Runs tools/grid_hosts."""
    done = subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def ip(*arguments: str) -> None:
    """Changes the network that joins the hosts."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"ip {arguments}: {done.stderr}"


class Host:
    """One of the hosts: a set of namespaces."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.network = f"{CELL}-{name}"
        self.pid = int(tool("pid", name))

    def inside(self, *command: str, folder: str = "/") -> list[str]:
        """Returns the command line that runs a command here."""
        entered = ["--net", "--uts", "--mount", "--pid", f"--wd={folder}"]
        return ["nsenter", f"--target={self.pid}", *entered, "--", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """Runs a command as root; returns its output."""
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def root(self, path: str | Path) -> Path:
        """Returns a path that leads to what this host has mounted there."""
        return Path(f"/proc/{self.pid}/root{path}")

    def processes(self) -> list[psutil.Process]:
        """Returns the processes of the jobs' user here, without dead ones."""
        found: list[psutil.Process] = []
        uid = pwd.getpwnam(USER).pw_uid
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.uids().real != uid or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if self._is_here(process):
                    found.append(process)
        return found

    def agents(self) -> list[psutil.Process]:
        """Returns the workers that the scheduler has started here."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                if parent is not None and "sge_shepherd" in parent.name():
                    found.append(process)
        return found

    def daemons(self, name: str) -> list[int]:
        """Returns the pids of sge_execd or sge_qmaster; there should be one."""
        found = []
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error, OSError):
                if process.info["name"] == f"sge_{name}" and self._is_here(process):
                    found.append(process.pid)
        return found

    def daemon(self, name: str) -> int:
        found = self.daemons(name)
        assert found, f"no {name} on {self.name}"
        return found[0]

    def _is_here(self, process: psutil.Process) -> bool:
        return os.path.samefile(f"/proc/{process.pid}/ns/pid", f"/proc/{self.pid}/ns/pid")

    @property
    def powered(self) -> bool:
        return not _dead(self.pid)

    def kill_daemon(self, name: str) -> None:
        """Ends a daemon as a crash does; what it started lives on."""
        pid = self.daemon(name)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(pid) or _dead(pid), 5, f"{name} is dead")

    def start_daemon(self, name: str) -> None:
        tool("engine", self.name, "start", name)

    def link(self, up: bool) -> None:
        """Plugs this host in, or out."""
        ip("-n", f"{CELL}-switch", "link", "set", f"to-{self.name}", "up" if up else "down")

    def cut_power(self) -> None:
        """Ends the host with all that runs on it."""
        os.kill(self.pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(self.pid) or _dead(self.pid), 5, "power cut")

    def boot(self) -> None:
        tool("boot", self.name)
        self.pid = int(tool("pid", self.name))

    def put_over(self, path: str | Path, size: str = "1m") -> Callable[[], None]:
        """Hides a folder behind a small empty file system; returns what takes that away."""
        self.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", str(path))
        return lambda: self.run("umount", "--lazy", str(path), check=False) and None


def _dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


class Client:
    """tests/faults/program.py on one of the hosts, as the unprivileged user."""

    def __init__(self, lab: Lab, host: Host, *command: str, **environment: str) -> None:
        lab.count += 1
        self.folder = lab.folder
        self.results_file = self.folder / f"results.{lab.count}"
        self.output_file = self.folder / f"output.{lab.count}"
        self.host = host
        user = pwd.getpwnam(USER)
        settings = {
            "HOME": user.pw_dir,
            "USER": USER,
            "LOGNAME": USER,
            "LANG": "C.UTF-8",
            "PATH": os.environ["PATH"],
            "GRIDMAP_RUN_DIR": str(lab.runs),
            **{key: value for key, value in os.environ.items() if key.startswith("SGE_")},
            **SETTINGS,
            **environment,
        }
        assignments = [f"{key}={value}" for key, value in settings.items()]
        owner = (f"--reuid={USER}", f"--regid={user.pw_gid}", "--init-groups")
        script = Path(program.__file__)
        with self.output_file.open("wb") as output:
            self._outer = subprocess.Popen(
                host.inside(
                    *("setpriv", *owner, "--", "env", "-i", *assignments),
                    *(sys.executable, str(script), str(self.results_file), *command),
                    folder=str(self.folder),
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        lab.undo.callback(self.close)

    @property
    def pid(self) -> int:
        """The program itself, under the command that entered its host."""
        return eventually(lambda: [c.pid for c in self._children()], 5, "the client starts")[0]

    def _children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self._outer.pid).children()
        return []

    def printed(self) -> str:
        return self.output_file.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def go_on(self) -> None:
        """Continues a stopped client; who entered the host for it was stopped with it."""
        os.kill(self.pid, signal.SIGCONT)
        self._outer.send_signal(signal.SIGCONT)

    def ended(self, within_s: float) -> int:
        """Waits for its end; returns its exit status, or minus the signal."""
        try:
            return self._outer.wait(within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still there after {within_s:.0f} s: {self.printed()}")

    @property
    def over(self) -> bool:
        return self._outer.poll() is not None

    def until_begun(self, count: int, within_s: float = END_S) -> None:
        """Waits until so many calls have begun."""
        eventually(
            lambda: self.over or len(calls(self.folder)) >= count, within_s, f"{count} calls begun"
        )
        assert not self.over, self.printed()

    def until_printed(self, words: str, within_s: float = END_S) -> None:
        eventually(lambda: self.over or words in self.printed(), within_s, words)
        assert words in self.printed(), self.printed()

    def results(self, within_s: float) -> list[Any]:
        """Waits for its end; returns values, and for each failure its {"cause", "text", ...}."""
        status = self.ended(within_s)
        assert status == 0, f"status {status}: {self.printed()}"
        return json.loads(self.results_file.read_text())

    def close(self) -> None:
        if not self.over:
            for child in self._children():
                with contextlib.suppress(psutil.Error):
                    child.kill()
            self._outer.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._outer.wait(5)
            self._outer.kill()
        self._outer.wait(5)


def calls(folder: Path) -> list[tuple[int, str, float]]:
    """Returns (number, host, what the clock said there) of each call that has begun."""
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(n), host, float(at)) for n, host, at in (line.split() for line in lines)]


class Lab:
    """The hosts, for one test.

    :param undo: what mends what the test broke, last things first
    """

    def __init__(self, folder: Path, hosts: dict[str, Host]) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.hosts = hosts
        self.head, self.node1, self.node2 = (hosts[name] for name in ("head", *NODES))
        self.undo = contextlib.ExitStack()
        self.count = 0

    # --- programs ---------------------------------------------------------------------------------

    def start(
        self, host: str = "head", *, what: str = "calls", environment: Any = None, **options: Any
    ) -> Client:
        """Starts a client; see tests/faults/program.py for its options."""
        return Client(self, self.hosts[host], what, json.dumps(options), **(environment or {}))

    def at_work(self, count: int, seconds: float = 0.1, **options: Any) -> Client:
        """Starts a client; returns it when all workers are up and have work."""
        client = self.start(count=count, seconds=seconds, **options)
        client.until_begun(SLOTS)
        eventually(lambda: len(self.agents()) == SLOTS, what="all workers are up")
        return client

    def public_file(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Returns a new file that belongs to the unprivileged user."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        shutil.chown(path, USER)
        return path

    def interpreter(self, *lines: str) -> str:
        """Returns a Python for workers: shell commands before the real one."""
        text = "\n".join(["#!/bin/sh", *lines, f'exec {sys.executable} "$@"', ""])
        return str(self.public_file("python", text, 0o755))

    def public_folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        shutil.chown(path, USER)
        return path

    def attach(self, host: str = "head", environment: Any = None) -> Client:
        """Starts a client that takes over the only run that there is."""
        return Client(self, self.hosts[host], "attach", "{}", **(environment or {}))

    def squares(self, client: Client, count: int, within_s: float) -> None:
        """Waits for a client's end, and checks that it has all values, in their order."""
        assert client.results(within_s) == [n * n for n in range(count)], client.printed()

    def calls_made_twice(self) -> int:
        made = [number for number, *_ in calls(self.folder)]
        return len(made) - len(set(made))

    # --- the scheduler ----------------------------------------------------------------------------

    def sge(self, *command: str, check: bool = True) -> str:
        """Runs a command of Grid Engine on the head, as root."""
        keys = [f"{k}={v}" for k, v in os.environ.items() if k.startswith("SGE_")]
        return self.head.run("env", *keys, *command, check=check)

    def queued(self) -> list[QueuedTask]:
        return parse_qstat(self.sge("qstat", "-xml", "-u", USER))

    def agents(self) -> list[psutil.Process]:
        return [agent for name in NODES for agent in self.hosts[name].agents()]

    def processes(self) -> list[psutil.Process]:
        return [process for host in self.hosts.values() for process in host.processes()]

    # --- afterwards -------------------------------------------------------------------------------

    def nothing_left(self, within_s: float = END_S, queue: bool = True) -> None:
        """Checks that neither processes nor cluster jobs nor files are left."""
        eventually(lambda: not self.processes(), within_s, f"no process of {self.processes()}")
        if queue:
            eventually(lambda: not self.queued(), within_s, f"nothing queued of {self.queued()}")
        eventually(lambda: not self.files(), 10, f"no file is left of {self.files()}")

    def files(self) -> list[Path]:
        """Returns the temporary files of jobs."""
        places = ("/dev/shm", str(STATE / "tmp"))
        return [p for h in self.hosts.values() for at in places for p in h.root(at).iterdir()]

    def runs_left(self) -> list[str]:
        return sorted(str(p.relative_to(self.runs)) for p in self.runs.rglob("*"))


@contextlib.contextmanager
def broken(lab: Lab, mend: Callable[[], object]) -> Iterator[None]:
    """Mends at the end of the block, and if the test ends before, then."""
    done = []

    def once() -> None:
        if not done:
            done.append(True)
            mend()

    lab.undo.callback(once)
    try:
        yield
    finally:
        once()
