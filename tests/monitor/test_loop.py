"""The loop is asked things while it turns, while it ends and when it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gridmap.core.dispatcher import Dispatcher
from gridmap.core.policy import Limits, Policy
from gridmap.monitor.loop import Monitor
from gridmap.monitor.sink import Sink

DEADLINE_S = 10.0


class Nobody:
    """A transport without workers, whose end takes until it is allowed."""

    def __init__(self) -> None:
        self.closing, self.may_close = threading.Event(), threading.Event()

    def begin(self, post: Callable[[Any], None]) -> None:
        pass

    def fds(self) -> Mapping[Any, int]:
        return {}

    def receive(self) -> list[Any]:
        return []

    def submit(self, request: int, pool: int, count: int) -> None:
        pass

    def cancel(self, workers: tuple[str, ...]) -> None:
        pass

    def next_deadline(self) -> float:
        return float("inf")

    def left_behind(self, workers: Any) -> tuple[str, ...]:
        return ()

    def close(self, deadline_s: float) -> None:
        self.closing.set()
        assert self.may_close.wait(DEADLINE_S)


def monitor_of(transport: Any) -> Monitor:
    return Monitor("r1", Dispatcher(Policy(), [Limits(1, 1)], "r1"), transport, Sink())


def test_what_is_asked_while_the_scheduler_lets_the_end_wait_is_answered_at_once() -> None:
    transport = Nobody()
    monitor = monitor_of(transport)
    monitor.start()
    try:
        monitor.end_input()
        assert transport.closing.wait(DEADLINE_S)
        begun = time.monotonic()
        assert monitor.ask(lambda dispatcher: dispatcher.ended) is True
        told: list[bool] = []
        monitor.answer(lambda dispatcher: dispatcher.ended, told.append)
        assert told == [True]
        assert time.monotonic() - begun < 2
    finally:
        transport.may_close.set()
    assert monitor.join(DEADLINE_S)


def test_a_question_that_fails_is_the_askers_and_the_run_goes_on() -> None:
    transport = Nobody()
    transport.may_close.set()
    monitor = monitor_of(transport)
    monitor.start()
    with pytest.raises(ZeroDivisionError):
        monitor.ask(lambda dispatcher: 1 // 0)
    monitor.answer(lambda dispatcher: 1 // 0, lambda answer: None)
    assert monitor.ask(lambda dispatcher: dispatcher.ended) is False
    monitor.end_input()
    assert monitor.join(DEADLINE_S)
    assert monitor._sink.error is None
