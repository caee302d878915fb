"""Runs whose client died or stopped: what was finished is there, and the rest runs."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import gridmap
from gridmap import Job, conf
from gridmap.backends import description
from gridmap.errors import ConfigError, JobDied, LedgerError, LedgerInUse
from gridmap.ledger import spool
from gridmap.ledger.directory import HISTORY, LEDGER_NAME
from gridmap.resume import Resumption
from tests.doors.clients import Client, client, until
from tests.doors.functions import fails_at_first, fails_until_mended

LOCAL = {"local": True, "max_processes": 2}

PROGRAM = """
import os, sys, time
import gridmap
from gridmap import Job
os.environ["GRIDMAP_LEDGER"] = "always"
HERE = os.environ["HERE"]

def f(x):
    with open(os.path.join(HERE, "calls"), "a") as file:
        file.write(f"{x}\\n")
    while x >= 10 and not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(0.005)
    return x * x
"""
MAP = "gridmap.grid_map(f, range(20), local=True, max_processes=2)"
JOBS = (
    "gridmap.process_jobs([Job(f, [x], name=f'number {x}') for x in range(20)],"
    " local=True, max_processes=2)"
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "client" / "runs"))
    monkeypatch.setenv("GRIDMAP_LEDGER", "always")
    monkeypatch.setenv("HERE", str(tmp_path / "client"))


def calls(one: Client) -> list[int]:
    path = one.folder / "calls"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def killed(one: Client, number: int = signal.SIGKILL) -> gridmap.RunInfo:
    """Kills the client when most of ten jobs have ended and two wait; returns its run."""
    until(lambda: len([x for x in calls(one) if x >= 10]) == 2, "both processes wait")
    seen = [_size(one)]
    until(lambda: seen[-1] > 0 and _rests(one, seen), "the ledger has their values")
    one.signal(number)
    one.ended(5)
    until(lambda: not one.family(), "no process left")
    (info,) = gridmap.runs()
    return info


def _size(one: Client) -> int:
    return sum(path.stat().st_size for path in (one.folder / "runs").glob("*/ledger.*"))


def _rests(one: Client, seen: list[int]) -> bool:
    """Looks at the ledger's size, now and then; True when it has not grown for a while."""
    time.sleep(0.02)
    seen.append(_size(one))
    return len(seen) > 20 and len(set(seen[-20:])) == 1


@pytest.mark.parametrize("call", [MAP, JOBS])
def test_after_kill_9_what_was_finished_is_there_and_the_rest_runs(
    tmp_path: Path, call: str
) -> None:
    with client(tmp_path / "client", PROGRAM + call) as one:
        info = killed(one)
        assert (info.state, info.total) == ("interrupted", 20)
        assert info.completed is not None and 5 <= info.completed <= 10
        before = calls(one)
        (one.folder / "go").touch()

        run = gridmap.attach(info.id)
        assert run.id == info.id and len(run) == 20
        assert run.results() == [x * x for x in range(20)]

        assert len(calls(one)) == 20 - info.completed + len(before)
        assert gridmap.runs() == []
        if call is JOBS:
            assert [job.ret for job in run.jobs] == [x * x for x in range(20)]
            assert run.jobs[3].name == "number_3" and run.jobs[3].args == [3]


def test_a_run_is_taken_over_again_and_again(tmp_path: Path) -> None:
    with client(tmp_path / "client", PROGRAM + MAP) as one:
        info = killed(one)
        where = str(Path(info.path).parent)
        text = f"import gridmap\ngridmap.attach({info.id!r}, run_dir={where!r}).results()"
        two = Client(tmp_path / "client" / "two", text)
        try:
            until(lambda: len([x for x in calls(one) if x >= 10]) == 4, "both wait again")
            os.kill(two.process.pid, signal.SIGKILL)
            two.ended(5)
        finally:
            two.close()
        (one.folder / "go").touch()
        assert gridmap.attach(info.id).results() == [x * x for x in range(20)]


def test_a_run_that_is_under_way_cannot_be_taken_over(tmp_path: Path) -> None:
    with client(tmp_path / "client", PROGRAM + MAP) as one:
        until(lambda: 10 in calls(one), "job 10 has begun")
        (info,) = gridmap.runs()
        assert info.state == "under way"
        with pytest.raises(LedgerInUse, match="under way"):
            gridmap.attach(info.id)
        (one.folder / "go").touch()
        assert one.ended(10) == 0
    assert gridmap.runs() == []


def test_an_interrupted_run_keeps_its_values_and_says_so(tmp_path: Path) -> None:
    with client(tmp_path / "client", PROGRAM + MAP) as one:
        info = killed(one, signal.SIGINT)
        assert info.state == "ended" and info.completed is not None
        assert f"gridmap.attach({info.id!r})" in one.err
        values = gridmap.attach(info.id, on_error="return").results()
        assert values[:5] == [x * x for x in range(5)]
        assert isinstance(values[19], gridmap.JobCanceled)
        (one.folder / "go").touch()
        assert gridmap.attach(info.id, again=True).results() == [x * x for x in range(20)]


