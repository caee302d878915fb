"""What an administrator, or Slurm in an administrator's name, does to partitions and to workers."""

from __future__ import annotations

import time

import pytest

from tests.faults.clients import Client, broken, eventually
from tests.rows import Stopwatch, row
from tests.slurm_faults.lab import SlurmLab

COUNT = 60


@row(
    fault="the partition is down before the submission, and up after 3 s",
    where="scheduler",
    expected="it is said and waited; every value",
    bound_s=20,
)
def test_partition_down(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    with broken(lab, lambda: lab.partition("up")):
        lab.partition("down")
        stopwatch.start()
        client = lab.start(count=20, seconds=0.05)
        client.until_printed("0 workers up, ")
        time.sleep(2)
    lab.squares(client, 20, 30)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the partition goes down during the run, and all agents are killed; it is up after 3 s",
    where="scheduler",
    expected="new ones wait until then; every value",
    bound_s=30,
    speed="slow",
)
def test_partition_down_and_agents_killed(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    with broken(lab, lambda: lab.partition("up")):
        lab.partition("down")
        stopwatch.start()
        for agent in lab.agents():
            agent.kill()
        time.sleep(3)
    lab.squares(client, COUNT, 40)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the partition takes no jobs (DRAIN) at the submission",
    where="scheduler",
    expected="an error with Slurm's words",
    bound_s=10,
)
def test_submission_refused(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    with broken(lab, lambda: lab.partition("up")):
        lab.partition("drain")
        stopwatch.start()
        client = lab.start(count=4, seconds=0.05)
        errors = client.results(20)
        stopwatch.stop()
    assert len(errors) == 4
    for error in errors:
        assert error["type"] == "BackendError", error
        assert "Required partition not available" in error["text"], error
    assert not lab.runs_left()
    lab.nothing_left()


@row(
    fault="the partition takes no jobs (DRAIN) when a worker has to be replaced",
    where="scheduler",
    expected="the workers that are up do the rest; every value",
    bound_s=20,
)
def test_replacement_refused(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    with broken(lab, lambda: lab.partition("up")):
        lab.partition("drain")
        stopwatch.start()
        lab.agents("n1")[0].kill()
        lab.squares(client, COUNT, 30)
        stopwatch.stop()
    lab.nothing_left()


@row(
    fault="jobs of a partition that comes first take the place of all workers, for 3 s (PREEMPTED)",
    where="scheduler",
    expected="others come when these have ended; every value, no call is charged",
    bound_s=40,
)
def test_preempted(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(2 * COUNT)
    before = set(lab.agents())
    stopwatch.start()
    lab.slurm(
        "sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--chdir=/",
        "--output=/dev/null", "--wrap=sleep 3",
    )  # fmt: skip
    eventually(lambda: not before & set(lab.agents()), 20, "all are gone")
    lab.squares(client, 2 * COUNT, 60)
    stopwatch.stop()
    _nobody_was_charged(client)
    lab.nothing_left()


@row(
    fault="a worker is requeued by the administrator, who has allowed that before",
    where="scheduler",
    expected="another comes, or it comes again; every value, no call is charged",
    bound_s=40,
)
@pytest.mark.parametrize("how", ["requeue", "requeuehold"])
def test_requeued(lab: SlurmLab, stopwatch: Stopwatch, how: str) -> None:
    client = lab.at_work(2 * COUNT)
    worker = lab.worker(lab.agents("n1")[0])
    lab.slurm("scontrol", "update", f"jobid={worker}", "requeue=1")
    stopwatch.start()
    lab.slurm("scontrol", how, worker)
    lab.squares(client, 2 * COUNT, 40)
    stopwatch.stop()
    _nobody_was_charged(client)
    lab.nothing_left()


@row(
    fault="all workers are requeued by the administrator; Slurm holds them for two minutes",
    where="scheduler",
    expected="every value, no call is charged",
    bound_s=180,
    speed="slow",
)
def test_all_requeued(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(2 * COUNT)
    array = lab.worker(lab.agents()[0]).partition("_")[0]
    lab.slurm("scontrol", "update", f"jobid={array}", "requeue=1")
    stopwatch.start()
    lab.slurm("scontrol", "requeue", array)
    lab.squares(client, 2 * COUNT, 180)
    stopwatch.stop()
    _nobody_was_charged(client)
    lab.nothing_left()


@row(
    fault="a worker is suspended for twice as long as silence is tolerated",
    where="scheduler",
    expected="it is waited for; every value, no call is charged",
    bound_s=30,
)
def test_suspended(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(2 * COUNT)
    worker = lab.worker(lab.agents("n1")[0])
    stopwatch.start()
    with broken(lab, lambda: lab.slurm("scontrol", "resume", worker)):
        lab.slurm("scontrol", "suspend", worker)
        client.until_printed(f"worker {worker} is suspended by the scheduler; waiting")
        time.sleep(6)
        assert "silent" not in client.printed()
    lab.squares(client, 2 * COUNT, 30)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    _nobody_was_charged(client)
    lab.nothing_left()


@row(
    fault="the time limit of the partition ends all workers while they work, again and again",
    where="scheduler",
    expected="others go on; every value, no call is charged",
    bound_s=240,
    speed="slow",
)
def test_time_limit_of_the_partition(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    def limit(time_: str) -> None:
        lab.slurm("scontrol", "update", "partitionname=main", f"defaulttime={time_}")

    with broken(lab, lambda: limit("60")):
        limit("2")
        stopwatch.start()
        client = lab.at_work(500, seconds=1)
        lab.squares(client, 500, 240)
        stopwatch.stop()
    _nobody_was_charged(client)
    lab.nothing_left()


def _nobody_was_charged(client: Client) -> None:
    assert "resubmission" not in client.printed(), client.printed()
