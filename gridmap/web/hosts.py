"""Workers, those of a host together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gridmap.views import WorkerView


@dataclass
class Host:
    """A host, and the workers on it.

    :param up: how many of them are there now
    """

    name: str
    up: int = 0
    children: int = 0
    jobs: int = 0
    busy: int = 0
    rss_bytes: int = 0
    cpu_fraction: float = 0.0
    workers: list[WorkerView] = field(default_factory=list)


def by_host(workers: Iterable[WorkerView], live: bool) -> list[Host]:
    """Returns the hosts, those with most workers first.

    :param live: the run's client lives, so what uses something now is known
    """
    hosts: dict[str, Host] = {}
    for worker in workers:
        host = hosts.setdefault(worker.host, Host(worker.host))
        host.workers.append(worker)
        host.jobs += worker.jobs
        if live and is_there(worker):
            host.up += 1
            host.children += worker.children
            host.busy += len(worker.current)
            host.rss_bytes += worker.rss_bytes
            host.cpu_fraction += worker.cpu_fraction
    for host in hosts.values():
        host.workers.sort(key=lambda worker: (not is_there(worker), worker.id))
    return sorted(hosts.values(), key=lambda host: (-host.up, -host.jobs, host.name))


def is_there(worker: WorkerView) -> bool:
    return worker.state in ("up", "suspect", "draining")
