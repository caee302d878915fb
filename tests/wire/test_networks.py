"""Whole runs between hosts with networks of their own (network namespaces), some of them broken.

client  10.213.1.1 -- wire1 -- 10.213.1.2  node
        10.213.2.1 -- wire2 -- 10.213.2.2
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
VALUES = [0, 1, 4]
A, B = "10.213.1.1", "10.213.2.1"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Host:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        self.name = f"gm{os.getpid()}{name}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        self.etc = Path("/etc/netns") / self.name

    def ip(self, *words: str) -> str:
        return run("ip", "-n", self.name, *words)

    def hosts(self, text: str) -> None:
        """Has this host know these names."""
        self.etc.mkdir(parents=True)
        (self.etc / "hosts").write_text(text)

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def remove(self) -> None:
        run("ip", "netns", "del", self.name)
        shutil.rmtree(self.etc, ignore_errors=True)


class Networks:
    """A client, a node, and what is between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: list[Host] = []
        self.client, self.node = self.host("c"), self.host("n")

    def host(self, name: str) -> Host:
        made = Host(name)
        self.hosts.append(made)
        return made

    def join(self, one: Host, other: Host, name: str, *addresses: str) -> None:
        """Puts a cable between two hosts; addresses are those of the first, then of the other."""
        run(
            "ip", "link", "add", "name", name, "netns", one.name, "type", "veth",
            "peer", "name", name, "netns", other.name,
        )  # fmt: skip
        half = len(addresses) // 2
        for host, some in ((one, addresses[:half]), (other, addresses[half:])):
            for address in some:
                quick = ["nodad"] if ":" in address else []
                host.ip("address", "add", address, "dev", name, *quick)
            host.ip("link", "set", name, "up")

    def square(self, jobs: int = 3, **settings: str) -> dict[str, Any]:
        """Runs a program on the client that squares numbers on the node."""
        command = [sys.executable, "-m", "tests.wire.scheduler", str(jobs), *self.node.prefix]
        told = subprocess.run(
            [*self.client.prefix, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HEARTBEAT_FREQUENCY": "1",
                 "GRIDMAP_RUN_DIR": str(self.folder), **settings},
            capture_output=True,
            text=True,
            timeout=100,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        answer: dict[str, Any] = json.loads(told.stdout)
        answer["log"] = told.stderr
        return answer


def why_not() -> str:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and ip (Debian: iproute2)"
    name = f"gm{os.getpid()}probe"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this kernel, or container, has no network namespaces"
    run("ip", "netns", "del", name)
    return ""


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[Networks]:
    reason = why_not()
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    made = Networks(tmp_path / "runs")
    try:
        yield made
    finally:
        for host in made.hosts:
            host.remove()


@pytest.fixture
def two(networks: Networks) -> Networks:
    """Two networks; the default route is by the first."""
    client, node = networks.client, networks.node
    networks.join(client, node, "wire1", f"{A}/24", "10.213.1.2/24")
    networks.join(client, node, "wire2", f"{B}/24", "10.213.2.2/24")
    client.ip("route", "add", "default", "via", "10.213.1.2")
    return networks


def hosts_of(addresses: list[str]) -> list[str]:
    return [address.removeprefix("tcp://").rpartition(":")[0] for address in addresses]


# --- which addresses ------------------------------------------------------------------------------


def test_a_name_that_means_loopback_is_not_what_is_offered(two: Networks) -> None:
    two.client.hosts(f"127.0.0.1 localhost\n127.0.1.1 {socket.gethostname()}\n")
    told = two.square()
    assert told["values"] == VALUES
    assert hosts_of(told["addresses"][0]) == [A, B, "127.0.0.1", "[::1]"]


def test_a_black_hole_first_costs_a_moment(two: Networks) -> None:
    quick = two.square()["seconds"]
    two.client.ip("route", "add", "blackhole", "10.213.1.2/32")  # no answer finds its way back
    told = two.square()
    assert told["values"] == VALUES and hosts_of(told["addresses"][0])[0] == A
    assert told["seconds"] < quick + 2.5


@pytest.mark.parametrize("chosen", ["wire2", B, "10.213.2.0/24"])
def test_the_chosen_interface_alone_is_listened_on(two: Networks, chosen: str) -> None:
    told = two.square(GRIDMAP_INTERFACE=chosen, GRIDMAP_PORTS="50000-50100")
    assert told["values"] == VALUES
    (address,) = told["addresses"][0]
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    assert host == B and 50_000 <= int(port) <= 50_100


def test_an_interface_that_does_not_exist_is_told_at_once(two: Networks) -> None:
    told = two.square(GRIDMAP_INTERFACE="ib0")
    assert told["type"] == "AddressError" and told["seconds"] < 5
    assert "no usable address on interface 'ib0'; this host has: " in told["error"]
    assert A in told["error"] and B in told["error"]


def test_ports_that_are_all_taken_are_told_at_once(two: Networks) -> None:
    held = [
        subprocess.Popen(
            [*two.client.prefix, sys.executable, "-c", HOLD.format(port)], stdout=subprocess.PIPE
        )
        for port in (50_000, 50_001)
    ]
    try:
        for process in held:
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
        told = two.square(GRIDMAP_PORTS="50000-50001")
        assert told["type"] == "AddressError" and told["seconds"] < 5
        assert "all TCP ports 50000-50001 are taken" in told["error"]
        assert two.square(GRIDMAP_PORTS="50000-50002")["values"] == VALUES
    finally:
        for process in held:
            process.kill()
            process.communicate()


HOLD = """
import socket
held = socket.create_server(("0.0.0.0", {}))
print("held", flush=True)
held.accept()
"""


# --- IPv6 -----------------------------------------------------------------------------------------


def test_where_there_is_only_ipv6(networks: Networks) -> None:
    networks.join(networks.client, networks.node, "wire1", "fd13::1/64", "fd13::2/64")
    for host in (networks.client, networks.node):
        host.ip("-4", "address", "flush", "dev", "lo")
    told = networks.square()
    assert told["values"] == VALUES
    assert hosts_of(told["addresses"][0]) == ["[fd13::1]", "[::1]"]


def test_both_families_on_one_interface_and_the_first_broken(networks: Networks) -> None:
    client, node = networks.client, networks.node
    networks.join(client, node, "wire1", f"{A}/24", "fd13::1/64", "10.213.1.2/24", "fd13::2/64")
    client.ip("route", "add", "blackhole", "10.213.1.2/32")
    told = networks.square()
    assert told["values"] == VALUES
    assert hosts_of(told["addresses"][0])[:2] == [A, "[fd13::1]"]


def test_a_kernel_without_ipv6(two: Networks) -> None:
    for host in (two.client, two.node):
        turn_off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
        run(*host.prefix, "sh", "-c", turn_off)
    told = two.square()
    assert told["values"] == VALUES
    assert hosts_of(told["addresses"][0]) == [A, B, "127.0.0.1"]


# --- no way through -------------------------------------------------------------------------------


def test_a_firewall_is_diagnosed_in_words(two: Networks) -> None:
    two.client.ip("route", "add", "blackhole", "10.213.1.2/32")
    two.node.ip("route", "add", "unreachable", f"{B}/32")
    told = two.square(GRIDMAP_STARTUP_DEADLINE="8", GRIDMAP_PORTS="50000-50100", jobs=3)
    assert told["type"] == "JobNeverStarted" and told["statuses"][:3] == [1, 1, 1]
    name, port = socket.gethostname(), told["addresses"][0][0].rpartition(":")[2]
    for line in (
        f"  {A}:{port}: timed out",
        f"  {B}:{port}: no route to that host",
        f"  127.0.0.1:{port}: refused",
        f"  [::1]:{port}: refused",
        f"open TCP port 50000-50100 from host {name} to host {name}, or set GRIDMAP_PORTS",
    ):
        assert line in told["error"]
    assert told["seconds"] < 12  # 4 of them are the workers' own


def test_a_port_that_somebody_else_answers(two: Networks) -> None:
    """What is announced leads to a server of another kind."""
    server = subprocess.Popen(
        [*two.client.prefix, sys.executable, "-c", WEB_SERVER.format(B, 50_000)],
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None and server.stdout.readline() == b"listens\n"
        told = two.square(GRIDMAP_STARTUP_DEADLINE="4", GRIDMAP_ANNOUNCE=f"{B}:50000", jobs=3)
    finally:
        server.kill()
        server.communicate()
    assert told["type"] == "JobNeverStarted"
    assert f"  {B}:50000: connected, but " in told["error"]
    assert "GRIDMAP_ANNOUNCE" in told["error"]


WEB_SERVER = """
import socket
server = socket.create_server(({!r}, {}))
print("listens", flush=True)
while True:
    visitor, _ = server.accept()
    try:
        visitor.recv(10)
        visitor.sendall(b"HTTP/1.1 400 Bad Request\\r\\n\\r\\n" + bytes(500))
    except OSError:
        pass
    visitor.close()
"""


# --- tunnels --------------------------------------------------------------------------------------


def relay(host: Host, listen: str, to: str) -> subprocess.Popen[bytes]:
    """Passes TCP on, as ssh -L and ssh -R do; returns when it listens."""
    process = subprocess.Popen(
        [*host.prefix, sys.executable, "-c", RELAY, listen, to], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"listens\n"
    return process


RELAY = """
import socket, sys, threading

def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass

def address(text):
    host, _, port = text.rpartition(":")
    return host, int(port)

server = socket.create_server(address(sys.argv[1]))
print("listens", flush=True)
while True:
    near, _ = server.accept()
    try:
        far = socket.create_connection(address(sys.argv[2]))
    except OSError:
        near.close()
        continue
    for pair in ((near, far), (far, near)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


def test_a_tunnel_by_a_host_between(networks: Networks) -> None:
    between = networks.host("b")
    networks.join(networks.client, between, "wire1", f"{A}/24", "10.213.1.9/24")
    networks.join(between, networks.node, "wire2", "10.213.2.9/24", "10.213.2.2/24")
    networks.node.hosts("127.0.0.1 localhost\n10.213.2.9 login1\n")
    tunnel = relay(between, "10.213.2.9:50000", f"{A}:50007")
    settings = {"GRIDMAP_ANNOUNCE": "login1:50000", "GRIDMAP_PORTS": "50007"}
    try:
        told = networks.square(**settings)
        assert told["values"] == VALUES and told["addresses"][0] == ["tcp://login1:50000"]
    finally:
        tunnel.kill()
        tunnel.communicate()


def test_a_tunnel_without_another_end_is_told(networks: Networks) -> None:
    networks.join(networks.client, networks.node, "wire1", f"{A}/24", "10.213.1.2/24")
    tunnel = relay(networks.node, "127.0.0.1:50000", "127.0.0.1:1")
    try:
        told = networks.square(
            GRIDMAP_ANNOUNCE="127.0.0.1:50000", GRIDMAP_STARTUP_DEADLINE="4", jobs=3
        )
        assert told["type"] == "JobNeverStarted"
        assert "127.0.0.1:50000: connected, but " in told["error"]
    finally:
        tunnel.kill()
        tunnel.communicate()
