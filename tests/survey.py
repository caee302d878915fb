"""A run of ten thousand calls, some of which fail, as those see it who wait for it.

The program is started in a terminal, as a user would; its calls go on when the test says so, so
that whatever is looked at while it runs stands still.
"""

from __future__ import annotations

import io
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.report.mailbox import SOON_S, Inbox, text_of
from tests.screens import Pane, Screen, screen
from tests.watching.conftest import only

CALLS = 10_000
VALUE_ERRORS = (1000, 5001, 5002, 5102, 6003, 7004)
KEY_ERRORS = (7100, 8008, 8111, 9100)
KILLED = (5200, 8200)
"""The first ends its process alone, the second the worker that it runs in."""
LEAVES = 6000
DIED = (*KILLED, LEAVES)
FAILED = tuple(sorted({*VALUE_ERRORS, *KEY_ERRORS, *DIED}))
WHY = {
    VALUE_ERRORS[0]: ("exception", f"ValueError: no data of station {VALUE_ERRORS[0]}"),
    KEY_ERRORS[0]: ("exception", "raise KeyError(station)"),
    KILLED[0]: ("died", "killed by SIGKILL (9)"),
    LEAVES: ("died", "exited with status 3"),
}
"""The cause of death of one job of each kind, and what is told of it."""
AGAIN = range(5300, 5420, 10)
"""These fail once, and are told of in a note each."""
HELD = CALLS - 1
"""The call that ends when everything has been looked at."""
DONE = CALLS - len(FAILED) - 1
"""So many have their values then."""
DEADLINE_S = 60.0

PROGRAM = f"""
import json, os, pathlib, signal, sys, time
import gridmap
from gridmap import Retry

place, how = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])

def opened(gate):
    deadline = time.monotonic() + 100
    while not (place / gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody opened the gate")
        time.sleep(0.01)

def worker():
    import psutil
    above = psutil.Process().parents()
    return [one.pid for one in above if any("runner" in word for word in one.cmdline())][-1]

def survey(station):
    if station >= 4900:
        opened("shown")
    if station in (1000, *{DIED}):  # as long as it takes to be measured
        held, until = [], time.monotonic() + 1
        while time.monotonic() < until:
            held.append(bytearray(500_000))
            time.sleep(0.01)
    if station in {VALUE_ERRORS}:
        raise ValueError(f"no data of station {{station}}")
    if station in {KEY_ERRORS}:
        raise KeyError(station)
    if station == {KILLED[0]}:
        os.kill(os.getpid(), signal.SIGKILL)
    if station == {KILLED[1]}:
        os.kill(worker(), signal.SIGKILL)
    if station == {LEAVES}:
        print("the disk is full", flush=True)
        os._exit(3)
    if station in {AGAIN} and not (place / f"tried.{{station}}").exists():
        (place / f"tried.{{station}}").touch()
        time.sleep(0.1)  # so that it is told before another call's death takes it along
        raise ConnectionError("the line is busy")
    if station in ({KILLED[1] - 1}, {HELD - 1}):
        time.sleep(0.1)  # so that it and what was before it are answered before the next one
    if station == {HELD}:
        opened("seen")
    return 2 * station

got = gridmap.grid_map(
    survey, range({CALLS}), name="survey", on_error="return", completion_mail=True,
    retry=Retry(1, causes=()), retry_on=(ConnectionError,), **how,
)
errors = [one for one in got if isinstance(one, Exception)]
assert all(x == 2 * n for n, x in enumerate(got) if not isinstance(x, Exception))
print("the survey is over:", len(errors), "errors")
"""


class Numbers(NamedTuple):
    """How many jobs have ended how."""

    completed: int
    failed: int


AT_THE_GATE = Numbers(DONE, len(FAILED))
AT_THE_END = Numbers(DONE + 1, len(FAILED))


