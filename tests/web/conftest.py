"""A dashboard in a process of its own, and a browser that speaks to it by hand."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import pytest

import gridmap
from tests.web.ledgers import make

DEADLINE_S = 60.0
COMMAND = [sys.executable, "-c", "import gridmap.web; raise SystemExit(gridmap.web.main())"]


class Reply:
    """What a server answered."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()

    @property
    def cookie(self) -> str:
        return str(self.headers["Set-Cookie"]).split(";")[0]

    @property
    def form_token(self) -> str:
        found = re.search(r'name="form_token" value="([^"]+)"', self.text)
        assert found is not None, self.text
        return found[1]


class Dashboard:
    """A dashboard that runs, and a session with it."""

    def __init__(self, process: subprocess.Popen[str], address: str, run_dir: Path) -> None:
        self.process = process
        self.run_dir = run_dir
        self.address = address
        found = re.fullmatch(r"http://(\S+):(\d+)/\?token=(\S+)", address)
        assert found is not None, address
        self.host, self.port, self.token = found[1].strip("[]"), int(found[2]), found[3]
        self._cookie = ""

    @property
    def cookie(self) -> str:
        if not self._cookie:
            self._cookie = self.ask(f"/?token={self.token}", known=False).cookie
        return self._cookie

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE_S)

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] = {},
        body: str | None = None,
        known: bool = True,
    ) -> Reply:
        """Asks, with the cookie of a session where `known`."""
        sent = {"Cookie": self.cookie} if known else {}
        connection = self.connect()
        with contextlib.closing(connection):
            connection.request(method, path, body, {**sent, **headers})
            return Reply(connection.getresponse())

    def post(self, path: str, form_token: str, **headers: str) -> Reply:
        """Sends a form as a browser does."""
        sent = {
            "Origin": f"http://{self.host}:{self.port}",
            "Content-Type": "application/x-www-form-urlencoded",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return self.ask(path, "POST", sent, urlencode({"form_token": form_token}))


@contextlib.contextmanager
def dashboard_of(run_dir: Path, *options: str, cwd: Path | None = None) -> Iterator[Dashboard]:
    """Starts `gridmap_web`, and ends it."""
    environ = dict(os.environ)
    if cwd is not None:
        environ["PYTHONPATH"] = str(Path(gridmap.__file__).parents[1])
    command = [*COMMAND, "--port", "0", "--run-dir", str(run_dir), *options]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=cwd,
        env=environ,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http" in line, process.stderr.read() if process.stderr else ""
            yield Dashboard(process, line.split()[-1], run_dir)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(DEADLINE_S)
            finally:
                if process.poll() is None:
                    process.kill()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of runs, one of which has ended with failures."""
    folder = tmp_path_factory.mktemp("runs")
    notes = ["the queue is full"] * 40  # more than are seen at once
    make(folder, "20261120-101500-a1b2c3d4", 500, name="stations", notes=notes)
    return folder


RUN = "/runs/20261120-101500-a1b2c3d4"


@pytest.fixture(scope="module")
def dashboard(run_dir: Path) -> Iterator[Dashboard]:
    with dashboard_of(run_dir) as found:
        yield found


class Client:
    """A program that makes a run, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], run: str) -> None:
        self.process = process
        self.run = run


PROGRAM = """
import sys, time
import gridmap

def work(number, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    if number % 7 == 3:
        raise ValueError(f"no data for {number}")
    return number

jobs, seconds = int(sys.argv[1]), float(sys.argv[2])
run = gridmap.submit([gridmap.Job(work, [n, seconds], name=f"piece{n}") for n in range(jobs)],
                     local=True, max_processes=2, on_error="finish")
print(run.id, flush=True)
try:
    run.results()
except Exception as error:
    print(type(error).__name__, flush=True)
"""


@contextlib.contextmanager
def client_of(run_dir: Path, jobs: int, seconds: float) -> Iterator[Client]:
    """Starts a program that makes a run of so many jobs, each of which takes so long."""
    environ = {**os.environ, "GRIDMAP_RUN_DIR": str(run_dir), "GRIDMAP_LEDGER": "always",
               "HEARTBEAT_FREQUENCY": "1"}  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, str(jobs), str(seconds)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environ, start_new_session=True
    ) as process:
        timer = threading.Timer(2 * DEADLINE_S, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            yield Client(process, process.stdout.readline().strip())
        finally:
            timer.cancel()
            process.send_signal(signal.SIGCONT)
            process.kill()
