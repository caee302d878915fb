"""The ledger on disk: what was flushed is read again, whatever its writer died of."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from gridmap.core.events import KnownCharge
from gridmap.core.messages import Held
from gridmap.core.spec import JobSpec, PoolSpec, Resources, Span
from gridmap.core.states import JobState
from gridmap.errors import Cause, LedgerError, LedgerInUse
from gridmap.ledger import reading
from gridmap.ledger.book import Book
from gridmap.ledger.directory import LEDGER_NAME
from gridmap.ledger.facts import EndFact, FailureFact, Header, LeaseFact, PartFact, ValuesFact
from gridmap.ledger.facts import WorkerFact as Worker
from gridmap.ledger.file import DATA_NAME, lock
from tests.doors.clients import until

DEADLINE_S = 10.0
HEADER = Header(
    run="r1",
    name="job",
    created_s=1.5,
    gridmap="1",
    python="3.11",
    backend="drmaa",
    pools=[PoolSpec(Resources(queue="all.q"), 1), PoolSpec(Resources(num_slots=2))],
    options={"on_error": "raise", "max_workers": 4},
    names=["job"],
)
SPEC = JobSpec("f" * 64, "c" * 64, 1, rerunnable=False)


def written(ledger: Book) -> None:
    done = threading.Event()
    ledger.flush(done.set)
    assert done.wait(DEADLINE_S)


def test_every_fact_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = Book(tmp_path, HEADER)
    frames = [b"one", bytearray(b"two"), memoryview(b"three")]
    values = ValuesFact(Span(0, 3), 1, 2, "7.1", "host", 0.5, 4096, 9.5, [b"values"])
    failure = FailureFact(
        4,
        Cause.DIED,
        2,
        3,
        "text",
        "7.1",
        "host",
        "/o",
        "/e",
        1,
        0.25,
        8192,
        10.5,
        "what happened",
        "traceback",
        Held(4, 1, 0, 1, 4, 5, 0.5, True),
        [b"x", b""],
    )
    end = EndFact(Span(5, 5), JobState.SKIPPED, Cause.CANCELED, "stopped", False, 11.5)
    lease = LeaseFact("7.1", "i1", Span(0, 4), 2)
    ledger.part(Span(0, 10), SPEC, frames)
    ledger.blob("f" * 64, [b"function"])
    ledger.blob("f" * 64, [b"the same again"])
    ledger.input_ended()
    ledger.requested(0, 1, 2)
    ledger.answered(0, 1, ["7.1", "7.2"])
    ledger.requested(1, 0, 9)
    ledger.leased(lease)
    ledger.charged(4, 1, 0)
    ledger.charged(4, 2, 3)
    ledger.values(values)
    ledger.failed(failure)
    ledger.ended(end)
    assert ledger.close()

    facts = reading.read(tmp_path)

    assert facts.header == HEADER and facts.input_ended and not facts.ended
    assert facts.parts == [PartFact(Span(0, 10), SPEC, [b"one", b"two", b"three"])]
    assert facts.blobs == {"f" * 64: [b"function"]}
    assert facts.workers == [Worker("7.1", 1, 0), Worker("7.2", 1, 0)]
    assert facts.open_requests == [(1, 0, 9)]
    assert facts.leases == [lease]
    assert facts.values == [values]
    assert facts.failures == [failure]
    assert facts.ends == [end]
    assert facts.charged == {4: KnownCharge(4, 2, 3)}


def test_it_is_private(tmp_path: Path) -> None:
    os.umask(os.umask(0))
    ledger = Book(tmp_path, HEADER)
    ledger.part(Span(0, 1), SPEC, [b"secret"])
    written(ledger)
    for name in os.listdir(tmp_path):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    ledger.close()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    ledger = Book(tmp_path, HEADER)
    with pytest.raises(LedgerInUse, match="under way"):
        reading.read(tmp_path)
    with pytest.raises(LedgerInUse):
        Book(tmp_path)
    take = f"from gridmap.ledger.file import lock; lock({str(tmp_path)!r})"
    other = subprocess.run([sys.executable, "-c", take], capture_output=True, text=True)
    assert other.returncode == 1 and "LedgerInUse" in other.stderr
    ledger.close()
    with lock(tmp_path):
        pass


def test_a_second_writer_adds_to_the_first_ones_facts(tmp_path: Path) -> None:
    for number in range(2):
        ledger = Book(tmp_path, HEADER if number == 0 else None)
        ledger.values(
            ValuesFact(Span(number, 1), 0, 1, "", "", 0.0, 0, 0.0, [b"value %d" % number])
        )
        assert ledger.close()
    assert [x.frames for x in reading.read(tmp_path).values] == [[b"value 0"], [b"value 1"]]


KILLED = """
import os, signal, sys, threading
from gridmap.core.spec import Span
from gridmap.ledger.book import Book
from gridmap.ledger.facts import ValuesFact
from tests.ledger.test_book import HEADER
ledger = Book(sys.argv[1], HEADER)
for number in range(100_000):
    ledger.values(ValuesFact(Span(number, 1), 0, 1, "", "", 0.0, 0, 0.0, [b"%d" % number * 50]))
    ledger.flush(lambda number=number: os.write(1, b"%d\\n" % number))
