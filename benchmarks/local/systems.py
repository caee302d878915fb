"""The systems, each used as its own documentation shows, with nothing tuned.

A system is a function that imports it and returns how it maps a function over arguments with so
many workers.  What the documentation shows at the end, such as the end of a `with` block, is part
of it.
"""

from __future__ import annotations

from functools import partial

TYPE_CHECKING = False  # nothing is imported before the clock starts that does not have to be
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Function = Callable[[Any], Any]
    Map = Callable[[Function, list[Any], int], list[Any]]


def serial() -> Map:
    return lambda function, arguments, workers: [function(argument) for argument in arguments]


def gridmap() -> Map:
    from gridmap import grid_map

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        return grid_map(function, arguments, local=True, max_processes=workers, quiet=True)

    return run


def pool() -> Map:
    from multiprocessing import Pool

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        with Pool(workers) as pool:
            return pool.map(function, arguments)

    return run


def process_pool_executor() -> Map:
    from concurrent.futures import ProcessPoolExecutor

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        with ProcessPoolExecutor(max_workers=workers) as executor:
            return list(executor.map(function, arguments))

    return run


def loky() -> Map:
    from loky import get_reusable_executor

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        executor = get_reusable_executor(max_workers=workers, timeout=2)
        return list(executor.map(function, arguments))

    return run


def joblib() -> Map:
    from joblib import Parallel, delayed

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        call = delayed(function)
        return list(Parallel(n_jobs=workers)(call(argument) for argument in arguments))

    return run


def mpire() -> Map:
    from mpire import WorkerPool

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        with WorkerPool(n_jobs=workers) as pool:
            # Else it makes one array of all arrays that come back.
            return list(pool.map(function, arguments, concatenate_numpy_output=False))

    return run


def executorlib() -> Map:
    from executorlib import SingleNodeExecutor

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        # Its documentation's way for many calls; without it each call has a process of its own.
        with SingleNodeExecutor(max_workers=workers, block_allocation=True) as executor:
            return list(executor.map(function, arguments))

    return run


def dask() -> Map:
    from dask.distributed import Client, LocalCluster

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1) as cluster,
            Client(cluster) as client,
        ):
            return list(client.gather(client.map(function, arguments)))

    return run


def ray() -> Map:
    import ray

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        ray.init(num_cpus=workers)
        if isinstance(function, partial):  # it takes none, and wants what is shared in its store
            call, shared = ray.remote(function.func), [ray.put(each) for each in function.args]
        else:
            call, shared = ray.remote(lambda argument: function(argument)), []  # nor builtins
        results = ray.get([call.remote(*shared, argument) for argument in arguments])
        ray.shutdown()
        return list(results)

    return run


def parsl() -> Map:
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor

    def run(function: Function, arguments: list[Any], workers: int) -> list[Any]:
        executor = HighThroughputExecutor(max_workers_per_node=workers)
        with parsl.load(Config(executors=[executor])):
            call = parsl.python_app(function)
            return [future.result() for future in [call(argument) for argument in arguments]]

    return run


SYSTEMS: dict[str, Callable[[], Map]] = {
    "GridMap": gridmap,
    "Pool": pool,
    "ProcessPoolExecutor": process_pool_executor,
    "loky": loky,
    "joblib": joblib,
    "mpire": mpire,
    "executorlib": executorlib,
    "dask.distributed": dask,
    "Ray": ray,
    "Parsl": parsl,
    "serial": serial,
}

DISTRIBUTIONS = {
    "GridMap": "gridmap",
    "loky": "loky",
    "joblib": "joblib",
    "mpire": "mpire",
    "executorlib": "executorlib",
    "dask.distributed": "distributed",
    "Ray": "ray",
    "Parsl": "parsl",
    "cloudpickle": "cloudpickle",
    "NumPy": "numpy",
}
"""Whose versions are noted; what is not named is part of Python."""
