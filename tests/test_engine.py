"""A run at a glance: what the scheduler's queues are called, and what is left to do."""

from __future__ import annotations

import pytest

from gridmap.conf import Settings
from gridmap.core.spec import PoolSpec, Resources
from gridmap.engine import Engine
from gridmap.monitor.watcher import Watcher
from gridmap.options import Options
from gridmap.plan import Plan
from gridmap.run_status import RunStatus


def engine_of(backend: str, *queues: str) -> Engine:
    pools = [PoolSpec(Resources(queue=queue)) for queue in queues]
    plan = Plan([], "name", "job {}".format, True, ["name"], False, pools=pools)
    return Engine(plan, Options(settings=Settings(), backend=backend), Watcher())


@pytest.mark.parametrize(
    ("backend", "queues"),
    [
        ("drmaa", {"all.q": 5, "gpu.q": 4}),
        ("slurm", {"": 5, "gpu.q": 4}),  # where nobody is asked for all.q
    ],
)
def test_workers_wait_in_queues(
    backend: str, queues: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGE_ROOT", "/somewhere")
    engine = engine_of(backend, "all.q", "gpu.q", "all.q", "idle.q")
    engine._queues = engine._queues_asked_for()
    assert engine._waiting([2, 4, 3, 0]) == queues


def test_a_status_has_what_it_always_had_in_the_same_places() -> None:
    status = RunStatus(9, 1, 2, 3, 1, 2, 4, 5, False)
    assert (status.total, status.completed, status.failed, status.canceled) == (9, 1, 2, 3)
    assert (status.running, status.queued, status.workers_up, status.workers_pending) == (
        1,
        2,
        4,
        5,
    )
    assert (status.left_s, status.queues, status.resubmitted) == (None, {}, 0)
    assert RunStatus(9, 1, 2, 3, 1, 2, 4, 5, False).queues is not status.queues
