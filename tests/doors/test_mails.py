"""Mails of whole runs, on a cluster of processes; none are sent about jobs on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import Job, grid_map, process_jobs
from gridmap.report import mail, server
from tests.doctor.visits import ROOT, plug_in
from tests.doors.clients import until
from tests.report.mailbox import SOON_S, Inbox, Post, scripted, text_of


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Returns where mails of runs go; the backend "processes" is there."""
    post = Post(tmp_path)
    box, settings = post.serve()
    path = plug_in(tmp_path / "plugged")
    monkeypatch.syspath_prepend(path)
    monkeypatch.setenv("PYTHONPATH", f"{path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("SEND_ERROR_MAIL", "1")
    monkeypatch.setenv("SMTP_SERVER", settings.smtp_server)
    monkeypatch.setenv("ERROR_MAIL_RECIPIENT", "ada@example.org")
    monkeypatch.setenv("HEARTBEAT_FREQUENCY", "0.2")
    monkeypatch.setenv("MAX_IDLE_HEARTBEATS", "1000")
    monkeypatch.setenv("GRIDMAP_MAX_WORKERS", "2")
    yield box
    post.close()


THERE: dict[str, Any] = {"backend": "processes", "on_error": "return"}


def dies_slowly(seconds: float) -> None:
    """Writes to its log, takes memory for so long, and dies."""
    print("about to die: äöü", flush=True)
    held = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        held.append(b"x" * 1_000_000)
        time.sleep(0.02)
    os._exit(3)


def subjects(box: Inbox, count: int) -> dict[str, EmailMessage]:
    """Returns so many mails; waits for them."""
    assert mail.flush(SOON_S)
    messages = [box.mails.get(timeout=SOON_S) for _ in range(count)]
    assert box.mails.empty()
    return {message["Subject"]: message for message in messages}


def names_of_plots(message: EmailMessage) -> list[str | None]:
    parts = list(message.iter_attachments())
    assert all(part.get_content().startswith(b"\x89PNG") for part in parts)
    return [part.get_filename() for part in parts]


def test_a_job_that_dies(inbox: Inbox) -> None:
    job = Job(dies_slowly, [1.0], name="sad", retry=0, max_rss="1G")
    with gridmap.submit([job, Job(abs, [1])], **THERE) as run:
        run.results()
    (subject, message), *others = subjects(inbox, 1).items()
    assert not others and subject.startswith("gridmap: sad died on ")
    text = text_of(message)
    for words in (
        f"job 0 of run {run.id}", "exited with status 3", "Exit status  3", "about to die: äöü",
        "asked for max_rss=1G", "limit 1.0 GB", f"gridmap show {run.id} 0", job.host_name,
    ):  # fmt: skip
        assert words in text
    assert names_of_plots(message) == ["memory.png", "cpu.png"]
    assert job.attempts == 1 and len(job.track_time) == len(job.track_mem) > 1


def test_a_map_has_plots_too_and_a_digest_at_its_end(inbox: Inbox) -> None:
    def fails(number: int) -> int:
        print(f"trying {number}", flush=True)
        if number < 4:
            if number == 0:
                time.sleep(0.8)
            raise LookupError(number)
        return number

    grid_map(fails, range(6), name="hard", completion_mail=True, **THERE)
    found = subjects(inbox, 3)
    (first,) = (s for s in found if " raised LookupError" in s and "more" not in s)
    (digest,) = (s for s in found if s.startswith("gridmap: 3 more jobs raised LookupError"))
    completion = found["gridmap: hard is over: 2 jobs completed, 4 failed"]
    assert "4 raised LookupError" in text_of(completion)
    assert "LookupError" in text_of(found[digest])
    text = text_of(found[first])
    assert "in fails" in text and "trying" in text and "Traceback" in text
    slow = [message for message in found.values() if "hard0" in message["Subject"]]
    if first.startswith("gridmap: hard0"):  # else another one came first
        assert names_of_plots(slow[0]) == ["memory.png", "cpu.png"]


def test_calls_of_a_map_are_measured(inbox: Inbox) -> None:
    """What raises says nothing of its memory: the plots are of what was measured before."""

    def raises_slowly(seconds: float) -> None:
        time.sleep(seconds)
        raise LookupError

    grid_map(raises_slowly, [1.0], name="sad", completion_mail=False, **THERE)
    ((subject, message),) = subjects(inbox, 1).items()
    assert subject.startswith("gridmap: sad0 raised LookupError on ")
    assert names_of_plots(message) == ["memory.png", "cpu.png"]


def test_nothing_is_mailed_of_jobs_on_this_machine(inbox: Inbox) -> None:
    here: dict[str, Any] = {"local": True, "on_error": "return"}
    for processes in (1, 2):
        process_jobs([Job(int, ["x"])], max_processes=processes, **here)
        grid_map(int, ["x"], max_processes=processes, **here)
    assert subjects(inbox, 0) == {}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("on_error", ["return", "finish", "raise"])
def test_the_end_is_mailed_however_it_went(inbox: Inbox, processes: int, on_error: str) -> None:
    def call() -> None:
        grid_map(
            int, ["1", "x", "2"], name="part", completion_mail=True, local=True, retry=0,
            max_processes=processes, on_error=on_error,
        )  # fmt: skip

    if on_error == "return":
        call()
    else:
        with pytest.raises(ValueError):
            call()
    ((subject, message),) = subjects(inbox, 1).items()
    assert "1 failed" in subject and "1 raised ValueError" in text_of(message)
    assert "part1" in text_of(message)


def test_a_server_that_hangs_holds_nothing_up(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STEP_TIMEOUT_S", 60.0)
    monkeypatch.setattr(server, "DEADLINE_S", 60.0)
    with scripted(lambda connection: None) as port:
        monkeypatch.setenv("SMTP_SERVER", f"127.0.0.1:{port}")
        began = time.monotonic()
        found = grid_map(int, ["1", "x"], retry=0, completion_mail=True, **THERE)
        assert time.monotonic() - began < 30.0
        assert found[0] == 1 and isinstance(found[1], ValueError)
    until(lambda: mail.flush(0), "the thread is done when the server hangs up", SOON_S)


# --- what notebooks show --------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>"


def test_notebooks_show_tables_without_markup_of_others() -> None:
    jobs = [Job(int, [EVIL], name=EVIL), Job(abs, [-1])]
    with gridmap.submit(jobs, local=True, max_processes=2, on_error="return") as run:
        run.results()
        shown = run._repr_html_(), run.status()._repr_html_(), *(j._repr_html_() for j in jobs)
    for html in shown:
        assert html.startswith("<div>") and "<script>" not in html
    assert run.id in shown[0] and "failed" in shown[1]
    assert "&lt;script&gt;" in shown[2] and "raised" not in shown[2] and "failed" in shown[2]
    assert "completed" in shown[3]
    error = gridmap.JobDied(EVIL + "\nThe worker's log ends:\nx", job=1, name=EVIL, signal=9)
    assert "<script>" not in error._repr_html_() and "SIGKILL" in error._repr_html_()
    assert "log ends" not in error._repr_html_()