class Survey:
    """The run, and two terminals: in one it works, in the other somebody asks for it.

    :param folder: where the program lies
    :param runs: where its run is
    """

    def __init__(self, folder: Path, runs: Path, client: Screen, how: dict[str, Any]) -> None:
        self.folder = folder
        self.client = client
        self._line = f"python survey.py . {shlex.quote(json.dumps(how))}"
        (folder / "survey.py").write_text(PROGRAM)
        client.type(self._line)
        self.other = client.beside()
        client.until(lambda: self.display("1 failed"), "the display is there")
        self.path = only(runs)
        self.run = self.path.name
        self.open("shown")

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    def display(self, words: str) -> list[str]:
        """Returns the display of the run, when it has these words."""
        lines = self.client.seen()
        heads = [n for n, line in enumerate(lines) if re.match(r" +\d+%  ━", line)]
        if len(heads) != 1:  # it is being drawn
            return []
        shown = lines[heads[0] :]
        return shown if any(words in line for line in shown) else []

    # --- in the terminal --------------------------------------------------------------------------

    def check_display(self) -> None:
        """Checks what is shown when all calls but one have ended."""
        shown = self.client.until(lambda: self.display(f"{DONE:,} of "), "all but one are done")
        assert re.match(rf" +99%  ━+─ {DONE:,} of {CALLS:,} done", shown[0]), shown
        below = " · ".join(line.strip() for line in shown[1:])
        assert f"{len(FAILED)} failed ({len(DIED)} died)" in below
        assert "1 running · 0 queued" in below and f"{len(AGAIN)} resubmitted" in below, below

    def check_notes(self, text: str) -> None:
        """Checks that notes came, a few of them in words and of the others how many."""
        told = re.findall(r"^\d\d:\d\d:\d\d (.*)$", text, re.MULTILINE)
        more = re.findall(r"^ +\.\.\. and (\d+) notes? more$", text, re.MULTILINE)
        tries = [one for one in told if re.match(r"job \d+ \(exception\) on \S+: resubmi", one)]
        lost = [one for one in told if re.match(r"worker \S+ on \S+ is lost: ", one)]
        assert tries and (len(lost) == 1 or more), text
        assert len(told) + sum(map(int, more)) >= len(AGAIN), text
        assert len(told) <= 5 + len(AGAIN) // 2, text

    def finish(self) -> str:
        """Lets the run end; returns all that its terminal has shown."""
        self.open("seen")
        status, printed = self.client.ended(self._line, DEADLINE_S)
        assert status == 0, printed
        start = f"run {self.run}: {CALLS:,}"
        last = [line for line in printed.splitlines() if line.startswith(start)]
        assert len(last) == 1, printed
        whole = " ".join(printed[printed.index(last[0]) :].split("\n"))
        for words in (
            f"{DONE + 1:,} completed", f"{len(FAILED)} failed ({len(DIED)} died)",
            f"{len(AGAIN)} resubmitted", f"the survey is over: {len(FAILED)} errors",
        ):  # fmt: skip
            assert words in whole, printed
        assert "━" not in printed, "nothing is left of the display"
        self.check_notes(printed)
        return printed

    def check_status(self, pane: Pane, numbers: Numbers, status: int) -> None:
        """Types `gridmap status`, and checks what it says of numbers and causes."""
        done, text = pane.ran(f"gridmap status {self.run}")
        assert done == status, text
        under_way = numbers is AT_THE_GATE
        assert re.search(rf"^state +{'under way' if under_way else 'ended'}\b", text, re.M), text
        jobs = f"{numbers.completed} completed, {numbers.failed} failed, 0 canceled, "
        jobs += "1 running, 0 queued" if under_way else "0 running, 0 queued"
        assert f"{CALLS}: {jobs}" in text, text
        flat = " ".join(text.split())
        assert f"tried again {len(AGAIN)} attempts that failed" in flat, text
        for count, words in (
            (len(VALUE_ERRORS), f"ValueError: no data of station {VALUE_ERRORS[0]} (jobs "),
            (len(KEY_ERRORS), f"KeyError: {KEY_ERRORS[0]} (jobs "),
            (len(DIED), "died: killed by SIGKILL (9); "),
        ):
            assert f"failed {count} x {words}" in flat, text
        assert "Traceback" not in text

    def check_jobs(self, pane: Pane) -> None:
        """Types `gridmap jobs RUN --failed`, and checks that those are there and no others."""
        status, text = pane.ran(f"gridmap jobs {self.run} --failed")
        heading, *lines = text.splitlines()
        assert status == 0 and heading.split()[:2] == ["JOB", "STATE"], text
        rows = [line.split() for line in lines]
        assert [(int(row[0]), row[1]) for row in rows] == [(n, "failed") for n in FAILED], text

    def check_show(self, pane: Pane, *jobs: int) -> None:
        """Types `gridmap show RUN JOB` of some of the jobs of WHY."""
        for job in jobs:
            cause, words = WHY[job]
            status, text = pane.ran(f"gridmap show {self.run} {job}")
            flat = " ".join(text.split())
            assert status == 0 and re.search(rf"^cause +{cause}$", text, re.M), text
            assert f"survey{job}" in flat and words in flat, text
            assert ("Traceback" in text) == (cause == "exception"), text
            took = re.search(r"attempts: 1, took ([\d.]+) s", text)
            if job in (VALUE_ERRORS[0], *DIED):
                assert took is not None and 0.9 < float(took[1]) < DEADLINE_S, text
            logs = re.findall(r"^end of std\w+: (.*)$", text, re.M)
            assert len(logs) == len({*logs}), text
            if job == LEAVES:
                assert text.count("the disk is full") == 1, text


