"""What somebody sees who waits for a run: on a terminal, in a notebook, elsewhere."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import Job, grid_imap, grid_map, process_jobs, submit
from gridmap.run_status import RunStatus
from tests.doors.clients import client, until
from tests.doors.functions import identity, inverse
from tests.doors.terminals import CONTROL, terminal
from tests.screens import screen

# Its calls end when the test has seen what it waits for; so it lasts as long as it must.
PROGRAM = """
import os, sys, time
import gridmap

def work(x):
    if x >= 8:
        while not os.path.exists("gate"):
            time.sleep(0.01)
    if x == 3:
        raise ValueError(x)
    if x == 9:
        os._exit(3)
    print(f"call {x} of a process", flush=True)
    return x

gridmap.NUM_RESUBMITS = 2
print("it begins")
"""
CALL = (
    PROGRAM
    + """
got = gridmap.grid_map(work, range(12), local=True, max_processes=2, on_error="return" MORE)
print("it ends with", sum(isinstance(one, Exception) for one in got), "failures")
"""
)
HIDE_CURSOR = "\x1b[?25l"


def program(more: str = "") -> str:
    return CALL.replace(" MORE", f", {more}" if more else "")


def drawn(raw: str) -> list[list[str]]:
    """Returns the lines of each display that was drawn."""
    displays = re.findall(r"\x1b7((?:\x1b\[B\r[^\x1b]*(?:\x1b\[[0-9;]*m[^\x1b]*)*)*)\x1b8", raw)
    return [[CONTROL.sub("", row) for row in one.split("\x1b[B\r")[1:]] for one in displays]


# --- on a terminal --------------------------------------------------------------------------------


def test_a_run_on_a_terminal(tmp_path: Path) -> None:
    with terminal(tmp_path, program()) as there:
        there.saw(r"\d of 12 done")
        there.open_gate()
        assert there.ended() == 0
    last = drawn(there.raw)[-1]
    assert re.match(r" \d+%  ━*─* \d+ of 12 done", last[0])
    assert "1 failed" in last[1] and "2 processes" in last[1]
    assert re.search(
        r"run \S+: 12 jobs in [\d.]+ s · 10 completed\s+(· )?2 failed \(1 died\)", there.text
    )
    assert re.search(r"peak memory [\d.]+ MB", there.text)
    assert "2 resubmitted" in there.text
    assert there.text.endswith("it ends with 2 failures\r\n")
    assert HIDE_CURSOR not in there.raw


def test_what_the_program_prints_stays_whole(tmp_path: Path) -> None:
    with terminal(tmp_path, program()) as there:
        there.saw(r"\d of 12 done")
        there.open_gate()
        assert there.ended() == 0
    outside = re.sub(r"\x1b\[J\x1bD.*?\x1b8", "", there.raw, flags=re.DOTALL)
    lines = CONTROL.sub("", outside).split("\r\n")
    for call in (0, 1, 2, 4, 5, 6, 7, 8, 10, 11):
        assert f"call {call} of a process" in lines
    # a display is drawn from below the cursor, which is back where it was
    for display in re.findall(r"\x1b\[J(\x1bD.*?\x1b8)", there.raw, flags=re.DOTALL):
        rows = display.count("\x1bD")
        assert display.startswith("\x1bD" * rows + f"\x1b[{rows}A\x1b7\x1b[B\r")
        assert display.count("\x1b[B\r") == rows and display.endswith("\x1b8")


def test_each_note_is_told_once(tmp_path: Path) -> None:
    with terminal(tmp_path, program()) as there:
        there.saw(r"\d of 12 done")  # from here on the display tells, not the log
        there.open_gate()
        assert there.ended() == 0
    for number in (1, 2):
        text = rf"\d\d:\d\d:\d\d job 9 \(died\) on \S+: resubmission {number} of 2"
        assert len(re.findall(text, there.text)) == 1
        assert there.text.count(f"resubmission {number} of 2") == 1


@pytest.mark.parametrize(
    "setup",
    [
        "import logging; logging.basicConfig()",
        "import logging; logging.getLogger('gridmap').addHandler(logging.StreamHandler())",
    ],
)
def test_what_the_log_shows_there_is_not_told_again(tmp_path: Path, setup: str) -> None:
    with terminal(tmp_path, f"{setup}\n{program()}") as there:
        there.saw(r"\d of 12 done")
        there.open_gate()
        assert there.ended() == 0
    assert there.text.count("resubmission 1 of 2") == 1
    assert not re.search(r"\d\d:\d\d:\d\d job 9", there.text)


def test_a_line_of_the_log_does_not_run_into_the_display(tmp_path: Path) -> None:
    with terminal(tmp_path, program(), 60, GRIDMAP_LEDGER="always") as there:
        there.saw(r"\d of 12 done")
        there.open_gate()
        assert there.ended() == 0
    before, _, after = there.raw.partition("10 of 12 values are kept")
    assert after and "\x1b[J" in before[before.rindex("\x1b8") :]


def test_nothing_of_the_display_stays_above_the_end_of_a_canceled_run(tmp_path: Path) -> None:
    with terminal(tmp_path, program()) as there:
        there.saw(r"\d of 12 done")
        there.type("\x03")
        assert there.ended() != 0
    after = there.raw[there.raw.rindex("\x1b8") :]
    assert "\x1b[J" in after[: after.index("\n")], "else the row below the cursor stays"


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_it_fits_the_terminal(tmp_path: Path, columns: int) -> None:
    with terminal(tmp_path, program(), columns) as there:
        there.saw(r"\d of 12 done")
        there.open_gate()
        assert there.ended() == 0
    displays = drawn(there.raw)
    assert displays
    assert all(len(row) < columns for rows in displays for row in rows)
    assert any("of 12 done" in row for row in displays[-1])
    assert any("1 failed" in row for row in displays[-1])


def test_a_terminal_that_becomes_narrow(tmp_path: Path) -> None:
    with terminal(tmp_path, program(), 100) as there:
        there.saw(r"\d of 12 done")
        there.resize(40)
        seen = len(drawn(there.raw))
        there.read(lambda: len(drawn(there.raw)) > seen + 2, "more displays")
        there.open_gate()
        assert there.ended() == 0
    assert max(map(len, drawn(there.raw)[0])) > 40
    assert all(len(row) < 40 for row in drawn(there.raw)[-1])


@pytest.mark.parametrize("colours", [True, False])
def test_colours_are_left_out_where_nobody_wants_them(tmp_path: Path, colours: bool) -> None:
    with terminal(tmp_path, program(), **({} if colours else {"NO_COLOR": "1"})) as there:
        there.saw(r"\d of 12 done")
        there.open_gate()
        assert there.ended() == 0
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", there.raw)) is colours


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    with terminal(tmp_path, program(), PYTHONIOENCODING="latin-1") as there:
        there.saw(r"\d of 12 done")
        there.open_gate()
        assert there.ended() == 0
    assert re.match(r" \d+%  #*-* \d+ of 12 done", drawn(there.raw)[-1][0])
    assert "\ufffd" not in there.text


def test_an_interrupt_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    with terminal(tmp_path, program()) as there:
        there.saw(r"\d of 12 done")
        there.type("\x03")
        assert there.ended() != 0
        assert there.as_before()
    assert HIDE_CURSOR not in there.raw
    assert "KeyboardInterrupt" in there.text
    after = there.raw[there.raw.rindex("\x1b8") :]  # the last display
    assert "\x1b[J" in after and "canceled" in after
    assert "KeyboardInterrupt" in after


def test_a_program_that_ends_in_the_middle(tmp_path: Path) -> None:
    text = (
        PROGRAM
        + """
