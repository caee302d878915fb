"""Which addresses are offered, and in which order."""

from __future__ import annotations

import ipaddress

import pytest

from gridmap.wire.address import (
    AddressError,
    LocalNames,
    addresses,
    announce,
    endpoint,
    numeric,
    order_addresses,
    parse_ports,
    read_names,
    split_endpoint,
)

NODE = LocalNames(
    interfaces={
        "lo": ["127.0.0.1", "::1"],
        "docker0": ["172.17.0.1", "fe80::42%docker0"],
        "eth0": ["fe80::1%eth0", "2001:db8:1::5", "10.0.0.5"],
        "ib0": ["192.168.7.5", "169.254.3.4"],
    },
    routed=["10.0.0.5"],
    resolved=["10.0.0.5"],
)


def test_default_route_first_containers_late_loopback_last() -> None:
    assert order_addresses(NODE) == [
        "10.0.0.5",
        "192.168.7.5",
        "2001:db8:1::5",
        "172.17.0.1",
        "127.0.0.1",
        "::1",
    ]


def test_the_default_route_beats_the_hosts_name() -> None:
    names = LocalNames(NODE.interfaces, routed=["192.168.7.5"], resolved=["10.0.0.5"])
    assert order_addresses(names)[:2] == ["192.168.7.5", "10.0.0.5"]


def test_a_name_that_resolves_to_loopback_adds_nothing() -> None:
    names = LocalNames(NODE.interfaces, NODE.routed, resolved=["127.0.1.1", "::1"])
    assert order_addresses(names) == order_addresses(NODE)


def test_an_address_in_front_of_the_host_is_offered() -> None:
    names = LocalNames(NODE.interfaces, NODE.routed, resolved=["203.0.113.9"])
    assert order_addresses(names)[:2] == ["10.0.0.5", "203.0.113.9"]


def test_link_local_and_nonsense_are_left_out() -> None:
    names = LocalNames(
        {"lo": ["127.0.0.1"], "eth0": ["fe80::1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "x"]}
    )
    assert order_addresses(names) == ["127.0.0.1"]


def test_without_a_network_loopback_is_what_there_is() -> None:
    assert order_addresses(LocalNames({"lo": ["127.0.0.1"]}, [], ["127.0.1.1"])) == ["127.0.0.1"]
    with pytest.raises(AddressError, match="no network address"):
        order_addresses(LocalNames())


@pytest.mark.parametrize(
    ("interface", "expected"),
    [
        ("eth0", ["10.0.0.5", "2001:db8:1::5"]),
        ("ib0", ["192.168.7.5"]),
        ("lo", ["127.0.0.1", "::1"]),
        ("192.168.7.5", ["192.168.7.5"]),
        ("[2001:db8:1:0::5]", ["2001:db8:1::5"]),
        ("192.168.0.0/16", ["192.168.7.5"]),
        ("10.0.0.77/24", ["10.0.0.5"]),
        ("2001:db8::/32", ["2001:db8:1::5"]),
    ],
)
def test_an_interface_limits_the_offer(interface: str, expected: list[str]) -> None:
    assert order_addresses(NODE, interface) == expected


@pytest.mark.parametrize("interface", ["eth7", "10.9.9.9", "", "fe80::99", "10.9.0.0/16"])
def test_an_unknown_interface_is_told_with_what_there_is(interface: str) -> None:
    with pytest.raises(AddressError, match=r"this host has: lo \(127\.0\.0\.1 ::1\)"):
        order_addresses(NODE, interface)


@pytest.mark.parametrize(
    ("text", "range_"),
    [("any", None), ("50000-50100", (50000, 50100)), ("8", (8, 8)), ("9 - 10", (9, 10))],
)
def test_ports(text: str, range_: tuple[int, int] | None) -> None:
    assert parse_ports(text) == range_


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "10-9", "-", "1-", "-5", "a", "1-2-3", "\u0663"]
)
def test_what_are_no_ports(text: str) -> None:
    with pytest.raises(ValueError, match="50000-50100"):
        parse_ports(text)


BOUND = ["tcp://10.0.0.5:4000", "tcp://[::1]:4000"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("own", BOUND),
        ("login1:50000", ["tcp://login1:50000"]),
        ("login1", ["tcp://login1:4000"]),
        (" [2001:db8::5]:7 , a.b-c.org", ["tcp://[2001:db8::5]:7", "tcp://a.b-c.org:4000"]),
    ],
)
def test_what_workers_are_told(text: str, told: list[str]) -> None:
    assert announce(text, BOUND) == told
    for each in told:
        assert split_endpoint(each)[1] in (4000, 50000, 7)


@pytest.mark.parametrize(
    "text", ["", ",", "a:0", "a:65536", "a:b", "2001:db8::5", "[a", "a b", "/x"]
)
def test_what_cannot_be_announced(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        announce(text, BOUND)


def test_names_become_numbers_and_numbers_stay() -> None:
    assert numeric("tcp://[::1]:5") == ["tcp://[::1]:5"]
    assert "tcp://127.0.0.1:5" in numeric("tcp://localhost:5")
    assert numeric("tcp://nosuch.invalid:5") == []
    with pytest.raises(ValueError, match="HOST:PORT"):
        numeric("tcp://localhost")


def test_endpoints() -> None:
    assert endpoint("10.0.0.5", 80) == "tcp://10.0.0.5:80"
    assert endpoint("::1", 80) == "tcp://[::1]:80"


def test_this_host_has_loopback() -> None:
    assert "127.0.0.1" in {ip for some in read_names().interfaces.values() for ip in some}
    offered = addresses()
    assert ipaddress.ip_address(offered[-1]).is_loopback
    assert len(offered) == len(set(offered))
