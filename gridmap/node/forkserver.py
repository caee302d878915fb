"""Forks the children: a process with one thread, which never runs user code.

    agent  --(spawn N + its socket, kill N, close)-->  forkserver  --fork-->  child N
           <--(started pid, died status)-------------

It outlives nothing: when the agent is gone, however it ended, the control socket ends, and the
forkserver kills the process groups of all children, removes the folders it was told of, and exits.
This module is also run by path, in a fresh interpreter, where the agent's process has threads.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import subprocess

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

logger = logging.getLogger(__name__)

_SPAWN, _KILL, _STARTED, _DIED = range(4)
_MESSAGE = struct.Struct("<Biiiq")
"""What, child, pid or exit status, signal, peak rss [bytes]; of _SPAWN: what, child, place, of."""
_MAX_MESSAGE = 8192
_PR_SET_CHILD_SUBREAPER = 36

UNSAFE_TO_FORK = ("libgomp", "libiomp", "libomp", "libtbb", "libzmq", "libgrpc", "libcuda")
"""Libraries whose threads do not survive a fork and are not restarted after one."""

_LOOKS, _LOOK_S = 20, 0.0005

REAP_DEADLINE_S = 5.0
"""How long a forkserver that ends waits for its killed children; a disk may hold one up."""


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
            _be_forkserver(theirs, agent)
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
        self._send(_SPAWN, child, fds, place, of)

    def kill(self, child: int) -> None:
        """Ends a child and its process group; its death is told by `receive`."""
        self._send(_KILL, child)

    def receive(self) -> list[Started | Died]:
        """Returns what happened. After the forkserver's own end `alive` is False."""
        news: list[Started | Died] = []
        while self.alive:
            try:
                data = self._control.recv(_MAX_MESSAGE)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.alive = False
                break
            what, child, number, signum, rss = _MESSAGE.unpack(data[: _MESSAGE.size])
            if what == _STARTED:
                self._pids[child] = number
                news.append(Started(child, number))
            elif what == _DIED:
                self._pids.pop(child, None)
                news.append(Died(child, number, signum, rss))
        return news

    def _send(
        self, what: int, child: int, fds: list[int] | None = None, place: int = 0, of: int = 1
    ) -> None:
        self._queue.append((_MESSAGE.pack(what, child, place, of, 0), fds or []))
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
            while self._control.recv(_MAX_MESSAGE):
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
                _kill_group(pid)
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
            os.path.abspath(__file__),
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        import subprocess

        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
        )
    return ours, process.pid, process


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


# --- the process itself ---------------------------------------------------------------------------


def _be_forkserver(control: socket.socket, agent: int) -> None:
    """What a forked process becomes; never returns."""
    status = 1
    try:
        import ctypes  # here, while the parent goes on
        import gc

        gc.disable()
        gc.freeze()  # nothing of the parent's is finalized here
        with contextlib.suppress(OSError):
            os.setsid()
        # what jobs start stays below this process when its parent ends, and so can be found
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        _leave_descriptors_of_parent(control.fileno())
        _Server(control, agent).run()
        status = 0
    except BaseException:
        import traceback

        with contextlib.suppress(Exception):
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _leave_descriptors_of_parent(control: int) -> None:
    """Lets go of the parent's sockets and pipes, whose other ends wait to see them closed.

    Each number is kept in use, since an object of the parent's may still hold it.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd <= 2 or fd in (control, null):
            continue
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(("socket:", "pipe:", "anon_inode:")):
                os.dup2(null, fd, inheritable=False)
    os.close(null)


class _Server:
    def __init__(self, control: socket.socket, agent: int) -> None:
        self._control = control
        self._children: dict[int, int] = {}  # number by pid
        self._agent = agent
        # A scheduler warns every process of a worker; it is the agent that decides what to do
        for number in ("INT", "TERM", "HUP", "USR1", "USR2", "XCPU", "PIPE"):
            signal.signal(getattr(signal, f"SIG{number}"), signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self._wake, writer = os.pipe()
        for fd in (self._wake, writer):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        agent = self._watch_agent()
        if agent >= 0:
            poll.register(agent, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._reap()
            if agent in ready or (self._control.fileno() in ready and not self._obey()):
                break
        self._end()

    def _watch_agent(self) -> int:
        """Returns a descriptor that tells of the agent's end, should another process of its own
        hold a copy of the control socket; -1 on kernels before 5.3."""
        try:
            fd = os.pidfd_open(self._agent)
        except (AttributeError, OSError):
            return -1
        return fd

    def _obey(self) -> bool:
        """Takes one command; returns False at the end."""
        try:
            data, fds, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE, 8)
        except OSError:
            return False
        if not data:
            return False
        what, child, place, of, _ = _MESSAGE.unpack(data[: _MESSAGE.size])
        if what == _SPAWN:
            if len(fds) == 2:
                self._spawn(child, fds[0], fds[1], place, of)
            else:  # they did not come: there is no room for them
                for fd in fds:
                    os.close(fd)
                self._tell(_DIED, child, 1)
        elif what == _KILL:
            for pid, number in self._children.items():
                if number == child:
                    _kill_group(pid)
        return True

    def _spawn(self, child: int, sock: int, slot: int, place: int, of: int) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no more processes or memory: as if it had died at once
            self._tell(_DIED, child, 1)
            os.close(sock)
            os.close(slot)
            return
        if pid == 0:
            _be_child(server, self._control, sock, slot, place, of)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # the child does it too: whoever comes first
        os.close(sock)
        os.close(slot)
        self._children[pid] = child
        self._tell(_STARTED, child, pid)

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None:
                    return
                if ended.si_pid in self._children:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(ended.si_pid, signal.SIGKILL)  # what it started and left behind
                pid, status, usage = os.wait4(ended.si_pid, 0)
            except ChildProcessError:
                return
            child = self._children.pop(pid, None)
            if child is None:  # an orphan that a job left
                continue
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
            signum = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            self._tell(_DIED, child, code, signum, usage.ru_maxrss * 1024)

    def _tell(self, what: int, child: int, number: int, signum: int = 0, rss: int = 0) -> None:
        with contextlib.suppress(OSError):
            self._control.send(_MESSAGE.pack(what, child, number, signum, rss))

    def _end(self) -> None:
        for pid in self._children:
            _kill_group(pid)
        deadline = time.monotonic() + REAP_DEADLINE_S
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        self._reap()
        while self._children and time.monotonic() < deadline:
            poll.poll(100)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
            self._reap()


def _be_child(
    server: int, control: socket.socket, sock: int, slot: int, place: int, of: int
) -> None:
    """What a forked child becomes; never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        control.close()
        from gridmap.node.child import run_child

        run_child(server, sock, slot, place, of)
        status = 0
    except BaseException:
        import traceback

        with contextlib.suppress(Exception):
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def main(argv: list[str]) -> None:
    """Runs as a fresh interpreter: descriptor of the control socket, pid of the agent."""
    import types

    import cloudpickle  # noqa: F401

    import gridmap.node.child  # noqa: F401

    # what user code calls __main__ is not this file
    sys.modules["__main__"] = types.ModuleType("__main__")
    _be_forkserver(socket.socket(fileno=int(argv[1])), int(argv[2]))


if __name__ == "__main__":
    main(sys.argv)
