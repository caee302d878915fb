"""A real Grid Engine for the tests of this folder; tools/cluster_tests brings it up for them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gridmap.backends.grid_engine import QueuedTask, parse_qstat

USER = pwd.getpwuid(os.getuid()).pw_name
END_S = 20.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def queued() -> list[QueuedTask]:
    """Returns the user's tasks that the scheduler still has."""
    done = subprocess.run(
        ["qstat", "-xml", "-u", USER], capture_output=True, text=True, timeout=20, check=True
    )
    return parse_qstat(done.stdout)


def eventually(condition: Callable[[], object], within_s: float = END_S) -> object:
    """Returns the condition's first true value; fails when it has none in time."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:.0f} s: {condition}")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def cluster() -> None:
    """Fails at once, and clearly, where there is no Grid Engine to test with."""
    if "SGE_ROOT" not in os.environ or shutil.which("qstat") is None:
        pytest.fail("no Grid Engine here: run these tests by tools/cluster_tests")
    done = subprocess.run(["qstat"], capture_output=True, text=True, timeout=20)
    if done.returncode:
        pytest.fail(f"Grid Engine does not answer: {done.stderr}")


@pytest.fixture(autouse=True)
def nothing_left(cluster: None) -> Iterator[None]:
    """Sees to it that a test leaves no job behind."""
    before = {task.native_id for task in queued()}
    yield

    def left() -> list[QueuedTask]:
        return [task for task in queued() if task.native_id not in before]

    deadline = time.monotonic() + END_S
    while left() and time.monotonic() < deadline:
        time.sleep(0.2)
    tasks = left()
    for job in {task.native_id.partition(".")[0] for task in tasks}:
        subprocess.run(["qdel", job], capture_output=True, timeout=20)
    assert not tasks, f"left in the queue: {tasks}"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Returns a folder for a run, with a name that nobody would call harmless."""
    folder = tmp_path / "a run: 1"
    folder.mkdir()
    return folder
