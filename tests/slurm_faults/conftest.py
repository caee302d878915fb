"""Rows of the fault matrix on a Slurm that is broken; tools/fault_tests brings it up."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.clients import USER
from tests.slurm_faults.lab import CONFIGURATION, DAEMONS, TOOL, SlurmLab, tool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Shows what clients said where a test has failed."""
    outcome = yield
    report = outcome.get_result()
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.when == "call" and report.failed and lab is not None:
        for path in sorted(lab.folder.glob("output.*")):
            report.sections.append((path.name, path.read_text(errors="replace")[-8000:]))


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[SlurmLab]:
    """Returns the cluster in good order, and puts it in order again."""
    if not TOOL or os.getuid() != 0 or not CONFIGURATION.exists():
        pytest.fail("no Slurm here: run these tests by SCHEDULER=slurm tools/fault_tests")
    folder = Path(os.environ["FAULTS_WORK"], re.sub(r"\W", "_", request.node.name))
    (folder / "runs").mkdir(parents=True)
    for path in (folder, folder / "runs"):
        shutil.chown(path, USER)
        path.chmod(0o700)
    one = SlurmLab(folder)
    try:
        yield one
    finally:
        one.undo.close()
        _mend(one)
        shutil.rmtree(folder, ignore_errors=True)


def _mend(lab: SlurmLab) -> None:
    """Ends what is left; fails where the cluster cannot be put in order."""
    for name in DAEMONS:
        if not lab.daemon(name) and (name != "slurmdbd" or _with_accounting()):
            lab.start_daemon(name)
    for process in lab.processes():
        with contextlib.suppress(psutil.Error):
            process.kill()
    lab.empty_queue()
    for path in lab.files():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    deadline = time.monotonic() + 5
    while not lab.in_good_order() and time.monotonic() < deadline:
        time.sleep(0.2)
    if not lab.in_good_order():
        tool("hello")


def _with_accounting() -> bool:
    return "accounting_storage/slurmdbd" in CONFIGURATION.read_text()
