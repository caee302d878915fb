"""What the tests of a backend on its own share."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from gridmap.backends.base import Backend, SubmitRequest
from gridmap.core.events import NativeState, NativeStatus

ENDED = {NativeState.DONE, NativeState.FAILED, NativeState.DELETED}
END_S = 20.0


def until(
    backend: Backend, ids: Sequence[str], states: set[NativeState], within_s: float = END_S
) -> dict[str, NativeStatus]:
    """Polls until each worker is in one of these states."""
    deadline = time.monotonic() + within_s
    seen: dict[str, NativeStatus] = {}
    while True:
        seen.update(backend.status(ids))
        if all(i in seen and seen[i].state in states for i in ids):
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"not {states} within {within_s:.0f} s: {seen}")
        time.sleep(0.05)


def run_to_end(backend: Backend, request: SubmitRequest) -> NativeStatus:
    [native_id] = backend.submit(request)
    return until(backend, [native_id], ENDED)[native_id]
