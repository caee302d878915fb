"""Commands that do something: cancel, attach, retry, clean; and what they must not do."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from pathlib import Path

import pytest

from gridmap.views import ENDED, INTERRUPTED, UNDER_WAY
from gridmap.watching.observer import Observer, folders
from tests.commands.conftest import apart, gridmap
from tests.doors.clients import Client, client, until
from tests.watching.conftest import ENDS, calls, in_history, only, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a process for each command

VALUES = [x * x for x in range(20)]


def killed(one: Client) -> None:
    one.signal(signal.SIGKILL)
    one.ended(10)
    until(lambda: not one.family(), "no process left", 10)


def state(path: Path) -> str:
    with Observer(path) as one:
        return one.run().state


# --- cancel ---------------------------------------------------------------------------------------


def test_jobs_and_the_run_are_canceled(settled: Client, runs: Path) -> None:
    path = only(runs)
    done = apart("cancel", path.name, "18", "gridmap_job19", "--reason", "not needed")
    assert (done.status, done.out) == (0, f"run {path.name}: 2 jobs canceled\n")
    with Observer(path) as one:
        until(lambda: one.run().canceled == 2, "both are canceled")
        assert "not needed" in one.job(19).error
    assert gridmap("cancel", path.name, "99").status == 3
    assert settled.process.poll() is None
    done = gridmap("cancel", "last", "--yes", "--json")
    assert done.json == {"run": path.name, "jobs": None, "said": "is canceled"}
    settled.ended(30)
    assert gridmap("status", path.name).facts["jobs"].startswith("20: 8 completed, 2 failed, 10 ")


def test_a_run_whose_client_was_killed_is_canceled(settled: Client, runs: Path) -> None:
    path = only(runs)
    killed(settled)
    done = gridmap("cancel", path.name, "19")
    assert done.status == 1 and "is dead, and nobody runs its other jobs" in done.err
    assert state(path) == INTERRUPTED
    done = gridmap("cancel", path.name)
    assert done.status == 0 and "is canceled; its client was dead" in done.out
    with Observer(path) as one:
        view = one.run()
        assert (view.state, view.completed, view.canceled) == (ENDED, 8, 10)
    assert len(calls(settled)) == 12  # nothing was begun for it
    assert gridmap("results", path.name).out.startswith("0\t0\n1\t1\n")  # and values are kept


# --- attach and retry -----------------------------------------------------------------------------


def test_a_run_is_finished_and_tried_again(settled: Client, runs: Path, tmp_path: Path) -> None:
    path = only(runs)
    killed(settled)
    opened(settled)
    (tmp_path / f"gridmap-{path.name}.pkl").write_text("mine")
    done = gridmap("attach", path.name, cwd=tmp_path)
    assert done.status == 1 and "exists; --force replaces it" in done.err
    assert state(path) == INTERRUPTED  # it has not been touched

    done = gridmap("attach", path.name, "--force", cwd=tmp_path)
    assert done.status == 1 and "18 values of 20 jobs" in done.out, done.err
    assert "job 7 has none: ValueError: [red]7[/] \\x1b[31m" in done.out and "\x1b" not in done.out
    values = pickle.loads((tmp_path / f"gridmap-{path.name}.pkl").read_bytes())
    assert values[:7] + values[9:] == VALUES[:7] + VALUES[9:]
    assert isinstance(values[7], ValueError)
    assert state(path) == ENDED

    done = gridmap("retry", path.name, "--failed", "-o", "all.json", "--json", cwd=tmp_path)
    assert (done.status, set(done.json["errors"])) == (1, {"7", "8"})
    told = json.loads((tmp_path / "all.json").read_text())
    assert told["values"][9:] == VALUES[9:] and told["values"][7] is None
    assert "ValueError" in told["errors"]["8"]
    assert calls(settled).count(7) == 2 and calls(settled).count(6) == 1
    assert gridmap("clean", "--yes").status == 0
    assert folders(runs) == []


def test_all_values_of_a_run_that_is_finished(settled: Client, runs: Path, tmp_path: Path) -> None:
    """When they are in the file, and not before, what could bring them back is removed."""
    path = only(runs)
    killed(settled)
    opened(settled)
    script = settled.script.read_text()
    assert gridmap("attach", path.name, "-o", str(tmp_path / "none" / "x.pkl")).status == 1
    assert state(path) == INTERRUPTED and script
    done = gridmap("attach", "last", "--output", "x.pkl", cwd=tmp_path)
    assert done.status == 1 and (tmp_path / "x.pkl").stat().st_size > 0
    assert path.is_dir() and not in_history(only(runs))


SUCCEEDS = """
import os, time
import gridmap
HERE = os.environ["HERE"]

