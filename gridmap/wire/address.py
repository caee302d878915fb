"""Which addresses of this host to offer to agents, and in which order."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from gridmap.errors import GridMapError

logger = logging.getLogger(__name__)

RESOLVE_DEADLINE_S = 2.0
"""How long to wait for the name service; interfaces are known without it."""

ALL_INTERFACES, ANY_PORT, OWN_ADDRESSES = "all", "any", "own"
"""What the settings are where nothing is chosen."""

_NO_ADDRESS = "must be HOST or HOST:PORT, or several of them with commas between"

_PRIVATE_BRIDGES = ("docker", "br-", "virbr", "veth", "lxc", "lxd", "cni", "podman", "flannel")
"""Interfaces that lead into containers on this host; their addresses are tried late."""

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_PORTS = re.compile(r" *([0-9]{1,5}) *(?:- *([0-9]{1,5}) *)?")
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/\[\],]+))(?::(?P<port>\d+))?")


class AddressError(GridMapError):
    """No address of this host can be offered; the message says what there is."""


class LocalNames(Struct, frozen=True):
    """What this host knows of its own addresses.

    :param interfaces: addresses of each interface that is up
    :param routed: addresses from which packets leave by the default route
    :param resolved: what the host's own name resolves to
    """

    interfaces: Mapping[str, Sequence[str]] = field(default_factory=dict)
    routed: Sequence[str] = ()
    resolved: Sequence[str] = ()


def order_addresses(names: LocalNames, interface: str | None = None) -> list[str]:
    """Returns the addresses to try in turn: default route first, loopback last.

    :param interface: name, address or network (10.0.0.0/24) of the only interface to offer
    :raises AddressError: that interface does not exist or has no usable address
    """
    if interface is not None:
        return _of_interface(names, interface)
    bridges = {n for n in names.interfaces if n.startswith(_PRIVATE_BRIDGES)}
    own = [ip for n, some in names.interfaces.items() if n not in bridges for ip in some]
    inner = [ip for n, some in names.interfaces.items() if n in bridges for ip in some]
    everything = _usable([*names.routed, *names.resolved, *_v4_first(own), *_v4_first(inner)])
    # What the host's name resolves to may be an address in front of this host (NAT), or, on
    # Debian, 127.0.1.1, which is only loopback again.
    far = [ip for ip in everything if not ip.is_loopback]
    near = [ip for ip in _usable(_v4_first(own)) if ip.is_loopback]
    if not far and not near:
        raise AddressError("this host has no network address, not even loopback")
    return [str(ip) for ip in (*far, *near)]


def endpoint(address: str, port: int | str) -> str:
    """Returns the ZeroMQ endpoint of an address and a port."""
    return f"tcp://{host(address)}:{port}"


def host(address: str) -> str:
    """Returns an address as endpoints write it: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def read_names(with_own_name: bool = True) -> LocalNames:
    """Asks the operating system; sends nothing, and waits for the name service a short while."""
    return LocalNames(_interfaces(), _routed(), _resolved() if with_own_name else ())


def addresses(interface: str | None = None) -> list[str]:
    """Returns the addresses of this host to offer, in the order in which to try them."""
    return order_addresses(read_names(with_own_name=interface is None), interface)


# --- what people write ---------------------------------------------------------------------------


def parse_ports(text: str) -> tuple[int, int] | None:
    """Returns the first and last of "50000-50100" or "50000"; None for "any".

    :raises ValueError: it is no range of ports
    """
    if text == ANY_PORT:
        return None
    match = _PORTS.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65_535:
        raise ValueError("must be any, a port or a range of ports, as in 50000-50100")
    return first, last


def parse_announced(text: str) -> list[tuple[str, int | None]]:
    """Returns the hosts and ports of "login1:50000, [2001:db8::5]", none for "own".

    :returns: a port is None where none is named
    :raises ValueError: it is no list of such
    """
    found: list[tuple[str, int | None]] = []
    if text == OWN_ADDRESSES:
        return found
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _ENDPOINT.fullmatch(part)
        port = int(match["port"]) if match and match["port"] else None
        if match is None or not (port is None or 1 <= port <= 65_535):
            raise ValueError(_NO_ADDRESS)
        found.append((match["v6"] or match["host"], port))
    if not found:
        raise ValueError(_NO_ADDRESS)
    return found


