"""Listens, prints the address, and ends at once when it is told to."""

from __future__ import annotations

import contextlib
import html
import os
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from gridmap.web import app
from gridmap.web.events import Streams
from gridmap.web.security import Gate, Lock, is_loopback

MOST_TRIED = 50
"""Ports after the one that is taken."""


class Server(uvicorn.Server):
    """A server that does not wait for open pages when it ends."""

    def __init__(self, config: uvicorn.Config, streams: Streams) -> None:
        super().__init__(config)
        self._streams = streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._streams.close()
        super().handle_exit(sig, frame)


def serve(
    run_dir: str, host: str, port: int, open_browser: bool = False, profile: str | None = None
) -> int:
    """Serves the dashboard until it is interrupted; returns the exit status."""
    try:
        sock = listen(host, port)
    except OSError as error:
        print(f"gridmap_web: cannot listen on {host}, port {port}: {error}", file=sys.stderr)
        return 1
    bound = sock.getsockname()[1]
    lock = Lock(host, bound)
    name = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        name = socket.gethostname()
    if port not in (0, bound):
        print(f"gridmap_web: port {port} is taken, so it is {bound}", file=sys.stderr)
    if not is_loopback(host):
        print(
            "gridmap_web: what goes over the network is not encrypted; whoever can read it can do "
            "with your runs what you can. Better: ssh -L, see gridmap_web --help",
            file=sys.stderr,
        )
    address = f"http://{name}:{bound}/?token={lock.token}"
    with sock, contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as undo:
        print(f"GridMap's dashboard: {address}", flush=True)
        if open_browser:
            undo.enter_context(opened(address))
        _server(app.make(run_dir, profile), lock).run(sockets=[sock])
    return 0


def _server(application: Starlette, lock: Lock) -> Server:
    config = uvicorn.Config(
        Gate(application, lock),
        log_level="critical",  # it would log addresses, which hold the token
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    return Server(config, application.state.streams)


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at this port, or at the next one that is free.

    :raises OSError: there is none, or no such host
    """
    last = min(65535, port + MOST_TRIED) if port else 0
    for tried in range(port, last + 1):
        kind, address = _resolve(host, tried)
        sock = socket.socket(kind, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(128)
            return sock
        except OSError:
            sock.close()
            if tried == last:
                raise
    raise AssertionError  # the last one raises


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    kind, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return kind, address[:2]  # type: ignore[return-value]


@contextlib.contextmanager
def opened(address: str) -> Iterator[None]:
    """Opens a browser, by a file that only the user can read: others see a browser's arguments."""
    descriptor, name = tempfile.mkstemp(suffix=".html", prefix="gridmap-web-")
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(
            '<!DOCTYPE html><meta charset="utf-8"><title>GridMap</title>'
            f'<meta http-equiv="refresh" content="0;url={html.escape(address)}">'
        )
    try:
        webbrowser.open(Path(name).as_uri())
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)