import threading
jobs = [gridmap.Job(work, [x]) for x in range(12)]
run = gridmap.submit(jobs, local=True, max_processes=2, on_error="return")
threading.Thread(target=run.wait, daemon=True).start()
while not os.path.exists("leave"):
    time.sleep(0.01)
"""
    )
    with terminal(tmp_path, text) as there:
        there.saw(r"\d of 12 done")
        (tmp_path / "leave").touch()
        assert there.ended() == 0
        assert there.as_before()
    assert "\x1b[J" in there.raw[there.raw.rindex("\x1b8") :]


def test_a_run_that_nobody_waits_for_is_not_shown(tmp_path: Path) -> None:
    text = (
        PROGRAM
        + """
jobs = [gridmap.Job(work, [x]) for x in range(12)]
run = gridmap.submit(jobs, local=True, max_processes=2, on_error="return")
time.sleep(4)  # longer than it takes for a run to be shown
print("nobody waits")
run.wait(3)
print("nobody waits again")
while not os.path.exists("gate"):
    time.sleep(0.01)
run.results()
print("it ends")
"""
    )
    with terminal(tmp_path, text) as there:
        there.saw("nobody waits")
        assert not drawn(there.raw)
        there.saw(r"\d of 12 done")
        there.saw("nobody waits again")
        there.read(lambda: there.raw.endswith("\x1b[J"), "the display is gone")
        there.open_gate()
        assert there.ended() == 0


def test_a_stream_says_how_much_has_been_read(tmp_path: Path) -> None:
    text = (
        PROGRAM
        + """