@contextmanager
def survey(folder: Path, runs: Path, how: dict[str, Any]) -> Iterator[Survey]:
    """Starts the run in a terminal; at the end of the block both are gone.

    :param how: more arguments of `grid_map`
    """
    with screen(folder, size=(120, 50)) as client:
        yield Survey(folder, runs, client, how)


# --- in the mailbox -------------------------------------------------------------------------------


class Mails(NamedTuple):
    """What came, and the pictures of each mail by their names."""

    first: dict[str, EmailMessage]
    digests: dict[str, EmailMessage]
    completion: EmailMessage


def check_mails(box: Inbox, run: str, seconds: float) -> Mails:
    """Takes what is in the mailbox when the program has ended; checks that it is all of it.

    :param seconds: how long the run took at most
    """
    mails = [box.mails.get(timeout=SOON_S)]
    while not box.mails.empty():
        mails.append(box.mails.get())
    subjects = [str(mail["Subject"]) for mail in mails]
    of = {str(mail["Subject"]): text_of(mail) for mail in mails}
    assert len(of) == len(mails), subjects

    over = f"gridmap: survey is over: {DONE + 1} jobs completed, {len(FAILED)} failed"
    assert subjects[-1] == over, subjects
    text = of[over]
    for count, words in (
        (len(VALUE_ERRORS), "raised ValueError"), (len(KEY_ERRORS), "raised KeyError"),
        (len(DIED), "died"),
    ):  # fmt: skip
        assert f"{count} {words}\n---" in text, text
    assert f"ValueError: no data of station {VALUE_ERRORS[0]}" in text

    first, digests = {}, {}
    told: Counter[str] = Counter()
    for mail, subject in zip(mails[:-1], subjects, strict=False):
        text = of[subject]
        cause = re.search(r"^Cause +(\w+)$", text, re.M)
        assert cause is not None and run in text, text
        more = re.match(r"gridmap: (\d+) more jobs? ", subject)
        (digests if more else first)[cause[1]] = mail
        told[cause[1]] += int(more[1]) if more else 1
    assert told == {"exception": len(VALUE_ERRORS) + len(KEY_ERRORS), "died": len(DIED)}, subjects
    # one of each cause at once, what comes within a minute together, the rest at the end
    assert len(mails) - 1 <= 2 * (2 + int(seconds / 60)), subjects

    raised, died = first["exception"], first["died"]
    assert str(raised["Subject"]).startswith(f"gridmap: survey{VALUE_ERRORS[0]} raised ValueError")
    text = text_of(raised)
    assert "in survey" in text and "Traceback" in text and f"gridmap show {run} 1000" in text
    assert "more jobs failed (" in str(digests["exception"]["Subject"])
    ways = f"{len(VALUE_ERRORS) - 1} raised ValueError, {len(KEY_ERRORS)} raised KeyError"
    assert seconds > 60 or ways in text_of(digests["exception"])
    text = text_of(died)
    which = re.search(r"^Job +(\d+) \(survey", text, re.M)
    assert which is not None and int(which[1]) in DIED, text
    for mail in (raised, died):
        check_pictures(mail)
    return Mails(first, digests, mails[-1])


def check_pictures(mail: EmailMessage) -> None:
    """Decodes the plots of a mail: of their size, and something is on them."""
    image = pytest.importorskip("matplotlib.image")
    names = []
    for part in mail.iter_attachments():
        names.append(part.get_filename())
        drawn = image.imread(io.BytesIO(part.get_content()))
        height, width, _ = drawn.shape
        assert (height, width) == (308, 704), names
        dark = drawn[..., :3].min(axis=2) < 0.9
        assert 0.01 < dark.mean() < 0.9, names
        curve = dark[60:-60, 80:-20]  # inside of the axes
        assert curve.any(), f"no curve on {names[-1]}"
    assert names == ["memory.png", "cpu.png"], mail["Subject"]
