"""Programs on a pseudo-terminal, and what they write there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[78D])")


class Terminal:
    """A program whose standard streams are a terminal of its own."""

    def __init__(self, folder: Path, text: str, columns: int, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "program.py"
        script.write_text(text)
        self.folder = folder
        self._ours, self._theirs = pty.openpty()
        self.resize(columns)
        self.before = termios.tcgetattr(self._theirs)
        self.raw = ""
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=folder,
            env={
                **os.environ,
                "TERM": "xterm-256color",
                "PYTHONUNBUFFERED": "1",
                "GRIDMAP_RUN_DIR": str(folder / "runs"),
                **environment,
            },
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def resize(self, columns: int, rows: int = 24) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, signs: str) -> None:
        os.write(self._ours, signs.encode())

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    @property
    def text(self) -> str:
        """What was written, without what moves the cursor and colours."""
        return CONTROL.sub("", self.raw)

    def read(self, until: Callable[[], object], what: str, deadline_s: float = 60.0) -> None:
        """Reads until a condition holds."""
        end = time.monotonic() + deadline_s
        while not until():
            left_s = end - time.monotonic()
            assert left_s > 0, f"still not: {what}; there was {self.raw[-2000:]!r}"
            if not select.select([self._ours], [], [], min(left_s, 0.05))[0]:
                continue
            self.raw += os.read(self._ours, 65536).decode(errors="replace")

    def saw(self, pattern: str) -> None:
        """Reads until something has been written."""
        self.read(lambda: re.search(pattern, self.text), pattern)

    def ended(self) -> int:
        """Reads to the program's end; returns its exit status."""
        self.read(lambda: self.process.poll() is not None, "its end")
        while select.select([self._ours], [], [], 0.0)[0]:
            self.raw += os.read(self._ours, 65536).decode(errors="replace")
        assert self.process.returncode is not None
        return self.process.returncode

    def as_before(self) -> bool:
        """Returns whether the terminal's modes are those that it had."""
        return termios.tcgetattr(self._theirs) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextlib.contextmanager
def terminal(folder: Path, text: str, columns: int = 80, **environment: str) -> Iterator[Terminal]:
    """Runs a program on a terminal; at the end of the block both are gone."""
    one = Terminal(folder, text, columns, environment)
    try:
        yield one
    finally:
        one.close()