def numbers():
    yield from range(30)
for _ in gridmap.grid_imap(work, numbers(), window=10, local=True, max_processes=2,
                           on_error="return"):
    pass
"""
    )
    with terminal(tmp_path, text) as there:
        there.saw(r"\d+ done of \d+ read so far")
        there.open_gate()
        assert there.ended() == 0
    assert "%" not in drawn(there.raw)[0][0]
    assert re.search(r"run \S+: 30 jobs in", there.text)


def test_two_runs_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    text = (
        PROGRAM
        + """
import threading
def one(count):
    gridmap.grid_map(work, range(count), local=True, max_processes=2, on_error="return")
threads = [threading.Thread(target=one, args=(count,)) for count in (12, 13)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    )
    with terminal(tmp_path, text) as there:
        there.saw(r"\d of 1\d done")
        there.open_gate()
        assert there.ended() == 0
    shown = [re.search(r"of (1\d) done", rows[0]) for rows in drawn(there.raw)]
    totals = [one[1] for one in shown if one]
    assert totals == sorted(totals, key=totals.index)  # first the one, then maybe the other


def test_a_short_run_is_not_shown(tmp_path: Path) -> None:
    with terminal(tmp_path, program()) as there:
        there.open_gate()
        assert there.ended() == 0
    assert there.process.returncode == 0 and "it ends with 2 failures" in there.text
    took_long = "of 12 done" in there.text and "jobs in 2 s" not in there.text
    assert took_long or not drawn(there.raw)


NOT_SHOWN = [
    ("quiet=True", {}),
    ("progress=False", {}),
    ("", {"GRIDMAP_PROGRESS": "off"}),
    ("", {"TERM": "dumb"}),
    ("progress=False", {"GRIDMAP_PROGRESS": "on"}),
]
WATCHED = """
import threading
threading.Timer(4, lambda: open("gate", "w").close()).start()
"""  # twice as long as it takes for a run to be shown


@pytest.mark.parametrize(("more", "environment"), NOT_SHOWN)
def test_off(tmp_path: Path, more: str, environment: dict[str, str]) -> None:
    with terminal(tmp_path, WATCHED + program(more), **environment) as there:
        assert there.ended() == 0
    assert not drawn(there.raw)
    assert "of 12" not in there.text
    assert "\x1b" not in there.raw


SHOWN = [
    ("quiet=True, progress=True", {}),
    ("quiet=False", {}),
    ("progress=True", {"GRIDMAP_PROGRESS": "off"}),
    ("quiet=True", {"GRIDMAP_PROGRESS": "on"}),
]


@pytest.mark.parametrize(("more", "environment"), SHOWN)
def test_on(tmp_path: Path, more: str, environment: dict[str, str]) -> None:
    with terminal(tmp_path, program(more), **environment) as there:
        there.saw(r"\d of 12 done")
        there.open_gate()
        assert there.ended() == 0


def test_what_a_profile_says(tmp_path: Path) -> None:
    (tmp_path / "gridmap.toml").write_text(
        "[settings]\nGRIDMAP_PROGRESS = 'on'\n[profiles.hush]\nprogress = false\n"
        "[profiles.quiet]\nquiet = true\nsettings = { GRIDMAP_PROGRESS = 'auto' }\n"
    )
    where = {"GRIDMAP_CONFIG": str(tmp_path / "gridmap.toml")}
    for profile in ("hush", "quiet"):
        with terminal(tmp_path, WATCHED + program(f"profile={profile!r}"), **where) as there:
            assert there.ended() == 0
        assert not drawn(there.raw)
        (tmp_path / "gate").unlink()
    with terminal(tmp_path, program(), **where) as there:
        there.saw(r"\d of 12 done")
        there.open_gate()
        assert there.ended() == 0


def test_a_debugger_is_alone_on_the_terminal(tmp_path: Path) -> None:
    text = WATCHED + program("progress=True").replace("max_processes=2", "max_processes=1")
    text = text.replace("if x == 9", "if x < 0")
    with terminal(tmp_path, text) as there:
        assert there.ended() == 0
    assert "it ends with 1 failures" in there.text
    assert "\x1b" not in there.raw


