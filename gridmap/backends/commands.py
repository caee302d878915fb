"""A scheduler's commands, and the logs of its workers."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping

LOG_TAIL_BYTES = 4_000
END_S = 5.0
"""How long a command that was killed may take to end."""

MISSING, LATE = 127, 124
"""Exit statuses of a command that does not exist, and of one that did not answer in time."""

LONG = -signal.SIGKILL
"""Exit status of a command that was ended for what it printed; what it did by then is not known."""

MOST_OUTPUT_BYTES = 64 << 20
"""More is no answer.  A list of 100,000 workers has 20 MB."""

_AT_ONCE_BYTES = 1 << 16


def run(
    *command: str, deadline_s: float, text: str = "", environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Runs a command; returns its exit status and all that it printed.

    :param text: what it reads from its standard input
    :param environment: None: this program's
    """
    began = time.monotonic()
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
        output, complete = _talk(process, text.encode(), began + deadline_s)
        if len(output) > MOST_OUTPUT_BYTES:
            most = f"{MOST_OUTPUT_BYTES >> 20} MiB"
            return LONG, f"{command[0]} printed more than {most}, and was ended: is it in a loop?"
        # when it has ended, what it left running still has its pipe
        if process.poll() is None and (not complete or not _ends(process, began + deadline_s)):
            return LATE, f"no answer within {deadline_s:g} s"
    finally:
        _end(process)
    return process.returncode, output.decode(errors="replace")


def _talk(process: subprocess.Popen[bytes], text: bytes, until: float) -> tuple[bytes, bool]:
    """Writes and reads; returns what was read, and whether that is all.

    It stops when there is too much, since nobody else would: a command may print without end.
    """
    assert process.stdin is not None and process.stdout is not None
    output = bytearray()
    left = memoryview(text)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if left:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while len(output) <= MOST_OUTPUT_BYTES:
            ready = selector.select(max(0.0, until - time.monotonic()))
            if not ready:
                return bytes(output), False
            for key, _ in ready:
                if key.fileobj is process.stdout:
                    new = os.read(key.fd, _AT_ONCE_BYTES)
                    if not new:
                        return bytes(output), True
                    output += new
                    continue
                try:
                    left = left[os.write(key.fd, left[:_AT_ONCE_BYTES]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    left = left[:0]  # it reads no more
                if not left:
                    selector.unregister(process.stdin)
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.close()
    return bytes(output), False


def _ends(process: subprocess.Popen[bytes], until: float) -> bool:
    """Returns whether a command that has closed its output ends in time."""
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


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
