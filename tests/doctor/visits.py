"""Visits to the doctor: in this process, or as a program beside a backend of processes.

The backend is a plug-in, found by its entry point as everybody's is: a folder with the metadata of
a package is on the path of the doctor and of the program that it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gridmap.conf import Settings
from gridmap.doctor import add_arguments
from gridmap.doctor.exam import Exam
from tests.wire.scheduler import ProcessBackend

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "PROCESSES_PREFIX"
END_S = 60.0

WITHOUT_PROOF = """
import runpy
from gridmap import doctor

doctor.PROBES = tuple(probe for probe in doctor.PROBES if probe.name != "grid_map")
runpy.run_module("gridmap.doctor", run_name="__main__")
"""


def make_backend() -> ProcessBackend:
    """The plug-in: starts workers by the command PROCESSES_PREFIX."""
    return ProcessBackend(shlex.split(os.environ.get(PREFIX, "")))


def plug_in(folder: Path) -> Path:
    """Returns a folder for PYTHONPATH that names the backend "processes"."""
    metadata = folder / "processes-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: processes\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[gridmap.backends]\nprocesses = tests.doctor.visits:make_backend\n"
    )
    return folder


def options(*words: str) -> argparse.Namespace:
    """Returns the doctor's options as the command line has them."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def exam(*words: str, **settings: Any) -> Exam:
    """Returns a visit whose first probes are over."""
    made = Exam(options(*words))
    made.settings = Settings(**settings)
    made.backend = made.options.backend or ""
    made.is_grid_engine = made.backend == "drmaa"
    made.workers = made.settings.max_workers
    return made


class Visit:
    """The doctor as a program of its own, on a machine whose scheduler starts processes.

    :param prefix: the command that starts a task's command, and may break what the task meets
    :param proof: there is a real grid_map at the end, which costs as much as all before it
    :param runs: the folder of runs
    """

    def __init__(
        self,
        folder: Path,
        *words: str,
        prefix: str = "",
        through: tuple[str, ...] = (),
        cwd: Path | None = None,
        proof: bool = True,
        **environment: str,
    ) -> None:
        program = ["-m", "gridmap.doctor"] if proof else ["-c", WITHOUT_PROOF]
        self.runs = folder / "runs"
        self.output = folder / "output"
        plugged = folder / "plugged"
        path = plugged if plugged.exists() else plug_in(plugged)
        settings = {
            "PYTHONPATH": f"{path}{os.pathsep}{ROOT}",
            "PYTHONUNBUFFERED": "1",
            "GRIDMAP_RUN_DIR": str(self.runs),
            "HEARTBEAT_FREQUENCY": "1",
            "SEND_ERROR_MAIL": "0",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "GRIDMAP_SITE_CONFIG": os.devnull,
            PREFIX: prefix,
            **environment,
        }
        inherited = {k: v for k, v in os.environ.items() if k != "GRIDMAP_CONFIG"}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*through, sys.executable, *program, "--backend=processes", *words],
                cwd=folder if cwd is None else cwd,
                env={**inherited, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def ended(self, within_s: float = END_S) -> int:
        """Waits for its end; returns the exit status."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            pytest.fail(f"still there after {within_s:.0f} s: {self.printed()}")

    def until_printed(self, words: str, within_s: float = END_S) -> None:
        deadline = time.monotonic() + within_s
        while words not in self.printed():
            assert self.process.poll() is None and time.monotonic() < deadline, self.printed()
            time.sleep(0.05)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def found(self, status: int) -> dict[str, Any]:
        """Returns the JSON object of a visit that ended with this status."""
        assert self.ended() == status, self.printed()
        told: dict[str, Any] = json.loads(self.printed())
        assert told["format"] == 1
        return told


def finding(told: dict[str, Any], probe: str, name: str) -> dict[str, Any]:
    """Returns the worst finding of this name."""
    (found,) = (one for one in told["probes"] if one["name"] == probe)
    named = [one for one in found["findings"] if one["name"] == name]
    assert named, f"no {name} in {found}"
    order = ("failed", "warning", "ok", "skipped")
    return min(named, key=lambda one: order.index(one["status"]))


def statuses(told: dict[str, Any]) -> dict[str, str]:
    """Returns the status of each probe."""
    return {probe["name"]: probe["status"] for probe in told["probes"]}


def left(runs: Path) -> list[str]:
    """Returns what is left in the folder of runs."""
    return sorted(str(path.relative_to(runs)) for path in runs.rglob("*")) if runs.exists() else []
