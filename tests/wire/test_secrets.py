"""Whole runs under umask 000: who may read what they write, and where their keys are."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

import gridmap
from gridmap import data
from gridmap.core import messages as m
from gridmap.ledger import spool
from gridmap.node.blobs import BlobStore
from gridmap.wire.keys import CONNECTION_NAME, ConnectionFileError, RunKeys, read_connection
from tests.wire.scheduler import ProcessBackend, cluster, until


@pytest.fixture
def open_mask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[RunKeys]:
    """All keys that are made."""
    made: list[RunKeys] = []
    generate = RunKeys.generate

    def note() -> RunKeys:
        made.append(generate())
        return made[-1]

    monkeypatch.setattr(RunKeys, "generate", note)
    return made


class Letters:
    """A mail server's mind."""

    def __init__(self) -> None:
        self.content = b""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.content += bytes(envelope.content or b"")
        return "250 OK"


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Letters]:
    mind = Letters()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(mind, hostname="127.0.0.1", port=port)
    controller.start()
    monkeypatch.setenv("SMTP_SERVER", f"127.0.0.1:{port}")
    monkeypatch.setenv("SEND_ERROR_MAIL", "1")
    yield mind
    controller.stop()


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def everything_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def own_processes() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def hold(folder: str) -> None:
    """Is on a node until it is let go, and then fails."""
    Path(folder, "began").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    raise ValueError("as it should")


@pytest.mark.usefixtures("open_mask")
def test_keys_are_in_one_file_only_and_others_can_read_nothing(
    keys: list[RunKeys],
    letters: Letters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "new" / "runs"))
    caplog.set_level(logging.DEBUG)
    with cluster(ProcessBackend(umask=0)) as backend:
        jobs = [gridmap.Job(hold, [str(tmp_path)]), gridmap.Job(abs, [-1])]
        run = gridmap.submit(jobs, backend="drmaa", on_error="return", max_workers=2)
        until((tmp_path / "began").exists, "a job that runs")
        until(lambda: run.status().completed == 1, "a value in the ledger")
        folder = tmp_path / "new" / "runs" / run.id
        files = everything_below(folder)
        names = {path.name for path in files}
        assert {CONNECTION_NAME, "ledger.sqlite", "ledger.data", "logs"} <= names
        assert mode(folder) == mode(folder / "logs") == 0o700
        # What a worker prints goes where only its folder protects it: the scheduler makes the file.
        for path in files:
            if path.parent != folder / "logs":
                assert mode(path) == (0o700 if path.is_dir() else 0o600), path
        assert mode(tmp_path / "new" / "runs") == 0o700
        nobody_else_opens_what_processes_hold()
        (made,) = keys
        secrets = made.server.secret, made.workers.secret
        seen = [line_of(process) for process in own_processes()]
        assert len(seen) >= 4  # this one, agents, their children
        for secret in secrets:
            assert not any(secret in text for text in seen)
        for path in files:
            if path.is_file():
                content = path.read_bytes()
                assert made.server.secret not in content
                assert (made.workers.secret in content) == (path.name == CONNECTION_NAME)
        (tmp_path / "go").touch()
        failed, one = run.results()
        run.close()
        assert isinstance(failed, ValueError) and one == 1
        until(lambda: b"as it should" in letters.content, "a mail")
        left = b"".join(path.read_bytes() for path in everything_below(folder) if path.is_file())
        logs = b"".join(path.read_bytes() for path in backend.logs.values() if path.exists())
        told = [left, logs, letters.content, caplog.text.encode(), repr(run).encode(),
                str(backend.requests).encode()]  # fmt: skip
        assert len(caplog.records) > 2
        for secret in secrets:
            assert not any(secret in text for text in told)
    assert not (folder / CONNECTION_NAME).exists()


def line_of(process: psutil.Process) -> bytes:
    """Returns command line and environment as another user could at most see them."""
    proc = Path("/proc", str(process.pid))
    return (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()


def nobody_else_opens_what_processes_hold() -> None:
    """Checks files without a name, in shared memory or elsewhere, and sockets that have one."""
    nameless = 0
    for process in own_processes()[1:]:
        descriptors = Path("/proc", str(process.pid), "fd")
        for entry in descriptors.iterdir():
            target = os.readlink(entry)
            if target.endswith("(deleted)") and not target.startswith("/memfd:"):
                assert mode(entry) == 0o600, target
                nameless += 1
        # who connects to this one is asked who he is: tests/node/test_neighbors.py
        named = [x.laddr for x in process.net_connections("unix") if x.laddr]
        assert all(re.fullmatch("@gridmap-[0-9a-f]{32}", name) for name in named), (process, named)
        assert not [x for x in process.net_connections("inet") if x.status == "LISTEN"], process
    assert nameless >= 1  # the function's blob


@pytest.mark.usefixtures("open_mask")
def test_what_a_worker_leaves_is_for_its_user_alone(tmp_path: Path) -> None:
    path = spool.write(tmp_path, "1.1", "i", "h", [m.Result(0, 1, 0, 0, 0.1, 1, 1)], [b"a value"])
    assert mode(path) == 0o600 and mode(path.parent) == 0o700
    assert everything_below(path.parent) == [path]


@pytest.mark.usefixtures("open_mask")
def test_blobs_on_a_node_have_no_name_and_no_other_reader(tmp_path: Path) -> None:
    frames = data.pack_function(abs)
    store = BlobStore([str(tmp_path)])
    try:
        place = store.put(data.digest(frames), frames)
        assert not everything_below(tmp_path)
        assert mode(place.partition(":")[2]) == 0o600
    finally:
        store.close()


@pytest.mark.usefixtures("open_mask")
@pytest.mark.parametrize("fault", ["folder", "file"])
def test_a_run_directory_that_others_may_enter_is_not_used(tmp_path: Path, fault: str) -> None:
    """Neither a worker nor `attach` reads keys, code or values from where others may write."""
    run = tmp_path / "20260101-000000-0badcafe"
    run.mkdir(mode=0o777 if fault == "folder" else 0o700)
    (run / "ledger.sqlite").touch()
    with pytest.raises(gridmap.LedgerError):
        gridmap.attach(run.name, run_dir=tmp_path)
    (run / CONNECTION_NAME).write_text("{}")
    with pytest.raises(ConnectionFileError, match="open to other users"):
        read_connection(run)
