"""The page of runs: only for those who know the address, and harmless whatever a run is called."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridmap import web


@pytest.fixture
def server(tmp_path: Path) -> Iterator[web.Server]:
    with web.Server(tmp_path, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def get(
    server: web.Server, path: str, host: str | None = None
) -> tuple[http.client.HTTPResponse, str]:
    port = server.server_port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response, text


def test_runs_are_listed_latest_first(server: web.Server, tmp_path: Path) -> None:
    for name, age_s in (("old", 7200), ("new", 10)):
        folder = tmp_path / name
        (folder / "logs").mkdir(parents=True)
        then = folder.stat().st_mtime - age_s
        for path in (folder / "logs", folder):
            os.utime(path, (then, then))
    (tmp_path / "a file").write_text("")
    response, text = get(server, f"/?token={server.token}")
    assert response.status == 200
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(<td>.*)</tr>", text)]
    assert [row[0] for row in rows] == ["new", "old"]
    assert rows[1][1:] == ["unknown", "2 h ago", "2 h ago"]
    assert "a file" not in text


def test_the_monitor_is_told_and_no_key(server: web.Server, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait(30)
    here = socket.gethostname()
    for name, host, pid in (
        ("a-living", here, os.getpid()),
        ("b-ended", here, ended.pid),
        ("c-far", "far<away", 12),
    ):
        (tmp_path / name).mkdir()
        told = {"host": host, "pid": pid, "worker_secret": "do-not-tell"}
        (tmp_path / name / "connection.json").write_text(json.dumps(told))
    (tmp_path / "d-broken").mkdir()
    (tmp_path / "d-broken/connection.json").write_text('{"host": 1, "pid": [}')
    _, text = get(server, f"/?token={server.token}")
    assert "do-not-tell" not in text
    assert sorted(re.findall("<tr><td>(.*?)</td><td>(.*?)</td>", text)) == [
        ("a-living", f"this host, process {os.getpid()}"),
        ("b-ended", "ended"),
        ("c-far", "far&lt;away, process 12"),
        ("d-broken", "unknown"),
    ]


def test_a_name_is_text_not_markup(server: web.Server, tmp_path: Path) -> None:
    (tmp_path / "<script>alert(1)<").mkdir()
    response, text = get(server, f"/?token={server.token}")
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "default-src 'none'" in str(response.getheader("Content-Security-Policy"))
    assert response.getheader("Referrer-Policy") == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=wrong", "/?token=%C3%A4", "/other"])
def test_a_stranger_sees_nothing(server: web.Server, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret-run").mkdir()
    response, text = get(server, path)
    assert response.status == 403
    assert "secret-run" not in text and str(tmp_path) not in text


def test_another_name_for_this_host_is_refused(server: web.Server) -> None:
    response, _ = get(server, f"/?token={server.token}", host=f"evil.example:{server.server_port}")
    assert response.status == 403


def test_there_is_one_page(server: web.Server) -> None:
    assert get(server, f"/keys?token={server.token}")[0].status == 404


def test_it_listens_on_the_loopback_only(server: web.Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_no_folder_of_runs_yet(tmp_path: Path) -> None:
    assert web.list_runs(tmp_path / "none", now=0) == []


def test_the_command_prints_the_address_and_ends_on_ctrl_c() -> None:
    command = [sys.executable, "-c", "import gridmap.web; raise SystemExit(gridmap.web.main())"]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.search(r"http://127\.0\.0\.1:\d+/\?token=\S{20,}$", line)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_a_port_that_is_taken_is_said(
    server: web.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert web.main(["--port", str(server.server_port)]) == 1
    assert str(server.server_port) in capsys.readouterr().err
