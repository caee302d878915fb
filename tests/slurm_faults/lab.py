"""A Slurm with two nodes on one host, to break and to mend; tools/slurm makes it."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.faults.clients import END_S, USER, Workshop, eventually

TOOL = os.environ.get("FAULTS_HOSTS", "")
CONFIGURATION = Path(os.environ.get("SLURM_CONF", "/nosuch/etc/slurm.conf"))
STATE = CONFIGURATION.parents[1]
NODES = ("n1", "n2")
DAEMONS = ("munged", "slurmdbd", "slurmctld", *NODES)
PLACES = ("/dev/shm", "/tmp")
"""Where jobs have temporary files."""


def tool(*arguments: str) -> str:
    """Runs tools/slurm."""
    done = subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Here:
    """This host, on which the clients and all daemons run."""

    def inside(self, *command: str, folder: str = "/") -> list[str]:
        return ["unshare", "--fork", f"--wd={folder}", "--", *command]


class State:
    """What slurmctld has written down of its jobs."""

    def __init__(self, lab: SlurmLab) -> None:
        self._here = STATE / "state"
        self._kept = lab.folder / "state"
        # It writes at its end, too.
        tool("stop", "slurmctld")
        shutil.copytree(self._here, self._kept)
        tool("start", "slurmctld")
        eventually(lab.in_good_order, what="slurmctld is back")

    def put_back(self) -> None:
        for path in self._kept.iterdir():
            if path.is_file():
                shutil.copy(path, self._here / path.name)
                shutil.chown(self._here / path.name, "slurm", "slurm")


class SlurmLab(Workshop):
    """The cluster, for one test."""

    home = "here"
    hosts = {"here": Here()}
    variables = {"SLURM_CONF": str(CONFIGURATION)}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.before: frozenset[Path] = frozenset()  # other programs of this user have files, too
        self.before = frozenset(self.files())

    # --- the scheduler ----------------------------------------------------------------------------

    def slurm(self, *command: str, check: bool = True) -> str:
        """Runs a command of Slurm as root, the administrator."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def queued(self) -> list[str]:
        """Returns the user's elements of arrays, as "ID STATE"."""
        told = self.slurm("squeue", "-h", "-r", "-u", USER, "-o", "%i %T", check=False)
        return told.strip().splitlines()

    def all_jobs(self) -> list[str]:
        """Returns the jobs of all users, which are the tests'."""
        return self.slurm("squeue", "-h", "-o", "%i", check=False).split()

    def nodes(self) -> dict[str, str]:
        """Returns the state of each node."""
        told = self.slurm("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False)
        return dict(line.split() for line in told.splitlines())

    def in_good_order(self) -> bool:
        found = self.nodes()
        return set(found) == set(NODES) and set(found.values()) <= {"idle", "mixed", "allocated"}

    def partition(self, state: str) -> None:
        self.slurm("scontrol", "update", "partitionname=main", f"state={state}")

    def node_state(self, node: str, state: str) -> None:
        """Changes a node; one that is to resume may have come back by itself."""
        words = (f"nodename={node}", f"state={state}", "reason=a test")
        self.slurm("scontrol", "update", *words, check=state != "resume")

    def reconfigure(self, **settings: str) -> Callable[[], None]:
        """Changes settings of slurm.conf; returns what puts them back."""
        before = CONFIGURATION.read_text()
        after = before
        for name, value in settings.items():
            after, found = re.subn(rf"(?m)^{name}=.*$", f"{name}={value}", after)
            assert found == 1, name

        def write(text: str) -> None:
            CONFIGURATION.write_text(text)
            self.slurm("scontrol", "reconfigure")

        write(after)
        return lambda: write(before)

    def state_of(self, job: str) -> str:
        return self.slurm("squeue", "-h", "-j", job, "-o", "%T", check=False).strip()

    def submit_sleeper(self) -> str:
        """Returns a job of the same user that no run knows of."""
        user = pwd.getpwnam(USER)
        owner = (f"--reuid={USER}", f"--regid={user.pw_gid}", "--init-groups")
        words = ("--parsable", "--chdir=/", "--output=/dev/null", "--wrap=sleep 1000")
        return self.slurm("setpriv", *owner, "--", "sbatch", *words).strip()

    def keep_state(self) -> State:
        """Returns what slurmctld would know if it had written nothing down from now on."""
        return State(self)

    # --- daemons ----------------------------------------------------------------------------------

    def daemon(self, name: str) -> int:
        """Returns the pid of munged, slurmdbd, slurmctld, or a node's slurmd; 0: it is dead."""
        file = {"munged": "munge/munged.pid"}.get(name, f"run/slurm/{name}.pid")
        if name in NODES:
            file = f"run/slurmd-{name}.pid"
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int((STATE / file).read_text()))
            if process.status() != psutil.STATUS_ZOMBIE:
                return process.pid
        return 0

    def signal_daemon(self, name: str, number: signal.Signals) -> None:
        pid = self.daemon(name)
        assert pid, f"no {name}"
        os.kill(pid, number)

    def remembered(self) -> None:
        """Waits until slurmctld has written down that the workers run: if it were killed before, it
        would start them again, or give their ids to others, and a node that has an id twice drains.
        """
        begun = max((agent.create_time() for agent in self.agents()), default=0.0)
        written = STATE / "state/job_state"
        eventually(lambda: written.stat().st_mtime > begun + 0.5, 15, "slurmctld has written it")

    def kill_daemon(self, name: str, at_once: bool = False) -> None:
        """Ends a daemon as a crash does; what it started lives on."""
        if name == "slurmctld" and not at_once:
            self.remembered()
        self.signal_daemon(name, signal.SIGKILL)
        eventually(lambda: not self.daemon(name), 5, f"{name} is dead")

    def start_daemon(self, name: str) -> None:
        tool("start", name)

    def cut_power(self, node: str) -> None:
        """Ends a node's daemon and all that it has started, at once."""
        agents = self.agents(node)
        parents = {parent for agent in agents if (parent := agent.parent()) is not None}
        self.signal_daemon(node, signal.SIGKILL)
        for process in [*parents, *(p for a in agents for p in [a, *a.children(recursive=True)])]:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def fill(self, folder: Path) -> Callable[[], None]:
        """Leaves no room in a folder; returns what takes that away."""
        options = f"size=64k,mode=0700,uid={pwd.getpwnam(USER).pw_uid}"
        self.slurm("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
        with contextlib.suppress(OSError), open(folder / "filler", "wb") as filler:
            while True:
                filler.write(bytes(4096))
                filler.flush()
        return lambda: self.slurm("umount", "--lazy", str(folder), check=False) and None

    # --- processes --------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Returns the processes of the jobs' user, without dead ones."""
        found: list[psutil.Process] = []
        uid = pwd.getpwnam(USER).pw_uid
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.uids().real == uid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def agents(self, node: str = "") -> list[psutil.Process]:
        """Returns the workers that Slurm has started, on one node or on both."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                parent, here = process.parent(), process.environ().get("SLURMD_NODENAME")
                if parent is not None and "slurmstepd" in parent.name() and node in ("", here):
                    found.append(process)
        return found

    def worker(self, agent: psutil.Process) -> str:
        """Returns the native id of an agent."""
        environment = agent.environ()
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"

    # --- afterwards -------------------------------------------------------------------------------

    def nothing_left(
        self, within_s: float = END_S, queue: bool = True, ghosts: bool = False
    ) -> None:
        """Checks that neither processes nor cluster jobs nor files are left.

        :param ghosts: a slurmctld that was killed may never hear that a job has ended, and lists
            it until it is deleted (measured on Slurm 22.05)
        """
        eventually(lambda: not self.processes(), within_s, f"no process of {self.processes()}")
        if ghosts:
            self.empty_queue()
        elif queue:
            eventually(lambda: not self.queued(), within_s, f"nothing queued of {self.queued()}")
        eventually(lambda: not self.files(), 10, f"no file is left of {self.files()}")

    def empty_queue(self, within_s: float = 60.0) -> None:
        """Deletes all jobs, again and again: a slurmctld that has just come back may not hear."""
        deadline = time.monotonic() + within_s
        while jobs := self.all_jobs():
            assert time.monotonic() < deadline, f"not deleted within {within_s:.0f} s: {jobs}"
            self.slurm("scancel", *jobs, check=False)
            time.sleep(1)

    def files(self) -> list[Path]:
        """Returns the temporary files that this user's jobs have made during the test."""
        found, uid = [], pwd.getpwnam(USER).pw_uid
        for path in (path for place in PLACES for path in Path(place).iterdir()):
            with contextlib.suppress(OSError):
                if path.lstat().st_uid == uid and not path.name.startswith("pytest-of-"):
                    found.append(path)
        return [path for path in found if path not in self.before]
