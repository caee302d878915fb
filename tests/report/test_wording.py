"""A run at a glance, in words."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gridmap.monitor.tally import Note
from gridmap.report import wording
from gridmap.report.wording import Field, Flow
from gridmap.run_status import RunStatus


def status(**fields: Any) -> RunStatus:
    known = {"total": 2000, "completed": 1240, "failed": 0, "canceled": 0, "running": 16}
    known |= {"queued": 744, "workers_up": 16, "workers_pending": 0, "ended": False}
    return RunStatus(**{**known, **fields})


def note(number: int, text: str = "something", level: str = "warning") -> Note:
    return Note(number, 0.0, level, text)


def words(fields: list[Field]) -> str:
    return wording.plain(fields)


def test_headline() -> None:
    assert words(wording.headline(status(left_s=42.0), None)) == "1,240 of 2,000 done, 42 s left"
    assert words(wording.headline(status(), None)) == "1,240 of 2,000 done"
    reading = status(total=1500, input_ended=False)
    assert words(wording.headline(reading, None)) == "1,240 done of 1,500 read so far"
    assert words(wording.headline(reading, 9000)) == "1,240 of 9,000 done"


def test_fraction_done() -> None:
    assert wording.fraction_done(status(failed=260), None) == 0.75
    assert wording.fraction_done(status(total=1500, input_ended=False), None) is None
    assert wording.fraction_done(status(total=1500, input_ended=False), 2480) == 0.5
    assert wording.fraction_done(status(total=0, completed=0), None) == 1.0


def test_details_on_a_cluster() -> None:
    of_all = status(
        failed=3, died=2, canceled=1, workers_pending=5, queues={"all.q": 4}, children_up=16,
        calls_per_s=31.0, peak_rss_bytes=3 << 29, resubmitted=7,
    )  # fmt: skip
    assert words(wording.details(of_all, local=False)) == (
        "3 failed (2 died), 1 canceled, 16 running, 744 queued, 16 workers up, "
        "4 pending in all.q, 1 pending, 31 calls/s, peak memory 1.5 GB, 7 resubmitted"
    )
    waiting = status(completed=0, running=0, queued=2000, workers_up=0, workers_pending=16,
                     queues={"": 16})  # fmt: skip
    assert words(wording.details(waiting, local=False)) == (
        "0 running, 2,000 queued, 0 workers up, 16 pending"
    )


def test_summary() -> None:
    good = status(completed=2000, ended=True, peak_rss_bytes=1 << 20, calls_per_s=3.0)
    assert words(wording.summary(good, "r1", 65.0)) == (
        "run r1: 2,000 jobs in 1 min 05 s, 2,000 completed, peak memory 1.0 MB"
    )
    cut = wording.summary(status(), "r1", 65.0)
    assert words(cut) == "run r1: 2,000 jobs in 1 min 05 s, 1,240 completed, interrupted"


@pytest.mark.parametrize("width", [10, 20, 39, 80])
def test_lines_fit(width: int) -> None:
    fields = [Field("x" * size) for size in (5, 12, 7, 1, 30, 9, 9)]
    lines = wording.flow(fields, width)
    texts = [wording.SEPARATOR.join(field.text for field in line) for line in lines]
    assert max(map(len, texts)) <= width
    assert sum(map(len, lines)) == len(fields)
    for before, after in zip(texts, texts[1:], strict=False):  # no line ends early
        assert len(before) + len(wording.SEPARATOR) + len(after.split(" · ")[0]) > width


def test_a_note_cannot_move_the_cursor() -> None:
    told = wording.told(note(1, "its log ends with \x1b[2J\x07and\nmore"))
    clock = time.strftime("%H:%M:%S", time.localtime(0))
    assert told == f"{clock} its log ends with \ufffd[2J\ufffdand\nmore"
    assert "and 9 more lines" in wording.told(note(1, "\n".join(["line"] * 20)))


# --- no flood -------------------------------------------------------------------------------------


def test_a_few_notes_pass_at_once() -> None:
    flow = Flow(burst=5, every_s=5)
    assert len(flow.through([note(n) for n in range(1, 6)], 0.0)) == 5
    assert flow.through([note(n) for n in range(1, 6)], 0.1) == []  # told


def test_of_a_flood_the_number_is_told() -> None:
    flow = Flow(burst=5, every_s=5)
    notes = [note(n) for n in range(1, 51)]
    assert len(flow.through(notes, 0.0)) == 5
    assert flow.through(notes, 1.0) == []
    assert [text.strip() for text in flow.through(notes, 6.0)] == ["... and 45 notes more"]
    # those that are not kept any more count, too
    texts = flow.through([note(n) for n in range(100, 200)], 20.0)
    assert texts[0].strip() == "... and 49 notes more" and len(texts) == 1 + 4
    (rest,) = flow.through([note(199)], 20.1, last=True)
    assert rest.strip() == "... and 96 notes more"


def test_what_the_reader_knows_is_not_told() -> None:
    flow = Flow()
    notes = [note(1, "in the log"), note(2, "news", "info")]
    (text,) = flow.through(notes, 0.0, known=lambda one: one.level == "warning")
    assert text.endswith("news")
    flow = Flow()
    flow.skip(notes)
    assert flow.through(notes, 0.0) == []
    assert len(flow.through([*notes, note(3)], 0.0)) == 1
