"""The workers of a run: how many, which of them live, what to make of those that do not speak."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gridmap.core.effects import (
    CancelWorkers,
    DiagnoseWorker,
    Emit,
    Note,
    SendMessage,
)
from gridmap.core.events import (
    KnownWorker,
    NativeState,
    NativeStatus,
    WorkerDiagnosed,
    WorkersPolled,
    WorkersSubmitted,
)
from gridmap.core.messages import Bye, Departure, Drain, Hello, Refuse, Welcome
from gridmap.core.policy import Policy
from gridmap.core.polling import Polling
from gridmap.core.records import COMING, ENDED, GiveUp, Lose, PoolRecord, WorkerRecord
from gridmap.core.roster import Roster, why_not
from gridmap.core.staffing import Staffing
from gridmap.core.states import WorkerState
from gridmap.errors import Cause

_S = WorkerState
MOST_LEASES_PER_CHILD = 8
"""However much a worker offers to take at once."""

_PEACEFUL = frozenset({Departure.DRAINED, Departure.WARNED, Departure.OUT_OF_TIME})
_OVER = frozenset({NativeState.DONE, NativeState.FAILED, NativeState.DELETED})


class Workforce:
    """Decides about workers; tells whoever owns the jobs what was lost with one.

    :param staffing: asks for workers
    :param polling: asks the scheduler how they are
    :param emit: takes each effect
    :param lose: called with a worker whose leases are void from now on
    :param give_up: called when no worker of a pool can be had
    """

    def __init__(
        self,
        policy: Policy,
        pools: Sequence[PoolRecord],
        staffing: Staffing,
        polling: Polling,
        emit: Emit,
        lose: Lose,
        give_up: GiveUp,
    ) -> None:
        self._policy = policy
        self._pools = pools
        self._emit = emit
        self._lose = lose
        self._give_up = give_up
        self._staffing = staffing
        self._polling = polling
        self._roster = Roster(pools, emit, lose)
        self.workers = self._roster.workers
        self.run = ""
        self.closing = False

    # --- what workers say -------------------------------------------------------------------------

    def heard(self, worker_id: str, incarnation: str, now: float) -> WorkerRecord | None:
        """Notes that a worker spoke; returns it if it may take part."""
        worker = self.workers.get(worker_id)
        if worker is None or worker.incarnation != incarnation or worker.state in ENDED:
            return None
        worker.heard_at = now
        if worker.state is _S.SUSPECT:
            self._roster.move(worker, _S.UP, "spoke again")
            self._pools[worker.pool].hungry[worker.id] = None
        return worker

    def hello(self, worker_id: str, hello: Hello, now: float) -> WorkerRecord | None:
        """Takes a worker in, or refuses it; returns it if it may work."""
        if not 0 <= hello.pool < len(self._pools):
            self._emit(SendMessage(worker_id, Refuse(f"this run has no pool {hello.pool}")))
            return None
        worker = self.workers.get(worker_id)
        if worker is None:
            if not self._staffing.expects(hello.pool):
                self._emit(SendMessage(worker_id, Refuse(self._stranger(worker_id))))
                return None
            pool = self._pools[hello.pool]
            if sum(not w.is_of_scheduler for w in pool.workers.values()) >= pool.requested:
                return None  # the answer will tell who belongs here
            worker = self._roster.enlist(worker_id, hello.pool)
        if hello.incarnation in worker.past:
            return None  # an old word; whoever reads the answer is another by now
        mismatch = why_not(hello, worker, self._policy)
        if mismatch:
            self._refuse(worker, mismatch, now)
            return None
        again = worker.incarnation == hello.incarnation
        if worker.state is _S.GONE or (self.closing and not again):
            self._emit(SendMessage(worker_id, Refuse("not wanted any more")))
            return None
        if not again and worker.incarnation:
            text = f"worker {worker.id} was started anew"
            self._emit(Note("warning", text))
            self._lose(worker, Cause.DIED, text, now)
            worker.past.add(worker.incarnation)
            if len(worker.past) > self._policy.num_resubmits:
                self._throw_out(worker, f"was started anew {len(worker.past)} times", now)
                return None
        if self.closing and worker.state in ENDED:
            return None
        self._admit(worker, hello, now)
        return worker

    def _stranger(self, worker_id: str) -> str:
        """Returns why who calls itself so is none of ours, which may be a matter of the name."""
        others = next(iter(self.workers), "")
        like = f", whose workers have names like {others}" if others else ""
        return f"not a worker of this run{like}: it calls itself {worker_id}"

    def _admit(self, worker: WorkerRecord, hello: Hello, now: float) -> None:
        pool = self._pools[worker.pool]
        if worker.incarnation != hello.incarnation:
            if worker.incarnation:  # who starts anew holds nothing
                pool.awaited.discard(worker.id)
            worker.seq = -1
            worker.idle_since = math.inf
            worker.served, worker.up_since = 0, now
        worker.incarnation = hello.incarnation
        worker.host = hello.host
        worker.children = min(hello.children, pool.limits.children)
        worker.capacity = min(hello.capacity, MOST_LEASES_PER_CHILD * worker.children)
        worker.log_stdout, worker.log_stderr = hello.log_stdout, hello.log_stderr
        worker.heard_at = now
        if worker.state is not _S.DRAINING:
            self._roster.move(worker, _S.UP, f"Hello from {hello.host}")
            pool.workers[worker.id] = worker
            pool.hungry[worker.id] = None
            pool.strikes = 0
        self._roster.remind(now + self._policy.silent_after_s, worker)
        policy = self._policy
        walltime_s = pool.limits.walltime_s
        welcome = Welcome(self.run, policy.heartbeat_s, policy.grace_s, walltime_s)
        self._emit(SendMessage(worker.id, welcome))

    def _refuse(self, worker: WorkerRecord, text: str, now: float) -> None:
        self._emit(SendMessage(worker.id, Refuse(text)))
        if worker.state in COMING:
            self._roster.move(worker, _S.GONE, "refused")
            pool = self._pools[worker.pool]
            if pool.up == 0:
                self._give_up(pool, Cause.REFUSED, text, False, now)
            else:
                self._emit(Note("warning", f"worker {worker.id} refused: {text}"))

    def credit(self, worker: WorkerRecord, capacity: int, now: float) -> None:
        """A worker takes so many leases from now on; with none it leaves when it is done."""
        if capacity < 1:
            self._leave_in_peace(worker, "is about to leave")
            pool = self._pools[worker.pool]
            if pool.limits.polled:  # it may be about to say that it was warned
                pool.hold(now, self._policy.poll_first_s, 0.0, self._policy.leaving_s)
            return
        worker.capacity = min(capacity, MOST_LEASES_PER_CHILD * worker.children)
        if worker.state is _S.UP:
            self._pools[worker.pool].hungry[worker.id] = None

    def leaves(self, worker: WorkerRecord, bye: Bye, now: float) -> None:
        """A worker said Bye; one that leaves in peace has let everything end first."""
        pool = self._pools[worker.pool]
        reason, departure = bye.reason, bye.departure
        cause = Cause.PREEMPTED if departure in _PEACEFUL else Cause.DIED
        self._roster.end(worker, _S.GONE, reason, now, cause)
        if self.closing or (departure == Departure.DRAINED and worker.asked_to_leave):
            return
        self._emit(Note("info", f"{worker.named} left: {reason}"))
        if departure == Departure.OUT_OF_TIME:
            return
        if departure != Departure.WARNED:
            self._staffing.useless(pool, f"worker {worker.id}: {reason}", now)
        elif pool.limits.polled:  # the scheduler may say that somebody deleted it
            pool.departed[worker.id] = now + self._policy.silent_after_s
            policy = self._policy
            pool.hold(now, 2 * policy.poll_first_s, policy.leaving_s, policy.leaving_s)
            self._polling.soon(pool, now)

    def gives_back_everything(self, worker: WorkerRecord, now: float) -> None:
        """A worker ran nothing of what it was given, several times."""
        text = f"{worker.named} gives back whatever it is given"
        self.drain(worker, text)
        if not worker.resumed:  # that one may have been on its way out
            self._staffing.useless(self._pools[worker.pool], text, now)

    def _throw_out(self, worker: WorkerRecord, why: str, now: float) -> None:
        text = f"worker {worker.id} {why}"
        self._emit(SendMessage(worker.id, Refuse(text)))
        if worker.state not in ENDED:
            self._roster.end(worker, _S.GONE, text, now)
        self._roster.cancel([worker])
        self._staffing.useless(self._pools[worker.pool], text, now)

    # --- what the scheduler says ------------------------------------------------------------------

    def submitted(self, event: WorkersSubmitted, now: float) -> None:
        """Takes note of new workers; those that are not wanted any more are deleted again."""
        asked = self._staffing.answered(event.request, now)
        if asked is None:  # an answer that nobody waits for any more
            for worker_id in event.workers:
                if worker_id in self.workers:
                    self.workers[worker_id].request = event.request
            strangers = tuple(w for w in event.workers if w not in self.workers)
            self._emit(CancelWorkers(strangers))
            return
        pool, count = asked
        pool.submit_failures, pool.submit_failing_since = 0, math.inf
        wanted = not self.closing and pool.unfinished > 0
        unwanted = []
        for worker_id in event.workers:
            known = self.workers.get(worker_id)
            if known is None and not wanted:
                unwanted.append(worker_id)
                continue
            (known or self._roster.enlist(worker_id, pool.number)).request = event.request
        if unwanted:
            self._emit(CancelWorkers(tuple(unwanted)))
        if not wanted:
            return
        if len(event.workers) < count:
            pool.submit_not_before = max(pool.submit_not_before, now + self._policy.poll_most_s)
            pool.gather_at = now
        self._polling.soon(pool, now)

    def resume(self, known: KnownWorker, worked: bool, now: float) -> WorkerRecord | None:
        """Expects a worker of an earlier monitor; whether it lives, it or the scheduler will say.

        :param worked: it had been given jobs
        """
        if known.id in self.workers or not 0 <= known.pool < len(self._pools):
            return None
        worker = self._roster.enlist(known.id, known.pool)
        worker.request = known.request
        worker.resumed = True
        worker.children = self._pools[known.pool].limits.children  # until it says so itself
        if worked:
            worker.heard_at = now
            self._roster.move(worker, _S.UP, "worked for an earlier monitor of the run")
            self._roster.remind(now + self._policy.silent_after_s, worker)
            pool = self._pools[known.pool]
            pool.awaited.add(worker.id)
            pool.awaited_until = now + 2 * self._policy.heartbeat_s
        self._polling.soon(self._pools[known.pool], now)
        return worker

    def polled(self, event: WorkersPolled, now: float) -> None:
        """Takes the scheduler's word; what it leaves out stays as it was."""
        self._polling.answered(event.status)
        for worker_id, status in event.status.items():
            worker = self.workers.get(worker_id)
            if worker is None:
                continue
            if worker.state in ENDED:
                self._over_after_bye(worker, status, now)
                continue
            first, worker.native = worker.native.state is NativeState.UNKNOWN, status
            self._suspended_or_not(worker, status, now)
            if status.state in _OVER:
                self._over(worker, status, now, before=first and worker.resumed)
            elif worker.state in COMING and status.state is not NativeState.UNKNOWN:
                self._seen(worker, status, now)

    def _suspended_or_not(self, worker: WorkerRecord, status: NativeStatus, now: float) -> None:
        """A suspended worker is waited for: its silence counts from when it runs again."""
        suspended = status.state is NativeState.SUSPENDED
        if suspended is worker.suspended or status.state in _OVER | {NativeState.UNKNOWN}:
            return
        worker.suspended = suspended
        if suspended:
            worker.blurred = True
            if worker.state is _S.UP:
                self._roster.move(worker, _S.SUSPECT, "suspended by the scheduler")
            text = f"worker {worker.id} is suspended by the scheduler; waiting"
        else:
            text = f"worker {worker.id} is not suspended any more"
        self._emit(Note("info", text))
        if worker.state not in COMING:
            worker.heard_at = worker.suspect_since = now

    def _over_after_bye(self, worker: WorkerRecord, status: NativeStatus, now: float) -> None:
        departed = self._pools[worker.pool].departed
        if status.state not in _OVER or departed.pop(worker.id, None) is None:
            return
        if status.state is NativeState.DELETED:
            self._staffing.deleted(worker, status.text or "deleted", now)

    def _seen(self, worker: WorkerRecord, status: NativeStatus, now: float) -> None:
        self._roster.move(worker, _S.PENDING, f"the scheduler says {status.state.value}")
        if status.state is NativeState.RUNNING and worker.running_since == math.inf:
            worker.running_since = now
            self._roster.remind(now + self._policy.startup_deadline_s, worker)
        elif status.state is not NativeState.RUNNING:  # back in the queue
            worker.running_since = math.inf

    def _over(self, worker: WorkerRecord, status: NativeStatus, now: float, before: bool) -> None:
        """The scheduler is done with a worker; find out why if it never worked.

        :param before: it was when the run was taken over: who deleted it then did not mean this
        """
        coming = worker.state in COMING
        text = status.text or f"the scheduler says {status.state.value}"
        warn = worker.state in (_S.UP, _S.SUSPECT) and status.state is not NativeState.DELETED
        if warn and not worker.resumed and not self.closing:
            self._emit(Note("warning", f"{worker.named} is lost: {text}"))
        self._roster.end(worker, _S.GONE, text, now, _cause(status))
        if status.state is NativeState.DELETED and not before:
            self._staffing.deleted(worker, text, now)
        if worker.resumed:  # it may have ended long ago, in peace
            return
        if not coming or status.state is NativeState.DELETED or self.closing:
            return
        pool = self._pools[worker.pool]
        if status.cause is Cause.NEVER_STARTED and pool.up == 0:  # nor will another one
            text = f"worker {worker.id}: {text}; ask for something else"
            self._give_up(pool, Cause.NEVER_STARTED, text, False, now)
        else:
            self._emit(DiagnoseWorker(worker.id))

    def diagnosed(self, event: WorkerDiagnosed, now: float) -> None:
        """A worker that never worked has been looked into."""
        worker = self.workers.get(event.worker)
        if worker is None or worker.incarnation:
            return
        text = f"worker {worker.id}: {event.text}"
        if worker.resumed:  # it may have looked for the earlier monitor
            self._emit(Note("warning", f"did not come back: {text}"))
        else:
            self._staffing.strike(self._pools[worker.pool], text, now)

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Returns when `keep_time` has something to do at the latest."""
        deadline = self._roster.next_reminder()
        for pool in self._pools:
            wanted = pool.staff_at
            unanswered = pool.asked_at + self._policy.submit_deadline_s
            deadline = min(deadline, wanted, unanswered, self._polling.next_deadline(pool))
        return deadline

    def stood_still(self, seconds: float) -> None:
        """Nobody listened to the workers for so long."""
        for worker in self.workers.values():
            if worker.state not in ENDED:
                worker.heard_at += seconds
                worker.suspect_since += seconds
                worker.running_since += seconds

    def keep_time(self, now: float, input_ended: bool) -> None:
        """Does what time alone makes necessary."""
        for worker in self._roster.due(now):
            self._look_at(worker, now)
        for pool in self._pools:
            if now >= pool.staff_at:
                pool.gather_at = math.inf
                self._staff(pool, input_ended, now)
            self._staffing.look(pool, now)
            self._polling.keep_time(pool, now)

    def _look_at(self, worker: WorkerRecord, now: float) -> None:
        limit = self._policy.silent_after_s
        if worker.state in COMING:
            if now >= worker.running_since + self._policy.startup_deadline_s:
                self._hangs(worker, now)
            elif worker.running_since < math.inf:  # it went back to the queue, or we stood still
                self._roster.remind(worker.running_since + self._policy.startup_deadline_s, worker)
        elif worker.suspended:
            self._roster.remind(now + limit, worker)
        elif worker.state is _S.SUSPECT:
            if now >= worker.suspect_since + limit:
                self._lost(worker, now)
            else:
                self._roster.remind(worker.suspect_since + limit, worker)
        elif now >= worker.heard_at + limit:
            if worker.state is _S.DRAINING:
                self._lost(worker, now)
                return
            self._roster.move(worker, _S.SUSPECT, f"silent for {now - worker.heard_at:.0f} s")
            worker.suspect_since = now
            self._polling.soon(self._pools[worker.pool], now)
            self._roster.remind(now + limit, worker)
            text = f"{worker.named} is silent for {now - worker.heard_at:.0f} s"
            self._emit(Note("warning", text))
        else:
            if worker.idle_since + self._policy.idle_leave_s <= now:
                self.drain(worker, "nothing left to do")
            self._roster.remind(worker.heard_at + limit, worker)

    def _hangs(self, worker: WorkerRecord, now: float) -> None:
        """Running for the scheduler, but never a word: look into it, and have it deleted."""
        waited = now - worker.running_since
        self._roster.end(worker, _S.LOST, f"no Hello within {waited:.0f} s", now)
        self._emit(DiagnoseWorker(worker.id))
        self._roster.cancel([worker])

    def _lost(self, worker: WorkerRecord, now: float) -> None:
        text = f"{worker.named} was silent for {now - worker.heard_at:.0f} s"
        self._emit(Note("warning", f"{text}: it is lost"))
        self._roster.end(worker, _S.LOST, text, now, Cause.SILENT)
        self._roster.cancel([worker])

    def idle(self, worker: WorkerRecord, now: float) -> None:
        """A worker has no lease and there is none for it: it leaves if that goes on."""
        if worker.idle_since == math.inf and self._pools[worker.pool].limits.polled:
            worker.idle_since = now
            self._roster.remind(now + self._policy.idle_leave_s, worker)

    def drain(self, worker: WorkerRecord, why: str) -> None:
        """Lets a worker finish and leave."""
        worker.asked_to_leave = True
        if worker.state in (_S.UP, _S.SUSPECT):
            self._leave_in_peace(worker, why)
            self._emit(SendMessage(worker.id, Drain()))

    def _leave_in_peace(self, worker: WorkerRecord, why: str) -> None:
        """It gets nothing more to do; others may be wanted in its place."""
        worker.capacity = 0
        if worker.state in (_S.UP, _S.SUSPECT):
            self._roster.move(worker, _S.DRAINING, why)
            self._pools[worker.pool].gather_at = -math.inf

    def dismiss(self) -> None:
        """The run is over: workers leave, those that have not come are deleted."""
        self.closing = True
        for worker in self.workers.values():
            self.drain(worker, "the run is over")
        self._roster.cancel([w for w in self.workers.values() if w.state in COMING])
        for pool in self._pools:
            pool.gather_at = pool.poll_at = math.inf

    # --- how many ---------------------------------------------------------------------------------

    def _staff(self, pool: PoolRecord, input_ended: bool, now: float) -> None:
        """Asks for the workers that are wanted, deletes those that will not be needed."""
        if self.closing:
            return
        if pool.waits():
            self._staffing.ask(pool, now)
        elif input_ended:
            self._dismiss_coming(pool)

    def _dismiss_coming(self, pool: PoolRecord) -> None:
        if not pool.coming:
            return
        coming = [w for w in pool.workers.values() if w.state in COMING]
        for worker in coming:
            self._roster.move(worker, _S.GONE, "not needed any more")
        self._roster.cancel(coming)


def _cause(status: NativeStatus) -> Cause:
    if status.state is NativeState.DELETED:
        return Cause.CANCELED
    return status.cause or Cause.DIED
