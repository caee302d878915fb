"""Thousands of random cluster histories: in each, every job ends exactly once."""

from __future__ import annotations

import os
import random

import pytest

from tests.core.simulation import Plan, Simulation

HISTORIES = int(os.environ.get("GRIDMAP_HISTORIES", "1000"))
BATCH = 100
CALM = {
    "jobs": 0, "workers": 3, "children": 1, "slots": 3, "loss": 0.0, "node_death": 0.0,
    "agent_freeze": 0.0, "start_failure": 0.0, "submit_failure": 0.0, "poll_failure": 0.0,
    "deletion": 0.0, "disk_full": 0.0, "reuse": True, "stop_on_failure": True, "cancel_at": None,
    "fates": {}, "no_rerun": False,
}  # fmt: skip


@pytest.mark.parametrize("first", range(0, HISTORIES, BATCH))
def test_every_job_ends_exactly_once(first: int) -> None:
    for seed in range(first, first + BATCH):
        simulation = Simulation(seed)
        try:
            simulation.run()
        except Exception as error:
            story = "\n".join(simulation.log[-20:])
            pytest.fail(
                f"seed {seed} fails: {error!r}\nreplay: Simulation({seed}).run()\n"
                f"{simulation.plan}\n{story}"
            )


@pytest.mark.parametrize("seed", range(100))
def test_every_job_ends_though_the_scheduler_never_says_how_the_workers_are(seed: int) -> None:
    plan = Plan.draw(random.Random(seed))
    plan.poll_failure = 1.0
    plan.start_failure = 0.5
    simulation = Simulation(seed, plan)
    simulation.run()
    assert simulation.now < 20_000


@pytest.mark.parametrize("seed", range(48))
def test_suspended_workers_cost_no_job_an_attempt(seed: int) -> None:
    plan = Plan(**CALM | {"suspension": 1.0, "jobs": 30, "children": 1 + seed % 3})
    simulation = Simulation(seed, plan)
    simulation.run()
    assert set(simulation.ends.values()) == {"value"}
    assert not [line for line in simulation.log if "resubmission" in line or "silent" in line]


@pytest.mark.parametrize("seed", range(48))
def test_jobs_that_become_slow_all_at_once_are_shared(seed: int) -> None:
    plan = Plan(**CALM | {"jobs": 30, "slow_from": 10, "children": 1 + seed % 3})
    simulation = Simulation(seed, plan)
    simulation.run()
    assert set(simulation.ends.values()) == {"value"}
    assert max(simulation.starts.values()) == 1, "none is begun twice"
    workers = simulation.dispatcher.workers.values()
    came = [w for w in workers if w.up_since < 10]  # no more are wanted while nothing waits
    assert simulation.last_end_s < 5 * (20 / (len(came) * plan.children) + 3)


def test_a_seed_replays_the_same_history() -> None:
    first, second = Simulation(17), Simulation(17)
    first.run()
    second.run()
    assert (first.now, first.ends, first.log) == (second.now, second.ends, second.log)
