"""Real terminals: panes of tmux, in which somebody types and reads."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
TMUX = shutil.which("tmux")
DEADLINE_S = 60.0
RC = """
gridmap() {{ {python} -W error -m gridmap "$@"; }}
python() {{ {python} "$@"; }}
PS1='[$?] $ '
unset COLUMNS LINES HISTFILE
"""
PROMPT = re.compile(r"^\[(\d+)\] \$", re.MULTILINE)


class Pane:
    """One pane.

    :param socket: of the server
    """

    def __init__(self, socket: Path, name: str) -> None:
        self._socket = socket
        self._name = name

    def tmux(self, *words: str) -> str:
        command = [str(TMUX), "-S", str(self._socket), *words[:1], "-t", self._name, *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    def seen(self) -> list[str]:
        """Returns the lines that are on the screen, without blanks at their ends."""
        return [line.rstrip() for line in self.tmux("capture-pane", "-p").splitlines()]

    def history(self) -> list[str]:
        """Returns the lines that were or are on the screen."""
        text = self.tmux("capture-pane", "-p", "-S", "-")
        return [line.rstrip() for line in text.splitlines()]

    def all(self) -> str:
        """Returns all that was printed, each line as it was before it was wrapped."""
        text = self.tmux("capture-pane", "-p", "-J", "-S", "-")
        return "\n".join(line.rstrip() for line in text.splitlines())

    def gone(self) -> bool:
        """Returns whether the program of the pane has ended, and the terminal with it."""
        try:
            self.seen()
        except subprocess.CalledProcessError:
            return True
        return False

    def until(self, condition: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
        """Waits until a condition holds; where it never does, says what there was instead."""
        end = time.monotonic() + deadline_s
        while not (answer := condition()):
            assert time.monotonic() < end, f"still not: {what}; there was\n{self.all()}"
            time.sleep(0.05)
        return answer

    def resize(self, columns: int) -> None:
        self.tmux("resize-window", "-x", str(columns))

    def press(self, *keys: str) -> None:
        """Presses keys by the names that tmux has for them."""
        self.tmux("send-keys", *keys)

    def type(self, line: str) -> None:
        """Types a line at the prompt of a shell."""
        self.tmux("send-keys", "-l", line)
        self.press("Enter")

    def said(self, line: str) -> tuple[int, str] | None:
        """Returns the exit status of a line that was typed, and what it printed; None: not yet."""
        _, typed, printed = self.all().rpartition(f"$ {line}\n")
        ended = PROMPT.search(printed)
        return None if not typed or ended is None else (int(ended[1]), printed[: ended.start()])

    def ran(self, line: str, deadline_s: float = DEADLINE_S) -> tuple[int, str]:
        """Types a line, and waits for its end."""
        self.type(line)
        return self.ended(line, deadline_s)

    def ended(self, line: str, deadline_s: float = DEADLINE_S) -> tuple[int, str]:
        """Waits for the end of a line that was typed."""
        said = self.until(lambda: self.said(line), f"{line} ends", deadline_s)
        assert said is not None
        return said


class Screen(Pane):
    """The first pane of a terminal of its own.

    :param shell: the command of a shell
    """

    def __init__(self, socket: Path, shell: str) -> None:
        super().__init__(socket, ":0.0")
        self._shell = shell

    def beside(self) -> Pane:
        """Opens a second pane, with a shell."""
        name = self.tmux("split-window", "-d", "-P", "-F", "#{pane_id}", self._shell)
        pane = Pane(self._socket, name.strip())
        pane.until(lambda: PROMPT.search(pane.all()), "there is a prompt")
        return pane


@contextlib.contextmanager
def screen(
    folder: Path,
    command: str = "",
    size: tuple[int, int] = (120, 30),
    environment: Mapping[str, str] = {},
) -> Iterator[Screen]:
    """Opens a terminal in a folder, and closes it at the end of the block.

    :param command: what runs in it; a shell with the commands `python` and `gridmap` when not given
    :param size: columns and rows
    """
    if TMUX is None:
        pytest.skip("needs tmux")
    rc = folder / "bashrc"
    rc.write_text(RC.format(python=shlex.quote(sys.executable)))
    shell = f"exec bash --noprofile --rcfile {shlex.quote(str(rc))} -i"
    plain = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "TMUX")}
    with tempfile.TemporaryDirectory(prefix="gm-") as place:  # a socket's path must be short
        one = Screen(Path(place) / "tmux", shell)
        start = [str(TMUX), "-u", "-S", f"{place}/tmux", "-f", os.devnull, "new-session", "-d"]
        of_size = ["-x", str(size[0]), "-y", str(size[1]), "-c", str(folder)]
        try:
            subprocess.run(
                [*start, *of_size, command or shell], check=True, timeout=30,
                env={**plain, "LC_ALL": "C.UTF-8", **environment},
            )  # fmt: skip
            if not command:
                one.until(lambda: PROMPT.search(one.all()), "there is a prompt")
            yield one
        finally:
            stop = [str(TMUX), "-S", f"{place}/tmux", "kill-server"]
            subprocess.run(stop, capture_output=True, timeout=30)
