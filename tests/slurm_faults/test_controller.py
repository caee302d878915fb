"""Faults of Slurm's daemons: slurmctld, slurmdbd, munged."""

from __future__ import annotations

import signal
import time

from tests.faults.clients import Client, broken, eventually
from tests.rows import Stopwatch, row
from tests.slurm_faults.lab import SlurmLab

COUNT = 150


@row(
    fault="slurmctld is killed during the run, and started again after 3 s",
    where="scheduler",
    expected="the workers go on; every value, none computed twice",
    bound_s=30,
)
def test_slurmctld_restarted(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(3 * COUNT)
    stopwatch.start()
    with broken(lab, lambda: lab.start_daemon("slurmctld")):
        lab.kill_daemon("slurmctld")
        time.sleep(3)
    lab.squares(client, 3 * COUNT, 40)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left(ghosts=True)


@row(
    fault="slurmctld is killed just after the workers began; back after 3 s, it starts them anew",
    where="scheduler",
    expected="every value",
    bound_s=40,
    speed="slow",
)
def test_slurmctld_killed_at_once(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(3 * COUNT)
    stopwatch.start()
    with broken(lab, lambda: lab.start_daemon("slurmctld")):
        lab.kill_daemon("slurmctld", at_once=True)
        time.sleep(3)
    lab.squares(client, 3 * COUNT, 60)
    stopwatch.stop()
    lab.nothing_left(60, ghosts=True)


@row(
    fault="slurmctld is killed during the run, and stays away",
    where="scheduler",
    expected="every value, none computed twice; the workers leave",
    bound_s=60,
    speed="slow",
)
def test_slurmctld_stays_away(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(3 * COUNT)
    with broken(lab, lambda: lab.start_daemon("slurmctld")):
        stopwatch.start()
        lab.kill_daemon("slurmctld")
        lab.squares(client, 3 * COUNT, 60)
        eventually(lambda: not lab.agents(), what="the workers leave")
        stopwatch.stop()
        assert lab.calls_made_twice() == 0
    lab.nothing_left(ghosts=True)


@row(
    fault="slurmctld is killed during the run, and its agents too; it is started again after 10 s",
    where="scheduler",
    expected="others come when it is back; every value",
    bound_s=60,
    speed="slow",
)
def test_slurmctld_and_agents_killed(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(3 * COUNT)
    stopwatch.start()
    with broken(lab, lambda: lab.start_daemon("slurmctld")):
        lab.kill_daemon("slurmctld")
        for agent in lab.agents():
            agent.kill()
        time.sleep(10)
    lab.squares(client, 3 * COUNT, 90)
    stopwatch.stop()
    lab.nothing_left(ghosts=True)


@row(
    fault="slurmctld is killed before the submission",
    where="scheduler",
    expected="an error with the scheduler's words",
    bound_s=10,
)
def test_slurmctld_away_at_submission(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    with broken(lab, lambda: lab.start_daemon("slurmctld")):
        lab.kill_daemon("slurmctld")
        stopwatch.start()
        client = lab.start(count=4, seconds=0.1)
        (error,) = client.results(30)
        stopwatch.stop()
    assert error["type"] == "BackendError" and "slurmctld" in error["text"].lower(), error
    assert not lab.runs_left()
    lab.nothing_left(ghosts=True)


@row(
    fault="slurmctld hangs (SIGSTOP) for 5 s, at the submission",
    where="scheduler",
    expected="it is waited; every value",
    bound_s=30,
    speed="slow",
)
def test_slurmctld_hangs_at_submission(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = _hangs_at_submission(lab, stopwatch, 5)
    lab.squares(client, 4, 90)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="slurmctld hangs (SIGSTOP) for 45 s, at the submission: sbatch gives up before",
    where="scheduler",
    expected="an error, or every value; no worker is left of the submission that seemed to fail",
    bound_s=90,
    speed="slow",
)
def test_slurmctld_hangs_at_submission_for_long(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = _hangs_at_submission(lab, stopwatch, 45)
    results = client.results(90)
    stopwatch.stop()
    if results != [n * n for n in range(4)]:
        (error,) = results
        assert error["type"] == "BackendError" and "sinfo" in error["text"], error
    lab.nothing_left()


def _hangs_at_submission(lab: SlurmLab, stopwatch: Stopwatch, seconds: float) -> Client:
    client = lab.start(count=4, seconds=0.1)
    with broken(lab, lambda: lab.signal_daemon("slurmctld", signal.SIGCONT)):
        lab.signal_daemon("slurmctld", signal.SIGSTOP)
        stopwatch.start()
        time.sleep(seconds)
    return client


@row(
    fault="slurmctld hangs (SIGSTOP) during the run, for 10 s",
    where="scheduler",
    expected="the workers go on; every value, none computed twice",
    bound_s=30,
    speed="slow",
)
def test_slurmctld_hangs(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(3 * COUNT)
    with broken(lab, lambda: lab.signal_daemon("slurmctld", signal.SIGCONT)):
        stopwatch.start()
        lab.signal_daemon("slurmctld", signal.SIGSTOP)
        time.sleep(10)
    lab.squares(client, 3 * COUNT, 40)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="slurmctld is killed right after a submission, and knows nothing of it when it is back",
    where="scheduler",
    expected="every value; a job that has got their id is left alone",
    bound_s=60,
    speed="slow",
)
def test_submission_forgotten(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    # It writes down what it knows some seconds later; this one loses all it has heard since then.
    state = lab.keep_state()
    client = lab.at_work(10 * COUNT)
    worker = lab.worker(lab.agents()[0])
    stopwatch.start()
    with broken(lab, lambda: lab.start_daemon("slurmctld")):
        lab.kill_daemon("slurmctld", at_once=True)
        state.put_back()
    stranger = lab.submit_sleeper()
    assert stranger == worker.partition("_")[0], "it should have the id of the forgotten array"
    lab.squares(client, 10 * COUNT, 60)
    stopwatch.stop()
    assert lab.state_of(stranger) in ("PENDING", "RUNNING"), "somebody deleted the stranger"
    lab.slurm("scancel", stranger)
    lab.nothing_left(ghosts=True)


@row(
    fault="munged is killed during the run, with an agent, and started again after 5 s",
    where="scheduler",
    expected="others come when it is back; every value",
    bound_s=60,
    speed="slow",
)
def test_munged_killed(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    stopwatch.start()
    with broken(lab, lambda: lab.start_daemon("munged")):
        lab.kill_daemon("munged")
        for agent in lab.agents():
            agent.kill()
        time.sleep(5)
    lab.squares(client, COUNT, 60)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="slurmdbd, and so the accounting, is away, and agents are killed",
    where="scheduler",
    expected="others come; every value",
    bound_s=30,
    speed="slow",
)
def test_slurmdbd_away(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    with broken(lab, lambda: lab.start_daemon("slurmdbd")):
        lab.kill_daemon("slurmdbd")
        _agents_killed(lab, stopwatch)


@row(
    fault="slurmdbd hangs (SIGSTOP), and agents are killed",
    where="scheduler",
    expected="others come; every value",
    bound_s=60,
    speed="slow",
)
def test_slurmdbd_hangs(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    with broken(lab, lambda: lab.signal_daemon("slurmdbd", signal.SIGCONT)):
        lab.signal_daemon("slurmdbd", signal.SIGSTOP)
        _agents_killed(lab, stopwatch)


@row(
    fault="Slurm forgets jobs 2 s after their end (MinJobAge), and agents are killed",
    where="scheduler",
    expected="others come; every value",
    bound_s=30,
    speed="slow",
)
def test_jobs_are_soon_forgotten(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    with broken(lab, lab.reconfigure(MinJobAge="2")):
        # The scheduler is asked so seldom that it has forgotten them by then.
        _agents_killed(lab, stopwatch, {"CHECK_FREQUENCY": "5"})


def _agents_killed(
    lab: SlurmLab, stopwatch: Stopwatch, environment: dict[str, str] | None = None
) -> None:
    client = lab.at_work(COUNT, environment=environment)
    stopwatch.start()
    for node in ("n1", "n2"):
        lab.agents(node)[0].kill()
    lab.squares(client, COUNT, 60)
    stopwatch.stop()
    lab.nothing_left()
