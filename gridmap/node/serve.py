"""The main loop of a node: one worker of a run, from its connection file to its Bye."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import socket
import sys
import time
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gridmap import __version__
from gridmap.core.agent import AgentCore
from gridmap.core.messages import (
    PROTOCOL,
    FromAgent,
    Hello,
    Outcome,
    Refuse,
    Result,
    Results,
    Welcome,
)
from gridmap.data import Frame, pack_text
from gridmap.errors import WireError
from gridmap.ledger import spool
from gridmap.ledger.directory import LEDGER_NAME
from gridmap.node.agent import AgentRuntime
from gridmap.node.child import WORKER_VARIABLE
from gridmap.node.forkserver import Forkserver
from gridmap.node.memory import Limits, parts_of_address_space
from gridmap.node.tree import age_s, read_process

if TYPE_CHECKING:
    from gridmap.wire.caller import AgentLink
    from gridmap.wire.keys import Connection

logger = logging.getLogger(__name__)

WELCOME_FRACTION = 0.5
"""Of the start-up deadline a worker looks for its monitor so long; then it says why it leaves."""

EXAMINATION_FRACTION = 0.1
"""How long, of that time, the last try of all addresses may take."""

UNANSWERED_FRACTION = 0.25
"""How long, of that time, a first connection may bring nothing before the next call."""

REREAD_S = 2.0
"""How often a worker that hears nothing looks whether another monitor has taken over."""

LINGER_S = 2.0
"""How long the last words may take to leave."""

LEASES_PER_CHILD = 2
"""One runs and one waits, so that no child waits for the network."""

SHEPHERDS = ("sge_shepherd", "slurmstepd", "condor_starter")
"""Names of the process that a scheduler starts for a job, and that starts the job."""

WARNINGS = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU")


def native_id(environ: Mapping[str, str]) -> str:
    """Returns the scheduler's id of this worker.

    Source: sge_submit(1) "ENVIRONMENTAL VARIABLES"; sbatch(1) "OUTPUT ENVIRONMENT VARIABLES";
    qsub(1B) "ENVIRONMENT VARIABLES"; LSF's "Environment variables set for job execution"; oarsub(1)
    """
    if environ.get("GRIDMAP_NATIVE_ID"):
        return environ["GRIDMAP_NATIVE_ID"]
    if environ.get("SLURM_ARRAY_JOB_ID") and environ.get("SLURM_ARRAY_TASK_ID"):
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "OAR_JOB_ID"):  # the last two also in arrays
        if environ.get(name):
            return environ[name]
    if environ.get("LSB_JOBID"):
        index = environ.get("LSB_JOBINDEX", "0")
        return f"{environ['LSB_JOBID']}[{index}]" if index != "0" else environ["LSB_JOBID"]
    job, task = environ.get("JOB_ID", ""), environ.get("SGE_TASK_ID", "undefined")
    if job:
        return job if task in ("undefined", "") else f"{job}.{task}"
    return f"{socket.gethostname()}-{os.getpid()}"


def worker_age_s() -> float:
    """Returns for how long this worker has been running, as far as the scheduler counts it.

    That is since it started the process above the job, where there is one.
    """
    this = read_process(os.getpid())
    age = 0.0 if this is None else age_s(this)
    while this is not None and this.parent > 1 and (this := read_process(this.parent)) is not None:
        if this.name.startswith(SHEPHERDS):
            return age_s(this)
    return age


def _log_file(fd: int) -> str:
    """Returns the file behind a descriptor, "" when it is none."""
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
        return path if os.path.isfile(path) else ""
    except OSError:
        return ""


def make_hello(pool: int, children: int) -> Hello:
    """Returns how this process introduces itself."""
    return Hello(
        gridmap=__version__,
        python="{}.{}".format(*sys.version_info),
        protocol=PROTOCOL,
        native_id=native_id(os.environ),
        incarnation=os.urandom(8).hex(),
        pool=pool,
        host=socket.gethostname(),
        pid=os.getpid(),
        children=children,
        capacity=LEASES_PER_CHILD * children,
        log_stdout=_log_file(1),
        log_stderr=_log_file(2),
    )


def serve(
    run_dir: str | os.PathLike[str],
    pool: int,
    children: int = 1,
    welcome_deadline_s: float | None = None,
) -> int:
    """Joins a run and works for it until there is nothing left to do.

    :param welcome_deadline_s: how long to look for the monitor; None: as the run's settings say
    :returns: exit status; 1, with the reason on stderr, when the run could not be joined
    :raises ConnectionFileError: the run directory does not say how to join
    """
    os.environ[WORKER_VARIABLE] = "1"
    # what user code calls __main__ is not our front door
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = types.ModuleType("__main__")
    import cloudpickle  # noqa: F401  # most functions come by value: no child has to load it

    forkserver = Forkserver.make()  # before there is a thread of ZeroMQ's
    try:
        from gridmap.wire.caller import AgentLink
        from gridmap.wire.keys import read_connection

        connection = read_connection(run_dir)
        hello = make_hello(pool, children)
        if welcome_deadline_s is None:
            welcome_deadline_s = WELCOME_FRACTION * connection.startup_deadline_s
        with AgentLink(connection) as link:
            node = Node(link, run_dir, connection, forkserver, hello, welcome_deadline_s)
            try:
                return node.run()
            finally:
                node.close()
                link.close(int(LINGER_S * 1000) if node.welcomed else 0)
    finally:
        forkserver.close()


_kept: list[types.ModuleType] = []


class Node:
    """Drives an AgentRuntime by a link to the monitor, and by signals."""

    def __init__(
        self,
        link: AgentLink,
        run_dir: str | os.PathLike[str],
        connection: Connection,
        forkserver: Forkserver,
        hello: Hello,
        welcome_deadline_s: float,
    ) -> None:
        import zmq

        self._zmq = zmq
        self._link = link
        self._run_dir = run_dir
        self._connection = connection
        self._heard_at = time.monotonic()
        self._silence_s = math.inf  # after which to look for another monitor
        self._reread_at = 0.0
        self._called_at = -math.inf
        # with a connection on which nothing comes
        self._patience_s = UNANSWERED_FRACTION * welcome_deadline_s
        self._host = hello.host
        self._hello = hello
        self._welcome_deadline_s = welcome_deadline_s
        self._deadline = time.monotonic() + welcome_deadline_s
        self.welcomed = False
        self._refused = ""
        self._warned: list[int] = []
        core = AgentCore(hello.children, hello, worker_age_s())
        logs = dict.fromkeys((hello.log_stdout, hello.log_stderr))
        limits = Limits.own(parts_of_address_space(hello.children, os.environ))
        self._runtime = AgentRuntime(
            core, forkserver, self._say, None, list(logs), limits, os.fspath(run_dir)
        )
        self._wake = self._listen_to_signals()

    def _listen_to_signals(self) -> int:
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for name in WARNINGS:
            signal.signal(getattr(signal, name), lambda number, _: self._warned.append(number))
        return reader

    def close(self) -> None:
        """Ends the children."""
        self._runtime.close()

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Works until the core says Leave; returns the exit status."""
        self._link.begin()
        while not self._runtime.left:
            now = time.monotonic()
            if not self.welcomed and now >= self._deadline:
                return self._give_up()
            if now >= self._look_at():
                self._look_for_another(now)
            self._link.keep_time(now)
            deadline = min(
                self._runtime.next_deadline(), self._link.next_deadline(), self._look_at()
            )
            if not self.welcomed:
                deadline = min(deadline, self._deadline)
            if deadline <= now:
                self._runtime.tick(now)
                continue
            self._wait(deadline - now)
        logger.info("worker leaves: %s", self._runtime.reason)
        if self.welcomed and not self._refused:
            self._spool()
        if self._refused or not self.welcomed:
            _say_why(f"this worker was refused by the monitor: {self._refused}")
            return 1
        return 0

    def _spool(self) -> None:
        """Leaves results that nobody took in to the client that takes the run over."""
        items, frames = self._runtime.unacknowledged()
        if not items or not os.path.exists(os.path.join(self._run_dir, LEDGER_NAME)):
            return
        hello = self._hello
        try:
            path = spool.write(
                self._run_dir, hello.native_id, hello.incarnation, hello.host, items, frames
            )
            logger.info("%d results that nobody took in are in %s", len(items), path)
        except OSError as error:
            logger.warning("%d results that nobody took in are lost: %s", len(items), error)

    def _look_at(self) -> float:
        """Returns when to look whether the run has another monitor by now."""
        if not self.welcomed:
            return self._reread_at
        return max(self._heard_at + self._silence_s if self._link.connected else 0, self._reread_at)

    def _look_for_another(self, now: float) -> None:
        """Reads the connection file again, and goes to another monitor if one has written it."""
        from gridmap.wire.keys import ConnectionFileError, read_connection

        self._reread_at = now + REREAD_S
        try:
            connection = read_connection(self._run_dir)
        except ConnectionFileError as error:
            logger.info("no word from the monitor, and %s", error)
            return
        if connection == self._connection:
            self._call_again(now)
            return
        logger.info("process %d on %s took the run over", connection.pid, connection.host)
        self._connection = connection
        self._link.follow(connection)
        self._runtime.monitor_changed(now)

    def _call_again(self, now: float) -> None:
        """Does not trust a connection on which nothing comes: a network that was cut, and is not
        any more, may take minutes to notice that.

        More patient each time, and for good: it may be large arguments that take so long.
        """
        if not self._link.connected:
            self._called_at = now
        silent_s = now - max(self._heard_at, self._called_at)
        if silent_s >= self._patience_s:
            logger.info("no word from the monitor for %.0f s; calling it again", silent_s)
            self._called_at = now
            self._patience_s *= 2
            self._link.begin(first=self._link.address)

    def _give_up(self) -> int:
        connection, waited_s = self._connection, self._welcome_deadline_s
        last_s = EXAMINATION_FRACTION * waited_s
        if self._link.connected:
            _say_why(
                f"host {self._host} is connected to the run {connection.run} at "
                f"{self._link.address}, but its process {connection.pid} on {connection.host} has "
                f"not answered for {waited_s:.0f} s; is it stopped, or overloaded?"
            )
            return 1
        from gridmap.wire.reach import explain

        _say_why(explain(connection, self._host, self._link.seen(), waited_s, last_s))
        return 1

    def _wait(self, timeout_s: float) -> None:
        zmq = self._zmq
        poller = zmq.Poller()
        for sock in self._link.sockets():
            poller.register(sock, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        for fd, events in self._runtime.fds().items():
            out = zmq.POLLOUT if events & select.POLLOUT else 0
            poller.register(fd, zmq.POLLIN | out)
        ready = poller.poll(max(1, int(min(timeout_s, 3600.0) * 1000 + 0.999)))
        # a signal that the scheduler sends to all processes may end a child, too: whose doing that
        # was has to be known before its death is
        while self._warned:
            self._runtime.warn(self._warned.pop(0), time.monotonic())
        for fd, events in ready:
            now = time.monotonic()
            if fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            elif isinstance(fd, int):
                self._runtime.ready(fd, _poll_events(events, zmq), now)
        self._hear()

    def _hear(self) -> None:
        for message, frames in self._link.receive():
            self._heard_at = time.monotonic()
            if isinstance(message, Welcome):
                self._silence_s = 2 * message.heartbeat_s
                if not self.welcomed:
                    self._patience_s = self._silence_s
                self.welcomed = True
            elif isinstance(message, Refuse):
                self._refused = message.reason
            self._runtime.receive(message, frames, time.monotonic())

    # --- speaking ---------------------------------------------------------------------------------

    def _say(self, message: FromAgent, frames: list[Frame]) -> None:
        """Sends a message; results too large for one message go apart."""
        try:
            self._link.send(message, frames)
        except WireError as error:
            if not isinstance(message, Results):
                raise
            for part, payload in _parts(message.items, frames, str(error)):
                self._say(part, payload)


def _parts(
    items: list[Result], frames: list[Frame], reason: str
) -> list[tuple[Results, list[Frame]]]:
    """Halves results; a single one that does not fit becomes one that says so."""
    if len(items) == 1:
        text = pack_text(f"the result cannot be sent: {reason}")
        bare = items[0]._replace(outcome=int(Outcome.UNPICKLABLE), frames=1)
        return [(Results([bare]), text)]
    middle = len(items) // 2
    at = sum(item.frames for item in items[:middle])
    return [(Results(items[:middle]), frames[:at]), (Results(items[middle:]), frames[at:])]


def _poll_events(events: int, zmq: types.ModuleType) -> int:
    known = (
        (zmq.POLLIN, select.POLLIN),
        (zmq.POLLOUT, select.POLLOUT),
        (zmq.POLLERR, select.POLLERR),
    )
    return sum(ours for theirs, ours in known if events & theirs)


def _say_why(text: str) -> None:
    """Writes to the worker's log, whose end the client shows."""
    sys.stderr.write(f"gridmap worker: {text}\n")
    sys.stderr.flush()
