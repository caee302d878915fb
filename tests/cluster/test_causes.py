"""What a job died of, and what is done about it, on a real scheduler."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import gridmap
from gridmap import Job, JobOutOfMemory, JobOutOfTime, Retry, grid_map
from gridmap.errors import Cause, JobDied
from tests.cluster.client import SLOTS, eventually, workers_of
from tests.cluster.scheduler import SCHEDULER
from tests.report.mailbox import Post, text_of
from tests.rows import row


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("GRIDMAP_MAX_WORKERS", str(SLOTS))
    monkeypatch.setenv("HEARTBEAT_FREQUENCY", "0.25")
    monkeypatch.setenv("MAX_IDLE_HEARTBEATS", "1000")


def make_notes(folder: Path, pause_s: float):
    """Returns a function that notes each of its tries in a file, and takes a while."""
    where = str(folder)

    def notes(number):
        Path(where, f"{number}.{os.getpid()}").touch()
        time.sleep(pause_s)
        return number

    return notes


@pytest.mark.endings
@row(
    fault="h_rt (3 s) is exceeded by one call",
    where="scheduler",
    expected="cause walltime; it is not tried again",
    bound_s=15,
)
def test_a_job_that_takes_longer_than_its_worker_may(tmp_path) -> None:
    began = time.monotonic()
    with pytest.raises(JobOutOfTime, match=r"asked for h_rt=3: ask for more time") as caught:
        grid_map(make_notes(tmp_path, 60), [7], h_rt=3)
    error = caught.value
    assert time.monotonic() - began < 15
    assert (error.cause, error.attempts, error.job) == (Cause.WALLTIME, 1, 0)
    assert len(list(tmp_path.glob("7.*"))) == 1, "another try would have taken as long"


@pytest.mark.only_on("drmaa")
@row(
    fault="h_rt (4 s) is exceeded, and the agent says no more (SIGSTOP)",
    where="scheduler",
    expected="cause walltime, from the scheduler's accounting",
    bound_s=30,
)
def test_grid_engines_accounting_tells_of_a_worker_that_says_no_more(tmp_path) -> None:
    jobs = [Job(make_notes(tmp_path, 60), [1], h_rt=4)]
    with gridmap.submit(jobs, max_workers=1) as run:
        eventually(lambda: list(tmp_path.glob("1.*")))
        os.kill(next(iter(workers_of(run.id))), signal.SIGSTOP)
        with pytest.raises(JobOutOfTime, match="failed 37 : qmaster enforced h_rt"):
            run.results()


def test_a_job_that_lacked_time_gets_more(tmp_path) -> None:
    retry = Retry(time=10, backoff_s=0)
    assert grid_map(make_notes(tmp_path, 4), [7], h_rt=3, retry=retry) == [7]
    assert len(list(tmp_path.glob("7.*"))) == 2


@row(
    fault="asks for more memory at once than h_vmem",
    where="child",
    expected="its MemoryError; with Retry(memory=...) it gets more",
    bound_s=20,
)
def test_a_job_that_lacked_memory_gets_more(tmp_path) -> None:
    where = str(tmp_path)

    def needs(megabytes):
        Path(where, f"try.{os.getpid()}").touch()
        return len(bytearray(megabytes << 20))

    # an address space is limited on Grid Engine, memory in use on Slurm
    kind, tries = {"drmaa": (MemoryError, 1), "slurm": (JobOutOfMemory, 4)}[SCHEDULER.kind]
    with pytest.raises(kind):
        grid_map(needs, [1500], h_vmem="1G")
    assert len(list(tmp_path.glob("try.*"))) == tries
    retry = Retry(memory=3, memory_most="4G", backoff_s=0)
    assert grid_map(needs, [1500, 10], h_vmem="1G", retry=retry) == [1500 << 20, 10 << 20]


def test_an_exception_that_was_named_is_tried_again(tmp_path) -> None:
    where = str(tmp_path)

    class Flaky(Exception):
        pass

    def fails_once(number):
        try:
            Path(where, str(number)).touch(exist_ok=False)
        except FileExistsError:
            return number
        raise Flaky(number)

    assert grid_map(fails_once, range(20), retry_on=(Flaky,)) == list(range(20))


def test_all_that_is_known_of_a_worker_that_was_killed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NUM_RESUBMITS", "0")
    monkeypatch.setenv("HEARTBEAT_FREQUENCY", "1")  # a share of the processor takes time to see
    begun = tmp_path / "begun"

    def works():
        print("these were its last words", flush=True)
        ballast = bytearray(50 << 20)
        begun.touch()
        while ballast:
            pass

    job = Job(works, [])
    with gridmap.submit([job], max_workers=1) as run:
        eventually(begun.exists)
        eventually(lambda: run.wait(0.1) or job.track_mem[-1:] > [50], what="a heartbeat")
        os.kill(next(iter(workers_of(run.id))), signal.SIGKILL)
        with pytest.raises(JobDied, match="ended by SIGKILL") as caught:
            run.results()
    error = caught.value
    assert (error.job, error.attempts, error.host) == (0, 1, os.uname().nodename)
    assert error.rss_bytes > 50 << 20 and error.cpu_fraction > 0.1
    assert "these were its last words" in error.log_tail and error.log_tail in str(error)


def test_a_job_that_dies_is_mailed_with_its_log_and_plots(tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    post = Post(tmp_path)
    inbox, mail_settings = post.serve()
    monkeypatch.setenv("SEND_ERROR_MAIL", "1")
    monkeypatch.setenv("SMTP_SERVER", mail_settings.smtp_server)
    monkeypatch.setenv("ERROR_MAIL_RECIPIENT", "ada@example.org")

    def dies():
        print("about to die", flush=True)
        held = []
        until = time.monotonic() + 2
        while time.monotonic() < until:
            held.append(b"x" * 1_000_000)
            time.sleep(0.05)
        os._exit(3)

    try:
        with gridmap.submit([Job(dies, [], name="sad", retry=0)], on_error="return") as run:
            run.results()
        message = inbox.mails.get(timeout=20)
    finally:
        post.close()
    assert message["Subject"].startswith("gridmap: sad died on ")
    text = text_of(message)
    for words in (f"job 0 of run {run.id}", "about to die", "exited with status 3"):
        assert words in text
    plots = {part.get_filename(): part.get_content() for part in message.iter_attachments()}
    assert set(plots) == {"memory.png", "cpu.png"}
    assert all(png.startswith(b"\x89PNG\r\n") for png in plots.values())
