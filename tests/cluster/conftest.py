"""A real scheduler for the tests of this folder; tools/cluster_tests brings it up for them."""

from __future__ import annotations

import contextlib
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gridmap import call
from gridmap.backends.base import Backend, SubmitRequest
from gridmap.backends.registry import open_backend
from gridmap.core.spec import Resources
from tests.cluster.scheduler import SCHEDULER, Task

END_S = 20.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what belongs to another scheduler: `@pytest.mark.only_on("drmaa")`."""
    here = Path(__file__).parent
    others = []
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            mark = item.get_closest_marker("only_on")
            if mark is not None and SCHEDULER.backend not in mark.args:
                others.append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


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
    """Fails at once, and clearly, where there is no scheduler to test with."""
    if not SCHEDULER.present:
        pytest.fail("no scheduler here: run these tests by tools/cluster_tests")
    SCHEDULER.queued()


@pytest.fixture(autouse=True)
def nothing_left(cluster: None) -> Iterator[None]:
    """Sees to it that a test leaves no job behind."""
    before = {task.native_id for task in SCHEDULER.queued()}
    yield

    def left() -> list[Task]:
        return [task for task in SCHEDULER.queued() if task.native_id not in before]

    deadline = time.monotonic() + END_S
    while left() and time.monotonic() < deadline:
        time.sleep(0.2)
    tasks = left()
    for array in {task.array for task in tasks}:
        with contextlib.suppress(subprocess.CalledProcessError):
            SCHEDULER.delete(array)
    assert not tasks, f"left in the queue: {tasks}"


@pytest.fixture(autouse=True)
def chosen(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has calls that name no backend use the one under test, where that is not chosen by itself.

    What a test changes by `monkeypatch` is undone before the queue is looked at.
    """
    if SCHEDULER.backend not in call.BACKENDS:
        real = call._choose_backend

        def choose(backend: str, *others: bool) -> str:
            return SCHEDULER.backend if backend == "auto" else real(backend, *others)

        monkeypatch.setattr(call, "_choose_backend", choose)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Returns a folder for a run, with a name that nobody would call harmless."""
    folder = tmp_path / "a run: 1"
    folder.mkdir()
    return folder


@pytest.fixture
def backend() -> Iterator[Backend]:
    opened = open_backend(SCHEDULER.backend)
    yield opened
    opened.close()


@pytest.fixture
def request_for(shared: Path) -> Callable[..., SubmitRequest]:
    def make(
        *command: str, count: int = 1, log_dir: str = str(shared), **resources: object
    ) -> SubmitRequest:
        return SubmitRequest(
            run_tag=uuid.uuid4().hex,
            name="a test",
            command=command,
            count=count,
            resources=Resources(**resources),
            log_dir=log_dir,
            working_dir=str(shared),
        )

    return make