def test_what_failed_can_run_again(tmp_path: Path) -> None:
    with pytest.raises(JobDied, match="exited with status 7"):
        gridmap.process_jobs([Job(fails_at_first, [x]) for x in range(6)], **LOCAL)
    (info,) = gridmap.runs()
    assert (info.state, info.failed) == ("ended", 1)
    with pytest.raises(JobDied, match="exited with status 7"):
        gridmap.attach(info.id).results()
    (tmp_path / "client" / "mended").touch()
    run = gridmap.attach(info.id, again=True)
    assert run.results() == [0, 1, 2, 3, 4, 5]
    assert gridmap.runs() == []


def test_where_every_job_failed_all_can_run_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = gridmap.grid_map(fails_until_mended, range(3), on_error="return", **LOCAL)
    assert all(isinstance(value, ZeroDivisionError) for value in values)
    (info,) = gridmap.runs()
    assert f"none of 3 jobs has a value; gridmap.attach({info.id!r}, again=True)" in caplog.text
    again = gridmap.attach(info.id, on_error="return").results()  # starts nothing
    assert all(isinstance(value, ZeroDivisionError) for value in again)
    assert gridmap.runs() == [info]
    (tmp_path / "client").mkdir(exist_ok=True)
    (tmp_path / "client" / "mended").touch()
    assert gridmap.attach(info.id, again=True).results() == [0, 1, 2]
    assert gridmap.runs() == []


def test_a_run_goes_on_with_the_profile_of_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "client").mkdir()
    monkeypatch.delenv("GRIDMAP_RUN_DIR")
    text = '[settings]\nGRIDMAP_RUN_DIR = "elsewhere"\nGRIDMAP_GRACE = 50\n'
    profile = '[profiles.p.settings]\nGRIDMAP_RUN_DIR = "runs"\nGRIDMAP_GRACE = 40\n'
    file = tmp_path / "gridmap.toml"
    file.write_text(text + profile)
    file.chmod(0o644)
    monkeypatch.setenv("GRIDMAP_CONFIG", str(file))

    def attach(**options: Any) -> Any:
        run = gridmap.attach(info.id, **options)
        with pytest.raises(JobDied):
            run.results()
        return run._engine.options.settings

    with pytest.raises(JobDied):
        gridmap.grid_map(fails_at_first, range(6), profile="p", on_error="finish", **LOCAL)
    assert gridmap.runs() == []
    (info,) = gridmap.runs(profile="p")
    assert f"gridmap.attach({info.id!r}, profile='p') gives them" in caplog.text
    assert info.path.startswith(str(tmp_path / "runs"))
    with pytest.raises(LedgerError, match=f"no run {info.id} in {tmp_path}/elsewhere"):
        gridmap.attach(info.id)
    now = attach(profile="p")
    assert (now.profile, now.grace_s) == ("p", 40)
    now = attach(run_dir=tmp_path / "runs")
    assert (now.profile, now.grace_s) == ("p", 40)
    now = attach(run_dir=tmp_path / "runs", profile="none")
    assert (now.profile, now.grace_s) == ("none", 50)
    with pytest.raises(ValueError, match="there is no profile 'q'"):
        gridmap.attach(info.id, profile="q")
    with pytest.raises(ValueError, match="there is no profile 'q'"):
        gridmap.runs(profile="q")
    file.write_text(text)
    caplog.clear()
    now = attach(run_dir=tmp_path / "runs")
    assert (now.profile, now.grace_s) == ("none", 50)
    assert f"run {info.id} was begun with profile 'p', which no configuration" in caplog.text


def test_a_description_is_judged_again_when_a_run_is_taken_over(tmp_path: Path) -> None:
    with pytest.raises(JobDied):
        gridmap.grid_map(fails_at_first, range(6), **LOCAL)
    (info,) = gridmap.runs()
    path = tmp_path / "ours.toml"
    path.write_text(description.SHIPPED.joinpath("slurm_commands.toml").read_text())
    path.chmod(0o666)
    database = sqlite3.connect(Path(info.path, "ledger.sqlite"))
    with database:
        ((header,),) = database.execute("SELECT value FROM facts WHERE name = 'header'")
        facts = {**msgspec.msgpack.decode(header), "backend": str(path)}
        database.execute(
            "UPDATE facts SET value = ? WHERE name = 'header'", (msgspec.msgpack.encode(facts),)
        )
    database.close()
    with pytest.raises(ConfigError, match=f"{path} is not used: other users can write it"):
        gridmap.attach(info.id, again=True).results()


