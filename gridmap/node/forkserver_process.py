"""The forkserver itself: obeys the agent, forks the children, and tells what became of them.

It is forked from the agent's process, or run by path in a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

SPAWN, KILL, STARTED, DIED = range(4)
MESSAGE = struct.Struct("<Biiiq")
"""What, child, pid or exit status, signal, peak rss [bytes]; of SPAWN: what, child, place, of."""
MAX_MESSAGE = 8192
_PR_SET_CHILD_SUBREAPER = 36

REAP_DEADLINE_S = 5.0
"""How long a forkserver that ends waits for its killed children; a disk may hold one up."""


def be_forkserver(control: socket.socket, agent: int) -> None:
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
            data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 8)
        except OSError:
            return False
        if not data:
            return False
        what, child, place, of, _ = MESSAGE.unpack(data[: MESSAGE.size])
        if what == SPAWN:
            if len(fds) == 2:
                self._spawn(child, fds[0], fds[1], place, of)
            else:  # they did not come: there is no room for them
                for fd in fds:
                    os.close(fd)
                self._tell(DIED, child, 1)
        elif what == KILL:
            for pid, number in self._children.items():
                if number == child:
                    kill_group(pid)
        return True

    def _spawn(self, child: int, sock: int, slot: int, place: int, of: int) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no more processes or memory: as if it had died at once
            self._tell(DIED, child, 1)
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
        self._tell(STARTED, child, pid)

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
            self._tell(DIED, child, code, signum, usage.ru_maxrss * 1024)

    def _tell(self, what: int, child: int, number: int, signum: int = 0, rss: int = 0) -> None:
        with contextlib.suppress(OSError):
            self._control.send(MESSAGE.pack(what, child, number, signum, rss))

    def _end(self) -> None:
        for pid in self._children:
            kill_group(pid)
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


def kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def main(argv: list[str]) -> None:
    """Runs as a fresh interpreter: descriptor of the control socket, pid of the agent."""
    import types

    import cloudpickle  # noqa: F401

    import gridmap.node.child  # noqa: F401

    # what user code calls __main__ is not this file
    sys.modules["__main__"] = types.ModuleType("__main__")
    be_forkserver(socket.socket(fileno=int(argv[1])), int(argv[2]))


if __name__ == "__main__":
    main(sys.argv)