class Value:
    def __init__(self, x):
        self.x = x

def f(x):
    open(os.path.join(HERE, f"begun{x}"), "w").close()
    time.sleep(0.15)
    while x == 5 and not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(0.01)
    return RuntimeError("a value") if x == 3 else Value(x)

gridmap.grid_map(f, range(6), local=True, max_processes=2)
"""


def test_values_whose_class_is_of_the_main_program(tmp_path: Path, runs: Path) -> None:
    with client(tmp_path / "client", SUCCEEDS) as one:
        until(lambda: (one.folder / "begun5").exists(), "the last one waits", 30)
        path = only(runs)
        with Observer(path) as watcher:
            until(lambda: watcher.run().completed == 5, "the others have ended", 30)
        killed(one)
        done = gridmap("results", path.name)
        assert "<" in done.out.splitlines()[0] and done.status == 1
        opened(one)
        done = gridmap("attach", path.name, "--format", "json", "-o", "v", cwd=tmp_path)
        assert done.status == 1 and "cannot be written as JSON" in done.err
        assert path.is_dir() and state(path) == ENDED  # nothing was lost by that
        done = gridmap("attach", path.name, "-o", "v", cwd=tmp_path)
    assert done.status == 0 and "6 values of 6 jobs" in done.out, done.err
    values = pickle.loads((tmp_path / "v").read_bytes())
    assert isinstance(values[3], RuntimeError) and values[5].x == 5
    assert in_history(only(runs))
    assert gridmap("status", path.name).status == 0


# --- clean ----------------------------------------------------------------------------------------


def test_runs_are_removed_but_those_that_live(settled: Client, runs: Path, tmp_path: Path) -> None:
    path = only(runs)
    program = f"import os\nos.environ['GRIDMAP_RUN_DIR'] = {str(runs)!r}\n" + ENDS
    with client(tmp_path / "two", program) as two:
        assert two.ended(40) == 0
    (ended,) = (p for p in folders(runs) if p != path)
    done = apart("clean", "--dry-run")
    assert [row["RUN"] for row in done.rows] == [ended.name] and ended.is_dir()
    assert gridmap("clean", "--older-than", "1", "--dry-run", "--json").json["found"] == []
    done = gridmap("clean")
    assert done.status == 2 and "nobody can be asked here" in done.err and ended.is_dir()
    done = gridmap("clean", "--json")
    assert done.status == 2 and not done.out and json.loads(done.err)["status"] == 2
    for command in ("attach", "retry", "results"):
        done = gridmap(command, path.name, "--json", cwd=tmp_path)
        told = json.loads(done.err)
        assert (done.status, told["status"], done.out) == (4, 4, "")
        assert "is under way" in told["error"]
    done = gridmap("clean", path.name, "--yes")
    assert done.status == 0 and path.is_dir() and state(path) == UNDER_WAY
    killed(settled)
    assert gridmap("clean", "--ended", "--yes").out.endswith("1 run removed\n")
    assert folders(runs) == [path]
    assert gridmap("clean", "--yes", "--json").json["removed"] == [path.name]
    assert folders(runs) == [] and not [p for p in runs.iterdir() if p.name != "history"]


def test_what_a_stranger_could_have_written_is_not_unpickled(settled: Client, runs: Path) -> None:
    path = only(runs)
    killed(settled)
    path.chmod(0o777)
    for command in ("results", "attach", "retry", "status"):
        done = gridmap(command, path.name, cwd=runs.parent)
        assert done.status == 1 and "is open to other users (mode 777)" in done.err, command
    path.chmod(0o700)
    assert gridmap("results", path.name).status == 1


@pytest.mark.parametrize("answer", ["n\n", "\n", "yes\n"])
def test_a_question_on_a_terminal(settled: Client, runs: Path, answer: str) -> None:
    import pty
    import subprocess

    from tests.commands.conftest import COMMAND

    path = only(runs)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "cancel", path.name], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    while b"[y/N]" not in shown and time.monotonic() < deadline:
        shown += os.read(ours, 1000)
    assert b"that have not ended?" in shown
    os.write(ours, answer.encode())
    status = process.wait(60)
    os.close(ours)
    assert status == (0 if answer == "yes\n" else 1)
    if answer == "yes\n":
        settled.ended(30)
    else:
        assert state(path) == UNDER_WAY
