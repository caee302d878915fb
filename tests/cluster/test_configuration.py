"""Calls that are told by a configuration file what to ask the scheduler for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import gridmap
from gridmap.backends.registry import description_of
from tests.cluster.scheduler import SCHEDULER

PROFILE = """
[profiles.small]
backend = "{backend}"
max_workers = 1
resources = {{ slots = 1, walltime = "10m" }}
add_env = {{ FROM_THE_PROFILE = "yes" }}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a working directory in which a gridmap.toml counts, and no other file."""
    monkeypatch.setenv("GRIDMAP_CONFIG", "")
    monkeypatch.setenv("GRIDMAP_SITE_CONFIG", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def telling() -> Callable[[int], tuple[str | None, str, int]]:
    """Returns a function that travels by value; it tells what a job sees, and who runs it."""

    def told(_: int) -> tuple[str | None, str, int]:
        return os.environ.get("FROM_THE_PROFILE"), os.uname().nodename, os.getppid()

    return told


def test_a_profile_says_what_to_ask_for(folder: Path) -> None:
    write(folder / "gridmap.toml", PROFILE.format(backend=SCHEDULER.backend))
    values = gridmap.grid_map(telling(), range(8), profile="small", reuse=False)
    assert {value[0] for value in values} == {"yes"}
    assert len({value[1:] for value in values}) == 1  # one worker
    job = gridmap.Job(telling(), [0], profile="small")
    assert job.resources_wanted().walltime_s == 600
    assert gridmap.process_jobs([job], profile="small")[0][0] == "yes"


@pytest.mark.only_on("grid_engine_commands", "slurm_commands")
def test_a_backend_by_its_name_in_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = description_of(SCHEDULER.backend)
    assert description is not None
    write(folder / "here.toml", description.read_text())
    named = '[settings]\nGRIDMAP_PROFILE = "small"\n[backends.mine]\nfile = "here.toml"\n'
    write(folder / "gridmap.toml", named + PROFILE.format(backend="mine"))
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert [value[0] for value in gridmap.grid_map(telling(), range(3))] == ["yes"] * 3
