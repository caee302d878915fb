"""The program on the node: by itself, by old Pythons, and where it meets a wall."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gridmap.doctor import on_node

PROGRAM = Path(on_node.__file__)
OLD = next(iter(sorted(Path("~/.pyenv/versions").expanduser().glob("3.6.*/bin/python"))), None)


def ask(folder: Path, **more: Any) -> str:
    """Writes questions; returns their digest."""
    questions = {
        "folder": str(folder),
        "seconds": 60,
        "sys_path": sys.path,
        "addresses": [],
        "modules": {"gridmap": "gridmap", "psutil": "psutil"},
        "folders": {
            "working directory": {"path": str(folder), "sample": ["questions.json"],
                                  "written": True},
        },
        **more,
    }  # fmt: skip
    content = json.dumps(questions).encode()
    (folder / "questions.json").write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def start(
    folder: Path, digest: str, python: str = sys.executable, *prefix: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, python, str(PROGRAM), str(folder), digest],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )


def report(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("node.*.json")
    told: dict[str, Any] = json.loads(path.read_text())
    return told


def test_it_is_readable_for_python_3_6() -> None:
    ast.parse(PROGRAM.read_text(), feature_version=(3, 6))


def test_what_it_finds(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    done = start(tmp_path, ask(tmp_path))
    told = report(tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and told["done"]
    assert told["host"] == socket.gethostname() and told["uid"] == os.geteuid()
    assert told["folders"]["working directory"] == {
        "path": str(tmp_path), "there": True, "seen": 1, "readable": True, "error": "",
    }  # fmt: skip
    assert told["locks"] == {"refused": False, "error": ""}  # nobody holds it
    assert told["modules"]["gridmap"]["version"] and not told["modules"]["psutil"]["error"]
    assert told["hello"]["error"]  # there is no connection file


@pytest.mark.skipif(OLD is None, reason="no Python 3.6 here")
def test_an_old_python_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    done = start(tmp_path, ask(tmp_path), str(OLD))
    told = report(tmp_path)
    assert done.returncode == 0, done.stderr
    assert told["python"] == "3.6" and told["done"]
    assert "Error" in told["modules"]["gridmap"]["error"]


def test_the_lock_of_the_doctor_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        start(tmp_path, ask(tmp_path))
    assert report(tmp_path)["locks"]["refused"]


def test_a_folder_of_the_same_name(tmp_path: Path) -> None:
    ask(tmp_path)
    done = start(tmp_path, "0" * 64)
    assert done.returncode == on_node.ANOTHER and "another content" in done.stderr


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = start(tmp_path / "nowhere", "0" * 64)
    assert done.returncode == on_node.NOT_SEEN and "No such file" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    mount = f'mount --bind "{tmp_path}" "{tmp_path}" && mount -o remount,bind,ro "{tmp_path}"'
    prefix = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "-")
    done = start(tmp_path, ask(tmp_path), sys.executable, *prefix)
    assert done.returncode == on_node.NOT_WRITTEN and "Read-only" in done.stderr


def test_a_step_that_kills_the_process_is_known(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "fatal.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    digest = ask(tmp_path, sys_path=[str(modules)], modules={"fatal": "fatal"})
    assert start(tmp_path, digest).returncode == -11
    told = report(tmp_path)
    assert told["doing"] == "modules" and not told["done"] and "limits" in told


def test_a_step_that_hangs_ends_and_is_known(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "slow.py").write_text("import time; time.sleep(60)")
    digest = ask(tmp_path, sys_path=[str(modules)], modules={"slow": "slow"}, seconds=1)
    assert start(tmp_path, digest).returncode == -14
    assert report(tmp_path)["doing"] == "modules"


# --- addresses ------------------------------------------------------------------------------------


def tried(*addresses: str) -> dict[str, Any]:
    return on_node.tcp({"addresses": list(addresses)})


def test_what_becomes_of_each_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        good = f"tcp://127.0.0.1:{port}"
        named = f"tcp://localhost:{port}"
        told = tried(good, named, "tcp://127.0.0.1:1", "tcp://nosuch.invalid:5", "tcp://[::1]:1")
    assert told[good] == {"127.0.0.1": "connected"}
    assert told[named]["127.0.0.1"] == "connected"
    assert told["tcp://127.0.0.1:1"] == {"127.0.0.1": "ECONNREFUSED"}
    assert told["tcp://nosuch.invalid:5"] == {"unknown name": "unknown name"}
    assert set(told["tcp://[::1]:1"]) == {"::1"}


def test_an_address_that_swallows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_node, "TCP_S", 0.2)
    with socket.socket() as listener:  # bound, and its queue is full: no answer comes
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        held = [socket.socket() for _ in range(4)]
        for one in held:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        told = tried(f"tcp://127.0.0.1:{port}")
        for one in held:
            one.close()
    assert told[f"tcp://127.0.0.1:{port}"] == {"127.0.0.1": "timed out"}
