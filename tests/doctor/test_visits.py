"""Whole visits: real tasks as processes of this machine, each meeting one fault."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gridmap.doctor import on_node
from tests.doctor.visits import ROOT, Visit, finding, left, plug_in, statuses
from tests.wire.test_networks import Networks, why_not

pytestmark = pytest.mark.slow  # seconds each, one process after the other

A, B = "10.213.1.1", "10.213.2.1"
OLD = next(iter(sorted(Path("~/.pyenv/versions").expanduser().glob("3.6.*/bin/python"))), None)
root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount and make networks")

WELL = {
    **dict.fromkeys(("machine", "settings", "scheduler", "run_dir", "submit", "node"), "ok"),
    **dict.fromkeys(("connection", "grid_map"), "ok"),
    **dict.fromkeys(("limits", "mail"), "skipped"),
}


def instead(script: str) -> str:
    """Returns a prefix: a shell that may break something before it starts the task."""
    return shlex.join(["sh", "-c", script, "task"])


def tasks_of(runs: Path) -> list[psutil.Process]:
    """Returns processes with something of this folder in their command line."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if any(str(runs) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def gone(runs: Path, within_s: float = 10.0) -> None:
    """Checks that neither tasks nor files are left."""
    deadline = time.monotonic() + within_s
    while (processes := tasks_of(runs)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes and not left(runs), (processes, left(runs))


# --- all is well ----------------------------------------------------------------------------------


def test_all_is_well_from_the_submission_to_a_real_grid_map(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "--json", GRIDMAP_MAX_WORKERS="10")
    told = visit.found(0)
    found = statuses(told)
    found["run_dir"] = "ok" if found["run_dir"] == "warning" else found["run_dir"]  # below /tmp
    found["machine"] = "ok" if found["machine"] == "warning" else found["machine"]
    assert found == WELL
    assert len(finding(told, "submit", "submit")["facts"]["ids"]) == 2
    assert finding(told, "connection", "connect")["facts"]["address"].startswith("tcp://")
    assert finding(told, "node", "clock")["facts"]["exact"]
    assert abs(finding(told, "node", "clock")["facts"]["skew_s"]) < 1
    assert told["backend"] == "processes"
    gone(visit.runs)


def test_people_get_lines_without_colors_in_a_file(tmp_path: Path) -> None:
    visit = Visit(tmp_path)
    assert visit.ended() == 0
    printed = visit.printed()
    assert "\033" not in printed and "grid_map squared [3, 4] on" in printed
    assert " 6. Submission: an array job of two tasks\n    ok      an array job" in printed
    gone(visit.runs)


def test_nothing_is_submitted_on_demand(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "--json", "--no-submit", prefix="false")
    told = visit.found(0)
    assert {statuses(told)[name] for name in ("submit", "node", "grid_map")} == {"skipped"}
    assert finding(told, "connection", "listen")["status"] == "ok"
    gone(visit.runs)


def test_a_machine_without_a_cluster_is_told_so_and_runs_locally(tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRIDMAP_RUN_DIR": str(tmp_path / "runs"),
                   "PATH": str(bare), "DRMAA_LIBRARY_PATH": "/nosuch"}  # fmt: skip
    environment.pop("SGE_ROOT", None)
    done = subprocess.run(
        [sys.executable, "-m", "gridmap.doctor", "--json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["backend"] == "local"
    assert "no cluster is found" in finding(told, "scheduler", "choice")["found"]
    assert "by processes of this machine" in finding(told, "grid_map", "grid_map")["found"]


# --- Python on the node ---------------------------------------------------------------------------


@pytest.mark.skipif(OLD is None, reason="no Python 3.6 here")
def test_an_old_python_on_the_node(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "--json", prefix=instead(f'shift; exec {OLD} "$@"'))
    told = visit.found(1)
    assert "is Python 3.6" in finding(told, "node", "python")["found"]
    assert finding(told, "node", "gridmap")["status"] == "failed"
    assert "TCP connects to" in finding(told, "connection", "connect")["found"]
    assert "no node has reached" in finding(told, "grid_map", "grid_map")["found"]
    gone(visit.runs)


def test_no_python_on_the_node(tmp_path: Path) -> None:
    visit = Visit(
        tmp_path, "--json", prefix=instead('shift; exec /nosuch/python "$@"'), proof=False
    )
    told = finding(visit.found(1), "submit", "start")
    assert "cannot start" in told["found"] and "virtual environment" in told["change"]
    gone(visit.runs)


@root_only
def test_a_node_without_gridmap(tmp_path: Path) -> None:
    away = f'mount -t tmpfs none {Path(on_node.__file__).parent} && exec "$@"'
    visit = Visit(tmp_path, "--json", prefix=f"unshare --mount {instead(away)}", proof=False)
    assert "not gridmap at the same path" in finding(visit.found(1), "submit", "start")["found"]
    gone(visit.runs)


def test_a_package_that_is_missing_there(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cloudpickle.py").write_text("raise ImportError('not for this node')")
    path = f"{tmp_path / 'broken'}:{ROOT}"
    visit = Visit(tmp_path, "--json", prefix=instead(f'PYTHONPATH={path} exec "$@"'), proof=False)
    told = finding(visit.found(1), "node", "dependencies")
    assert "cloudpickle cannot be imported: ImportError: not for this node" in told["found"]
    gone(visit.runs)


def test_a_clock_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(
        "import time\nreal = time.time\ntime.time = lambda: real() - 100\n"
    )
    path = f"{tmp_path / 'clock'}:{ROOT}"
    visit = Visit(tmp_path, "--json", prefix=instead(f'PYTHONPATH={path} exec "$@"'), proof=False)
    told = finding(visit.found(0), "node", "clock")
    assert told["status"] == "warning" and "100 s behind this host's" in told["found"]
    gone(visit.runs)


# --- folders --------------------------------------------------------------------------------------


@root_only
def test_a_run_directory_that_the_node_does_not_share(tmp_path: Path) -> None:
    hide = f'mount -t tmpfs none "{tmp_path / "runs"}" && exec "$@"'
    visit = Visit(tmp_path, "--json", prefix=f"unshare --mount {instead(hide)}", proof=False)
    told = finding(visit.found(1), "submit", "start")
    assert "the node does not see" in told["found"] and "GRIDMAP_RUN_DIR" in told["change"]
    gone(visit.runs)


@root_only
def test_a_working_directory_that_is_another_one_there(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "data").write_text("1")
    hide = f'mount -t tmpfs none "{work}" && exec "$@"'
    visit = Visit(
        tmp_path, "--json", prefix=f"unshare --mount {instead(hide)}", cwd=work, proof=False
    )
    told = finding(visit.found(0), "node", "working_directory")
    assert told["status"] == "warning" and "another folder" in told["found"]
    gone(visit.runs)


@root_only
def test_a_temp_dir_that_cannot_be_written_there(tmp_path: Path) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    bind = f'mount --bind "{temp}" "{temp}" && mount -o remount,bind,ro "{temp}" && exec "$@"'
    words = ("--json", "--temp-dir", str(temp))
    visit = Visit(tmp_path, *words, prefix=f"unshare --mount {instead(bind)}", proof=False)
    told = finding(visit.found(1), "node", "temp_dir")
    assert "Read-only file system" in told["found"] and "DEFAULT_TEMP_DIR" in told["change"]
    gone(visit.runs)


def test_few_open_files_on_the_node(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "--json", prefix=instead('ulimit -n 200; exec "$@"'), proof=False)
    told = finding(visit.found(0), "node", "limits")
    assert told["status"] == "warning" and "open files 200" in told["found"]
    gone(visit.runs)


# --- the network ----------------------------------------------------------------------------------


def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "--json", GRIDMAP_ANNOUNCE="nosuch.invalid:50000", proof=False)
    told = finding(visit.found(1), "connection", "connect")
    assert "the node does not know that name" in told["found"]
    assert "GRIDMAP_ANNOUNCE" in told["change"]
    gone(visit.runs)


def test_ports_that_are_taken(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = str(listener.getsockname()[1])
        visit = Visit(tmp_path, "--json", GRIDMAP_PORTS=port, proof=False)
        told = finding(visit.found(1), "connection", "listen")
    assert f"TCP port {port} is taken" in told["found"] and "GRIDMAP_PORTS" in told["change"]
    gone(visit.runs)


@root_only
def test_a_node_without_a_network(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "--json", prefix="unshare --net", proof=False)
    told = finding(visit.found(1), "connection", "connect")
    assert "no route to that network" in told["found"]
    gone(visit.runs)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Networks]:
    """A client and a node joined by two networks; the default route is by the first."""
    reason = why_not()
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    made = Networks(tmp_path / "runs")
    try:
        made.join(made.client, made.node, "wire1", f"{A}/24", "10.213.1.2/24")
        made.join(made.client, made.node, "wire2", f"{B}/24", "10.213.2.2/24")
        made.client.ip("route", "add", "default", "via", "10.213.1.2")
        yield made
    finally:
        for host in made.hosts:
            host.remove()


def between(two: Networks, folder: Path, proof: bool = False) -> Visit:
    """Returns a visit on the client, whose tasks are on the node."""
    node, client = shlex.join(two.node.prefix), tuple(two.client.prefix)
    return Visit(folder, "--json", prefix=node, through=client, proof=proof)


def test_the_address_that_works_is_named(two: Networks, tmp_path: Path) -> None:
    visit = between(two, tmp_path)
    told = finding(visit.found(0), "connection", "connect")
    assert f"{A}:" in told["facts"]["address"]
    gone(visit.runs)


def test_a_firewall_that_swallows_what_comes_to_every_address(
    two: Networks, tmp_path: Path
) -> None:
    for network in ("10.213.1.2/32", "10.213.2.2/32"):  # no answer finds its way back
        two.client.ip("route", "add", "blackhole", network)
    visit = between(two, tmp_path)
    told = finding(visit.found(1), "connection", "connect")
    assert f"{A}:" in told["found"] and "timed out, as when a firewall drops" in told["found"]
    assert "set GRIDMAP_PORTS=50000-50100" in told["change"]
    gone(visit.runs)


def test_a_firewall_that_rejects(two: Networks, tmp_path: Path) -> None:
    for network in (A, B):
        two.node.ip("route", "add", "prohibit", network)
    visit = between(two, tmp_path)
    told = finding(visit.found(1), "connection", "connect")
    assert "forbidden by a firewall" in told["found"] and "GRIDMAP_INTERFACE" in told["change"]
    gone(visit.runs)


def test_one_network_of_two_is_cut_and_the_other_serves(two: Networks, tmp_path: Path) -> None:
    two.client.ip("route", "add", "blackhole", "10.213.1.2/32")
    visit = between(two, tmp_path, proof=True)
    told = visit.found(0)
    assert f"{B}:" in finding(told, "connection", "connect")["facts"]["address"]
    assert finding(told, "grid_map", "grid_map")["status"] == "ok"
    gone(visit.runs)


# --- the end --------------------------------------------------------------------------------------

WAITS = instead("exec sleep 100")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_visit_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    visit = Visit(tmp_path, prefix=WAITS)
    visit.until_printed("an array job of 2 tasks is taken")
    visit.interrupt(number)
    assert visit.ended(30) == 130, visit.printed()
    assert "interrupted" in visit.printed()
    gone(visit.runs)


def test_a_grid_map_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    # the tasks run, and the workers of the run wait
    script = f'case "$*" in *{Path(on_node.__file__).name}*) exec "$@";; *) exec sleep 100;; esac'
    visit = Visit(tmp_path, prefix=instead(script))
    visit.until_printed(" 9. grid_map")
    time.sleep(1)
    visit.interrupt()
    assert visit.ended(60) == 130, visit.printed()
    gone(visit.runs, 20)


def test_tasks_that_say_nothing_are_told_after_the_timeout(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "--json", "--timeout", "3", prefix=WAITS, proof=False)
    told = visit.found(1)
    found = finding(told, "submit", "start")
    assert "nothing is heard of it in 3 s" in found["found"]
    assert statuses(told)["node"] == "skipped"
    gone(visit.runs)


def test_a_broken_folder_of_runs_skips_what_needs_it(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    visit = Visit(tmp_path, "--json")
    told = visit.found(1)
    assert statuses(told)["run_dir"] == "failed" and statuses(told)["submit"] == "skipped"


def test_a_backend_that_breaks_is_told(tmp_path: Path) -> None:
    plugged = plug_in(tmp_path / "plugged")
    entry = plugged / "processes-1.0.dist-info" / "entry_points.txt"
    entry.write_text("[gridmap.backends]\nprocesses = nosuch.module:make\n")
    told = finding(Visit(tmp_path, "--json").found(1), "scheduler", "answer")
    assert "No module named 'nosuch'" in told["found"]


def test_what_is_needed_is_written(tmp_path: Path) -> None:
    mail = {"SEND_ERROR_MAIL": "1", "SMTP_SERVER": ""}
    visit = Visit(tmp_path, "--json", "--no-submit", "--write-config", **mail)
    told = visit.found(0)
    path = tmp_path / "config" / "gridmap" / "gridmap.toml"
    assert told["written"] == str(path)
    assert told["needed"]["settings.SEND_ERROR_MAIL"] is False
    assert "SEND_ERROR_MAIL = false\n" in path.read_text()
    shutil.rmtree(tmp_path / "config")
