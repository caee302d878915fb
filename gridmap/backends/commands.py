"""A scheduler's commands, and the logs of its workers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping

LOG_TAIL_BYTES = 4_000
END_S = 5.0
"""How long a command that was killed may take to end."""

MISSING, LATE = 127, 124
"""Exit statuses of a command that does not exist, and of one that did not answer in time."""


def run(
    *command: str, deadline_s: float, text: str = "", environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Runs a command; returns its exit status and all that it printed.

    :param text: what it reads from its standard input
    :param environment: None: this program's
    """
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the program
        )
    except OSError as error:
        return MISSING, str(error)
    try:
        output, _ = process.communicate(text.encode(), deadline_s)
    except subprocess.TimeoutExpired as late:
        if process.poll() is None:
            return LATE, f"no answer within {deadline_s:g} s"
        output = late.output or b""  # what it left running still has its pipe
    finally:
        _end(process)
    return process.returncode, output.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a command that has not ended, and what it started: it may be a shell's script."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own
        with contextlib.suppress(subprocess.TimeoutExpired):  # a dead disk may hold it
            process.wait(END_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


_NEEDED = ("HOME", "LANG", "LC_*", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TZ", "USER",
           "XDG_DATA_HOME")  # fmt: skip


def needed_environment(also: Iterable[str] = ()) -> dict[str, str]:
    """Returns what a command, and a worker that it starts, need of this program's environment.

    The rest is none of the scheduler's business: what jobs are to see comes over our own wire.

    :param also: further names; one that ends in "*" stands for all that begin so
    """
    names = "|".join(re.escape(name).replace(r"\*", ".*") for name in (*_NEEDED, *also))
    return {name: value for name, value in os.environ.items() if re.fullmatch(names, name)}


def words_said(output: str) -> str:
    """Returns a command's own words, without its name before each line."""
    lines = (re.sub(r"^\w+: (error: )?", "", line.strip()) for line in output.splitlines())
    return "; ".join(line for line in lines if line) or "it said nothing"


def worker_logs(log_dir: str, native_id: str) -> tuple[str, str]:
    """Returns the files that hold a worker's standard output and error."""
    stem = os.path.join(log_dir, f"worker.{native_id}")
    return f"{stem}.out", f"{stem}.err"


def tail(path: str) -> str:
    """Returns the end of a log under its name; "" when there is nothing in it."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace").strip()
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path}:\n{text}" if text else ""
