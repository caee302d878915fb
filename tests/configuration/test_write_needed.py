"""What `gridmap doctor --write-config` does not write, it says."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from gridmap import conf
from gridmap.doctor.screen import Screen
from gridmap.doctor.write_config import left_out, write_needed
from tests.doctor.visits import exam


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for setting in conf.TABLE:
        monkeypatch.delenv(setting.name, raising=False)
    monkeypatch.delenv("GRIDMAP_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_what_is_left_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_RESUBMITS", "7")
    monkeypatch.setenv("GRIDMAP_MAX_WORKERS", "50")
    visit = exam("--queue", "long", "--walltime", "10m", "--slots", "2")
    visit.needed = {("settings", "DEFAULT_QUEUE"): "long", ("settings", "GRIDMAP_MAX_WORKERS"): 50}
    told = left_out(visit)
    assert [line.split(",")[0] for line in told[:2]] == [
        "not written: --slots 2", "not written: --walltime 10m",
    ]  # fmt: skip
    assert told[2].startswith("not written: NUM_RESUBMITS of the environment") and len(told) == 3
    stream = io.StringIO()
    assert write_needed(visit, Screen(stream, {}))
    assert "not written: --walltime 10m" in stream.getvalue()


def test_nothing_left_out() -> None:
    assert left_out(exam()) == []
