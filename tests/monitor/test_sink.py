"""The queue between the monitor and the user's thread."""

from __future__ import annotations

import queue
import threading

from gridmap.core.spec import Span
from gridmap.monitor.sink import Delivery, Place, Sample, Sink, Values


def sample(job: int, rss_bytes: int = 0) -> Sample:
    return Sample(job, rss_bytes, 0.5, True, Place())


def values(first: int) -> Values:
    return Values(Span(first, 1), [], 0, 1, Place())


def test_of_a_job_that_is_measured_while_nobody_reads_the_latest_sample_is_kept() -> None:
    sink = Sink()
    for n in range(1000):
        sink.put(sample(n % 3, n))
    taken = [item for item in sink.take(0) if isinstance(item, Sample)]
    assert sorted((s.job, s.rss_bytes) for s in taken) == [(0, 999), (1, 997), (2, 998)]
    assert sink.take(0) == []


def test_who_reads_has_every_sample() -> None:
    sink = Sink()
    for n in range(5):
        sink.put(sample(7, n))
        assert sink.take(0) == [sample(7, n)]


def test_a_sample_comes_before_the_value_of_its_job() -> None:
    sink = Sink()
    sink.put(values(0))
    sink.put(sample(1))
    sink.put(values(1))
    taken = sink.take(0)
    assert taken.index(sample(1)) < taken.index(values(1))


def test_a_sample_wakes_who_waits() -> None:
    sink = Sink()
    taken: queue.SimpleQueue[list[Delivery]] = queue.SimpleQueue()
    reader = threading.Thread(target=lambda: taken.put(sink.take(20)))
    reader.start()
    sink.put(sample(3))
    assert taken.get(timeout=10) == [sample(3)]
    reader.join()


def test_the_last_samples_are_there_at_the_end() -> None:
    sink = Sink()
    sink.put(sample(1))
    sink.end()
    assert sink.take() == [sample(1)]
    assert sink.take() == [] and sink.ended and sink.drained


def test_an_end_is_none_before_everything_has_been_taken() -> None:
    sink = Sink()
    assert sink.take(0) == [] and not sink.drained
    sink.put(values(0))
    sink.end()
    assert sink.ended and not sink.drained
    assert sink.take(0) == [values(0)]
    assert sink.take(0) == [] and sink.drained


def test_nothing_is_lost_between_a_writer_and_a_reader() -> None:
    sink = Sink()

    def write() -> None:
        for n in range(5000):
            sink.put(sample(n % 2, n))
            if n % 50 == 0:
                sink.put(values(n))
        sink.end()

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[Delivery] = []
    while (taken := sink.take(10)) or not sink.drained:
        seen += taken
    writer.join()
    ends = [item.span.first for item in seen if isinstance(item, Values)]
    assert ends == list(range(0, 5000, 50))
    for job in (0, 1):
        measured = [s.rss_bytes for s in seen if isinstance(s, Sample) and s.job == job]
        assert measured == sorted(measured)
        assert measured[-1] == 4998 + job