def announce(text: str, bound: Sequence[str]) -> list[str]:
    """Returns the endpoints to tell workers: those of the text, or `bound` for "own".

    :param text: as `parse_announced` takes it; what names no port gets that of `bound`
    """
    port = bound[0].rpartition(":")[2]
    return [endpoint(name, own or port) for name, own in parse_announced(text)] or list(bound)


def split_endpoint(text: str) -> tuple[str, int]:
    """Returns host and port of a ZeroMQ endpoint.

    :raises ValueError: it is no tcp://HOST:PORT
    """
    match = _ENDPOINT.fullmatch(text.removeprefix("tcp://"))
    if match is None or not match["port"] or not text.startswith("tcp://"):
        raise ValueError(f"{text!r} is not tcp://HOST:PORT")
    return match["v6"] or match["host"], int(match["port"])


def numeric(text: str) -> list[str]:
    """Returns an endpoint with its host's name replaced by each of its addresses.

    Waits for the name service a short while; there is none for a name that it does not know.

    :raises ValueError: it is no tcp://HOST:PORT
    """
    name, port = split_endpoint(text)
    if _parse(name) is not None:
        return [text]
    return [endpoint(ip, port) for ip in dict.fromkeys(resolve(name))]


# --- ordering -------------------------------------------------------------------------------------


def _of_interface(names: LocalNames, interface: str) -> list[str]:
    if interface in names.interfaces:
        found = _usable(_v4_first(names.interfaces[interface]))
    else:
        wanted = _network(interface.strip("[]"))
        known = _usable(_v4_first(ip for some in names.interfaces.values() for ip in some))
        found = [ip for ip in known if wanted is not None and ip in wanted]
    if not found:
        there = ", ".join(f"{n} ({' '.join(some)})" for n, some in names.interfaces.items())
        raise AddressError(
            f"no usable address on interface {interface!r}; this host has: {there or 'none'}"
        )
    return [str(ip) for ip in found]


def _usable(texts: Iterable[str]) -> list[_Ip]:
    """Returns what other hosts may reach, each once, in the order given."""
    found: dict[_Ip, None] = {}
    for text in texts:
        ip = _parse(text)
        if ip and not (ip.is_link_local or ip.is_unspecified or ip.is_multicast):
            found[ip] = None
    return list(found)


def _v4_first(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda text: ":" in text)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Returns a network; one address is a small one."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _parse(text: str) -> _Ip | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


# --- reading --------------------------------------------------------------------------------------


def _interfaces() -> dict[str, list[str]]:
    import psutil  # only a monitor that listens needs it

    families = (socket.AF_INET, socket.AF_INET6)
    states = psutil.net_if_stats()
    return {
        name: [a.address for a in some if a.family in families]
        for name, some in psutil.net_if_addrs().items()
        if name not in states or states[name].isup
    }


def _routed() -> list[str]:
    """Connects UDP sockets to documentation addresses: picks a route, sends nothing."""
    found: list[str] = []
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            found.append(str(probe.getsockname()[0]))
    return found


def _resolved() -> list[str]:
    return resolve(socket.gethostname())


def resolve(name: str) -> list[str]:
    """Returns the addresses of a name, IPv4 first; none when there is no answer in time."""
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            for answer in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
                found.append(str(answer[4][0]))

    # getaddrinfo knows no deadline, and a name server that is gone takes up to a minute.
    thread = threading.Thread(target=ask, name="gridmap-resolve", daemon=True)
    thread.start()
    thread.join(RESOLVE_DEADLINE_S)
    if thread.is_alive():
        logger.warning("the name service does not answer for %s", name)
    return _v4_first(list(found))
