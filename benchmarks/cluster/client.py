"""One measurement on the cluster, in a process of its own: prints what it measured as JSON.

Whatever GridMap imports when it is called for the first time counts as part of the call; what the
import of `grid_map` takes is told beside it.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

BEGAN = time.perf_counter()
from gridmap import grid_imap_unordered, grid_map  # noqa: E402

IMPORT_S = time.perf_counter() - BEGAN

from benchmarks.cluster import functions  # noqa: E402

WORKERS = 4

Measured = dict[str, float]


class Watch:
    """Notes what the monitor sees: when workers come up and values arrive, what blobs are sent."""

    def __init__(self) -> None:
        from gridmap.core.messages import Blob, Hello
        from gridmap.data import Frame
        from gridmap.monitor.cluster import ClusterTransport
        from gridmap.monitor.sink import Delivery, Sink, Values

        self.came_up: dict[str, float] = {}
        self.first = self.last = 0.0
        self.blob_bytes = 0
        receive, send, put = ClusterTransport.receive, ClusterTransport.send, Sink.put

        def watched_receive(transport: ClusterTransport) -> list[Any]:
            received = receive(transport)
            for each in received:
                if isinstance(each.message, Hello):
                    self.came_up.setdefault(each.worker, time.perf_counter())
            return received

        def watched_send(
            transport: ClusterTransport, worker: str, message: Any, frames: list[Frame], now: float
        ) -> None:
            if isinstance(message, Blob):
                self.blob_bytes += sum(memoryview(frame).nbytes for frame in frames)
            send(transport, worker, message, frames, now)

        def watched_put(sink: Sink, item: Delivery) -> None:
            if isinstance(item, Values):
                self.last = time.perf_counter()
                self.first = self.first or self.last
            put(sink, item)

        ClusterTransport.receive = watched_receive  # type: ignore[method-assign, assignment]
        ClusterTransport.send = watched_send  # type: ignore[method-assign, assignment]
        Sink.put = watched_put  # type: ignore[method-assign, assignment]

    def seen(self, began: float) -> Measured:
        """Returns it, in seconds since the call began, and bytes."""
        return {
            "first_s": self.first - began,
            "last_s": self.last - began,
            "all_up_s": max(self.came_up.values()) - began,
            "workers": len(self.came_up),
            "blob_bytes": self.blob_bytes,
        }


def _timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    began = time.perf_counter()
    result = call()
    return result, began, time.perf_counter() - began


def calls(count: int, reuse: bool = True) -> Measured:
    """Empty calls, from the call to its return."""
    mapped = functools.partial(
        grid_map, functions.nothing, list(range(count)), max_workers=WORKERS, reuse=reuse
    )
    values, _, total_s = _timed(lambda: mapped(require_cluster=True))
    assert values == list(range(count)), "wrong results"
    return {"total_s": total_s}


def first(count: int) -> Measured:
    """Until the first result of so many empty calls is in the caller's hands."""
    began = time.perf_counter()
    stream = grid_imap_unordered(
        functions.nothing, list(range(count)), max_workers=WORKERS, require_cluster=True
    )
    value = next(stream)
    first_s = time.perf_counter() - began
    assert sorted([value, *stream]) == list(range(count)), "wrong results"
    return {"first_s": first_s}


def rate(count: int) -> Measured:
    """Empty calls, with what the monitor sees of them."""
    watch = Watch()
    values, began, total_s = _timed(
        lambda: grid_map(
            functions.nothing, list(range(count)), max_workers=WORKERS, require_cluster=True
        )
    )
    assert values == list(range(count)), "wrong results"
    return {"total_s": total_s, **watch.seen(began)}


def broadcast(kilobytes: int) -> Measured:
    """A function that carries an array along, to all workers: until the last of them has it."""
    import numpy

    watch = Watch()
    array = numpy.arange(kilobytes * 125, dtype=numpy.float64)
    bound = functools.partial(functions.broadcast, array)
    began_at = time.time()
    values, began, _ = _timed(
        lambda: grid_map(bound, range(2 * WORKERS), max_workers=WORKERS, require_cluster=True)
    )
    assert [value for *_, value in values] == list(range(2 * WORKERS)), "wrong results"
    had_it: dict[str, float] = {}
    for worker, at, _ in values:
        had_it[worker] = min(had_it.get(worker, at), at)
    assert len(had_it) == WORKERS, f"only {len(had_it)} workers took part"
    return {"all_have_it_s": max(had_it.values()) - began_at, **watch.seen(began)}


def arrays(count: int, megabytes: int) -> Measured:
    """Arrays there and back."""
    import numpy

    watch = Watch()
    sent = [numpy.full(megabytes * 125_000, i, dtype=numpy.float64) for i in range(count)]
    values, began, total_s = _timed(
        lambda: grid_map(functions.back, sent, max_workers=WORKERS, require_cluster=True)
    )
    for i, value in enumerate(values):
        assert value.nbytes == megabytes * 10**6 and (value[0], value[-1]) == (i, i + 1), i
    return {"total_s": total_s, **watch.seen(began)}


def main(argv: list[str]) -> None:
    """Makes the measurement that the arguments name: its name, then its arguments as JSON."""
    measure = {each.__name__: each for each in (calls, first, rate, broadcast, arrays)}[argv[0]]
    print(json.dumps({"import_s": IMPORT_S, **measure(*json.loads(argv[1]))}))


if __name__ == "__main__":
    main(sys.argv[1:])
