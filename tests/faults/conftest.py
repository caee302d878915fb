"""Rows of the fault matrix on three hosts; tools/fault_tests brings them up."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.clients import USER, eventually
from tests.faults.lab import NODES, TOOL, Host, Lab, tool


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


@pytest.fixture(scope="session")
def hosts() -> dict[str, Host]:
    if not TOOL or os.getuid() != 0:
        pytest.fail("no hosts here: run these tests by tools/fault_tests")
    return {name: Host(name) for name in ("head", "node1", "node2")}


@pytest.fixture
def lab(hosts: dict[str, Host], request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Returns the hosts in good order, and puts them in order again."""
    name = re.sub(r"\W", "_", request.node.name)
    folder = Path(os.environ["FAULTS_WORK"], name)
    (folder / "runs").mkdir(parents=True)
    for path in (folder, folder / "runs"):
        shutil.chown(path, USER)
        path.chmod(0o700)
    os.sync()
    one = Lab(folder, hosts)
    try:
        yield one
    finally:
        one.undo.close()
        _mend(one)
        shutil.rmtree(folder, ignore_errors=True)


def _mend(lab: Lab) -> None:
    """Ends what is left; fails where the hosts cannot be put in order."""
    for host in lab.hosts.values():
        if not host.powered:
            host.boot()
        daemon = "qmaster" if host.name == "head" else "execd"
        if not host.daemons(daemon):
            host.start_daemon(daemon)
    for process in lab.processes():
        process.kill()
    if lab.queued():
        lab.sge("qdel", "-u", USER, check=False)
        eventually(lambda: not lab.processes(), 10, "the user's processes end")
        deadline = time.monotonic() + 10
        while lab.queued() and time.monotonic() < deadline:
            time.sleep(0.1)
        if lab.queued():
            lab.sge("qdel", "-f", "-u", USER, check=False)
    for path in lab.files():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    queues = [line.split() for line in lab.sge("qstat", "-f", "-q", "all.q").splitlines()]
    if sum(len(line) == 5 and line[0].startswith("all.q@") for line in queues) < len(NODES):
        tool("engine", "head", "hello")
