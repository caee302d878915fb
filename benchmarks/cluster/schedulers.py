"""The schedulers that are measured, by their own commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod

IDLE_S = 90


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


class Scheduler(ABC):
    """A scheduler with a cluster of our own, on which nobody else works."""

    name: str
    part: str
    """The part of docs/performance.json that has what was measured on it."""
    backend: str
    quiet_s: float
    """Time that passes from when it says that all jobs have ended until all slots are free."""

    @property
    @abstractmethod
    def present(self) -> bool: ...

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def settings(self) -> str:
        """Returns how soon it acts, in the words of its own configuration."""

    @abstractmethod
    def busy(self) -> bool:
        """Returns whether it has any job, or has to tidy up after one."""

    @abstractmethod
    def submit(self, tasks: int, *command: str) -> None:
        """Starts an array job without output."""

    @abstractmethod
    def delete_all(self) -> None:
        """Deletes all of this user's jobs."""

    def wait_until_idle(self) -> None:
        """Returns when the scheduler has had nothing to do for a moment."""
        deadline = time.monotonic() + IDLE_S
        while self.busy():
            if time.monotonic() > deadline:
                raise TimeoutError("the cluster does not come to rest: somebody else uses it")
            time.sleep(0.1)
        time.sleep(self.quiet_s)


class GridEngine(Scheduler):
    """What tools/grid_engine brings up."""

    name = "Grid Engine"
    part = "cluster"
    backend = "drmaa"
    quiet_s = 1.5  # a slot is free again a second after its job has ended

    @property
    def present(self) -> bool:
        return "SGE_ROOT" in os.environ and shutil.which("qsub") is not None

    def version(self) -> str:
        return run("qconf", "-help").split()[1]

    def settings(self) -> str:
        lines = (line.split() for line in run("qconf", "-ssconf").splitlines())
        told = {words[0]: words[1] for words in lines if len(words) == 2}
        names = ("schedule_interval", "flush_submit_sec", "flush_finish_sec")
        return ", ".join(f"{name} {told[name]}" for name in names)

    def busy(self) -> bool:
        return bool(run("qstat", "-u", "*"))

    def submit(self, tasks: int, *command: str) -> None:
        quiet = ("-o", "/dev/null", "-e", "/dev/null")
        run("qsub", "-b", "y", "-shell", "no", "-t", f"1-{tasks}", "-N", "bare", *quiet, *command)

    def delete_all(self) -> None:
        run("qdel", "-u", os.environ["USER"])


class Slurm(Scheduler):
    """What tools/slurm brings up."""

    name = "Slurm"
    part = "cluster-slurm"
    backend = "slurm"
    quiet_s = 0.5

    @property
    def present(self) -> bool:
        return "SLURM_CONF" in os.environ and shutil.which("sbatch") is not None

    def version(self) -> str:
        return run("sinfo", "--version").split()[1]

    def settings(self) -> str:
        lines = run("scontrol", "show", "config").splitlines()
        told = {name.strip(): value.strip() for name, _, value in (x.partition("=") for x in lines)}
        return f"{told['SchedulerType']}, {told['SchedulerParameters'].replace(',', ', ')}"

    def processors(self) -> int:
        """Returns how many each node has at least."""
        return min(map(int, run("sinfo", "-h", "-N", "-o", "%c").split()))

    def busy(self) -> bool:
        states = set(run("sinfo", "-h", "-N", "-o", "%T").split())
        return bool(run("squeue", "-h")) or states != {"idle"}

    def submit(self, tasks: int, *command: str) -> None:
        # exec: no shell stands between Slurm and the command, nor does one with Grid Engine
        words = " ".join(command)
        quiet = ("--quiet", "--output=/dev/null", "--job-name=bare")
        run("sbatch", *quiet, f"--array=1-{tasks}", f"--wrap=exec {words}")

    def delete_all(self) -> None:
        run("scancel", "--user", os.environ["USER"])


SCHEDULER: Scheduler = Slurm() if Slurm().present else GridEngine()
