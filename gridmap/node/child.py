"""The process where user code runs: reads leases, runs them, streams the results.

What user code does to the process must not disturb the protocol: it may print, close stdin, change
folder and environment, fork, or start a grid_map of its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from gridmap import data
from gridmap.data import Context, Frame
from gridmap.node import devices
from gridmap.node.blobs import map_blob
from gridmap.node.calls import Item, Runner
from gridmap.node.channel import FINISHED, READY, WORKING, Answer, Channel, Order
from gridmap.node.memory import limit_address_space, parts_of_address_space
from gridmap.node.threads import limit_loaded

MAX_FUNCTIONS = 64
OOM_SCORE_ADJ = 500
"""Where memory runs out, the kernel ends a child rather than the agent or the client."""

WORKER_VARIABLE = "GRIDMAP_WORKER"
"""Set by the agent where a scheduler started it."""

_PR_SET_PDEATHSIG = 1
_SCHEDULERS_OWN = ("SGE_", "SLURM", "PBS_", "LSB_", "JOB_", "PE_")
_SCHEDULERS_OWN_NAMES = frozenset(
    (
        *("NSLOTS", "NHOSTS", "NQUEUES", "QUEUE", "TMPDIR", "TMP", "HOSTNAME", "ENVIRONMENT"),
        *("REQUEST", "RESTARTED", "ARC"),
        *devices.DEVICES,
    )
)


def run_child(server: int, sock: int, slot: int, place: int = 0, of: int = 1) -> None:
    """Runs leases until the agent closes the channel.

    :param server: pid of the forkserver
    :param sock: descriptor of the channel
    :param slot: descriptor of the memory for the number of the current job
    :param place: which of `of` equal parts of what a scheduler's worker has is its own
    """
    _settle(server, place, of)
    for fd in (sock, slot):
        os.set_inheritable(fd, False)
    with mmap.mmap(slot, mmap.PAGESIZE) as memory:
        os.close(slot)
        channel = Channel(socket.socket(fileno=sock), Order)
        child = Child(channel, memoryview(memory).cast("q"))
        os.register_at_fork(after_in_child=child.disown)
        with contextlib.suppress(ConnectionError):
            child.serve()
        os._exit(0)


def _settle(server: int, place: int, of: int) -> None:
    """Makes a forked process one of its own that ends with the forkserver."""
    import ctypes

    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != server:  # it died before it could be watched
        os._exit(1)
    worker = os.environ.pop(WORKER_VARIABLE, "")
    for name in ("TERM", "HUP", "CHLD", "USR1", "USR2", "XCPU"):
        # on a cluster the scheduler's warnings reach every process; the agent answers them
        warning = worker and name in ("USR1", "USR2", "XCPU")
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN if warning else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE_ADJ))
    _open_streams()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # else all children would draw the same numbers
    gc.enable()
    Environment.worker = Worker(_schedulers_variables(), place, of) if worker else None
    if worker:
        limit_address_space(parts_of_address_space(of, os.environ))


def _open_streams() -> None:
    """Gives user code streams that hold nothing which the parent has not written yet."""
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    for name, fd in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        encoding = getattr(old, "encoding", None) or "utf-8"
        with contextlib.suppress(OSError, LookupError):
            stream = open(  # noqa: SIM115
                fd, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False
            )  # by lines, so that a death loses none
            setattr(sys, name, stream)
            _held.append(old)


_held: list[Any] = []  # a stream of the parent that is dropped here would flush what it holds


def _schedulers_variables() -> dict[str, str]:
    """Returns what the scheduler told this worker; the client's own values would be wrong here."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_SCHEDULERS_OWN) or name in _SCHEDULERS_OWN_NAMES
    }


class Worker(NamedTuple):
    """What a scheduler gave to a worker, and which part of it is this process's.

    :param variables: what the scheduler says of it
    """

    variables: dict[str, str]
    place: int
    of: int

    def variables_for(self, context: Context) -> dict[str, str]:
        """Returns what a job is to see of them."""
        told, place, of = self.variables, self.place, self.of
        own = devices.variables(told, place, of, context.gpus, os.path.exists("/dev/kfd"))
        return {**told, **own, **devices.slots(told, context.threads, of)}


