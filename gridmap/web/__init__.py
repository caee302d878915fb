"""A page on this machine that lists the user's runs.

`gridmap_web` serves it on the loopback interface only, to whoever knows the token in the address
that it prints.  Of a run it shows where its monitor is and how old its files are, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import html
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from gridmap import conf

PORT = 8076
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10">
<title>GridMap runs</title></head><body><h1>Runs</h1>
<p>{folder}</p>
<table><thead><tr><th>run</th><th>monitor</th><th>begun</th><th>last written</th></tr></thead>
<tbody>
{rows}
</tbody></table></body></html>
"""


class RunEntry(NamedTuple):
    """What can be seen of a run from outside; ages in seconds."""

    id: str
    monitor: str
    begun_s: float
    written_s: float


def list_runs(folder: Path, now: float) -> list[RunEntry]:
    """Returns the runs under a folder, latest first; a run that vanishes meanwhile is left out."""
    return sorted(_entries(folder, now), key=lambda run: run.begun_s)


def _entries(folder: Path, now: float) -> Iterator[RunEntry]:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        path = folder / name
        try:
            if path.is_symlink() or not path.is_dir():
                continue
            times = [entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(path)]
            times.append(path.stat().st_mtime)
        except OSError:
            continue
        yield RunEntry(name, _monitor(path), max(0.0, now - min(times)), max(0.0, now - max(times)))


def _monitor(run_dir: Path) -> str:
    """Returns where the monitor of a run is, as its connection file says, and if it lives."""
    try:
        with open(run_dir / "connection.json", "rb") as file:
            told = json.loads(file.read(1024**2))
        host, pid = str(told["host"]), int(told["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
    if host != socket.gethostname():
        return f"{host}, process {pid}"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "ended"
    except (PermissionError, OverflowError):
        return "unknown"
    return f"this host, process {pid}"


def age(seconds: float) -> str:
    """Returns "42 s ago", "5 min ago", "3 h ago" or "2 d ago"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


def page(folder: Path, runs: Sequence[RunEntry]) -> str:
    cells = ((run.id, run.monitor, age(run.begun_s), age(run.written_s)) for run in runs)
    rows = ["<td>" + "</td><td>".join(map(html.escape, row)) + "</td>" for row in cells]
    table = "\n".join(f"<tr>{row}</tr>" for row in rows or ["<td>none</td>"])
    return _PAGE.format(folder=html.escape(str(folder)), rows=table)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30  # of one request

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        given = parse_qs(address.query).get("token", [""])[0]
        # The host is checked too, or a page elsewhere could reach this one under a name of its own.
        host = self.headers.get("Host", "").rpartition(":")[0]
        known = hmac.compare_digest(given.encode(), self.server.token.encode())
        if not known or host not in ("127.0.0.1", "localhost"):
            self._answer(403, "Open the address that gridmap_web printed.\n", "text/plain")
        elif address.path != "/":
            self._answer(404, "There is nothing here.\n", "text/plain")
        else:
            runs = list_runs(self.server.folder, time.time())
            self._answer(200, page(self.server.folder, runs), "text/html")

    def _answer(self, status: int, text: str, kind: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a request's line holds the token."""


class Server(ThreadingHTTPServer):
    """Serves the list of runs on the loopback interface, to those who know the token."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = PORT) -> None:
        self.folder = folder
        self.token = secrets.token_urlsafe(24)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/?token={self.token}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `gridmap_web`."""
    parser = argparse.ArgumentParser("gridmap_web", description="Lists your runs on a web page.")
    parser.add_argument("--port", type=int, default=PORT, help="default: %(default)s; 0: any")
    options = parser.parse_args(argv)
    try:
        server = Server(Path(conf.settings().run_dir), options.port)
    except (OSError, OverflowError) as error:
        print(f"gridmap_web: port {options.port} of 127.0.0.1: {error}", file=sys.stderr)
        return 1
    with server, contextlib.suppress(KeyboardInterrupt):
        print(f"GridMap's runs: {server.url}", flush=True)
        server.serve_forever()
    return 0
