"""Faults of Slurm's nodes."""

from __future__ import annotations

import time

from tests.faults.clients import SLOTS, broken, eventually
from tests.rows import Stopwatch, row
from tests.slurm_faults.lab import NODES, SlurmLab

COUNT = 60


@row(
    fault="a slurmd is killed",
    where="node",
    expected="its workers go on; every value, none computed twice",
    bound_s=20,
)
def test_slurmd_killed(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    with broken(lab, lambda: lab.start_daemon("n1")):
        stopwatch.start()
        lab.kill_daemon("n1")
        lab.squares(client, COUNT, 30)
        stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="a node is lost: its slurmd and all that it started are killed",
    where="node",
    expected="their silence is noticed; every value",
    bound_s=40,
)
def test_node_lost(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    with broken(lab, lambda: lab.start_daemon("n1")):
        stopwatch.start()
        lab.cut_power("n1")
        lab.squares(client, COUNT, 60)
        stopwatch.stop()
    lab.nothing_left(60)


@row(
    fault="a node is lost, and has booted 3 s later",
    where="node",
    expected="its calls are made by others; every value",
    bound_s=40,
    speed="slow",
)
def test_node_booted(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(2 * COUNT)
    stopwatch.start()
    with broken(lab, lambda: lab.start_daemon("n1")):
        lab.cut_power("n1")
        time.sleep(3)
    lab.squares(client, 2 * COUNT, 60)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="a node is taken down by the administrator (NODE_FAIL)",
    where="node",
    expected="its calls are made by others; every value",
    bound_s=30,
)
def test_node_down(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(2 * COUNT)
    with broken(lab, lambda: lab.node_state("n1", "resume")):
        stopwatch.start()
        lab.node_state("n1", "down")
        lab.squares(client, 2 * COUNT, 40)
        stopwatch.stop()
    lab.nothing_left()


@row(
    fault="a node is drained during the run",
    where="node",
    expected="its workers go on; every value, none computed twice",
    bound_s=20,
    speed="slow",
)
def test_node_drained(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    with broken(lab, lambda: lab.node_state("n1", "resume")):
        stopwatch.start()
        lab.node_state("n1", "drain")
        lab.squares(client, COUNT, 30)
        stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="all nodes are drained before the submission, and resumed after 3 s",
    where="node",
    expected="it is said and waited; every value",
    bound_s=20,
    speed="slow",
)
def test_all_nodes_drained(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    def resume() -> None:
        for node in NODES:
            lab.node_state(node, "resume")

    with broken(lab, resume):
        for node in NODES:
            lab.node_state(node, "drain")
        stopwatch.start()
        client = lab.start(count=20, seconds=0.05)
        client.until_printed("0 workers up, ")
        time.sleep(2)
    lab.squares(client, 20, 30)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="all agents of a node are killed",
    where="agent",
    expected="others come; every value",
    bound_s=20,
    speed="slow",
)
def test_agents_of_a_node_killed(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(2 * COUNT)
    stopwatch.start()
    for agent in lab.agents("n1"):
        agent.kill()
    eventually(lambda: len(lab.agents()) == SLOTS, 15, "others come")
    lab.squares(client, 2 * COUNT, 30)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the folder of the logs has no room, before the workers start",
    where="node",
    expected="every value",
    bound_s=20,
)
def test_no_room_for_logs(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    logs = lab.public_folder("logs")
    with broken(lab, lab.fill(logs)):
        stopwatch.start()
        client = lab.start(count=20, seconds=0.05, temp_dir=str(logs))
        lab.squares(client, 20, 30)
        stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the folder of the logs is removed, and an agent killed",
    where="node",
    expected="the workers that are up do the rest; every value",
    bound_s=20,
    speed="slow",
)
def test_logs_gone(lab: SlurmLab, stopwatch: Stopwatch) -> None:
    logs = lab.public_folder("logs")
    client = lab.at_work(COUNT, temp_dir=str(logs))
    stopwatch.start()
    logs.rename(logs.with_name("elsewhere"))
    lab.agents("n1")[0].kill()
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    lab.nothing_left()
