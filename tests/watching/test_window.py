"""A run is watched from outside while its client lives, stops, dies, ends and is over."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

import gridmap
from gridmap.commands.common import views
from gridmap.core.dispatcher import Summary
from gridmap.errors import LedgerError, LedgerInUse
from gridmap.ledger import reading
from gridmap.ledger.directory import HISTORY, LEDGER_NAME
from gridmap.remains import sweep
from gridmap.views import DAMAGED, ENDED, INTERRUPTED, UNDER_WAY, JobRow, JobsAsked, WorkerView
from gridmap.watching import observer as observing
from gridmap.watching.alive import Alive, workers_now
from gridmap.watching.observer import NotAlive, Observer, UnknownRun, find, folders
from gridmap.watching.pages import UnknownJob
from gridmap.watching.window import Question
from gridmap.wire.keys import WINDOW_NAME, KeyPair, WindowKeys, read_window
from tests.doors.clients import Client, client, until
from tests.watching.conftest import ENDS, calls, in_history, only, opened

VALUES = [x * x for x in range(20)]


@pytest.fixture
def watcher(waiting: Client, runs: Path) -> Iterator[Observer]:
    with Observer(only(runs)) as one:
        until(lambda: one.run().completed == 8, "the ledger has eight values", 30)
        yield one


def rows(one: Observer, **asked: Any) -> list[JobRow]:
    return one.jobs(JobsAsked(**asked)).rows


def killed(one: Client, number: int = signal.SIGKILL) -> None:
    one.signal(number)
    one.ended(10)
    until(lambda: not one.family(), "no process left", 10)


# --- while it lives -------------------------------------------------------------------------------


def test_a_run_at_a_glance(waiting: Client, watcher: Observer) -> None:
    view = until(lambda: (v := watcher.run()).workers_up and v, "its agent is up")
    assert (view.state, view.host, view.pid) == (
        UNDER_WAY,
        os.uname().nodename,
        waiting.process.pid,
    )
    assert (view.total, view.completed, view.failed, view.canceled) == (20, 8, 2, 0)
    assert view.running + view.queued == 10 and view.running >= 2
    assert view.children_up == 2 and view.input_ended and view.kept and view.ended_s is None
    assert view.calls_per_s > 0 and view.left_s is not None and view.left_s > 0
    (group,) = watcher.failures()
    assert (group.kind, group.count, group.first) == ("ValueError", 2, [7, 8])
    assert sum(tick.completed for tick in watcher.timeline()) == 8
    (worker,) = watcher.workers()
    assert (worker.state, worker.children, worker.jobs) == ("up", 2, 10)


def test_rows_of_jobs_that_run(waiting: Client, watcher: Observer) -> None:
    held = until(
        lambda: (
            len(found := [row for row in rows(watcher, state="running") if row.peak_rss_bytes]) == 2
            and found
        ),
        "both are told",
        30,
    )
    assert [row.job for row in held] == sorted(x for x in calls(waiting) if x >= 10)
    assert all(row.name == f"gridmap_job{row.job}" for row in held)
    assert rows(watcher, state="running", sort="seconds", descending=True, most=1)
    assert rows(watcher, state="running", search=str(held[1].job)) == [
        row for row in rows(watcher, state="running") if row.job == held[1].job
    ]
    page = watcher.jobs(JobsAsked(state="running", most=1))
    rest = watcher.jobs(JobsAsked(state="running", most=1, after=page.next))
    assert [page.rows[0].job, rest.rows[0].job] == [row.job for row in held] and not rest.next
    everything = rows(watcher)
    assert [row.job for row in everything] == list(range(20))
    assert [row.job for row in everything if row.state == "running"] == [row.job for row in held]
    assert {row.state for row in rows(watcher, state="queued")} == {"queued"}
    view = watcher.job(held[0].job)
    assert view.row.state == "running" and view.row.seconds >= 0
    assert until(lambda: watcher.job(held[0].job).samples, "it was measured", 30)


def test_a_job_that_is_not_there(watcher: Observer) -> None:
    with pytest.raises(UnknownJob, match="has no job 99: its jobs are 0 to 19"):
        watcher.job(99)


def test_a_page_that_cannot_be_given_is_an_error(watcher: Observer) -> None:
    with pytest.raises(gridmap.GridMapError, match="jobs can be sorted by"):
        watcher.jobs(JobsAsked(sort="size"))


def test_jobs_are_canceled(waiting: Client, watcher: Observer) -> None:
    watcher.cancel([18, 19], "not needed")
    assert until(lambda: watcher.run().canceled == 2, "both are canceled")
    view = watcher.job(19)
    assert (view.row.state, view.row.cause) == ("canceled", "canceled")
    assert "not needed" in view.error
    opened(waiting)
    assert waiting.ended(30) == 0
    view = watcher.run()
    assert (view.state, view.completed, view.failed, view.canceled) == (ENDED, 16, 2, 2)


def test_the_run_is_canceled(waiting: Client, watcher: Observer) -> None:
    watcher.cancel(reason="enough")
    waiting.ended(30)
    view = watcher.run()
    assert (view.state, view.completed, view.canceled) == (ENDED, 8, 10)
    assert "enough" in watcher.job(19).error
    with pytest.raises(NotAlive, match="has no client that lives"):
        watcher.cancel()


# --- those who may not, and those who ask nonsense ------------------------------------------------


def dealer(keys: WindowKeys, own: KeyPair | None = None) -> zmq.Socket[bytes]:
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    sock.linger = 0
    sock.curve_serverkey = keys.server_public.encode()
    sock.curve_publickey = own.public if own else keys.watcher_public.encode()
    sock.curve_secretkey = own.secret if own else keys.watcher_secret.encode()
    sock.connect(keys.addresses[0])
    return sock


def test_a_stranger_gets_no_answer(watcher: Observer) -> None:
    question = msgspec.msgpack.encode(Question(1, "run"))
    keys = read_window(watcher.path)
    with dealer(keys, KeyPair.generate()) as stranger, dealer(keys) as guest:
        guest.send(question)
        assert guest.poll(10_000)  # it is there, and answers those who may ask
        with contextlib.suppress(zmq.Again):  # refused already, it has nobody to send to
            stranger.send(question, zmq.NOBLOCK)
        assert not stranger.poll(500)
        assert watcher.run().completed == 8


def test_nonsense_is_not_answered_and_does_no_harm(watcher: Observer) -> None:
    good = msgspec.msgpack.encode(Question(7, "run"))
    with dealer(read_window(watcher.path)) as guest:
        for frames in ([b""], [b"\xc1" * 100], [b"\x93\x01"], [b"\x90" * 5000], [b"x"] * 9,
                       [msgspec.msgpack.encode({"number": "a", "name": 3})]):  # fmt: skip
            guest.send_multipart(frames)
        guest.send(msgspec.msgpack.encode(Question(6, "__class__")))
        guest.send(good)
        answers = [msgspec.msgpack.decode(guest.recv()) for _ in range(2) if guest.poll(10_000)]
    assert [answer["number"] for answer in answers] == [6, 7]
    assert "knows no question '__class__'" in answers[0]["error"]
    assert answers[1]["value"]["completed"] == 8
    assert watcher.run().completed == 8


def test_many_questions_at_once(waiting: Client, watcher: Observer) -> None:
    keys = read_window(watcher.path)
    with dealer(keys) as guest:
        for number in range(500):
            guest.send(msgspec.msgpack.encode(Question(number, "jobs")))
        begun = time.monotonic()
        assert watcher.run().completed == 8  # in its turn, and the run goes on meanwhile
        assert time.monotonic() - begun < 15
        opened(waiting)
        assert waiting.ended(30) == 0
    assert len(calls(waiting)) == 20


def test_many_watchers_at_once(watcher: Observer) -> None:
    found: list[int] = []

    def look() -> None:
        with Observer(watcher.path) as one:
            for _ in range(5):
                found.append(one.run().completed)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [8] * 40


# --- a client that stops, or dies -----------------------------------------------------------------


def test_a_client_that_is_stopped_is_told_of_in_time(waiting: Client, watcher: Observer) -> None:
    waiting.signal(signal.SIGSTOP)
    try:
        for known in (True, False):  # a watcher that it has answered before, and a new one
            with Observer(watcher.path, answer_s=2.0) as new:
                one = watcher if known else new
                one._answer_s = 2.0
                begun = time.monotonic()
                with pytest.raises(LedgerInUse, match="did not answer within 2 s: it is stopped"):
                    one.jobs(JobsAsked())
                assert 1.9 < time.monotonic() - begun < 8
                view = one.run()
                assert view.state == UNDER_WAY and "is stopped" in view.error
    finally:
        waiting.signal(signal.SIGCONT)
    assert until(lambda: watcher.run().completed == 8, "it answers again", 30)


def test_a_client_that_is_killed_while_it_is_watched(waiting: Client, watcher: Observer) -> None:
    killed(waiting)
    begun = time.monotonic()
    view = watcher.run()
    assert time.monotonic() - begun < 5  # and not after an answer that never comes
    assert not watcher.live
    begun = time.monotonic()
    for _ in range(5):
        watcher.run()
    assert time.monotonic() - begun < 5 * observing.LOOK_S  # a dead one is not waited for again
    assert (view.state, view.completed, view.failed, view.queued) == (INTERRUPTED, 8, 2, 10)
    assert view.kept and (view.host, view.running) == ("", 0)
    assert [row.state for row in rows(watcher, state="queued")] == ["queued"] * 10
    with pytest.raises(NotAlive):
        watcher.cancel([19])


def test_another_client_takes_its_place_while_it_is_watched(
    waiting: Client, watcher: Observer, tmp_path: Path
) -> None:
    killed(waiting)
    run, where = watcher.path.name, str(watcher.path.parent)
    text = f"import gridmap\ngridmap.attach({run!r}, run_dir={where!r}).results()"
    with client(tmp_path / "client" / "two", text) as two:
        pid = two.process.pid
        view = until(lambda: (v := watcher.run()).pid == pid and v, "the other one answers", 30)
        assert view.state == UNDER_WAY and view.total == 20
        opened(waiting)
        two.ended(30)
    assert watcher.run().state == ENDED


def test_whoever_watches_does_not_keep_others_from_taking_it_over(
    waiting: Client, watcher: Observer
) -> None:
    killed(waiting)
    opened(waiting)
    over = threading.Event()
    seen: set[str] = set()

    def look() -> None:
        with Observer(watcher.path) as one:
            while not over.is_set():
                seen.add(one.run().state)
                one.jobs(JobsAsked(sort="memory"))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: INTERRUPTED in seen, "it is looked at")
        run = gridmap.attach(watcher.path.name, on_error="return", again=True)
        values = run.results()
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert values[:7] + values[9:] == VALUES[:7] + VALUES[9:]
    assert DAMAGED not in seen


# --- the end --------------------------------------------------------------------------------------


def test_a_run_that_ends_while_it_is_watched(waiting: Client, watcher: Observer) -> None:
    """There is an answer at every moment: no question falls between the client and its ledger."""
    opened(waiting)
    states = []
    while waiting.process.poll() is None:
        states.append(watcher.run().state)
        assert len(rows(watcher)) == 20
    assert waiting.ended(1) == 0
    view = watcher.run()
    assert (view.state, view.completed, view.failed) == (ENDED, 18, 2)
    assert view.ended_s is not None and view.ended_s >= view.created_s
    assert set(states) <= {UNDER_WAY, ENDED}


def test_a_run_that_succeeded_is_in_the_history(tmp_path: Path, runs: Path) -> None:
    program = ENDS.replace("if x in (7, 8)", "if False")
    with client(tmp_path / "client", program) as one, Observer(only(runs)) as early:
        early.run()
        assert one.ended(30) == 0, one.err
        assert early.run().state == ENDED  # it goes where the run has gone
    path = only(runs)
    assert in_history(path) and [p.name for p in path.iterdir()] == [LEDGER_NAME]
    assert not [p for p in runs.iterdir() if p.name != HISTORY]
    with Observer(path) as watcher:
        view = watcher.run()
        assert (view.state, view.completed, view.total, view.kept) == (ENDED, 20, 20, False)
        assert [row.job for row in rows(watcher, state="completed")] == list(range(20))
    assert gridmap.runs() == []
    assert find(path.name[:12], runs) == path


def test_old_history_is_swept(tmp_path: Path, runs: Path) -> None:
    with client(tmp_path / "client", ENDS.replace("if x in (7, 8)", "if False")) as one:
        assert one.ended(30) == 0
    path = only(runs)
    then = time.time() - 3 * 86_400
    for each in (path / LEDGER_NAME, path):
        os.utime(each, (then, then))
    assert sweep(runs, 4) == []
    with Observer(path) as watcher:  # whoever looks makes it no younger
        watcher.jobs(JobsAsked(sort="memory"))
    assert sweep(runs, 2) == [path.name]
    assert folders(runs) == []


# --- which run ------------------------------------------------------------------------------------


def fake(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir(mode=0o700, parents=True)
    (path / LEDGER_NAME).write_bytes(b"no ledger at all" * 100)
    return path


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    new, old = fake(tmp_path, "20260102-000000-aa"), fake(tmp_path / HISTORY, "20260101-000000-bb")
    os.utime(old / LEDGER_NAME)  # the youngest file, and not the youngest run
    assert folders(tmp_path) == [old, new]
    assert find("20260101", tmp_path) == old and find("20260102-000000-aa", tmp_path) == new
    ask: Callable[[str], Any] = lambda text: find(text, tmp_path)  # noqa: E731
    with pytest.raises(UnknownRun, match="several runs begin with 202601: 20260101-000000-bb, "):
        ask("202601")
    with pytest.raises(UnknownRun, match="there is no run 2025 in .*; the last ones there are: "):
        ask("2025")
    for text in ("", ".", "..", "../x", "a/b"):
        with pytest.raises(UnknownRun, match="is no id of a run"):
            ask(text)


def test_damage_is_told(tmp_path: Path) -> None:
    path = fake(tmp_path, "20260101-000000-bb")
    with Observer(path) as one:
        view = one.run()
        assert view.state == DAMAGED and "file is not a database" in view.error
        with pytest.raises(LedgerError, match="not a database"):
            one.jobs(JobsAsked())
    path.chmod(0o755)
    with pytest.raises(LedgerError, match="is open to other users"):
        Observer(path)
    with pytest.raises(UnknownRun, match="there is no run in"):
        Observer(tmp_path / "nothing")


def test_rows_that_make_no_sense_are_damage(tmp_path: Path, runs: Path) -> None:
    """A run that cannot be understood is said to be damaged, and hides no other one."""
    with client(tmp_path / "client", ENDS) as one:
        assert one.ended(60) == 0, one.err
    path = only(runs)
    whole = shutil.copytree(path, path.with_name("20990101-000000-bb"))
    whole.chmod(0o700)
    with contextlib.closing(sqlite3.connect(path / LEDGER_NAME)) as connection:
        connection.execute("UPDATE failures SET peak_rss = 'much', attempts = NULL")
        connection.execute("UPDATE vals SET count = NULL, seconds = 'long', at = NULL")
        connection.execute("UPDATE lives SET state = NULL")
        connection.commit()
    with Observer(path) as watcher:
        view = watcher.run()
        assert view.state == DAMAGED and "is damaged" in view.error
        for ask in (lambda: watcher.jobs(JobsAsked()), watcher.workers, lambda: watcher.job(7)):
            with pytest.raises(LedgerError, match="is damaged"):
                ask()
    with pytest.raises(LedgerError, match="is damaged"):
        reading.read(path)
    assert [view.state for view in views([path, whole])] == [DAMAGED, ENDED]


def test_a_window_that_was_left_behind(waiting: Client, watcher: Observer) -> None:
    """Its client lives, and the file says how to reach another one: an error, in time."""
    path = watcher.path / WINDOW_NAME
    keys = json.loads(path.read_text())
    path.write_text(json.dumps({**keys, "addresses": ["tcp://127.0.0.1:9"]}))
    with Observer(watcher.path, answer_s=1.0) as one:
        assert "did not answer within 1 s" in one.run().error
    path.unlink()
    with Observer(watcher.path, answer_s=1.0) as one:
        begun = time.monotonic()
        assert "cannot be watched: cannot read" in one.run().error
        assert time.monotonic() - begun < observing.CONNECT_S + 3


def test_a_worker_of_which_its_client_does_not_know_is_gone() -> None:
    """One that was killed said nothing more, so the ledger has it as it was."""
    told = [WorkerView(name, "node", state) for name, state in (("1", "up"), ("2", "up"))]
    left = WorkerView("3", "node", "left")
    alive = Alive(Summary({}, 1, 0, 1, []), {"2": WorkerView("2", "node", "draining")})
    found = {one.id: one.state for one in workers_now([*told, left], alive)}
    assert found == {"1": "gone", "2": "draining", "3": "left"}
