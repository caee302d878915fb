"""Does what the dispatcher decides."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gridmap.core import effects as do
from gridmap.core.dispatcher import Dispatcher
from gridmap.core.events import DispatcherEvent, MessageReceived
from gridmap.core.messages import Held, Outcome, Result, Results, Work
from gridmap.core.spec import Span
from gridmap.data import Frame
from gridmap.errors import Cause
from gridmap.monitor.payloads import Payloads
from gridmap.monitor.sink import End, Failure, Place, Sample, Sink, Values
from gridmap.monitor.tally import Tally
from gridmap.monitor.transport import Transport

if TYPE_CHECKING:
    from gridmap.monitor.recorder import Recorder

log = logging.getLogger(__name__)

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Performer:
    """Turns effects into calls.

    :param tally: adds up what is measured, and takes each note for a person
    :param recorder: keeps the run's ledger; None where there is none
    """

    def __init__(
        self,
        run: str,
        dispatcher: Dispatcher,
        transport: Transport,
        sink: Sink,
        tally: Tally | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._run = run
        self._dispatcher = dispatcher
        self._transport = transport
        self._sink = sink
        self.tally = tally or Tally()
        self._recorder = recorder
        self.payloads = Payloads()
        self._event: DispatcherEvent | None = None
        self._frames: list[list[Frame]] = []
        self._now = 0.0
        self._table: Mapping[type, Callable[..., None]] = {
            do.Assign: self._assign,
            do.Deliver: self._deliver,
            do.SendMessage: self._send,
            do.DeliverFailure: self._failure,
            do.DeliverEnd: self._end,
            do.Charged: self._charged,
            do.Sampled: self._sampled,
            do.SubmitWorkers: lambda e: transport.submit(e.request, e.pool, e.count),
            do.CancelWorkers: lambda e: transport.cancel(e.workers),
            do.PollWorkers: lambda e: transport.poll(e.workers),
            do.DiagnoseWorker: lambda e: transport.diagnose(e.worker),
            do.Note: lambda e: self.say(e.level, e.text),
            do.RunEnded: lambda e: sink.end(),
        }

    def perform(
        self,
        event: DispatcherEvent,
        frames: list[Frame],
        effects: list[do.DispatcherEffect],
        now: float,
    ) -> None:
        """Does all of it, in order.

        :param frames: payload frames that came with the event
        """
        self._event, self._now = event, now
        self._frames = []
        if isinstance(event, MessageReceived) and isinstance(event.message, Results):
            at = 0
            for item in event.message.items:
                self._frames.append(frames[at : at + item.frames])
                at += item.frames
        for effect in effects:
            if self._recorder is None or not self._recorder.holds(effect):
                self._table[type(effect)](effect)

    def perform_held(self, effects: list[do.DispatcherEffect], now: float) -> None:
        """Does what waited for the ledger, where it still makes sense."""
        self._now = now
        for effect in effects:
            if isinstance(effect, do.Assign):
                worker = self._dispatcher.workers[effect.worker]
                if (effect.span.first, effect.attempt) not in worker.leases:
                    continue
            elif isinstance(effect, do.SubmitWorkers) and self._dispatcher.ended:
                continue
            self._table[type(effect)](effect)

    def _assign(self, effect: do.Assign) -> None:
        self.tally.assigned(self._now)
        lease, frames = self.payloads.lease(effect.span, effect.attempt, effect.spec)
        self._transport.send(effect.worker, Work([lease]), frames, self._now)

    def _send(self, effect: do.SendMessage) -> None:
        self._transport.send(effect.worker, effect.message, [], self._now)

    def _deliver(self, effect: do.Deliver) -> None:
        result = self._result(effect.item)
        self.tally.finished(result, effect.span.count, self._now)
        self.payloads.ended(effect.span)
        frames = self._frames[effect.item]
        item = Values(
            effect.span,
            frames,
            effect.skip,
            effect.attempts,
            self._place(effect.worker),
            result.seconds * effect.span.count / result.count,
            result.peak_rss_bytes,
            time.time(),
        )
        if self._recorder is not None:
            self._recorder.values(item)
        self._sink.put(item)

    def _failure(self, effect: do.DeliverFailure) -> None:
        self.payloads.ended(Span(effect.job, 1))
        self.tally.died += effect.cause is not Cause.EXCEPTION
        if effect.item >= 0:
            self.tally.finished(self._result(effect.item), 1, self._now)
        failure = self._failed(effect, effect.last)
        if self._recorder is not None:
            self._recorder.failure(failure)
        self._sink.put(failure)

    def _charged(self, effect: do.Charged) -> None:
        self.tally.resubmitted += 1
        if self._recorder is not None:
            self._recorder.tried(effect, self._failed(effect, None))

    def _failed(self, effect: do.DeliverFailure | do.Charged, last: Held | None) -> Failure:
        """Returns what is known of a failure.

        :param last: what its worker last said of the job while it ran
        """
        outcome, frames, seconds = None, [], 0.0
        peak_rss_bytes = last.rss_bytes if last is not None else 0
        if effect.item >= 0:
            result = self._result(effect.item)
            outcome, frames = Outcome(result.outcome), self._frames[effect.item]
            seconds, peak_rss_bytes = result.seconds, max(peak_rss_bytes, result.peak_rss_bytes)
        return Failure(
            effect.job,
            effect.cause,
            outcome,
            frames,
            effect.attempts,
            effect.text,
            self._place(effect.worker),
            effect.pool,
            last,
            seconds,
            peak_rss_bytes,
            time.time(),
        )

    def _end(self, effect: do.DeliverEnd) -> None:
        self.payloads.ended(effect.span)
        item = End(
            effect.span, effect.state, effect.cause, effect.text, effect.refused, time.time()
        )
        if self._recorder is not None:
            self._recorder.end(item)
        self._sink.put(item)

    def _result(self, number: int) -> Result:
        """Returns a result of the message that is being handled."""
        assert isinstance(self._event, MessageReceived)
        assert isinstance(self._event.message, Results)
        return self._event.message.items[number]

    def _sampled(self, effect: do.Sampled) -> None:
        self.tally.resident(effect.rss_bytes)
        self._sink.put(
            Sample(
                effect.job,
                effect.rss_bytes,
                effect.cpu_fraction,
                effect.running,
                self._place(effect.worker),
            )
        )

    def say(self, level: str, text: str) -> None:
        """Tells people something.

        :param level: "debug", "info", "warning", "error"
        """
        log.log(_LEVELS[level], "run %s: %s", self._run, text)
        self.tally.note(level, text)
        if self._recorder is not None:
            self._recorder.noted(level, text)

    def _place(self, worker_id: str) -> Place:
        worker = self._dispatcher.workers.get(worker_id)
        if worker is None:
            return Place(worker_id)
        return Place(worker_id, worker.host, worker.log_stdout, worker.log_stderr)
