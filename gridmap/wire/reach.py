"""Why a monitor cannot be reached, in words: each of its addresses is tried by TCP alone."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Iterable, Mapping, Set

import zmq

from gridmap.wire.address import ANY_PORT, numeric, split_endpoint
from gridmap.wire.keys import Connection

EXAMPLE_PORTS = "50000-50100"

_SILENT = "timed out: no answer at all, as when a firewall drops what it does not like"
_WORDS = {
    errno.ECONNREFUSED: "refused: nothing listens there, or a firewall rejects it",
    errno.EHOSTUNREACH: "no route to that host, or a firewall rejects it",
    errno.ENETUNREACH: "no route to that network",
    errno.EACCES: "forbidden by a firewall or a route",
    errno.EPERM: "forbidden by this host's own firewall",
    errno.ETIMEDOUT: _SILENT,
    errno.ECONNRESET: "connected, and cut at once: a firewall, or a tunnel without another end",
    errno.EINVAL: "no route from this host",
    errno.EADDRNOTAVAIL: "no address of this host can be used for it",
    errno.EAFNOSUPPORT: "this host cannot speak to such an address",
}
CONNECTED = "connected"


def examine(endpoints: Iterable[str], timeout_s: float) -> dict[str, str]:
    """Connects to all of these by TCP, at once; returns what became of each, in words.

    :param endpoints: tcp://ADDRESS:PORT
    """
    told: dict[str, str] = {}
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for endpoint in endpoints:
            host, port = split_endpoint(endpoint)
            told[endpoint] = _SILENT
            try:
                sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            except OSError as error:
                told[endpoint] = _words(error.errno or errno.EAFNOSUPPORT)
                continue
            sock.setblocking(False)
            code = sock.connect_ex((host, port))
            if code == errno.EINPROGRESS:
                selector.register(sock, selectors.EVENT_WRITE, endpoint)
            else:
                told[endpoint] = _words(code)
                sock.close()
        while selector.get_map() and (left_s := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                sock = key.fileobj  # type: ignore[assignment]
                told[key.data] = _words(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
                selector.unregister(sock)
                sock.close()
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return told


def explain(
    connection: Connection,
    host: str,
    seen: Mapping[str, Set[zmq.Event]],
    waited_s: float,
    timeout_s: float,
) -> str:
    """Returns which addresses were tried, with what result, and what to open.

    :param host: this host's name
    :param seen: what has happened at each address that was called
    :param timeout_s: how long to try the addresses once more
    """
    results = _results(connection, seen, timeout_s)
    lines = [f"  {endpoint.removeprefix('tcp://')}: {words}" for endpoint, words in results.items()]
    head = (
        f"host {host} found no way to the run {connection.run} of host {connection.host} (process "
        f"{connection.pid}) within {waited_s:.0f} s. It tried:"
    )
    return "\n".join([head, *lines, _advice(connection, host)])


def _results(
    connection: Connection, seen: Mapping[str, Set[zmq.Event]], timeout_s: float
) -> dict[str, str]:
    known: dict[str, str] = {}
    for endpoint in connection.addresses:
        numbers = numeric(endpoint)
        if not numbers:
            known[endpoint] = "this host does not know that name"
        known.update(dict.fromkeys(numbers, ""))
    tried = examine((endpoint for endpoint, words in known.items() if not words), timeout_s)
    for endpoint, words in tried.items():
        known[endpoint] = words
        if words == CONNECTED:
            known[endpoint] = _after_connecting(seen.get(endpoint, set()))
    return known


def _after_connecting(seen: Set[zmq.Event]) -> str:
    if zmq.Event.HANDSHAKE_FAILED_AUTH in seen:
        return "connected, but it refused this worker's key: it is the monitor of another time"
    if zmq.Event.HANDSHAKE_FAILED_PROTOCOL in seen:
        return "connected, but what answers there is no monitor of this run"
    return (
        "connected, but nobody there knows this run's key: another program, another run, or a "
        "tunnel without another end"
    )


def _advice(connection: Connection, host: str) -> str:
    alive = "If the client is still alive,"
    if connection.announced:
        return (
            f"{alive} see whether what GRIDMAP_ANNOUNCE names there can be reached from host "
            f"{host}, and leads to the client's port ({connection.ports}); see docs/network.rst"
        )
    ports = connection.ports
    if ports == ANY_PORT:
        ports = str(split_endpoint(connection.addresses[0])[1])
    what = f"{alive} open TCP port {ports} from host {host} to host {connection.host}"
    if connection.ports == ANY_PORT:
        what += (
            ". It is another one in each run: set GRIDMAP_PORTS, for instance to "
            f"{EXAMPLE_PORTS}, where the client runs, and open those"
        )
    else:
        what += ", or set GRIDMAP_PORTS to others"
    return (
        f"{what}. Where the client has several networks, GRIDMAP_INTERFACE chooses one; see "
        "docs/network.rst"
    )


def _words(code: int) -> str:
    if not code:
        return CONNECTED
    name = errno.errorcode.get(code, str(code))
    return _WORDS.get(code, f"failed with {name}")
