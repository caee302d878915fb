"""The systems, each used as its own documentation shows for Slurm, with nothing tuned.

A system is a function that imports it and returns how it calls a function with each of many
arguments: an iterator of the results, in any order, each as soon as its user can have it.

The cluster has two nodes with four processors each, and each system is told to use them all where
it has to be told: as whole nodes, where its documentation has a way to do that.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # nothing is imported before the clock starts that does not have to be
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Function = Callable[[Any], Any]
    Map = Callable[[Function, list[Any]], Iterator[Any]]

PER_NODE = "BENCH_PROCESSORS"
"""The variable that says how many processors a node has."""

NODES, PROCESSORS = 2, int(os.environ.get(PER_NODE, "4"))
SLOTS = NODES * PROCESSORS
PARTITION = "main"
"""The cluster's default; two systems have to be told."""
COUNTS = (8, 100, 1000, 10_000)
"""How many calls are made."""


def gridmap() -> Map:
    from gridmap import grid_imap_unordered

    def run(function: Function, arguments: list[Any]) -> Iterator[Any]:
        yield from grid_imap_unordered(
            function, arguments, max_workers=NODES, children=PROCESSORS, require_cluster=True
        )

    return run


def submitit() -> Map:
    import submitit

    def run(function: Function, arguments: list[Any]) -> Iterator[Any]:
        executor = submitit.AutoExecutor(folder="logs/%j")
        executor.update_parameters(timeout_min=10, slurm_array_parallelism=SLOTS)
        for job in executor.map_array(function, arguments):
            yield job.result()

    return run


def clusterfutures() -> Map:
    from concurrent.futures import as_completed

    import cfut

    def run(function: Function, arguments: list[Any]) -> Iterator[Any]:
        with cfut.SlurmExecutor() as executor:
            futures = [executor.submit(function, argument) for argument in arguments]
            for future in as_completed(futures):
                yield future.result()

    return run


def executorlib_files() -> Map:
    from concurrent.futures import as_completed

    from executorlib import SlurmClusterExecutor

    def run(function: Function, arguments: list[Any]) -> Iterator[Any]:
        with SlurmClusterExecutor(
            cache_directory="./cache", resource_dict={"partition": PARTITION}
        ) as executor:
            futures = [executor.submit(function, argument) for argument in arguments]
            for future in as_completed(futures):
                yield future.result()

    return run


def executorlib_block() -> Map:
    from concurrent.futures import as_completed

    from executorlib import SlurmClusterExecutor

    def run(function: Function, arguments: list[Any]) -> Iterator[Any]:
        with SlurmClusterExecutor(
            cache_directory="./cache",
            max_workers=SLOTS,
            block_allocation=True,
            resource_dict={"partition": PARTITION},
        ) as executor:
            futures = [executor.submit(function, argument) for argument in arguments]
            for future in as_completed(futures):
                yield future.result()

    return run


def dask_jobqueue() -> Map:
    from dask.distributed import Client, as_completed
    from dask_jobqueue import SLURMCluster

    def run(function: Function, arguments: list[Any]) -> Iterator[Any]:
        with SLURMCluster(cores=1, processes=1, memory="1GB") as cluster:
            cluster.scale(jobs=SLOTS)
            with Client(cluster) as client:
                futures = client.map(function, arguments)
                for batch in as_completed(futures, with_results=True).batches():
                    for _, result in batch:
                        yield result

    return run


def parsl() -> Map:
    from concurrent.futures import as_completed

    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.launchers import SrunLauncher
    from parsl.providers import SlurmProvider

    def run(function: Function, arguments: list[Any]) -> Iterator[Any]:
        provider = SlurmProvider(
            PARTITION,
            launcher=SrunLauncher(),
            walltime="00:10:00",
            init_blocks=1,
            max_blocks=1,
            nodes_per_block=NODES,
        )
        executor = HighThroughputExecutor(max_workers_per_node=PROCESSORS, provider=provider)
        with parsl.load(Config(executors=[executor])):
            call = parsl.python_app(function)
            for future in as_completed([call(argument) for argument in arguments]):
                yield future.result()

    return run


SYSTEMS: dict[str, Callable[[], Map]] = {
    "GridMap": gridmap,
    "submitit": submitit,
    "clusterfutures": clusterfutures,
    "executorlib, files": executorlib_files,
    "executorlib, block": executorlib_block,
    "dask-jobqueue": dask_jobqueue,
    "Parsl": parsl,
}

DISTRIBUTIONS = {
    "GridMap": "gridmap",
    "submitit": "submitit",
    "clusterfutures": "clusterfutures",
    "executorlib": "executorlib",
    "pysqa": "pysqa",
    "dask-jobqueue": "dask-jobqueue",
    "dask.distributed": "distributed",
    "Parsl": "parsl",
}
"""Whose versions are noted."""
