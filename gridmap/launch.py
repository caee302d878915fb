"""What a run needs before its first job: workers' transport, folder, keys and ledger."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridmap import __version__
from gridmap._loading import load
from gridmap.backends.base import SubmitRequest
from gridmap.conf import Settings
from gridmap.core.messages import PROTOCOL
from gridmap.core.policy import Limits
from gridmap.core.spec import Resources, for_worker
from gridmap.errors import BackendError
from gridmap.monitor.transport import Transport
from gridmap.node.forkserver import Forkserver
from gridmap.plan import Plan, client_sys_path

if TYPE_CHECKING:
    from gridmap.backends.base import Backend
    from gridmap.ledger.book import Book
    from gridmap.ledger.directory import RunDirectory
    from gridmap.monitor.loop import Monitor
    from gridmap.watching.window import Window
    from gridmap.wire.keys import Connection, RunKeys
    from gridmap.wire.link import MonitorLink

LOCAL = "local"
DESCRIPTORS = 16_384
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def launch_local(children: int, start_method: str) -> tuple[list[Limits], Transport]:
    """Starts an agent in this process, with so many children."""
    local = load("gridmap.monitor.local")
    make = {"fork": Forkserver.fork, "launch": Forkserver.launch}
    server = make.get(start_method, Forkserver.make)()
    limits = [Limits(1, children, polled=False)]
    try:
        return limits, local.LocalTransport(children, server, __version__, PYTHON)
    except BaseException:  # no descriptors or memory for the children
        server.close()
        raise


def launch_on_cluster(
    run: str,
    plan: Plan,
    settings: Settings,
    backend_name: str,
    max_workers: int,
    children: int,
    directory: RunDirectory,
    known: Callable[[Backend], None] = lambda backend: None,
    patience_s: float = 0.0,
) -> tuple[list[Limits], Transport]:
    """Connects to the scheduler, opens the run's socket and tells workers where it is.

    :param children: jobs that each worker runs at once
    :param known: takes the backend before it is handed over
    :param patience_s: how long a scheduler that cannot be reached is asked again
    :raises BackendError: the scheduler does not answer; nothing was started
    :raises AddressError: the interface does not exist, or all ports are taken
    """
    _allow_connections()
    from gridmap.backends.registry import open_backend, takes_settings
    from gridmap.monitor.submitter import Opening, open_patiently

    with contextlib.ExitStack() as undo:
        of_backend: dict[str, Any] = {}
        if takes_settings(backend_name):
            of_backend["use_mem_free"] = settings.use_mem_free

        def opener() -> Backend:
            backend = open_backend(backend_name, **of_backend)
            try:
                known(backend)
            except BaseException:
                backend.close()
                raise
            return backend

        # Grid Engine takes 0.1 s to answer; what can be done in that time is done in it
        opening = Opening(opener)
        try:
            from gridmap.monitor.cluster import ClusterTransport
            from gridmap.wire.keys import write_connection

            keys, link = listen(settings)
        except BaseException:
            opening.abandon()
            raise
        undo.callback(link.close)
        backend = open_patiently(opening, patience_s)
        undo.callback(backend.close)
        write_connection(directory.path, connection_of(run, settings, keys, link))
        undo.pop_all()
    limits = [
        Limits(
            max_workers,
            pool.children(children),
            walltime_s=pool.resources.walltime_s or _usual_s(backend, pool.resources),
            more_memory=pool.more_memory,
            more_time=pool.more_time,
        )
        for pool in plan.pools
    ]

    def request(pool: int, count: int) -> SubmitRequest:
        runner = Path(__file__).with_name("runner.py")
        each = limits[pool].children
        return SubmitRequest(
            run_tag=run,
            name=plan.name,
            command=(sys.executable, str(runner), str(directory.path), str(pool), str(each)),
            count=count,
            resources=for_worker(plan.pools[pool].resources, each),
            log_dir=str(directory.logs),
            working_dir=str(directory.path),
        )

    # Whoever is started anew in the place of a dead worker has to get the name in time.
    lively_s = settings.startup_deadline_s / 4
    return limits, ClusterTransport(run, backend, link, request, lively_s)


def _usual_s(backend: Backend, resources: Resources) -> float:
    """Returns the scheduler's own time limit for workers that ask for none; 0: not known."""
    ask: Callable[[Resources], float] | None = getattr(backend, "walltime_s", None)
    try:
        return ask(resources) if ask is not None else 0.0
    except BackendError:
        return 0.0  # whoever submits says so


def listen(settings: Settings) -> tuple[RunKeys, MonitorLink]:
    """Opens the socket of a run, with keys of its own.

    :raises AddressError: the interface does not exist, or all ports are taken
    """
    from gridmap.wire.address import ALL_INTERFACES, parse_ports
    from gridmap.wire.keys import RunKeys
    from gridmap.wire.link import MonitorLink

    keys = RunKeys.generate()
    interface = None if settings.interface == ALL_INTERFACES else settings.interface
    return keys, MonitorLink(keys, interface, parse_ports(settings.ports))


def connection_of(run: str, settings: Settings, keys: RunKeys, link: MonitorLink) -> Connection:
    """Returns what workers have to know to join a run."""
    from gridmap.wire.address import OWN_ADDRESSES, announce
    from gridmap.wire.keys import Connection

    return Connection(
        run=run,
        addresses=announce(settings.announce, link.addresses),
        server_public=keys.server.public.decode(),
        worker_public=keys.workers.public.decode(),
        worker_secret=keys.workers.secret.decode(),
        gridmap=__version__,
        protocol=PROTOCOL,
        python=PYTHON,
        sys_path=client_sys_path(),
        host=socket.gethostname(),
        pid=os.getpid(),
        ports=settings.ports,
        announced=settings.announce != OWN_ADDRESSES,
        startup_deadline_s=settings.startup_deadline_s,
    )


def _allow_connections() -> None:
    """Lets this process have as many descriptors as it may, up to a bound.

    Each worker costs one, and so does each stranger until it is hung up on; the soft limit is often
    1,024, a number for programs that call select().
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def open_book(
    run: str,
    plan: Plan,
    backend_name: str,
    options: dict[str, str | int | float | bool | None],
    directory: RunDirectory,
    broken: Callable[[str], None],
) -> Book:
    """Starts the ledger of a new run.

    :raises LedgerError: it cannot be written
    """
    from gridmap.ledger.book import Book
    from gridmap.ledger.facts import Header

    header = Header(
        run=run,
        name=_written(plan.name),
        created_s=time.time(),
        gridmap=__version__,
        python=PYTHON,
        backend=backend_name,
        pools=plan.pools,
        options=options,
        names=[_written(name) for name in plan.names],
        one_by_one=plan.one_by_one,
    )
    return Book(directory.path, header, broken)


def _written(name: str) -> str:
    """Returns a name as it can be written: one made of a file's may have surrogates in it."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def open_window(
    run: str,
    settings: Settings,
    backend_name: str,
    directory: RunDirectory,
    monitor: Monitor,
    book: Book,
) -> Window:
    """Lets others see the run, from now until what this returns is closed."""
    from gridmap.watching.window import Room, Window
    from gridmap.wire.address import ALL_INTERFACES, parse_ports

    interface = None if settings.interface == ALL_INTERFACES else settings.interface
    ports, beyond = parse_ports(settings.ports), backend_name != LOCAL
    window = Window(run, Room(monitor, book), directory.path, interface, ports, beyond)
    window.start()
    return window