def test_a_full_disk_is_a_warning_and_loses_nothing(tmp_path: Path) -> None:
    text = PROGRAM + (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "big = lambda x: (open(os.path.join(HERE, 'log'), 'a').close(), os.urandom(50_000))[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "got = gridmap.grid_map(big, range(50), local=True, max_processes=2)\n"
        "print(len(got), {len(x) for x in got})\n"
    )
    with client(tmp_path / "client", text) as one:
        assert one.ended(20) == 0, one.err
        assert one.out == "50 {50000}\n"
        assert one.err.count("the ledger cannot be written") == 1


def test_a_full_disk_is_a_warning_in_a_run_that_was_taken_over_too(tmp_path: Path) -> None:
    text = PROGRAM + (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def fails_at_last(x):\n"
        "    if x < 49:\n"
        "        return b''\n"
        "    return {True: os.urandom}[os.path.exists(HERE + '/mended')](50_000)\n"
        "try:\n"
        "    gridmap.grid_map(fails_at_last, range(50), local=True, max_processes=2)\n"
        "except LookupError:\n"
        "    open(HERE + '/mended', 'w').close()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, 1 << 15))\n"
        "(info,) = gridmap.runs()\n"
        "got = gridmap.attach(info.id, again=True).results()\n"
        "print(len(got), len(got[49]))\n"
    )
    with client(tmp_path / "client", text) as one:
        assert one.ended(20) == 0, one.err
        assert one.out == "50 50000\n"
        assert one.err.count("the ledger cannot be written") == 1


def test_there_is_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no run 20990101-000000-0"):
        gridmap.attach("20990101-000000-0")
    for name in ("", "..", "a/b"):
        with pytest.raises(ValueError, match="no id of a run"):
            gridmap.attach(name)
    with pytest.raises(ValueError, match="on_error"):
        gridmap.attach("x", on_error="ignore")
    assert gridmap.runs(tmp_path / "nowhere") == []


def test_what_others_can_write_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(JobDied):
        gridmap.grid_map(fails_at_first, range(6), **LOCAL)
    (info,) = gridmap.runs()
    os.chmod(info.path, 0o770)
    with pytest.raises(LedgerError, match="open to other users"):
        gridmap.attach(info.id)


def test_old_runs_are_removed_and_young_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        with pytest.raises(JobDied):
            gridmap.grid_map(fails_at_first, range(6), **LOCAL)
        return gridmap.runs()[-1].id

    old, young = fail(), fail()
    before = time.time() - 15 * 86_400
    for path in (*Path(conf.GRIDMAP_RUN_DIR, old).rglob("*"), Path(conf.GRIDMAP_RUN_DIR, old)):
        os.utime(path, (before, before))
    (tmp_path / "client" / "mended").touch()
    gridmap.grid_map(fails_at_first, range(6), **LOCAL)
    assert [info.id for info in gridmap.runs()] == [young]


def test_a_success_leaves_nothing(tmp_path: Path) -> None:
    assert gridmap.grid_map(abs, range(100), **LOCAL) == list(range(100))
    assert os.listdir(conf.GRIDMAP_RUN_DIR) == [HISTORY]
    (over,) = Path(conf.GRIDMAP_RUN_DIR, HISTORY).iterdir()
    assert os.listdir(over) == [LEDGER_NAME]  # what happened, and none of the values


def test_no_ledger_where_none_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_LEDGER", "never")
    with pytest.raises(JobDied):
        gridmap.grid_map(fails_at_first, range(6), **LOCAL)
    assert gridmap.runs() == []
    monkeypatch.setenv("GRIDMAP_LEDGER", "perhaps")
    with pytest.raises(ValueError, match="GRIDMAP_LEDGER"):
        gridmap.grid_map(abs, [1], **LOCAL)


def test_run_info_is_plain(tmp_path: Path) -> None:
    with pytest.raises(JobDied):
        gridmap.grid_map(fails_at_first, range(6), name="mine", **LOCAL)
    (info,) = gridmap.runs()
    assert info.name == "mine" and abs(info.created_s - time.time()) < 60
    assert json.dumps(vars(info)) and Path(info.path).is_dir()


def test_what_is_no_run_is_never_removed(tmp_path: Path) -> None:
    mine = Path(conf.GRIDMAP_RUN_DIR, "thesis")
    mine.mkdir(parents=True)
    (mine / "chapter").touch()
    before = time.time() - 100 * 86_400
    for path in (mine / "chapter", mine):
        os.utime(path, (before, before))
    gridmap.grid_map(abs, range(3), **LOCAL)
    assert (mine / "chapter").exists()