ledger.close(60)
"""


def test_what_was_written_outlives_a_killed_writer(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) > 500:
            break
    writer.send_signal(signal.SIGKILL)
    told = [int(line) for line in writer.stdout.read().split()[:-1]]  # the last may be cut
    writer.wait(DEADLINE_S)

    facts = reading.read(tmp_path)

    kept = {fact.span.first: bytes(fact.frames[0]) for fact in facts.values}
    assert len(kept) > max([500, *told])
    assert all(value == b"%d" % number * 50 for number, value in kept.items())


def test_a_full_disk_is_told_once_and_harms_nothing_that_was_written(tmp_path: Path) -> None:
    reasons: list[str] = []
    ledger = Book(tmp_path, HEADER, reasons.append)
    ledger.values(ValuesFact(Span(0, 1), 0, 1, "", "", 0.0, 0, 0.0, [b"kept"]))
    written(ledger)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        for number in (1, 2):
            ledger.values(
                ValuesFact(Span(number, 1), 0, 1, "", "", 0.0, 0, 0.0, [b"x" * (1 << 17)])
            )
            written(ledger)  # whoever waits for it must not wait for ever
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(reasons) == 1 and "File too large" in reasons[0]
    ledger.close()
    assert [bytes(x.frames[0]) for x in reading.read(tmp_path).values] == [b"kept"]
    assert (tmp_path / DATA_NAME).stat().st_size == 4


def test_whatever_cannot_be_written_nobody_waits_for_ever(tmp_path: Path) -> None:
    reasons: list[str] = []
    ledger = Book(tmp_path, HEADER, reasons.append)
    ledger.noted(1.0, object(), "no text at all")  # type: ignore[arg-type]
    ledger.values(ValuesFact(Span(0, 1), 0, 1, "", "", 0.0, 0, 0.0, [b"a", [b"b"]]))  # type: ignore[list-item]
    written(ledger)
    written(ledger)
    assert len(reasons) == 1
    assert ledger.close()


def test_what_waited_for_the_ledger_may_fail(tmp_path: Path) -> None:
    ledger = Book(tmp_path, HEADER)
    ledger.input_ended()
    ledger.flush(lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    ledger.noted(1.0, "info", "later")
    written(ledger)
    assert ledger.close() and not ledger.error


def test_a_name_that_is_no_utf_8_is_written_without_what_cannot_be(tmp_path: Path) -> None:
    name = os.fsdecode(b"x\xff.dat")
    header = replace(HEADER, name=name, names=[name], options={"log_dir": name})
    ledger = Book(tmp_path, header)
    ledger.noted(1.0, "info", f"{name} failed")
    ledger.ended(EndFact(Span(0, 1), JobState.FAILED, Cause.CANCELED, name, False, 1.5))
    written(ledger)
    assert ledger.close() and not ledger.error
    facts = reading.read(tmp_path)
    assert (facts.header.name, facts.header.names) == ("x?.dat", ["x?.dat"])
    assert facts.ends[0].text == "x?.dat"


def test_a_ledger_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot open the ledger"):
        Book(tmp_path / "nowhere", HEADER)
    with pytest.raises(LedgerError, match="there is no ledger"):
        reading.read(tmp_path)


@pytest.mark.parametrize("name", [LEDGER_NAME, DATA_NAME])
def test_a_damaged_ledger_is_an_error(tmp_path: Path, name: str) -> None:
    ledger = Book(tmp_path, HEADER)
    ledger.part(Span(0, 1), SPEC, [b"argument" * 1000])
    ledger.close()
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LedgerError, match="damaged|cannot open"):
        reading.read(tmp_path)


# --- those who look -------------------------------------------------------------------------------


def test_whoever_looks_keeps_nobody_from_writing(tmp_path: Path) -> None:
    """A ledger that is looked at from the first moment on is made all the same, and taken over."""
    looked_at: list[Path] = []
    over = threading.Event()
    looks = [0, 0]

    def look(who: int) -> None:
        while not over.is_set():
            for folder in looked_at[-1:]:
                with contextlib.suppress(LedgerError), lock(folder):
                    looks[who] += 1

    threads = [threading.Thread(target=look, args=(who,)) for who in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(40):
            folder = tmp_path / str(number)
            folder.mkdir()
            looked_at.append(folder)
            for header in (HEADER, None):
                ledger = Book(folder, header)
                assert ledger.close()
                before = sum(looks)
                until(lambda before=before: sum(looks) > before, "somebody looks")
    finally:
        over.set()
        for thread in threads:
            thread.join(DEADLINE_S)


def test_an_answer_is_that_of_the_ledger(tmp_path: Path) -> None:
    ledger = Book(tmp_path, HEADER)
    ledger.noted(1.0, "info", "first")
    written(ledger)
    writer = ledger.ask(lambda connection: threading.current_thread().name)
    assert writer == f"gridmap-ledger-{tmp_path.name}"
    count = "SELECT count(*) FROM notes"
    assert ledger.ask(lambda connection: connection.execute(count).fetchone()) == (1,)
    with pytest.raises(ZeroDivisionError):
        ledger.ask(lambda connection: 1 // 0)
    assert ledger.ask(lambda connection: 1) == 1  # a question that fails ends nothing
    ledger.close()
    begun = time.monotonic()
    with pytest.raises(LedgerError, match="is closed, or does not answer"):
        ledger.ask(lambda connection: 1)
    assert time.monotonic() - begun < 1


def test_a_ledger_that_is_busy_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    ledger = Book(tmp_path, HEADER)
    go, busy = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go.wait(DEADLINE_S)

    ledger.flush(hold)
    assert busy.wait(DEADLINE_S)
    begun = time.monotonic()
    with pytest.raises(LedgerError, match="does not answer"):
        ledger.ask(lambda connection: 1, timeout_s=0.3)
    assert time.monotonic() - begun < 5
    go.set()
    assert ledger.ask(lambda connection: 2) == 2
    assert ledger.close()


def test_many_ask_while_it_is_written(tmp_path: Path) -> None:
    ledger = Book(tmp_path, HEADER)
    answers: list[int] = []

    def ask() -> None:
        for _ in range(50):
            found = ledger.ask(lambda c: c.execute("SELECT count(*) FROM notes").fetchone()[0])
            answers.append(found)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(200):
        ledger.noted(number, "info", "text")
        ledger.flush()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(answers) == 200 and all(0 <= answer <= 200 for answer in answers)
    assert ledger.ask(lambda c: c.execute("SELECT count(*) FROM notes").fetchone()) == (200,)
    assert ledger.close()
