"""A limit on memory of one's own, on a real scheduler."""

from __future__ import annotations

import os
import time

import pytest

from gridmap import JobOutOfMemory, grid_map
from gridmap.errors import Cause
from tests.cluster.client import eventually, processes


def test_a_job_and_what_it_started_may_have_so_much_and_no_more(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("NUM_RESUBMITS", "0")
    place = tmp_path / "pid"

    def starts_a_greedy_one(_: int) -> None:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            kept = []
            while len(kept) < 600:
                kept.append(b"x" * (1 << 20))
                time.sleep(0.005)
            time.sleep(60)
        place.write_text(str(pid))
        os.waitpid(pid, 0)

    began = time.monotonic()
    with pytest.raises(JobOutOfMemory, match=r"of the 200\.0 MB that max_rss allows") as caught:
        grid_map(starts_a_greedy_one, [0], max_rss="200M")
    print(f"over max_rss: {time.monotonic() - began:.1f} s: {caught.value}")
    error = caught.value
    assert error.cause is Cause.MEMORY and error.rss_bytes > 200 << 20
    eventually(lambda: int(place.read_text()) not in processes(), 5.0)
