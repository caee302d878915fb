"""The agent's side of the forkserver, the process with one thread that forks the children.

    agent  --(spawn N + its socket, kill N, close)-->  forkserver  --fork-->  child N
           <--(started pid, died status)-------------

It never runs user code, and it outlives nothing: when the agent is gone, however it ended, the
control socket ends, and the forkserver kills the process groups of all children and exits. Where
the agent's process has threads, it is a fresh interpreter.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gridmap.node import forkserver_process
from gridmap.node.forkserver_process import (
    DIED,
    KILL,
    MAX_MESSAGE,
    MESSAGE,
    REAP_DEADLINE_S,
    SPAWN,
    STARTED,
    be_forkserver,
    kill_group,
)

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger(__name__)

UNSAFE_TO_FORK = ("libgomp", "libiomp", "libomp", "libtbb", "libzmq", "libgrpc", "libcuda")
"""Libraries whose threads do not survive a fork and are not restarted after one."""

_LOOKS, _LOOK_S = 20, 0.0005


class Started(NamedTuple):
    child: int
    pid: int


class Died(NamedTuple):
    """:param exit_status: -1 when it did not exit; `signal` is 0 when none ended it"""

    child: int
    exit_status: int
    signal: int
    peak_rss_bytes: int


def fork_is_safe() -> bool:
    """True when this process may fork without an exec: nothing else runs in it."""
    if threading.active_count() != 1 or threading.current_thread() is not threading.main_thread():
        return False
    try:
        if len(os.listdir("/proc/self/task")) == 1:
            return True
        libraries = Path("/proc/self/maps").read_text(errors="replace")
        # OpenBLAS has threads, and ends and restarts them around a fork
        if "openblas" in libraries and not any(name in libraries for name in UNSAFE_TO_FORK):
            return True
        for _ in range(_LOOKS):  # a thread that has been joined may still be on its way out
            time.sleep(_LOOK_S)
            if len(os.listdir("/proc/self/task")) == 1:
                return True
    except OSError:
        pass
    return False


class Forkserver:
    """The agent's side: tells the forkserver what to do and hears what became of it."""

    def __init__(
        self, control: socket.socket, pid: int, process: subprocess.Popen[bytes] | None
    ) -> None:
        self._attach(control, pid, process)

    def _attach(
        self, control: socket.socket, pid: int, process: subprocess.Popen[bytes] | None
    ) -> None:
        control.setblocking(False)
        self._control = control
        self.pid = pid
        self._process = process
        self._pids: dict[int, int] = {}
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self.alive = True

    # --- making one -------------------------------------------------------------------------------

    @classmethod
    def make(cls) -> Forkserver:
        """Forks where that is safe, else starts a fresh interpreter."""
        return cls.fork() if fork_is_safe() else cls.launch()

    @classmethod
    def fork(cls) -> Forkserver:
        """Forks this process.

        :raises RuntimeError: this process has other threads
        """
        if threading.active_count() != 1:
            raise RuntimeError("a process with several threads cannot be forked safely")
        from gridmap._loading import load

        load("gridmap.node.child")  # here, so that no child has to
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()  # else the same text might be written twice
        ours, theirs = _pair()
        agent = os.getpid()
        pid = os.fork()
        if pid == 0:
            be_forkserver(theirs, agent)
        theirs.close()
        return cls(ours, pid, None)

    @classmethod
    def launch(cls) -> Forkserver:
        """Starts a fresh interpreter."""
        return cls(*_launch())

    def relaunch(self) -> None:
        """Starts another one in the place of one that died."""
        self._control.close()
        for pid in self._pids.values():  # the children died with it, but not what they started
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._reap(time.monotonic() + 1.0)
        self._attach(*_launch())

    # --- what it does -----------------------------------------------------------------------------

    def fileno(self) -> int:
        """Returns the descriptor to poll."""
        return self._control.fileno()

    @property
    def wants_to_send(self) -> bool:
        """True when `flush` should be called once the control socket can take more."""
        return bool(self._queue)

    def spawn(
        self, child: int, sock: socket.socket, slot: int, place: int = 0, of: int = 1
    ) -> None:
        """Forks child number `child`.

        :param sock: the child's end of its channel
        :param slot: descriptor of the memory where it keeps the number of its job
        :param place: which of `of` equal parts of what the worker has is its own
        """
        fds = [os.dup(sock.fileno())]
        try:
            fds.append(os.dup(slot))
        except OSError:
            os.close(fds[0])
            raise
        self._send(SPAWN, child, fds, place, of)

    def kill(self, child: int) -> None:
        """Ends a child and its process group; its death is told by `receive`."""
        self._send(KILL, child)

    def receive(self) -> list[Started | Died]:
        """Returns what happened. After the forkserver's own end `alive` is False."""
        news: list[Started | Died] = []
        while self.alive:
            try:
                data = self._control.recv(MAX_MESSAGE)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.alive = False
                break
            what, child, number, signum, rss = MESSAGE.unpack(data[: MESSAGE.size])
            if what == STARTED:
                self._pids[child] = number
                news.append(Started(child, number))
            elif what == DIED:
                self._pids.pop(child, None)
                news.append(Died(child, number, signum, rss))
        return news

    def _send(
        self, what: int, child: int, fds: list[int] | None = None, place: int = 0, of: int = 1
    ) -> None:
        self._queue.append((MESSAGE.pack(what, child, place, of, 0), fds or []))
        self.flush()

    def flush(self) -> None:
        """Sends what waits."""
        while self._queue:
            data, fds = self._queue[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                if not self._sent(data, rights):  # without them it answers that it could not
                    self._control.sendmsg([data])
            except BlockingIOError:
                return
            except OSError:
                pass  # it is dead: `receive` will notice
            self._queue.popleft()
            for fd in fds:
                os.close(fd)

    def _sent(self, data: bytes, rights: list[tuple[int, int, array.array[int]]]) -> bool:
        """Sends a command; False where this user has too many descriptors on their way.

        The kernel compares them with this process's limit at this moment.
        """
        try:
            self._control.sendmsg([data], rights)
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
        else:
            return True
        import resource  # seldom needed

        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
            self._control.sendmsg([data], rights)
        except BlockingIOError:
            raise
        except (OSError, ValueError) as error:
            logger.warning("cannot start a process for jobs: %s", error)
            return False
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        return True

    def close(self, deadline_s: float = 5.0) -> None:
        """Ends all children and the forkserver itself, and leaves no zombie."""
        if self.pid <= 0:
            return
        deadline = time.monotonic() + deadline_s
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
            self._control.setblocking(True)
            self._control.settimeout(max(0.01, deadline_s))
            while self._control.recv(MAX_MESSAGE):
                pass
        self._control.close()
        for _, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()
        self._reap(deadline)
        self.alive = False

    def _reap(self, deadline: float) -> None:
        """Waits for the forkserver's end; past the deadline it is killed with its children."""
        if self.pid <= 0:
            return
        if not self._ended(deadline):
            for pid in (*self._pids.values(), self.pid):
                kill_group(pid)
            self._ended(time.monotonic() + REAP_DEADLINE_S)
        self.pid = 0

    def _ended(self, deadline: float) -> bool:
        pause_s = 0.0005
        while not self._gone():
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause_s)  # no descriptor tells of this end on every kernel that we run on
            pause_s = min(2 * pause_s, 0.02)
        return True

    def _gone(self) -> bool:
        if self._process is not None:
            return self._process.poll() is not None
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # the user ignores SIGCHLD, or reaps every child
            return True


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _launch() -> tuple[socket.socket, int, subprocess.Popen[bytes]]:
    ours, theirs = _pair()
    with theirs:
        command = [
            sys.executable,
            os.path.abspath(forkserver_process.__file__),
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        import subprocess

        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
        )
    return ours, process.pid, process
