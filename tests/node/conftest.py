"""What the tests of nodes share."""

from __future__ import annotations

import threading

import pytest

from tests.node.driver import wait_for


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Lets threads of earlier tests end, such as one that hangs up; with them nothing can fork."""
    wait_for(lambda: threading.active_count() == 1)
