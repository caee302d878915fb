"""What the scheduler and ZeroMQ do without GridMap, to compare with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cluster.schedulers import SCHEDULER

STAMP = """\
import time
now = time.time()
import os
number = os.environ.get("SGE_TASK_ID") or os.environ["SLURM_ARRAY_TASK_ID"]
open(os.path.join(os.path.dirname(__file__), number), "x").write(repr(now))
"""


def array_job(tasks: int) -> tuple[float, float]:
    """Returns how long an array job of interpreters takes to its first task's first line, and to
    the last one's [s], counted from its submission."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        script = Path(name, "stamp.py")
        script.write_text(STAMP)
        began = time.time()
        SCHEDULER.submit(tasks, sys.executable, str(script))
        deadline = time.monotonic() + 30 + tasks
        while len(stamps := _stamps(script.parent)) < tasks:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{tasks} tasks have not run")
            time.sleep(0.02)
    return stamps[0] - began, stamps[-1] - began


def _stamps(folder: Path) -> list[float]:
    """Returns when tasks ran, as far as they have written it."""
    written = (path.read_text() for path in folder.iterdir() if path.name.isdigit())
    return sorted(float(text) for text in written if text)


# --- ZeroMQ ---------------------------------------------------------------------------------------

WINDOW = 16


def zeromq(count: int, size: int) -> float:
    """Returns how many MB/s an encrypted DEALER and an encrypted ROUTER in another process move,
    there and back together, in messages of `size` bytes."""
    import zmq

    server_public, server_secret = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    keys = [key.decode() for key in (server_public, server_secret)]
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cluster.bare"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdin is not None and server.stdout is not None
    with server, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        server.stdin.write(json.dumps(keys) + "\n")
        server.stdin.flush()
        dealer.linger = 0
        dealer.curve_serverkey = server_public
        dealer.curve_publickey, dealer.curve_secretkey = public, secret
        dealer.connect(server.stdout.readline().strip())
        body = os.urandom(size)
        dealer.send(b"ready")
        dealer.recv()
        began = time.perf_counter()
        sent = 0
        for received in range(count):
            while sent < min(count, received + WINDOW):
                dealer.send(body)
                sent += 1
            message = dealer.recv(copy=False)
            assert len(message) == size
        seconds = time.perf_counter() - began
        assert message.bytes == body
        server.stdin.close()
    return 2 * count * size / seconds / 1e6


def _echo() -> None:
    """The other process: sends back what it gets, until its standard input ends."""
    import zmq

    _, secret = json.loads(sys.stdin.readline())
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.curve_server = True
        router.curve_secretkey = secret.encode()
        port = router.bind_to_random_port("tcp://127.0.0.1")
        print(f"tcp://127.0.0.1:{port}", flush=True)
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(sys.stdin.fileno(), zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if router in ready:
                for part in router.recv_multipart(copy=False):
                    router.send(part, zmq.SNDMORE if part.more else 0, copy=False)
            elif ready:
                return


if __name__ == "__main__":
    _echo()
