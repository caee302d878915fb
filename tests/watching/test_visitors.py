"""Whoever looks at a run may hang up: its user is not told of that, but of strangers."""

from __future__ import annotations

import logging
import os
import socket
import time

import pytest

from gridmap.wire.door import Door
from gridmap.wire.keys import KeyPair

DEADLINE_S = 30.0


@pytest.mark.parametrize("visitors", [True, False])
def test_who_hangs_up_is_news_only_where_nobody_comes_and_goes(
    visitors: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gridmap")
    name = f"gridmap-test-{os.urandom(8).hex()}"
    server, guest = KeyPair.generate(), KeyPair.generate()
    with Door(server, guest.public, local=f"ipc://@{name}", visitors=visitors) as door:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(f"\0{name}")
            caller.recv(1)  # it has begun to greet
        deadline = time.monotonic() + DEADLINE_S
        while not door.strangers:
            list(door.take(1))
            assert time.monotonic() < deadline
    (record,) = (one for one in caplog.records if "refused" in one.message)
    assert (record.levelno >= logging.WARNING) != visitors
