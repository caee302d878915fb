"""A scheduler by its commands, as files describe them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import gridmap
from gridmap.errors import BackendError
from tests.cluster.client import eventually, queued
from tests.test_examples import python_blocks


@pytest.mark.only_on("slurm")
def test_the_page_on_adding_a_scheduler_runs_as_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (root / "docs/adding_a_scheduler.rst").read_text()
    block = re.search(r"code-block:: toml\n\n((?:    .*\n|\n)+)", page)
    assert block is not None
    (tmp_path / "mycluster.toml").write_text(textwrap.dedent(block[1]))
    monkeypatch.chdir(tmp_path)
    (program,) = python_blocks(page, "run on a cluster")
    exec(program, {"__name__": "page"})
    assert capsys.readouterr().out == "[0, 1, 4, 9]\n"
    eventually(lambda: not queued(), what="nothing is left")


@pytest.mark.only_on("grid_engine_commands", "slurm_commands")
def test_a_refusal_has_the_schedulers_own_words() -> None:
    with pytest.raises(BackendError, match="(?i)queue|partition"):
        gridmap.grid_map(abs, [1], queue="no-such-queue")
