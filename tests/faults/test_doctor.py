"""`gridmap doctor` on three hosts, of which one is broken: does it name what is wrong?"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from typing import Any

import pytest

from tests.faults.clients import SETTINGS, USER, broken
from tests.faults.lab import Lab

END_S = 110.0


def visited(lab: Lab, *words: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Returns the exit status, and the worst finding of each probe and name."""
    user = pwd.getpwnam(USER)
    settings = {
        "HOME": user.pw_dir,
        "USER": USER,
        "LANG": "C.UTF-8",
        "PATH": os.environ["PATH"],
        "GRIDMAP_RUN_DIR": str(lab.runs),
        **{key: value for key, value in os.environ.items() if key.startswith("SGE_")},
        **SETTINGS,
        **environment,
    }
    owner = (f"--reuid={USER}", f"--regid={user.pw_gid}", "--init-groups")
    done = subprocess.run(
        lab.head.inside(
            *("setpriv", *owner, "--", "env", "-i", *(f"{k}={v}" for k, v in settings.items())),
            *(sys.executable, "-m", "gridmap.doctor", "--json", "--timeout=60", *words),
            folder=str(lab.folder),
        ),
        capture_output=True,
        text=True,
        timeout=END_S,
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    order = ("failed", "warning", "ok", "skipped")
    worst: dict[str, Any] = {}
    for probe in json.loads(done.stdout)["probes"]:
        for finding in probe["findings"]:
            key = f"{probe['name']}.{finding['name']}"
            best = worst.setdefault(key, finding)
            if order.index(finding["status"]) < order.index(best["status"]):
                worst[key] = finding
    return done.returncode, worst


def left(lab: Lab) -> list[str]:
    return [entry for entry in lab.runs_left() if "doctor" in entry]


@pytest.mark.timeout(150)
def test_all_is_well(lab: Lab) -> None:
    status, found = visited(lab)
    assert status == 0, found
    assert "10.88.0.10:" in found["connection.connect"]["facts"]["address"]
    assert "on node" in found["grid_map.grid_map"]["found"]
    lab.nothing_left()
    assert not left(lab)


@pytest.mark.timeout(150)
def test_a_run_directory_that_the_nodes_do_not_share(lab: Lab) -> None:
    for host in (lab.node1, lab.node2):
        lab.undo.callback(host.put_over(lab.runs))
    status, found = visited(lab)
    assert status == 1
    assert "GRIDMAP_RUN_DIR" in found["submit.start"]["change"], found["submit.start"]
    lab.nothing_left()
    assert not left(lab)


@pytest.mark.timeout(150)
def test_a_firewall_that_swallows_what_nodes_send(lab: Lab) -> None:
    """Grid Engine's own ports stay open; of others, no answer leaves the head."""
    rule = ("ipproto", "tcp", "sport", "50000-50100", "blackhole")
    lab.head.run("ip", "rule", "add", *rule)
    lab.undo.callback(lab.head.run, "ip", "rule", "del", *rule)
    status, found = visited(lab, GRIDMAP_PORTS="50000-50100")
    told = found["connection.connect"]
    assert status == 1 and "10.88.0.10" in told["found"] and "timed out" in told["found"]
    assert "have TCP ports 50000-50100 opened" in told["change"]
    assert found["grid_map.grid_map"]["status"] == "skipped"
    lab.nothing_left()
    assert not left(lab)


@pytest.mark.timeout(150)
def test_another_python_on_one_node(lab: Lab) -> None:
    """The node has another program where the head has Python."""
    real = os.path.realpath(sys.executable)
    script = lab.public_file("python", "#!/bin/sh\necho no Python here >&2\nexit 127\n", 0o755)
    lab.node1.run("mount", "--bind", str(script), real)
    lab.undo.callback(lab.node1.run, "umount", "--lazy", real)
    status, found = visited(lab, "--host", "node1")
    assert status == 1
    assert "cannot start" in found["submit.start"]["found"], found["submit.start"]
    lab.nothing_left()
    assert not left(lab)


@pytest.mark.timeout(150)
def test_a_temp_dir_that_one_node_cannot_write(lab: Lab) -> None:
    temp = lab.public_folder("temp")
    lab.node1.run("mount", "--bind", str(temp), str(temp))
    lab.undo.callback(lab.node1.run, "umount", "--lazy", str(temp))
    lab.node1.run("mount", "-o", "remount,bind,ro", str(temp))
    status, found = visited(lab, "--host", "node1", "--temp-dir", str(temp))
    assert status == 1
    assert "Read-only file system" in found["node.temp_dir"]["found"]
    lab.nothing_left()
    assert not left(lab)


@pytest.mark.timeout(150)
def test_a_qmaster_that_is_stopped(lab: Lab) -> None:
    lab.head.kill_daemon("qmaster")
    with broken(lab, lambda: lab.head.start_daemon("qmaster")):
        status, found = visited(lab)
    assert status == 1
    assert found["scheduler.answer"]["status"] == "failed"
    assert "sge_qmaster may be down" in found["scheduler.answer"]["change"]
    assert not left(lab)


@pytest.mark.timeout(150)
def test_nodes_that_are_unplugged(lab: Lab) -> None:
    """The scheduler still takes the job, and nothing starts."""
    with broken(lab, lambda: [host.link(up=True) for host in (lab.node1, lab.node2)]):
        for host in (lab.node1, lab.node2):
            host.link(up=False)
        status, found = visited(lab, "--timeout=20")
    assert found["submit.start"]["status"] in ("warning", "failed")
    assert status in (0, 1) and not left(lab)