def test_what_runs_again_goes_on_running_when_its_client_dies_too(tmp_path: Path) -> None:
    with client(tmp_path / "client", PROGRAM + MAP) as one:
        info = killed(one, signal.SIGINT)
        where = str(Path(info.path).parent)
        text = (
            f"import gridmap\ngridmap.attach({info.id!r}, run_dir={where!r}, again=True).results()"
        )
        waiting = len([x for x in calls(one) if x >= 10])
        two = Client(tmp_path / "client" / "two", text)
        try:
            until(lambda: len([x for x in calls(one) if x >= 10]) == waiting + 2, "both wait again")
            os.kill(two.process.pid, signal.SIGKILL)
            two.ended(5)
        finally:
            two.close()
        (one.folder / "go").touch()
        assert gridmap.attach(info.id).results() == [x * x for x in range(20)]


def test_a_run_is_removed_when_what_was_missing_has_run(tmp_path: Path) -> None:
    with pytest.raises(JobDied):
        gridmap.grid_map(fails_at_first, range(6), **LOCAL)
    (info,) = gridmap.runs()
    (tmp_path / "client" / "mended").touch()
    assert gridmap.attach(info.id, again=True).results() == [0, 1, 2, 3, 4, 5]
    assert not os.path.exists(info.path)


def test_the_state_of_a_run_that_has_ended(tmp_path: Path) -> None:
    with pytest.raises(JobDied):
        gridmap.grid_map(fails_at_first, range(6), **LOCAL)
    (info,) = gridmap.runs()
    run = gridmap.attach(info.id, on_error="return")
    status = run.status()
    assert (status.total, status.completed, status.failed) == (6, info.completed, 1)
    assert status.ended and status.queued == 0
    run.results()
    assert os.path.exists(info.path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobDied):
        gridmap.grid_map(fails_at_first, range(6), **LOCAL)
    (info,) = gridmap.runs()
    with sqlite3.connect(Path(info.path) / "ledger.sqlite") as connection:
        (header,) = connection.execute("SELECT value FROM facts WHERE name = 'header'").fetchone()
        told = msgspec.msgpack.decode(header)
        told["python"] = "3.99"
        row = "UPDATE facts SET value = ? WHERE name = 'header'"
        connection.execute(row, (msgspec.msgpack.encode(told),))
    connection.close()
    with pytest.raises(LedgerError, match=r"Python 3\.99"):
        gridmap.attach(info.id)
    assert gridmap.runs()[0].state == "ended"


def test_values_that_nobody_has_read_yet_outlive_their_program(tmp_path: Path) -> None:
    text = PROGRAM + (
        "run = gridmap.submit([Job(abs, [x]) for x in range(6)], local=True, max_processes=2)\n"
        "while [info.state for info in gridmap.runs()] != ['ended']:\n"
        "    time.sleep(0.01)\n"
        "with open(os.path.join(HERE, 'ready'), 'w') as file:\n"
        "    file.write('ready')\n"
        "time.sleep(60)\n"
    )
    with client(tmp_path / "client", text) as one:
        one.file("ready")
        one.signal(signal.SIGKILL)
        one.ended(5)
        (info,) = gridmap.runs()
        assert (info.state, info.completed) == ("ended", 6)
        run = gridmap.attach(info.id)
        assert os.path.exists(info.path)
        assert run.results() == list(range(6))
        assert not os.path.exists(info.path)


def test_a_run_whose_values_were_read_one_way_or_the_other_leaves_nothing(tmp_path: Path) -> None:
    jobs = [Job(abs, [x]) for x in range(6)]
    run = gridmap.submit(jobs, **LOCAL)
    assert run.wait(20)
    assert [job.ret for job in jobs] == list(range(6)) and gridmap.runs() == []
    with gridmap.submit([Job(abs, [x]) for x in range(6)], **LOCAL) as run:
        until(lambda: run.status().ended, "the run has ended")
    assert gridmap.runs() == []


def test_an_error_before_the_values_were_read_keeps_them(tmp_path: Path) -> None:
    with (
        pytest.raises(LookupError),
        gridmap.submit([Job(abs, [x]) for x in range(6)], **LOCAL) as run,
    ):
        until(lambda: run.status().ended, "the run has ended")
        raise LookupError("in the block")
    (info,) = gridmap.runs()
    assert gridmap.attach(info.id).results() == list(range(6))
    assert gridmap.runs() == []


def test_what_a_worker_left_stays_while_the_ledger_cannot_take_it(tmp_path: Path) -> None:
    with pytest.raises(JobDied):
        gridmap.grid_map(fails_at_first, range(6), **LOCAL)
    (info,) = gridmap.runs()
    earlier = Resumption(Path(info.path))
    left = spool.write(info.path, "1.1", "i", "host", [], [])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        earlier.book.charged(1, 1, 0)
        earlier.book.flush(lambda: earlier._spool_is_in(left))
        assert earlier.book.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert earlier.book.error and left.exists()
    again = Resumption(Path(info.path))
    assert again.book.close() and not left.exists()
