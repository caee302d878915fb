"""Probe: did the tasks find their way to this host, at which address, and if not, why not? Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, failed, merged, ok, skipped, warning
from gridmap.doctor.node import WITHOUT_CLUSTER, Report

CONNECTED, TIMED_OUT, NO_NAME = "connected", "timed out", "unknown name"
SLOW_S = 1.0

_WORDS = {
    TIMED_OUT: "timed out, as when a firewall drops what it does not like",
    NO_NAME: "the node does not know that name",
    "ECONNREFUSED": "refused: nothing listens there, or a firewall rejects it",
    "EHOSTUNREACH": "no route to that host, or a firewall rejects it",
    "ENETUNREACH": "no route to that network",
    "EACCES": "forbidden by a firewall or a route",
    "EPERM": "forbidden by the node's own firewall",
    "EINVAL": "no route from the node",
    "ECONNRESET": "connected, and cut at once",
    CONNECTED: "connected",
}
_LOOPBACK = re.compile(r"tcp://(127\.|\[::1\]|localhost)")


def examine(exam: Exam) -> Iterator[Finding]:
    """Tells where this host listens as a run does, and at which address nodes have reached it."""
    if exam.settings is None or not exam.backend:
        yield skipped("listen", "no scheduler was chosen")
    elif exam.is_local:
        yield skipped("listen", WITHOUT_CLUSTER)
    else:
        if exam.listener is None and not exam.not_listening:
            _listen(exam)
        yield listening(exam)
        if exam.listener is None or not exam.reports:
            yield skipped("connect", "no task has reported from a node")
        else:
            yield from merged(
                (report.host, judged(report, exam.questions, exam.settings.ports))
                for report in exam.reports
            )


def _listen(exam: Exam) -> None:
    """Listens now: there was no submission before."""
    from gridmap.doctor.listener import Listener
    from gridmap.errors import GridMapError

    assert exam.settings is not None
    try:
        exam.listener = Listener("doctor", exam.settings)
        exam.undo.callback(exam.listener.close)
    except (GridMapError, OSError) as error:
        exam.not_listening = str(error)


def listening(exam: Exam) -> Finding:
    if exam.listener is None:
        return failed(
            "listen",
            exam.not_listening,
            "correct GRIDMAP_INTERFACE, GRIDMAP_PORTS or GRIDMAP_ANNOUNCE: docs/network.rst",
        )
    addresses = [one.removeprefix("tcp://") for one in exam.listener.connection.addresses]
    how = "GRIDMAP_ANNOUNCE names" if exam.listener.connection.announced else "nodes are told"
    return ok("listen", f"this host listens; {how} {', '.join(addresses)}", addresses=addresses)


def judged(report: Report, questions: Mapping[str, Any], ports: str) -> Finding:
    """Returns whether a task got through, and if not, why not."""
    hello, tcp = report.step("hello"), report.step("tcp")
    facts = {"tcp": tcp, "address": hello.get("connected", "")}
    if hello.get("connected") and hello.get("answered"):
        return _got_through(hello, questions["addresses"], facts)
    if hello.get("connected"):
        return failed(
            "connect",
            f"{hello['connected']} was connected, with the run's keys, and no answer came back",
            "something between the hosts lets small packets through only: see its MTU",
            **facts,
        )
    tried = "; ".join(f"{name}: {_WORDS.get(word, word)}" for name, word in outcomes(tcp))
    if hello.get("error"):
        reached = [name for name, word in outcomes(tcp) if word == CONNECTED]
        if reached:
            told = f"TCP connects to {', '.join(reached)}; gridmap cannot: {hello['error']}"
            return failed("connect", told, "see what is said of the packages on the node", **facts)
    if not hello and not tcp:
        return failed("connect", "the task did not come to it", "see what it ended of", **facts)
    host = report.host
    return failed("connect", f"no way to this host: {tried}", advice(tcp, host, ports), **facts)


def outcomes(tcp: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what became of each address, in their order: ("10.0.0.5:50000", "connected")."""
    found = []
    for endpoint, each in tcp.items():
        if isinstance(each, Mapping):
            name = endpoint.removeprefix("tcp://")
            for address, word in each.items():
                known = address in name or word == NO_NAME
                found.append((name if known else f"{name} ({address})", str(word)))
    return found


def _got_through(
    hello: Mapping[str, Any], addresses: list[str], facts: Mapping[str, Any]
) -> Finding:
    address = str(hello["connected"])
    seconds = float(hello.get("connect_s", 0.0))
    told = (
        f"{address.removeprefix('tcp://')} works, with the run's keys: connected after "
        f"{seconds:.2f} s, answered after {float(hello.get('answer_s', 0.0)):.2f} s"
    )
    if seconds > SLOW_S and address != addresses[0]:
        return warning(
            "connect",
            f"{told}; others that are tried first do not answer",
            "set GRIDMAP_INTERFACE to the network of the address that works, as in 10.0.0.0/24",
            **facts,
        )
    return ok("connect", told, **facts)


def advice(tcp: Mapping[str, Any], host: str, ports: str) -> str:
    """Returns what to change where no address works, by what went wrong at those that could."""
    far = {name: each for name, each in tcp.items() if not _LOOPBACK.match(name)} or tcp
    words = {word for _, word in outcomes(far)}
    port = next(iter(far or {"": None})).rpartition(":")[2]
    if CONNECTED in words:
        return (
            "another program listens there, or a tunnel has no other end: see GRIDMAP_PORTS and "
            "GRIDMAP_ANNOUNCE"
        )
    if words == {NO_NAME}:
        return f"set GRIDMAP_ANNOUNCE to an address, or to a name that {host} knows"
    opened = ports if ports != "any" else "50000-50100"
    open_them = f"have TCP ports {opened} opened from the nodes to this host" + (
        "" if ports != "any" else f", and set GRIDMAP_PORTS={opened} (now it was {port})"
    )
    if TIMED_OUT in words:
        return f"{open_them}; a firewall between them drops what comes"
    if "ECONNREFUSED" in words:
        return f"{open_them}; a firewall, or this host's own, rejects what comes"
    return (
        f"there is no route from {host}: set GRIDMAP_INTERFACE to the network that this host "
        "shares with the nodes, or GRIDMAP_ANNOUNCE to a host that passes connections on (by a "
        "tunnel: docs/network.rst)"
    )
