"""Does what the agent's core decides, and turns descriptors into its events.

    monitor --receive()--> +--------------+ --spawn, kill--> forkserver --fork--> children
            <---- say ---- | AgentRuntime | <--- died -----
                           |  AgentCore   | --orders-------> children
                           +--------------+ <--answers------

Payload frames pass through as they are; nothing of the user's is unpickled here.  Whoever drives it
polls `fds()` until `next_deadline()`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core.agent import AgentCore
from gridmap.core.memory import CGROUP
from gridmap.core.messages import (
    Blob,
    Death,
    FromAgent,
    Key,
    Lease,
    NeedBlob,
    Outcome,
    Result,
    Results,
    ToAgent,
    Work,
)
from gridmap.data import Frame, pack_death
from gridmap.errors import signal_name
from gridmap.node.blobs import BlobStore
from gridmap.node.channel import (
    FINISHED,
    MAX_TO_AGENT,
    READY,
    Answer,
    Channel,
    Order,
    end_early,
)
from gridmap.node.forkserver import Died, Forkserver, Started
from gridmap.node.memory import Limits
from gridmap.node.neighbors import Neighbors
from gridmap.node.reserve import Reserve
from gridmap.node.tree import Trees
from gridmap.node.usage import UsageMeter

logger = logging.getLogger(__name__)

LOG_TAIL_BYTES = 4096
SLOT_BYTES = mmap.PAGESIZE

START_AGAIN_S = 0.2
"""Until a process for which there was no memory or no descriptor is started again."""

Say = Callable[[FromAgent, list[Frame]], None]


class _Child(Struct):
    """What the runtime holds for one child."""

    number: int
    channel: Channel
    slot: mmap.mmap
    pid: int = 0
    lease: Key | None = None
    outcome: int = int(Outcome.DIED)  # what its death will mean
    peak_rss_bytes: int = 0
    fd: int = -1  # of its channel

    def __post_init__(self) -> None:
        self.fd = self.channel.fileno()

    @property
    def current(self) -> int:
        return int.from_bytes(self.slot[:8], "little", signed=True)

    def close(self) -> None:
        self.channel.close()
        self.slot.close()


class AgentRuntime:
    """The sockets, files and processes around an AgentCore.

    :param say: sends a message and its payload frames to the monitor; must not block
    :param logs: the worker's own standard output and error, for the log tail; none locally
    :param run: the run's folder: by its name agents on one node find each other; "": no others
    """

    def __init__(
        self,
        core: AgentCore,
        forkserver: Forkserver,
        say: Say,
        blobs: BlobStore | None = None,
        logs: Sequence[str | os.PathLike[str]] = (),
        limits: Limits | None = None,
        run: str = "",
    ) -> None:
        self._core = core
        self._forkserver = forkserver
        self._say = say
        self._blobs = blobs or BlobStore()
        self._neighbors = Neighbors(run, self._blobs, self._ask_for_blob, self._blob_came)
        self._logs = [Path(log) for log in logs if log]
        self._children: dict[int, _Child] = {}
        self._by_fd: dict[int, _Child] = {}
        self._arguments: dict[Key, list[Frame]] = {}
        self._payloads: dict[Key, list[Frame]] = {}
        self._deaths: dict[int, Died] = {}
        self._reserve = Reserve(MAX_TO_AGENT)
        self._unstarted: list[int] = []
        self._unstarted_at = 0.0  # when the next of them counts as dead
        self._trees = Trees()
        self._meter = UsageMeter(self._trees)
        self._watch = UsageMeter(self._trees)  # between heartbeats
        self._limits = limits or Limits.own()
        self.reason = ""
        self._perform_one: dict[type, Callable[[Any, float], None]] = {
            do.Say: self._do_say,
            do.StartChild: self._do_start,
            do.GiveLease: self._do_give,
            do.EndEarly: self._do_end_early,
            do.KillChild: self._do_kill,
            do.DropLease: self._do_drop_lease,
            do.DropResult: self._do_drop_result,
            do.KeepDeath: self._do_keep_death,
            do.ReadUsage: self._do_read_usage,
            do.LookAtMemory: self._do_look_at_memory,
            do.Leave: self._do_leave,
        }

    # --- for whoever drives it --------------------------------------------------------------------

    @property
    def left(self) -> bool:
        """True when the core has decided to leave, and has said so."""
        return self._core.left

    def fds(self) -> dict[int, int]:
        """Returns the descriptors to poll, with the poll events wanted."""
        wanted = {fd: _events(child.channel) for fd, child in self._by_fd.items()}
        wanted[self._forkserver.fileno()] = _events(self._forkserver)
        wanted.update(self._neighbors.fds())
        return wanted

    def ready(self, fd: int, events: int, now: float) -> None:
        """Handles a descriptor that `poll` returned; one that is closed by now does no harm."""
        child = self._by_fd.get(fd)
        if child is not None:
            if events & select.POLLOUT:
                child.channel.flush()
            if events & ~select.POLLOUT:
                self._read_child(child, now)
        elif fd == self._forkserver.fileno():
            if events & select.POLLOUT:
                self._forkserver.flush()
            self._read_forkserver(now)
        else:
            self._neighbors.ready(fd, now)

    def receive(self, message: ToAgent, frames: Sequence[Frame], now: float) -> None:
        """Takes a message from the monitor."""
        if isinstance(message, Work):
            self._keep_arguments(message.leases, frames)
        elif isinstance(message, Blob) and message.found:
            self._store(message.digest, frames, now)
            return
        if isinstance(message, Blob):
            self._neighbors.lacks(message.digest)
        self._handle(ev.MonitorSaid(message), now)

    def warn(self, signum: int, now: float) -> None:
        """Takes a warning from the scheduler that this worker is about to end."""
        self._handle(ev.TerminationWarned(signum), now)

    def unacknowledged(self) -> tuple[list[Result], list[Frame]]:
        """Returns the results that nobody has taken in yet, and their payloads."""
        items = self._core.unacknowledged()
        return items, [frame for item in items for frame in self._payloads.get(item.key, [])]

    def monitor_changed(self, now: float) -> None:
        """From now on another monitor is called."""
        self._handle(ev.MonitorChanged(), now)

    def tick(self, now: float) -> None:
        """Lets the core look at the time."""
        self._neighbors.tick(now)
        if self._unstarted and now >= self._unstarted_at:
            number = self._unstarted.pop(0)
            self._unstarted_at = now + START_AGAIN_S
            self._handle(ev.ChildDied(number, -1, 1, 0, int(Outcome.DIED)), now)
        self._handle(ev.Tick(), now)

    def next_deadline(self) -> float:
        """Returns when `tick` is due."""
        unstarted_at = self._unstarted_at if self._unstarted else math.inf
        return min(self._core.next_deadline(), self._neighbors.next_deadline(), unstarted_at)

    def close(self, deadline_s: float = 5.0) -> None:
        """Ends all children and removes everything; twice does no harm."""
        self._forkserver.close(deadline_s)
        self._neighbors.close()
        self._blobs.close()
        self._reserve.close()
        for child in self._children.values():
            child.close()
        self._children.clear()
        self._by_fd.clear()
        self._arguments.clear()
        self._payloads.clear()

    # --- events -----------------------------------------------------------------------------------

    def _handle(self, event: ev.AgentEvent, now: float) -> None:
        for effect in self._core.handle(event, now):
            self._perform_one[type(effect)](effect, now)

    def _keep_arguments(self, leases: Sequence[Lease], frames: Sequence[Frame]) -> None:
        running = {child.lease for child in self._children.values()}
        at = 0
        for lease in leases:
            size = sum(packet[2] for packet in lease.packets)
            if Key(*lease.key) not in running:  # else it was sent twice
                self._arguments[Key(*lease.key)] = list(frames[at : at + size])
            at += size

    def _store(self, digest: str, frames: Sequence[Frame], now: float) -> None:
        try:
            self._blobs.put(digest, frames)
        except OSError as error:
            self._neighbors.lacks(digest)
            self._handle(ev.BlobRefused(digest, str(error)), now)
        else:
            self._neighbors.stored(digest)
            self._handle(ev.BlobStored(digest), now)

    def _ask_for_blob(self, digest: str) -> None:
        self._say(NeedBlob(digest), [])

    def _blob_came(self, digest: str, now: float) -> None:
        self._handle(ev.BlobStored(digest), now)

    def _read_child(self, child: _Child, now: float) -> None:
        while (message := child.channel.receive()) is not None:
            answer, frames = message
            if answer.state == READY:
                self._handle(ev.ChildReady(child.number), now)
                continue
            self._answered(child, answer, frames, now)
            if answer.state == FINISHED:
                child.lease = None
                self._handle(ev.ChildFinished(child.number), now)
        if child.channel.closed:  # it closed its end or died; the forkserver tells which
            self._by_fd.pop(child.fd, None)
            if child.number in self._children:
                self._forkserver.kill(child.number)

    def _answered(self, child: _Child, answer: Answer, frames: list[Frame], now: float) -> None:
        items = [Result(*item) for item in answer.items]
        at = 0
        for item in items:
            if item.frames:
                self._payloads[item.key] = frames[at : at + item.frames]
            at += item.frames
        if items:
            child.peak_rss_bytes = max(item.peak_rss_bytes for item in items)
            self._handle(ev.ChildAnswered(child.number, items), now)

    def _read_forkserver(self, now: float) -> None:
        for news in self._forkserver.receive():
            if isinstance(news, Started):
                if news.child in self._children:
                    self._children[news.child].pid = news.pid
            else:
                self._died(news, now)
        if not self._forkserver.alive and not self.left:
            logger.warning("the process that starts the jobs' processes died; starting another")
            self._forkserver.relaunch()
            for number in list(self._children):
                self._died(Died(number, -1, 9, 0), now)

    def _died(self, news: Died, now: float) -> None:
        child = self._children.get(news.child)
        if child is None:
            return
        self._read_child(child, now)  # what it had said before
        del self._children[news.child]
        self._by_fd.pop(child.fd, None)
        self._meter.forget(child.pid)
        self._watch.forget(child.pid)
        peak = max(news.peak_rss_bytes, child.peak_rss_bytes)
        self._deaths = {news.child: news._replace(peak_rss_bytes=peak)}
        died = ev.ChildDied(news.child, child.current, news.exit_status, news.signal, child.outcome)
        child.close()
        if child.lease is not None and child.outcome == Outcome.DIED:
            killed = self._limits.killed()
            shared = news.signal == signal.SIGKILL and killed.limit == CGROUP
            others = [x.number for x in self._children.values() if x.lease is not None]
            died = replace(
                died,
                peak_rss_bytes=news.peak_rss_bytes,
                limits=self._limits.outside(),
                killed=killed,
                others=self._measure(self._watch, others, states=False) if shared else {},
            )
        self._handle(died, now)

    # --- effects ----------------------------------------------------------------------------------

    def _do_say(self, effect: do.Say, now: float) -> None:
        if isinstance(effect.message, NeedBlob):
            self._neighbors.need(effect.message.digest, now)
            return
        frames: list[Frame] = []
        if isinstance(effect.message, Results):
            for item in effect.message.items:
                if item.frames:
                    frames += self._payloads[item.key]
        self._say(effect.message, frames)

    def _do_start(self, effect: do.StartChild, now: float) -> None:
        try:
            with self._reserve.lent():
                child = self._make_child(effect)
        except OSError as error:
            logger.warning("cannot start a process for jobs: %s", error)
            self._unstarted_at = max(self._unstarted_at, now + START_AGAIN_S)
            self._unstarted.append(effect.child)
            return
        self._children[child.number] = child
        self._by_fd[child.fd] = child

    def _make_child(self, effect: do.StartChild) -> _Child:
        """:raises OSError: there are no descriptors or no memory for it"""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                fd = _memory()
                try:
                    slot = mmap.mmap(fd, SLOT_BYTES)
                    slot[:8] = (-1).to_bytes(8, "little", signed=True)
                    self._forkserver.spawn(effect.child, theirs, fd, effect.place, effect.of)
                finally:
                    os.close(fd)
        except BaseException:
            ours.close()
            raise
        return _Child(effect.child, Channel(ours, Answer, self._reserve), slot)

    def _do_give(self, effect: do.GiveLease, now: float) -> None:
        lease = effect.lease
        frames = self._arguments.pop(Key(*lease.key), [])
        child = self._children.get(effect.child)
        if child is None:
            return  # its death is on the way
        child.lease = Key(*lease.key)
        self._limits.begin()
        self._trees.begin(child.pid)
        order = Order(
            lease.first,
            lease.count,
            lease.attempt,
            lease.function,
            self._blobs.place(lease.function),
            lease.context,
            self._blobs.place(lease.context),
            lease.packets,
        )
        child.channel.send(order, frames)

    def _do_end_early(self, effect: do.EndEarly, now: float) -> None:
        child = self._children.get(effect.child)
        if child is not None:
            child.channel.send(end_early(effect.key.first, effect.key.attempt), [])

    def _do_kill(self, effect: do.KillChild, now: float) -> None:
        child = self._children.get(effect.child)
        if child is not None:
            child.outcome = effect.outcome
            if child.lease is not None:
                self._kill_what_it_started(child)
        self._forkserver.kill(effect.child)

    def _do_drop_lease(self, effect: do.DropLease, now: float) -> None:
        self._arguments.pop(Key(*effect.key), None)

    def _do_drop_result(self, effect: do.DropResult, now: float) -> None:
        self._payloads.pop(Key(*effect.key), None)

    def _do_keep_death(self, effect: do.KeepDeath, now: float) -> None:
        died = self._deaths.get(effect.child)
        death = Death(
            effect.exit_status,
            effect.signal,
            self._log_tail(),
            died.peak_rss_bytes if died is not None else 0,
            effect.text or _how(effect.exit_status, effect.signal),
            effect.rss_bytes,
            effect.cpu_fraction,
            effect.limit_bytes,
            effect.limit,
        )
        self._payloads[effect.result.key] = pack_death(death)

    def _do_read_usage(self, effect: do.ReadUsage, now: float) -> None:
        self._handle(ev.UsageRead(self._measure(self._meter, effect.children)), now)

    def _do_look_at_memory(self, effect: do.LookAtMemory, now: float) -> None:
        self._limits.note()
        exact = effect.exact_above_bytes
        usage = self._measure(self._watch, effect.children, exact, states=False)
        self._handle(ev.MemoryRead(usage), now)

    def _measure(
        self,
        meter: UsageMeter,
        children: Sequence[int],
        exact_above_bytes: int = 0,
        states: bool = True,
    ) -> dict[int, ev.Usage]:
        usage = {}
        group = self._limits.group_mark()
        for number in children:
            child = self._children.get(number)
            if child is not None and child.pid:
                use = meter.read(
                    child.pid,
                    child.current,
                    self._forkserver.pid,
                    self._other_pids(child),
                    exact_above_bytes,
                    states,
                )
                if not use.rss_bytes:
                    continue  # it is gone, and what it used last remains known
                usage[number] = use._replace(marks=(*use.marks, *group))
                child.peak_rss_bytes = max(child.peak_rss_bytes, use.rss_bytes)
        return usage

    def _other_pids(self, child: _Child) -> frozenset[int]:
        return frozenset(x.pid for x in self._children.values() if x is not child)  # 0: starting

    def _kill_what_it_started(self, child: _Child) -> None:
        """Ends those, too, that have left the child's process group.

        By whole groups: what is being started at this moment is in its parent's.
        """
        if not child.pid:
            return
        tree = self._trees.of(child.pid, self._forkserver.pid, self._other_pids(child))
        groups = {process.group for process in tree} - {child.pid, self._forkserver.pid, -1}
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for process in tree:
            if process.group not in groups and process.pid != child.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGKILL)

    def _do_leave(self, effect: do.Leave, now: float) -> None:
        self.reason = effect.reason

    def _log_tail(self) -> str:
        """Returns the end of what the worker wrote."""
        tails = []
        for log in self._logs:
            with contextlib.suppress(OSError), log.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
                tails.append(file.read().decode("utf-8", "replace"))
        return "\n".join(tail for tail in tails if tail)[-LOG_TAIL_BYTES:]


def _events(end: Channel | Forkserver) -> int:
    return select.POLLIN | (select.POLLOUT if end.wants_to_send else 0)


def _memory() -> int:
    """Returns the descriptor of a page of memory that processes can share."""
    try:
        fd = os.memfd_create("gridmap-slot")
    except (AttributeError, OSError):  # an old system, or one that forbids it
        import tempfile

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, SLOT_BYTES)
    return fd


def _how(exit_status: int, signum: int) -> str:
    if signum:
        return f"killed by {signal_name(signum)}"
    return f"exited with status {exit_status}" if exit_status >= 0 else ""
