"""What rows come to is the same whether they are counted at once or as they come."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gridmap.core.spec import JobSpec, PoolSpec, Resources, Span
from gridmap.core.states import JobState
from gridmap.errors import Cause
from gridmap.ledger.book import Book
from gridmap.ledger.facts import EndFact, Header, LeaseFact, SampleFact, ValuesFact
from gridmap.ledger.file import lock
from gridmap.views import JobsAsked
from gridmap.watching import gaps
from gridmap.watching.observer import Observer
from gridmap.watching.questions import Questions

POOLS = [PoolSpec(Resources(num_slots=1)), PoolSpec(Resources(num_slots=2))]
HEADER = Header("r1", "n", 1000.0, "1", "3.11", "drmaa", POOLS, {}, ["n"])
JOBS = 3000


def add(ledger: Book, first: int, stop: int, chance: random.Random) -> None:
    """Adds what became of these jobs, and what was seen of them."""
    while first < stop:
        count = min(chance.randint(1, 9), stop - first, 1000 - first % 1000)
        worker = f"w{chance.randint(0, 3)}"
        ended_s = 1000.0 + first / 7 + chance.random()
        ledger.leased(LeaseFact(worker, "i", Span(first, count), 0))
        # sums of such numbers are exact
        seconds, memory = chance.randint(1, 80) / 8, chance.randint(1, 10**9)
        ledger.values(
            ValuesFact(Span(first, count), 0, 1, worker, f"h{worker}", seconds, memory, ended_s, [])
        )
        ledger.sampled(SampleFact(first, worker, ended_s, chance.randint(1, 10**9), 0.5))
        first += count


@pytest.fixture
def ledger(tmp_path: Path) -> Book:
    found = Book(tmp_path, HEADER)
    found.part(Span(0, 1000), JobSpec("f", "c", 0), [])
    found.part(Span(1000, JOBS - 1000), JobSpec("f", "c", 1), [])
    return found


def test_counting_what_is_new_gives_what_counting_all_does(ledger: Book, tmp_path: Path) -> None:
    chance = random.Random(5)
    told: list[Questions] = []

    def look(connection: object) -> None:
        if not told:
            told.append(Questions(connection))  # type: ignore[arg-type]
        told[0].run(), told[0].timeline(), told[0].workers()

    for first in range(0, JOBS, 300):
        add(ledger, first, first + 300, chance)
        ledger.flush()
        ledger.ask(look)
    growing = ledger.ask(lambda _: (told[0].run(), told[0].timeline(), told[0].workers()))
    assert ledger.close()
    with lock(tmp_path) as connection:
        fresh = Questions(connection)
        assert (fresh.run(), fresh.timeline(), fresh.workers()) == growing
        assert fresh.run().completed == JOBS
        assert sum(tick.completed for tick in fresh.timeline()) == JOBS
        assert [pool.jobs for pool in fresh.pools()] == [1000, 2000]
        rows = connection.execute("SELECT sum(seconds), max(peak_rss) FROM vals").fetchone()
        assert fresh.run().busy_s == rows[0]
        assert 50 <= len(fresh.timeline()) <= 100


def test_the_sums_of_a_run_that_is_over_are_kept(ledger: Book, tmp_path: Path) -> None:
    add(ledger, 0, JOBS, random.Random(6))
    assert ledger.close()
    tmp_path.chmod(0o700)
    with Observer(tmp_path) as observer:
        before = observer.run()
    with lock(tmp_path) as connection:
        connection.execute("UPDATE vals SET seconds = 1e9")  # nobody looks at these again
        connection.commit()
    with Observer(tmp_path) as observer:
        assert observer.run() == before
    with lock(tmp_path) as connection:
        connection.execute("UPDATE facts SET value = x'00' WHERE name = 'sums'")  # not ours
        connection.commit()
    with Observer(tmp_path) as observer:
        assert observer.run().busy_s > 1e9


@pytest.mark.parametrize("block", [3, 7, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_jobs_that_have_not_ended_are_found_past_those_that_have(
    ledger: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, block: int
) -> None:
    monkeypatch.setattr(gaps, "BLOCK", block)
    chance = random.Random(seed)
    waiting, first = [], 0
    while first < 200:
        count = min(chance.randint(1, 12), 200 - first)
        span = Span(first, count)
        kind = chance.choice("vve-")
        if kind == "v":
            ledger.values(ValuesFact(span, 0, 1, "w", "h", 1.0, 1, 2000.0, []))
        elif kind == "e":
            ledger.ended(EndFact(span, JobState.CANCELED, Cause.CANCELED, "", False, 2000.0))
        else:
            waiting += range(first, first + count)
        first += count
    ledger.values(ValuesFact(Span(200, JOBS - 200), 0, 1, "w", "h", 1.0, 1, 2000.0, []))
    assert ledger.close()
    with lock(tmp_path) as connection:
        told = Questions(connection)
        for descending in (False, True):
            found: list[int] = []
            asked = JobsAsked("queued", descending=descending, most=7)
            while True:
                page = told.jobs(asked)
                found += [row.job for row in page.rows]
                if not page.next:
                    break
                asked = JobsAsked("queued", descending=descending, most=7, after=page.next)
            assert found == sorted(waiting, reverse=descending)
