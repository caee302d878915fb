"""Keys stay secret, and the connection file is private."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from gridmap.errors import GridMapError
from gridmap.wire.keys import (
    CONNECTION_NAME,
    Connection,
    ConnectionFileError,
    RunKeys,
    check_private,
    read_connection,
    write_connection,
)

KEYS = RunKeys.generate()
CONNECTION = Connection(
    run="r1",
    addresses=["tcp://127.0.0.1:5000"],
    server_public=KEYS.server.public.decode(),
    worker_public=KEYS.workers.public.decode(),
    worker_secret=KEYS.workers.secret.decode(),
    gridmap="1.0",
    protocol=1,
    python="3.11",
    sys_path=["/some/where", ""],
    host="client",
    pid=42,
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


def test_what_is_written_is_read(run_dir: Path) -> None:
    path = write_connection(run_dir, CONNECTION)
    assert path == run_dir / CONNECTION_NAME
    assert read_connection(run_dir) == CONNECTION
    assert os.listdir(run_dir) == [CONNECTION_NAME]


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277])
def test_the_file_is_0600_whatever_the_umask(run_dir: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = write_connection(run_dir, CONNECTION)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_writing_again_replaces_the_file_in_one_step(run_dir: Path) -> None:
    path = write_connection(run_dir, CONNECTION)
    with path.open("rb") as old:
        write_connection(run_dir, msgspec.structs.replace(CONNECTION, pid=43))
        assert b'"pid": 42' in old.read()  # who had opened the old one still reads all of it
    assert read_connection(run_dir).pid == 43


def test_a_failed_write_leaves_nothing_behind(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConnectionFileError, match="No space left"):
        write_connection(run_dir, CONNECTION)
    assert os.listdir(run_dir) == []


def test_the_servers_secret_is_not_in_the_file(run_dir: Path) -> None:
    content = write_connection(run_dir, CONNECTION).read_bytes()
    assert KEYS.workers.secret in content
    assert KEYS.server.secret not in content


def test_no_secret_in_a_repr() -> None:
    text = repr(KEYS) + repr(KEYS.server) + str(KEYS) + repr(CONNECTION) + str(CONNECTION)
    assert KEYS.server.public.decode() in text
    for pair in (KEYS.server, KEYS.workers):
        assert pair.secret.decode() not in text


def test_two_runs_have_nothing_in_common() -> None:
    one, other = RunKeys.generate(), RunKeys.generate()
    parts = {
        k
        for run in (one, other)
        for p in (run.server, run.workers)
        for k in msgspec.structs.astuple(p)
    }
    assert len(parts) == 8


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o770])
def test_an_open_folder_is_refused(run_dir: Path, mode: int) -> None:
    write_connection(run_dir, CONNECTION)
    run_dir.chmod(mode)
    with pytest.raises(ConnectionFileError, match=f"mode {mode:o}.*chmod 700"):
        write_connection(run_dir, CONNECTION)
    with pytest.raises(ConnectionFileError, match=f"mode {mode:o}.*chmod 700"):
        read_connection(run_dir)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_an_open_file_is_refused(run_dir: Path, mode: int) -> None:
    write_connection(run_dir, CONNECTION).chmod(mode)
    with pytest.raises(ConnectionFileError, match=f"mode {mode:o}.*chmod 600"):
        read_connection(run_dir)


@pytest.mark.parametrize("folder", [True, False])
def test_what_belongs_to_another_user_is_refused(run_dir: Path, folder: bool) -> None:
    path = run_dir if folder else write_connection(run_dir, CONNECTION)
    status = os.stat(path)
    check_private(status, path, folder=folder, uid=os.geteuid())
    with pytest.raises(ConnectionFileError, match="belongs to user"):
        check_private(status, path, folder=folder, uid=os.geteuid() + 1)


def test_links_are_not_followed(run_dir: Path, tmp_path: Path) -> None:
    path = write_connection(run_dir, CONNECTION)
    link = tmp_path / "link"
    link.symlink_to(run_dir)
    with pytest.raises(ConnectionFileError, match="not a folder"):
        read_connection(link)
    real = path.rename(run_dir / "elsewhere.json")
    path.symlink_to(real)
    with pytest.raises(ConnectionFileError, match="cannot read"):
        read_connection(run_dir)


def test_a_pipe_in_place_of_the_file_does_not_block(run_dir: Path) -> None:
    os.mkfifo(run_dir / CONNECTION_NAME, 0o600)
    with pytest.raises(ConnectionFileError, match="not a file"):
        read_connection(run_dir)


def test_missing_folder_and_missing_file_are_told_apart(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionFileError, match="no run directory"):
        read_connection(tmp_path / "nowhere")
    with pytest.raises(ConnectionFileError, match="is the run still going on"):
        read_connection(run_dir)


@pytest.mark.parametrize(
    "change",
    [
        {"worker_secret": "short"},
        {"server_public": "\u00e4" * 40},
        {"addresses": []},
        {"addresses": ["ipc:///tmp/x"]},
        {"pid": "many"},
        {"sys_path": [1]},
        {"worker_secret": None},
    ],
    ids=str,
)
def test_a_damaged_file_is_told_and_its_secrets_are_not(
    run_dir: Path, change: dict[str, object]
) -> None:
    import json

    path = write_connection(run_dir, CONNECTION)
    path.write_text(json.dumps({**msgspec.structs.asdict(CONNECTION), **change}))
    with pytest.raises(ConnectionFileError, match=str(path)) as caught:
        read_connection(run_dir)
    assert CONNECTION.worker_secret not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * 2_000_000])
def test_a_file_that_is_something_else(run_dir: Path, content: bytes) -> None:
    write_connection(run_dir, CONNECTION).write_bytes(content)
    with pytest.raises(GridMapError):
        read_connection(run_dir)


def test_a_path_that_is_no_text_is_told(run_dir: Path) -> None:
    with pytest.raises(ConnectionFileError, match="not UTF-8"):
        write_connection(run_dir, msgspec.structs.replace(CONNECTION, sys_path=["/x/\udcff"]))


def test_limits_travel(run_dir: Path) -> None:
    write_connection(
        run_dir, msgspec.structs.replace(CONNECTION, max_frame_bytes=5, max_payload_bytes=6)
    )
    limits = read_connection(run_dir).limits
    assert (limits.frame_bytes, limits.payload_bytes) == (5, 6)