def test_the_screen_of_a_real_terminal(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program())
    command = f"{sys.executable} program.py; echo the status is $?; exec cat"
    with screen(tmp_path, command, (60, 12)) as there:  # it scrolls
        displays = until(
            lambda: [line for line in there.seen() if "of 12 done" in line], "a display", 60
        )
        assert "━" in displays[0]
        there.resize(45)
        until(lambda: max(map(len, there.seen())) < 45, "a display that is narrow", 20)
        (tmp_path / "gate").touch()
        until(lambda: any("the status is 0" in line for line in there.seen()), "the end", 60)
        lines = [line for line in there.history() if line]
    assert lines[-2:] == ["it ends with 2 failures", "the status is 0"]
    assert not any(line.startswith(" ") for line in lines), "nothing of a display is left"
    for call in (8, 10, 11):  # what many lines at once cover may show behind their ends
        assert any(line.startswith(f"call {call} of a process") for line in lines)


# --- where there is no terminal -------------------------------------------------------------------


def test_nothing_is_written_where_nobody_looks(tmp_path: Path) -> None:
    with client(tmp_path / "c", WATCHED + program()) as one:
        assert one.ended(60) == 0
        assert "of 12" not in one.err + one.out and "completed" not in one.err
        assert one.err.count("resubmission") == 2  # these are the log's


def test_lines_where_it_is_asked_for(tmp_path: Path) -> None:
    with client(tmp_path / "c", program("progress=True")) as one:
        until(lambda: "of 12 done" in one.err, "a line", 60)
        (one.folder / "gate").touch()
        assert one.ended(60) == 0
        assert "\x1b" not in one.err
        assert re.search(r"^run \S+: \d+ of 12 done, .*2 processes", one.err, re.MULTILINE)
        assert re.search(r"^run \S+: 12 jobs in .* s, 10 completed, 2 failed", one.err, re.M)
        assert one.err.count("resubmission 1 of 2") == 1


def test_lines_do_not_repeat_the_log(tmp_path: Path) -> None:
    text = "import logging; logging.basicConfig()\n" + program("progress=True")
    with client(tmp_path / "c", text) as one:
        until(lambda: "of 12 done" in one.err, "a line", 60)
        (one.folder / "gate").touch()
        assert one.ended(60) == 0
        assert one.err.count("resubmission 1 of 2") == 1


CELLS = [
    PROGRAM,
    "got = gridmap.grid_map(work, range(12), local=True, max_processes=2, on_error='return')",
]


def test_a_notebook(tmp_path: Path) -> None:
    manager = pytest.importorskip("jupyter_client", reason="needs jupyter_client")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    outputs: list[dict[str, Any]] = []

    def note(message: dict[str, Any]) -> None:
        outputs.append(message)
        content = message["content"]
        assert message["msg_type"] != "error", json.dumps(content)
        if message["msg_type"] == "display_data":
            (tmp_path / "gate").touch()

    kernel = manager.KernelManager(kernel_name="python3")
    kernel.start_kernel(cwd=str(tmp_path), env={**os.environ, "IPYTHONDIR": str(tmp_path)})
    shell = kernel.client()
    shell.start_channels()
    try:
        shell.wait_for_ready(timeout=60)
        shell.execute_interactive(CELLS[0], output_hook=note, timeout=60)
        asked = shell.execute_interactive(CELLS[1], output_hook=note, timeout=60)
    finally:
        shell.stop_channels()
        kernel.shutdown_kernel(now=True)
    shown = [o for o in outputs if o["msg_type"] in ("display_data", "update_display_data")]
    assert [o["msg_type"] for o in shown[:2]] == ["display_data", "update_display_data"]
    assert {o["msg_type"] for o in shown[1:]} == {"update_display_data"}  # in place
    assert len({o["content"]["transient"]["display_id"] for o in shown}) == 1
    cell = asked["parent_header"]["msg_id"]
    assert {o["parent_header"].get("msg_id") for o in shown} == {cell}
    texts = [CONTROL.sub("", o["content"]["data"]["text/plain"]) for o in shown]
    assert "of 12 done" in texts[0]
    assert re.search(r"12 jobs in .*10 completed · 2 failed", texts[-1])
    assert "2 failed" in shown[-1]["content"]["data"]["text/html"]
    errors = "".join(o["content"]["text"] for o in outputs if o["msg_type"] == "stream")
    assert "resubmission 2 of 2" in texts[-1] + errors
    assert (texts[-1] + errors).count("resubmission 2 of 2") == 1


# --- a function of one's own ----------------------------------------------------------------------

