"""What tasks report is judged: nodes, connections, and tasks that end without a word."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from gridmap.core.events import NativeState, NativeStatus
from gridmap.doctor import connection, endings, node, on_node
from gridmap.doctor.findings import Finding, Status

QUESTIONS: dict[str, Any] = {
    "folder": "/home/ada/runs/doctor-1",
    "uid": 1000,
    "python": "3.11",
    "version": "3.11.7",
    "versions": {"gridmap": "1.0", "pyzmq": "25.1", "psutil": "5.9"},
    "addresses": ["tcp://10.0.0.5:50012", "tcp://192.168.7.5:50012", "tcp://127.0.0.1:50012"],
    "folders": {
        "working directory": {"path": "/home/ada", "sample": ["data", "x.py"], "written": False}
    },
}
CONTENT: dict[str, Any] = {
    "host": "node7",
    "uid": 1000,
    "python": "3.11",
    "version": "3.11.7",
    "executable": "/home/ada/venv/bin/python",
    "seen_after_s": 0.01,
    "wrote_at": 1000.5,
    "done": True,
    "doing": "",
    "limits": {
        "open_files": [1024, 4096],
        "memory_lock": [65536, 65536],
        "address_space": [-1, -1],
    },
    "folders": {
        "working directory": {"path": "/home/ada", "there": True, "seen": 2, "readable": True},
        "temporary": {"path": "/tmp", "there": True, "error": ""},
    },
    "locks": {"refused": True, "error": ""},
    "tcp": {
        "tcp://10.0.0.5:50012": {"10.0.0.5": "timed out"},
        "tcp://192.168.7.5:50012": {"192.168.7.5": "connected"},
        "tcp://127.0.0.1:50012": {"127.0.0.1": "ECONNREFUSED"},
    },
    "modules": {
        "gridmap": {"version": "1.0", "error": "", "path": "/home/ada/venv/gridmap"},
        "pyzmq": {"version": "25.1", "error": "", "path": ""},
        "psutil": {"version": "5.9", "error": "", "path": ""},
    },
    "hello": {
        "connected": "tcp://192.168.7.5:50012",
        "answered": True,
        "error": "",
        "incarnation": "abc",
        "at": 1001.0,
        "connect_s": 0.3,
        "answer_s": 0.31,
    },
}
TIMES = {"first_written_at": 1000.5, "submitted_at": 1000.0, "seen_at": 1000.6}


def report(heard_at: float = 1001.0, **changes: Any) -> node.Report:
    """Returns what a task that found all well has reported, with changes."""
    content = copy.deepcopy(CONTENT)
    for name, change in changes.items():
        if isinstance(change, dict) and isinstance(content.get(name), dict):
            content[name] |= change
        else:
            content[name] = change
    return node.Report(content, **TIMES, heard_at=heard_at)


def judged(one: node.Report, questions: dict[str, Any] = QUESTIONS) -> dict[str, Finding]:
    """Returns what is not well, by name."""
    found = node.judged([one], questions, node.JUDGES)
    return {finding.name: finding for finding in found if finding.status is not Status.OK}


def test_all_is_well() -> None:
    assert judged(report()) == {}
    found = node.judged([report(), report(host="node8")], QUESTIONS, node.JUDGES)
    assert {finding.facts["hosts"][0] for finding in found} == {"node7"}
    assert all(finding.facts["hosts"] == ["node7", "node8"] for finding in found)


# --- Python ---------------------------------------------------------------------------------------


def test_another_python() -> None:
    told = judged(report(python="3.6", version="3.6.15"))["python"]
    assert told.status is Status.FAILED and "is Python 3.6.15, and here it is 3.11.7" in told.found
    assert told.found.startswith("node7: ")


def test_another_gridmap() -> None:
    told = judged(report(modules={"gridmap": {"version": "0.9", "path": "/usr/lib"}}))["gridmap"]
    assert told.status is Status.FAILED and "0.9 in /usr/lib, and here it is 1.0" in told.found


def test_a_package_that_the_node_lacks() -> None:
    modules = {"psutil": {"error": "ModuleNotFoundError: No module named 'psutil'"}}
    told = judged(report(modules=modules))["dependencies"]
    assert told.status is Status.FAILED and "psutil cannot be imported" in told.found
    assert "/home/ada/venv/bin/python" in told.change


def test_other_versions_are_a_warning() -> None:
    told = judged(report(modules={"pyzmq": {"version": "24.0"}}))["dependencies"]
    assert told.status is Status.WARNING and "pyzmq 24.0, here 25.1" in told.found


# --- folders --------------------------------------------------------------------------------------


def test_another_user() -> None:
    told = judged(report(uid=65534))["run_folder"]
    assert told.status is Status.FAILED and "you are user 65534, here 1000" in told.found


def test_a_folder_that_is_seen_late() -> None:
    assert judged(report(seen_after_s=4.0))["run_folder"].status is Status.WARNING


def test_a_lock_that_the_node_gets_too() -> None:
    told = judged(report(locks={"refused": False}))["locks"]
    assert told.status is Status.WARNING and "attach" in told.change
    told = judged(report(locks={"refused": False, "error": "No locks available"}))["locks"]
    assert "No locks available" in told.found


def test_a_working_directory_that_is_not_there_or_another() -> None:
    gone = {"working directory": {"path": "/home/ada", "there": False}}
    assert judged(report(folders=gone))["working_directory"].status is Status.FAILED
    other = {"working directory": {"path": "/home/ada", "there": True, "seen": 0}}
    told = judged(report(folders=other))["working_directory"]
    assert told.status is Status.WARNING and "another folder" in told.found
    empty = copy.deepcopy(QUESTIONS)
    empty["folders"]["working directory"]["sample"] = []
    assert "working_directory" not in judged(report(folders=other), empty)


def test_a_temp_dir_that_cannot_be_written() -> None:
    for answer, words in (
        ({"path": "/big", "there": True, "error": "Read-only file system"}, "Read-only"),
        ({"path": "/big", "there": False}, "not there"),
    ):
        told = judged(report(folders={"temp_dir": answer}))["temp_dir"]
        assert told.status is Status.FAILED and words in told.found
    good = {"temp_dir": {"path": "/big", "there": True, "error": ""}}
    assert judged(report(folders=good)) == {}


def test_no_temporary_files() -> None:
    full = {"temporary": {"path": "/tmp", "there": True, "error": "No space left on device"}}
    assert judged(report(folders=full))["temporary_files"].status is Status.FAILED


# --- limits and clocks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "value"), [("open_files", [100, 100]), ("address_space", [512 << 20, 512 << 20])]
)
def test_limits_that_are_tight(limit: str, value: list[int]) -> None:
    assert judged(report(limits={limit: value}))["limits"].status is Status.WARNING


def test_a_clock_is_compared_at_the_moment_of_the_call() -> None:
    assert node.clock_skew(report(heard_at=1001.2)) == (pytest.approx(-0.2), True)
    told = judged(report(heard_at=900.0))["clock"]
    assert told.status is Status.WARNING and "101 s ahead of" in told.found
    told = judged(report(heard_at=1011.0))["clock"]
    assert "10 s behind" in told.found


@pytest.mark.parametrize(
    ("written_at", "skew_s"), [(1000.3, 0.0), (1010.6, 10.0), (990.0, -10.0), (1000.6, 0.0)]
)
def test_without_a_call_it_is_known_by_what_it_wrote(written_at: float, skew_s: float) -> None:
    one = report(heard_at=0.0)._replace(first_written_at=written_at)
    assert node.clock_skew(one) == (pytest.approx(skew_s), False)


def test_a_task_that_stopped_in_the_middle() -> None:
    stopped = copy.deepcopy(CONTENT)
    for name in ("modules", "hello"):
        del stopped[name]
    stopped |= {"done": False, "doing": "modules"}
    found = judged(node.Report(stopped, **TIMES))
    assert set(found) == {"end"} and "importing gridmap" in found["end"].found


# --- the connection -------------------------------------------------------------------------------


def connected(one: node.Report, ports: str = "any") -> Finding:
    return connection.judged(one, QUESTIONS, ports)


def no_way(**outcomes: str) -> node.Report:
    """Returns the report of a task that nothing at these addresses let in."""
    names = {"far": "tcp://10.0.0.5:50012", "near": "tcp://127.0.0.1:50012"}
    tcp = {names[k]: {names[k][6:].partition(":")[0]: word} for k, word in outcomes.items()}
    content = copy.deepcopy(CONTENT) | {"tcp": tcp}
    content["hello"] = {"connected": "", "answered": False, "error": "", "incarnation": "abc"}
    return node.Report(content, **TIMES)


def test_the_address_that_worked_is_named() -> None:
    told = connected(report())
    assert told.status is Status.OK and "192.168.7.5:50012 works" in told.found


def test_an_address_that_only_costs_time_is_a_warning() -> None:
    told = connected(report(hello={"connect_s": 2.0}))
    assert told.status is Status.WARNING and "GRIDMAP_INTERFACE" in told.change


def test_a_firewall_that_drops() -> None:
    told = connected(no_way(far="timed out", near="ECONNREFUSED"))
    assert told.status is Status.FAILED and "10.0.0.5:50012: timed out" in told.found
    assert "GRIDMAP_PORTS=50000-50100 (now it was 50012)" in told.change
    told = connected(no_way(far="timed out", near="ECONNREFUSED"), "50000-50010")
    assert "have TCP ports 50000-50010 opened" in told.change and "now it was" not in told.change


def test_a_firewall_that_rejects() -> None:
    assert "rejects" in connected(no_way(far="ECONNREFUSED")).change


def test_no_route() -> None:
    for word in ("ENETUNREACH", "EHOSTUNREACH", "EINVAL"):
        told = connected(no_way(far=word, near="ECONNREFUSED"))
        assert "no route from" in told.change and "GRIDMAP_INTERFACE" in told.change


def test_a_name_that_the_node_does_not_know() -> None:
    one = no_way()
    one.content["tcp"]["tcp://desk:50000"] = {"unknown name": "unknown name"}  # type: ignore[index]
    told = connected(one)
    assert "desk:50000: the node does not know that name" in told.found
    assert "GRIDMAP_ANNOUNCE" in told.change


def test_another_program_at_the_address() -> None:
    assert "another program" in connected(no_way(far="connected")).change


def test_a_connection_on_which_nothing_comes_back() -> None:
    told = connected(report(hello={"answered": False}))
    assert told.status is Status.FAILED and "MTU" in told.change


def test_a_node_whose_gridmap_cannot_call() -> None:
    one = no_way(far="connected")
    one.content["hello"]["error"] = "ImportError: no zmq"  # type: ignore[index]
    assert "TCP connects to 10.0.0.5:50012; gridmap cannot: ImportError" in connected(one).found


# --- tasks that end without a word ----------------------------------------------------------------

FOLDER = Path("/home/ada/runs/doctor-1")


def ended(code: int = -1, text: str = "", diagnosis: str = "") -> tuple[str, str]:
    status = NativeStatus(NativeState.FAILED, text or f"exited with {code}", code)
    return endings.died(status, diagnosis, "/opt/python", FOLDER)


@pytest.mark.parametrize(
    ("code", "words", "change"),
    [
        (on_node.NOT_SEEN, "does not see", "GRIDMAP_RUN_DIR"),
        (on_node.ANOTHER, "another folder", "GRIDMAP_RUN_DIR"),
        (on_node.NOT_WRITTEN, "cannot write", "no_root_squash"),
        (127, "cannot start /opt/python", "virtual environment"),
        (126, "cannot start /opt/python", "virtual environment"),
    ],
)
def test_exit_statuses_say_what_it_was(code: int, words: str, change: str) -> None:
    found, advice = ended(code)
    assert words in found and change in advice


@pytest.mark.parametrize(
    ("text", "diagnosis", "words"),
    [
        ("it could not start", "qacct: failed 26 : opening input/output file", "output"),
        ("it could not start", "qacct: failed 27 : searching requested shell", "/opt/python"),
        ("it could not start", "qacct: failed 28 : changing into working directory", "folder"),
        ("squeue says FAILED, exit 0:53", "", "output"),
        ("will never start: squeue says PENDING, reason BadConstraints", "", "BadConstraints"),
        ("exited with 2", "python: can't open file '/x/on_node.py'", "not gridmap"),
        ("exited with 1", "SyntaxError: invalid syntax", "too old"),
        ("ended by SIGKILL", "", "SIGKILL"),
    ],
)
def test_what_the_scheduler_says_is_read(text: str, diagnosis: str, words: str) -> None:
    found, advice = ended(1, text, diagnosis)
    assert words in found and advice


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ('denied: host "desk" is no submit host', "submit host"),
        ('Job was rejected because job requests unknown queue "x"', "DEFAULT_QUEUE"),
        ("Batch job submission failed: Invalid partition name specified", "DEFAULT_QUEUE"),
        ('unknown resource "mem_free2"', "resource that it names"),
        ("Requested node configuration is not available", "ask for less"),
        ("Invalid account or account/partition combination specified", "project="),
        ("QOSMaxSubmitJobPerUserLimit: job submit limit", "GRIDMAP_MAX_WORKERS"),
        ("sbatch: Unable to contact slurm controller", "own commands"),
        ("something new", "its words are above"),
    ],
)
def test_what_to_do_about_a_refusal(words: str, change: str) -> None:
    assert change in endings.refused(words)
