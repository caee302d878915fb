"""What jobs ask for by `Resources`, and what they get."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

import pytest

from gridmap import Resources, grid_map
from tests.cluster.scheduler import SCHEDULER


def surroundings() -> Callable[[None], tuple[dict[str, str], int]]:
    """Returns a function that travels by value: the nodes do not have this module."""

    def tell(_: None) -> tuple[dict[str, str], int]:
        return dict(os.environ), resource.getrlimit(resource.RLIMIT_AS)[0]

    return tell


def test_a_job_gets_the_slots_and_the_memory_that_it_asked_for() -> None:
    on_slurm = SCHEDULER.kind == "slurm"
    needs = Resources(slots=2, memory="300M" if on_slurm else "3G", walltime="10m")
    environ, address_space = grid_map(surroundings(), [None], resources=needs, copy_env=False)[0]
    if on_slurm:
        assert environ["SLURM_CPUS_PER_TASK"] == "2"
        assert environ["SLURM_MEM_PER_NODE"] == "300"
    else:
        assert environ["NSLOTS"] == "2"
        assert address_space == 3 << 30


def test_hosts_and_native_options() -> None:
    host = SCHEDULER.hosts[-1]
    native = ["--comment='of a test'"] if SCHEDULER.kind == "slurm" else ["-ac note=test"]
    needs = Resources(hosts=[host], native=native)
    environ, _ = grid_map(surroundings(), [None], resources=needs, copy_env=False)[0]
    if SCHEDULER.kind == "slurm":
        assert environ["SLURMD_NODENAME"] == host


@pytest.mark.parametrize(
    "needs", [Resources(features=["nosuch"]), Resources(native=["-q nosuch", "--nosuch"])]
)
def test_what_the_scheduler_refuses_is_an_error_of_the_call(needs: Resources) -> None:
    with pytest.raises(Exception, match="(?i)nosuch|feature"):
        grid_map(abs, [1], resources=needs)
