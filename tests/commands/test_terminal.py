"""Commands on a terminal: live views, colors, widths; and how they leave it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import COMMAND, gridmap
from tests.doors.clients import Client, until
from tests.screens import screen
from tests.watching.conftest import only, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a process for each command

DEADLINE_S = 60.0
SCREEN, NO_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
NO_CURSOR, CURSOR = b"\x1b[?25l", b"\x1b[?25h"


class Terminal:
    """A command on a terminal of its own.

    :param columns: its width
    """

    def __init__(self, *words: str, columns: int = 120, **environment: str) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        plain = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [*COMMAND, *words], stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            env={**plain, "TERM": "xterm-256color", **environment}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so Ctrl-C reaches it
        )  # fmt: skip
        self.shown = b""

    def read(self) -> bytes:
        """Takes in what there is; returns all so far."""
        while select.select([self.ours], [], [], 0.05)[0]:
            try:
                piece = os.read(self.ours, 65_536)
            except OSError:
                break
            if not piece:
                break
            self.shown += piece
        return self.shown

    def until(self, words: bytes) -> bytes:
        until(lambda: words in self.read(), f"{words!r} in {self.shown!r}", DEADLINE_S)
        return self.shown

    def ended(self) -> int:
        """Waits for its end, and takes in the rest; returns the exit status."""
        until(lambda: self.read() is not None and self.process.poll() is not None, "it ends",
              DEADLINE_S)  # fmt: skip
        self.read()
        return self.process.returncode

    @property
    def text(self) -> str:
        """What was shown, without colors."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown.decode()).replace("\r\n", "\n")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@contextmanager
def terminal(*words: str, **how: Any) -> Iterator[Terminal]:
    one = Terminal(*words, **how)
    try:
        yield one
    finally:
        one.close()


def test_watch_shows_a_run_until_it_is_over(settled: Client, runs: Path) -> None:
    with terminal("status", "last", "--watch", "--interval", "0.2") as screen:
        screen.until(b"8 completed")
        opened(settled)
        assert screen.ended() == 1  # two jobs have no value
        assert "18 completed, 2 failed" in screen.text
        assert screen.shown.rfind(CURSOR) > screen.shown.rfind(NO_CURSOR) >= 0
        assert termios.tcgetattr(screen.theirs) == screen.before


def test_watch_in_a_pipe_says_what_changes(settled: Client, runs: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "status", "last", "-w", "--interval", "0.2"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "under way\t20: 8 completed" in process.stdout.readline()
        opened(settled)
        lines = process.stdout.read().splitlines()
        assert "ended\t20: 18 completed, 2 failed" in lines[-1]
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("words", "status"), [(["top"], 0), (["status", "last", "--watch"], 130)])
@pytest.mark.parametrize("stopped", [False, True])
def test_an_interrupt_leaves_the_terminal_as_it_was(
    settled: Client, runs: Path, words: list[str], status: int, stopped: bool
) -> None:
    run = only(runs).name.encode()
    with terminal(*words, "--interval", "0.2") as screen:
        screen.until(run)
        if stopped:
            settled.signal(signal.SIGSTOP)
            time.sleep(1)  # it is being waited for by now
        begun = time.monotonic()
        os.write(screen.ours, b"\x03")
        assert screen.ended() == status
        assert time.monotonic() - begun < 5
        settled.signal(signal.SIGCONT)
        assert screen.shown.count(SCREEN) == screen.shown.count(NO_SCREEN)
        assert (SCREEN in screen.shown) == (words == ["top"])
        assert screen.shown.rfind(CURSOR) > screen.shown.rfind(NO_CURSOR) >= 0
        assert termios.tcgetattr(screen.theirs) == screen.before
        assert b"Traceback" not in screen.shown


def test_top_shows_a_client_that_stopped(settled: Client, runs: Path) -> None:
    with terminal("top", "--interval", "0.2") as screen:
        screen.until(b"under way")
        settled.signal(signal.SIGSTOP)
        try:
            screen.until(b"no answer")
        finally:
            settled.signal(signal.SIGCONT)
        opened(settled)
        screen.until(b"ended")


@pytest.mark.parametrize("columns", [60, 200])
def test_widths_and_colors(settled: Client, runs: Path, columns: int) -> None:
    with terminal("jobs", "last", "--failed", columns=columns) as screen:
        assert screen.ended() == 0
    lines = screen.text.splitlines()
    assert len(lines) == 3 and max(len(line) for line in lines) <= columns
    assert b"\x1b[1;31mfailed" in screen.shown
    assert "ValueError: " in screen.text and ("[red]" in screen.text or columns == 60)
    assert ("ENDED" in screen.text) == (columns == 200)
    with terminal("jobs", "last", "--failed", columns=columns, NO_COLOR="1") as screen:
        assert screen.ended() == 0
    assert b"\x1b[1;31m" not in screen.shown and b"31m" not in screen.shown.replace(b"x1b[31m", b"")
    assert b"\x1b" not in gridmap("jobs", "last", "--failed").out.encode()


def test_what_is_seen_of_top(settled: Client, runs: Path, tmp_path: Path) -> None:
    line = " ".join(["exec", *COMMAND, "top", "--interval", "0.2"])
    with screen(tmp_path, line, (150, 20)) as there:
        until(lambda: any("under way" in line for line in there.seen()), "it is seen", DEADLINE_S)
        headline, headings, row, *more = there.seen()
        assert headline.startswith("1 run, 20 jobs, ")
        assert headings.split()[:4] == ["RUN", "STATE", "ENDED", "JOBS"]
        assert row.startswith(f"{only(runs).name}  under way  [#####.....] 50 %")
        assert any("Ctrl-C leaves" in line for line in more)
        there.press("C-c")
        until(there.gone, "it has left", DEADLINE_S)


def test_an_interrupt_never_comes_into_a_drawing(settled: Client, runs: Path) -> None:
    """Views that are drawn without a pause are interrupted at moments of all kinds."""
    for number in range(5):
        with terminal("top", "--interval", "0.1") as screen:
            screen.until(SCREEN)
            time.sleep(0.037 * number)  # somewhere, not after something
            os.kill(screen.process.pid, signal.SIGINT)
            assert screen.ended() == 0
            assert screen.shown.count(SCREEN) == screen.shown.count(NO_SCREEN) == 1
            assert screen.shown.rfind(CURSOR) > screen.shown.rfind(NO_CURSOR)