class Environment:
    """Brings this process to where a lease wants to run."""

    worker: Worker | None = None

    def __init__(self) -> None:
        self._original_path = list(sys.path)
        self._original_variables = dict(os.environ)
        self._contexts: dict[str, Context] = {}
        self._environments: dict[str, dict[bytes, bytes]] = {}

    def enter(self, digest: str, place: str) -> Context:
        """Applies a context, where it differs from what is, and returns it.

        :raises OSError: the working directory cannot be entered
        """
        if not digest:
            return Context()
        context = self._contexts.get(digest)
        if context is None:
            context = Context.decode(data.split_frames(memoryview(map_blob(place)))[0])
            self._contexts[digest] = context
        self._set_variables(digest, context)
        if context.sys_path:
            known = set(context.sys_path)
            wanted = context.sys_path + [p for p in self._original_path if p not in known]
            if sys.path != wanted:
                sys.path[:] = wanted
                importlib.invalidate_caches()
        self._change_folder(context.working_dir)
        return context

    def _variables(self, context: Context) -> dict[str, str]:
        """Returns all variables that a job is to have."""
        given = context.environment
        if given is None:
            given = self._original_variables
        elif self.worker is not None and context.gpus:
            # which devices the client has says nothing of the node's
            given = {name: given[name] for name in given if not devices.is_of_devices(name)}
        own = {} if self.worker is None else self.worker.variables_for(context)
        wanted = {**given, **own, **context.added}
        few = devices.threads(wanted, context.threads)
        nobody_said = len(few) == len(devices.THREADS)
        if nobody_said and self.worker is None:  # a fork of the client has what that had loaded
            limit_loaded(context.threads)
        return {**few, **wanted}

    def _set_variables(self, digest: str, context: Context) -> None:
        # comparing 100 variables one by one would cost more than a short lease
        raw = getattr(os.environ, "_data", None)
        if raw is not None and raw == self._environments.get(digest):
            return
        wanted = self._variables(context)
        if dict(os.environ) != wanted:
            for name in set(os.environ) - set(wanted):
                del os.environ[name]
            os.environ.update(wanted)
        if raw is not None:
            self._environments[digest] = dict(raw)

    @staticmethod
    def _change_folder(folder: str) -> None:
        if not folder:
            return
        try:
            if os.getcwd() == folder:
                return
        except FileNotFoundError:
            pass  # a job removed the folder it ran in
        try:
            os.chdir(folder)
        except OSError as error:
            reason = f"the working directory {folder} cannot be entered on {socket.gethostname()}"
            raise type(error)(error.errno, f"{reason}: {error.strerror}") from None


class Child:
    """Answers leases.

    :param slot: one integer that outlives this process: the job it is in, -1 for none
    """

    def __init__(self, channel: Channel, slot: memoryview) -> None:
        self._channel = channel
        self._slot = slot
        self._pid = os.getpid()
        self._environment = Environment()
        self._functions: dict[str, Callable[..., Any]] = {}
        self._fresh = True

    def serve(self) -> None:
        """Runs leases until the channel ends."""
        self._slot[0] = -1
        self._send(READY)
        while True:
            message = self._channel.receive()
            if message is None:
                return
            if message[0].count:  # else the lease that was to end early has ended
                self._run(*message)
            del message

    def disown(self) -> None:
        """Makes a process forked by user code unable to speak, or to go on with our loop."""
        if self._channel.closed:
            return
        self._channel.close()
        self._slot.release()  # so that the loop fails before it calls anything

    def _send(self, state: int, items: list[Item] = [], frames: list[Frame] = []) -> None:  # noqa: B006
        if os.getpid() != self._pid:
            os._exit(0)
        self._channel.send(Answer(state, items), frames)

    def _run(self, order: Order, frames: list[Frame]) -> None:
        def send(items: list[Item], parts: list[Frame]) -> None:
            self._send(WORKING, items, parts)

        def recalled() -> bool:
            return self._is_recalled(order)

        runner = Runner(order.first, order.attempt, self._slot, send, recalled)
        try:
            self._run_packets(runner, order, frames)
            self._slot[0] = -1
        except ValueError:
            if os.getpid() != self._pid:  # a fork that came back into our loop
                os._exit(0)
            raise
        self._fresh = False
        self._flush_streams()
        self._send(FINISHED, *runner.take())

    def _is_recalled(self, order: Order) -> bool:
        """Looks for a word to end this lease early; no other order comes while one runs."""
        while self._channel.waits() and (message := self._channel.receive()) is not None:
            word = message[0]
            if (word.first, word.attempt) == (order.first, order.attempt):
                return True
        return False

    def _run_packets(self, runner: Runner, order: Order, frames: list[Frame]) -> None:
        self._slot[0] = order.first  # loading the function may end the process, too
        folder_error: OSError | None = None
        try:
            try:
                context = self._environment.enter(order.context, order.context_place)
            except OSError as error:
                folder_error = error
                raise
            function = self._load(order.function, order.function_place)
            if context.retry_on:
                runner.retry_on = data.unpack_exceptions(context.retry_on)
        except BaseException as error:
            if not self._fresh:  # an earlier job may have spoiled this process: try another one
                return
            if folder_error is not None:
                runner.fail(order.count, folder_error)
            else:
                runner.refuse(order.count, _reason(error))
            return
        at = 0
        for skip, take, number in order.packets:
            runner.run_packet(function, frames[at : at + number], skip, take)
            if runner.ends_early:
                return
            at += number

    def _load(self, digest: str, place: str) -> Callable[..., Any]:
        function = self._functions.get(digest)
        if function is None:
            function = data.unpack_function(data.split_frames(memoryview(map_blob(place))))
            while len(self._functions) >= MAX_FUNCTIONS:
                del self._functions[next(iter(self._functions))]
            self._functions[digest] = function
        return function

    @staticmethod
    def _flush_streams() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # user code may have put anything there
                stream.flush()


def _reason(error: BaseException) -> str:
    host = socket.gethostname()
    text = f"the function cannot be loaded on {host}: {type(error).__name__}: {error}"
    if isinstance(error, ImportError):
        text += " (install it there, or define the function in your script)"
    return text
