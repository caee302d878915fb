"""Three hosts with a Grid Engine, to break and to mend; tools/grid_hosts makes them."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from gridmap.backends.grid_engine import QueuedTask, parse_qstat
from tests.faults.clients import END_S, USER, Workshop, eventually

TOOL = os.environ.get("FAULTS_HOSTS", "")
CELL = os.environ.get("SGE_CELL", "")
STATE = Path(f"/var/tmp/gridmap-grid-engine-{CELL}")
NODES = ("node1", "node2")


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


class Lab(Workshop):
    """The hosts, for one test."""

    home = "head"
    variables = {key: value for key, value in os.environ.items() if key.startswith("SGE_")}

    def __init__(self, folder: Path, hosts: dict[str, Host]) -> None:
        super().__init__(folder)
        self.hosts: dict[str, Host] = hosts
        self.head, self.node1, self.node2 = (hosts[name] for name in ("head", *NODES))

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
