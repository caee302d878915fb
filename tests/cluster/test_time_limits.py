"""The end of a worker's time, and warnings of it, on a real scheduler."""

from __future__ import annotations

import logging
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gridmap
from gridmap import Job, JobOutOfTime, grid_map, process_jobs
from gridmap.backends import drmaa
from gridmap.errors import Cause, JobDied
from tests.cluster.client import SLOTS, eventually, make_gate, workers_of


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("GRIDMAP_MAX_WORKERS", str(SLOTS))
    monkeypatch.setenv("HEARTBEAT_FREQUENCY", "0.25")
    monkeypatch.setenv("MAX_IDLE_HEARTBEATS", "1000")


@pytest.fixture
def arrays(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns what tells the array jobs that have been submitted."""
    caplog.set_level(logging.INFO, "gridmap")
    return lambda: re.findall(r"workers submitted as \['(\d+)'\]", caplog.text)


@pytest.fixture
def notify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes Grid Engine send a warning before it kills, as for `qsub -notify`."""
    plain = drmaa.native_specification
    monkeypatch.setattr(drmaa, "native_specification", lambda *a, **k: plain(*a, **k) + " -notify")


def long_job(folder: Path) -> Callable[[int], None]:
    place = str(folder)

    def spin(number):
        Path(place, f"begun.{number}.{time.monotonic()}").touch()
        print("these were its last words", flush=True)
        while True:
            time.sleep(0.01)

    return spin


def test_a_job_that_takes_longer_than_its_worker_may_says_its_last_words(tmp_path) -> None:
    began = time.monotonic()
    with pytest.raises(JobOutOfTime) as caught:
        grid_map(long_job(tmp_path), [0], h_rt=6)
    took = time.monotonic() - began
    print(f"h_rt=6: reported after {took:.1f} s: {caught.value}")
    error = caught.value
    assert took < 8, "it may take a second or two to start"
    assert (error.cause, error.attempts) == (Cause.WALLTIME, 1)
    assert "shortly before the end of its worker's time limit of 6 s" in str(error)
    assert "these were its last words" in error.log_tail
    assert error.rss_bytes > 1e6
    assert len(list(tmp_path.glob("begun.*"))) == 1


def test_short_jobs_under_a_short_limit_are_neither_lost_nor_charged(
    tmp_path, arrays, caplog
) -> None:
    place = str(tmp_path)

    def note(number):
        time.sleep(0.5)
        with open(f"{place}/done", "a") as file:
            file.write(f"{number}\n")
        return number

    jobs = [Job(note, [n], h_rt=5) for n in range(16)]
    began = time.monotonic()
    assert process_jobs(jobs, max_workers=1) == list(range(16))
    print(f"8 s of work under h_rt=5: {time.monotonic() - began:.1f} s, {len(arrays())} arrays")
    assert {job.num_resubmits for job in jobs} == {0}
    assert "resubmission" not in caplog.text
    assert len(arrays()) >= 3, "a worker has 3 s for them"
    done = (tmp_path / "done").read_text().split()
    assert set(map(int, done)) == set(range(16))
    assert len(done) <= 16 + len(arrays()), "at most one for each worker is run again"


@pytest.mark.only_on("drmaa")
def test_a_first_job_that_outlives_a_soft_limit_is_out_of_time(tmp_path, notify) -> None:
    """A limit that nobody told of, as s_rt of a queue; h_rt comes late after it, qdel warns too."""
    job = Job(long_job(tmp_path), [0], resources=["s_rt=0:0:2"])
    with gridmap.submit([job], max_workers=1) as run:
        eventually(lambda: list(tmp_path.glob("begun.0.*")))
        (worker,) = workers_of(run.id).values()
        warned_at = time.monotonic() + 5  # it is said to nobody, and Grid Engine is in no hurry
        eventually(lambda: time.monotonic() > warned_at)
        assert len(workers_of(run.id)) == 1, "it may go on"
        subprocess.run(["qdel", worker], check=True, capture_output=True, timeout=20)
        with pytest.raises(JobOutOfTime, match=r"by SIGUSR2 \(12\) from the scheduler") as caught:
            run.results()
    assert caught.value.attempts == 1
    assert len(list(tmp_path.glob("begun.*"))) == 1


@pytest.mark.only_on("drmaa")
def test_a_job_that_only_the_hard_warning_meets_is_not_tried_for_ever(
    tmp_path, notify, monkeypatch
) -> None:
    monkeypatch.setenv("NUM_RESUBMITS", "0")
    began = time.monotonic()
    with pytest.raises(JobDied, match=r"by SIGUSR2 \(12\) from the scheduler") as caught:
        process_jobs([Job(long_job(tmp_path), [0], resources=["h_rt=0:0:2"])], max_workers=1)
    print(f"h_rt=2 with -notify: {time.monotonic() - began:.1f} s: {caught.value}")
    tries = len(list(tmp_path.glob("begun.*")))
    assert tries == 4, "three of them might have been for other reasons"


@pytest.mark.only_on("drmaa")
def test_a_deleted_worker_that_is_warned_gives_its_job_back_uncharged(
    tmp_path, notify, arrays, caplog
) -> None:
    wait, begun, gate = make_gate(tmp_path)
    jobs = [Job(wait, [n]) for n in range(2)]
    with gridmap.submit(jobs, max_workers=2) as run:
        eventually(lambda: len(begun()) == 2)
        deleted = next(iter(workers_of(run.id).values()))
        subprocess.run(["qdel", deleted], check=True, capture_output=True, timeout=20)
        eventually(lambda: f"worker {deleted} on" in caplog.text, what="it says that it leaves")
        gate.touch()
        assert run.results() == [0, 1]
    assert "resubmission" not in caplog.text
    assert {job.num_resubmits for job in jobs} == {0}
