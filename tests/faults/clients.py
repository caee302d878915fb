"""Programs of a user whose cluster is broken: what the tests of all labs share."""

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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest

from tests.faults import program
from tests.left import left_of_runs

USER = os.environ.get("FAULTS_USER", "griduser")
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


class Place(Protocol):
    """A host on which clients are started."""

    def inside(self, *command: str, folder: str = "/") -> list[str]:
        """Returns the command line that runs a command there, as a child of its first process."""


class Client:
    """tests/faults/program.py on one of the hosts, as the unprivileged user."""

    def __init__(self, lab: Workshop, host: Place, *command: str, **environment: str) -> None:
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
            **lab.variables,
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


class Workshop(ABC):
    """Clients and their files, for one test.

    :param undo: what mends what the test broke, last things first
    """

    hosts: Mapping[str, Place]
    home: str
    """The host of the clients."""
    variables: Mapping[str, str]
    """What the scheduler's own programs want to be told in the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.undo = contextlib.ExitStack()
        self.count = 0

    @abstractmethod
    def agents(self) -> list[psutil.Process]:
        """Returns the workers that the scheduler has started."""

    # --- programs ---------------------------------------------------------------------------------

    def start(
        self, host: str = "", *, what: str = "calls", environment: Any = None, **options: Any
    ) -> Client:
        """Starts a client; see tests/faults/program.py for its options."""
        words = (what, json.dumps(options))
        return Client(self, self.hosts[host or self.home], *words, **(environment or {}))

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

    def attach(self, host: str = "", environment: Any = None) -> Client:
        """Starts a client that takes over the only run that there is."""
        return Client(self, self.hosts[host or self.home], "attach", "{}", **(environment or {}))

    def squares(self, client: Client, count: int, within_s: float) -> None:
        """Waits for a client's end, and checks that it has all values, in their order."""
        assert client.results(within_s) == [n * n for n in range(count)], client.printed()

    def calls_made_twice(self) -> int:
        made = [number for number, *_ in calls(self.folder)]
        return len(made) - len(set(made))

    def runs_left(self) -> list[str]:
        """Returns what is left of runs, but for the history of those that are over."""
        return left_of_runs(self.runs)


@contextlib.contextmanager
def broken(lab: Workshop, mend: Callable[[], object]) -> Iterator[None]:
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