HOW = [{"max_processes": 1}, {"max_processes": 2}]
DOORS = [
    lambda xs, **how: grid_map(inverse, xs, local=True, **how),
    lambda xs, **how: process_jobs([Job(inverse, [x]) for x in xs], local=True, **how),
    lambda xs, **how: list(grid_imap(inverse, xs, local=True, **how)),
    lambda xs, **how: submit([Job(inverse, [x]) for x in xs], local=True, **how).results(),
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("door", DOORS)
def test_a_function_hears_of_the_end(door: Any, how: dict[str, Any]) -> None:
    heard: list[RunStatus] = []
    threads = []

    def hear(status: RunStatus) -> None:
        heard.append(status)
        threads.append(threading.current_thread())

    door([1, 0, 4], on_error="return", progress=hear, **how)
    last = heard[-1]
    assert last.ended and (last.total, last.completed, last.failed) == (3, 2, 1)
    assert (last.running, last.queued, last.canceled) == (0, 0, 0)
    assert last.input_ended and last.left_s == 0.0
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_a_function_is_called_once_a_second(tmp_path: Path) -> None:
    heard: list[tuple[float, RunStatus]] = []
    gate = tmp_path / "gate"

    def hear(status: RunStatus) -> None:
        heard.append((time.monotonic(), status))
        if len(heard) == 4:
            gate.touch()

    def work(x: int) -> int:
        data = bytearray(64 << 20) if x == 1 else b""
        end = time.monotonic() + 30
        while x == 0 and not gate.exists() and time.monotonic() < end:
            time.sleep(0.005)
        return x + 0 * len(data)

    assert grid_map(work, range(4), local=True, max_processes=2, progress=hear) == [0, 1, 2, 3]
    pauses = [after[0] - before[0] for before, after in zip(heard[:3], heard[1:4], strict=True)]
    assert all(0.5 < pause < 8 for pause in pauses)
    during, after = heard[2][1], heard[-1][1]
    assert not during.ended and during.running >= 1 and during.children_up == 2
    assert after.ended and after.completed == 4 and after.busy_s > 0.5
    assert after.peak_rss_bytes > 64 << 20 and after.calls_per_s > 0


def test_the_end_does_not_wait_for_the_next_second() -> None:
    heard: list[RunStatus] = []
    began = time.monotonic()
    for _ in range(10):
        grid_map(identity, [1], local=True, max_processes=2, progress=heard.append)
    assert time.monotonic() - began < 8
    assert sum(status.ended for status in heard) == 10


@pytest.mark.parametrize("kind", [LookupError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_function_that_fails_is_said_once(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def fail(status: RunStatus) -> None:
        calls.append(status)
        raise kind("not mine")

    def slow(x: int) -> int:
        time.sleep(1.5)
        return x

    assert grid_map(slow, range(2), local=True, max_processes=2, progress=fail) == [0, 1]
    assert len(calls) >= 2
    told = [r for r in caplog.records if f"{kind.__name__}: not mine" in r.getMessage()]
    assert len(told) == 1


def test_a_function_that_never_returns_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridmap.report.progress.CALL_END_S", 0.2)
    gate = threading.Event()
    try:
        values = grid_map(
            identity, range(3), local=True, max_processes=2, progress=lambda _: gate.wait(60)
        )
        assert values == [0, 1, 2]
    finally:
        gate.set()


def test_a_function_may_end_the_run() -> None:
    runs: list[gridmap.Run] = []
    ready = threading.Event()

    def stop(status: RunStatus) -> None:
        ready.wait(30)
        runs[0].close()

    def endless(x: int) -> None:
        time.sleep(60)

    run = submit([Job(endless, [0])], local=True, max_processes=2, progress=stop)
    runs.append(run)
    ready.set()
    with pytest.raises(gridmap.JobCanceled):
        run.results()


def test_anything_else_is_an_error() -> None:
    with pytest.raises(TypeError, match="progress is True, False, a function or None, not 'on'"):
        grid_map(identity, [1], local=True, progress="on")


def test_the_log_is_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    """quiet=False with a function as well."""
    caplog.set_level(logging.INFO, "gridmap")
    heard: list[RunStatus] = []
    grid_map(identity, [1], local=True, max_processes=2, quiet=False, progress=heard.append)
    assert heard[-1].ended
    assert sum("ended after" in record.getMessage() for record in caplog.records) == 1


def test_a_fork_of_a_program_whose_run_is_shown(tmp_path: Path) -> None:
    text = (
        PROGRAM
        + """
run = gridmap.submit([gridmap.Job(work, [x]) for x in range(8, 9)], local=True, max_processes=2,
                     progress=lambda status: None)
import threading, warnings
warnings.simplefilter("ignore")
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        print(gridmap.grid_map(abs, [-1, 2], local=True, max_processes=2, progress=print))
        try:
            run.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
open("gate", "w").close()
print(run.results())
"""
    )
    with client(tmp_path / "c", text) as one:
        assert one.ended(90) == 0, one.err
        assert one.out.endswith("[8]\n")
