"""Programs that use GridMap, started and watched from outside."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.left import left_of_runs

MARK = "GRIDMAP_DOORS_TEST"

# Others may use /dev/shm at the same time; so each program notes what it makes there.
NOTE_FOLDERS = """
import sys

def _note(event, args):
    if event == "tempfile.mkdtemp":
        with open({0!r}, "a") as file:
            file.write(str(args[0]) + "\\n")

sys.addaudithook(_note)
"""


def until(condition: Callable[[], Any], what: str, deadline_s: float = 10.0) -> Any:
    """Waits until a condition holds; returns what it returned."""
    begun = time.monotonic()
    while not (answer := condition()):
        waited_s = time.monotonic() - begun
        assert waited_s < deadline_s, f"after {deadline_s} s still not: {what}"
        time.sleep(min(max(0.005, waited_s / 20), 0.03))  # many conditions cost as much as jobs
    return answer


class Client:
    """A program in a process group of its own; everything that it starts carries a mark."""

    def __init__(self, folder: Path, text: str, *command: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.temp = Path(tempfile.mkdtemp(prefix="gm-"))  # short: sockets are made in it
        self.script = folder / "client.py"
        self.script.write_text(text)
        self._mark = f"{folder}-{time.monotonic_ns()}"
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(NOTE_FOLDERS.format(str(folder / "made")))
        environment = {
            **os.environ,
            MARK: self._mark,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))),
            "TMPDIR": str(self.temp),
            "GRIDMAP_RUN_DIR": str(folder / "runs"),
            "HERE": str(folder),
        }
        self._err = (folder / "stderr").open("w+")
        self._out = (folder / "stdout").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, *(command or (str(self.script),))],
            cwd=folder,
            env=environment,
            stdin=self.script.open() if command[:1] == ("-",) else subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    @property
    def out(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "stderr").read_text()

    def file(self, name: str) -> str:
        """Waits for a file that the program writes; returns its text."""
        path = self.folder / name

        def there() -> bool:
            if self.process.poll() is not None and not path.exists():
                raise AssertionError(f"ended with {self.process.returncode}: {self.err}")
            return path.exists() and bool(path.stat().st_size)

        until(there, name, 20)
        return path.read_text()

    def signal(self, number: int) -> None:
        """Sends a signal to the program alone."""
        os.kill(self.process.pid, number)

    def ended(self, within_s: float) -> int:
        """Waits for the program's end; returns its exit status."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still there after {within_s} s: {self.out} {self.err} {self.family()}"
            ) from None

    def family(self) -> list[psutil.Process]:
        """Returns all processes that carry the mark."""
        found = []
        mark = f"{MARK}={self._mark}\0".encode()
        for folder in Path("/proc").iterdir():  # psutil takes a hundred times as long
            with contextlib.suppress(psutil.Error, OSError):
                # that of a zombie is empty
                if folder.name.isdecimal() and mark in (folder / "environ").read_bytes():
                    found.append(psutil.Process(int(folder.name)))
        return found

    def left_nothing(self, deadline_s: float = 2.0) -> None:
        """Checks that no process and no file is left."""
        until(lambda: not self.family(), "no process left", deadline_s)
        until(lambda: not self.shared(), "no file left in /dev/shm", deadline_s)
        assert list(self.temp.rglob("*")) == []
        runs = self.folder / "runs"
        assert not left_of_runs(runs)

    def shared(self) -> list[str]:
        """Returns the temporary folders that the program or its children made and that exist."""
        made = self.folder / "made"
        return [p for p in made.read_text().split() if os.path.exists(p)] if made.exists() else []

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self._err.close()
        self._out.close()
        shutil.rmtree(self.temp, ignore_errors=True)


@contextlib.contextmanager
def client(folder: Path, text: str, *command: str) -> Iterator[Client]:
    """Runs a program; at the end of the block it is gone, whatever happened."""
    one = Client(folder, text, *command)
    try:
        yield one
    finally:
        one.close()
