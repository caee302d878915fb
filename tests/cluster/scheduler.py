"""The scheduler that the tests of this folder run on, by its own commands."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from gridmap.backends.grid_engine import parse_qstat

USER = pwd.getpwuid(os.getuid()).pw_name
COMMAND_S = 20


class Task(NamedTuple):
    """A worker that the scheduler still has."""

    native_id: str
    name: str
    waits: bool

    @property
    def array(self) -> str:
        return SCHEDULER.array(self.native_id)


class GridEngine:
    """Son of Grid Engine, which tools/grid_engine brings up."""

    kind = backend = "drmaa"
    shepherd = "sge_shepherd"
    commands = ("qstat",)
    hosts = (os.uname().nodename,)
    present = "SGE_ROOT" in os.environ
    accounting = True

    def queued(self) -> list[Task]:
        """Returns the user's tasks, without those that are being deleted."""
        tasks = parse_qstat(_output("qstat", "-xml", "-u", USER))
        return [
            Task(one.native_id, one.name, "q" in one.state) for one in tasks if "d" not in one.state
        ]

    def array(self, native_id: str) -> str:
        return native_id.partition(".")[0]

    def native_id(self, environ: Mapping[str, str]) -> str:
        return f"{environ['JOB_ID']}.{environ['SGE_TASK_ID']}"

    def record(self, array: str) -> str:
        return _output("qstat", "-j", array)

    def delete(self, *ids: str) -> None:
        for one in ids:
            _output("qdel", one)

    def hold(self, *arrays: str) -> None:
        _output("qhold", *arrays)

    def release(self, *arrays: str) -> None:
        _output("qrls", *arrays)


class Slurm:
    """Slurm, which tools/slurm brings up."""

    kind = backend = "slurm"
    shepherd = "slurmstepd"
    commands = ("squeue", "scontrol")
    hosts = ("n1", "n2")
    present = "SLURM_CONF" in os.environ

    @property
    def accounting(self) -> bool:
        """Whether Slurm keeps account of what has ended: sacct can be asked."""
        return "accounting_storage/slurmdbd" in _output("scontrol", "show", "config")

    def queued(self) -> list[Task]:
        """Returns the user's elements of arrays, without those that are ending."""
        told = _output("squeue", "-h", "-r", "--me", "-t", "PD,R,S", "-o", "%i|%T|%j")
        lines = (line.strip().split("|") for line in told.splitlines())
        return [Task(one, name, state == "PENDING") for one, state, name in lines]

    def array(self, native_id: str) -> str:
        return native_id.partition("_")[0]

    def native_id(self, environ: Mapping[str, str]) -> str:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"

    def record(self, array: str) -> str:
        return _output("scontrol", "show", "job", array) + _output(
            "scontrol", "write", "batch_script", array, "-"
        )

    def delete(self, *ids: str) -> None:
        _output("scancel", *ids)

    def hold(self, *arrays: str) -> None:
        _output("scontrol", "hold", *arrays)

    def release(self, *arrays: str) -> None:
        _output("scontrol", "release", *arrays)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=True)
    return done.stdout


class GridEngineCommands(GridEngine):
    """The same, by the commands that a file describes."""

    backend = "grid_engine_commands"


class SlurmCommands(Slurm):
    """The same, by the commands that a file describes."""

    backend = "slurm_commands"


def _scheduler() -> GridEngine | Slurm:
    """Returns the one that is here, under the backend that CLUSTER_BACKEND names."""
    kinds = (Slurm, SlurmCommands) if Slurm.present else (GridEngine, GridEngineCommands)
    wanted = os.environ.get("CLUSTER_BACKEND") or kinds[0].backend
    (kind,) = (kind for kind in kinds if kind.backend == wanted)
    return kind()


SCHEDULER = _scheduler()
