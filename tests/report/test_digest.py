"""Which failures are mailed at once and which are told together, on a clock of the test's own."""

from __future__ import annotations

from gridmap.conf import Settings
from gridmap.report.digest import FEW, LONGEST_FACTOR, Ration
from gridmap.report.failed_job import FailedJob

SETTINGS = Settings()
DIED = FailedJob("fit", "died", run="one", host="node1")


def test_one_a_minute_and_cause_and_run() -> None:
    ration = Ration(60.0)
    stalled = FailedJob("fit", "stalled", run="one")
    other = FailedJob("fit", "died", run="two")
    taken = [ration.take(each, SETTINGS, 0.0) for each in (DIED, stalled, other, DIED, other)]
    assert taken == [True, True, True, False, False]
    assert ration.due(59.9) == []
    assert [(d.run, d.cause, d.count) for d in ration.due(60.0)] == [
        ("one", "died", 1),
        ("two", "died", 1),
    ]


def test_what_was_counted_is_told_though_nothing_else_fails() -> None:
    ration = Ration(60.0)
    assert ration.next_s() is None
    for number in range(100):
        ration.take(FailedJob(f"fit{number}", "died", host=f"node{number % 3}"), SETTINGS, 1.0)
    assert ration.next_s() == 61.0
    (digest,) = ration.due(61.0)
    assert (digest.count, digest.since_s, len(digest.first)) == (99, 1.0, FEW)
    assert [failure.name for failure in digest.first] == [f"fit{n}" for n in range(1, 6)]
    assert sum(digest.hosts.values()) == 99 and len(digest.hosts) == 3
    assert ration.due(1000.0) == [] and ration.next_s() is None


def test_after_a_quiet_minute_the_next_one_is_mailed_at_once() -> None:
    ration = Ration(60.0)
    assert ration.take(DIED, SETTINGS, 0.0)
    assert not ration.take(DIED, SETTINGS, 59.0)
    assert ration.due(60.0)
    assert not ration.take(DIED, SETTINGS, 119.0)
    assert ration.due(120.0)
    assert ration.take(DIED, SETTINGS, 1000.0)


def test_where_failures_do_not_end_digests_become_rarer() -> None:
    ration = Ration(60.0)
    told = []
    for second in range(24 * 3600):
        ration.take(DIED, SETTINGS, float(second))
        told += [(second, digest.count) for digest in ration.due(float(second))]
    assert [second for second, _ in told[:5]] == [60, 120, 240, 480, 960]
    assert len(told) < 24 * 60 / LONGEST_FACTOR + 10
    assert sum(count for _, count in told) + ration.end()[0].count == 24 * 3600 - 1


def test_the_end_of_a_run_tells_the_rest() -> None:
    ration = Ration(60.0)
    for _ in range(3):
        ration.take(DIED, SETTINGS, 0.0)
        ration.take(FailedJob("fit", "died", run="two"), SETTINGS, 0.0)
    assert [(d.run, d.count) for d in ration.end("one")] == [("one", 2)]
    assert ration.end("one") == []
    assert [(d.run, d.count) for d in ration.end()] == [("two", 2)]
    assert ration.next_s() is None
