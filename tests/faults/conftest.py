"""Rows of the fault matrix on three hosts; tools/fault_tests brings them up."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.lab import STATE, TOOL, USER, Host, Lab, eventually, tool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


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
        if request.node.stash.get("bad", True): print(*[f"--- {p.name}\n{p.read_text()}" for p in sorted(folder.glob("*")) if p.is_file() and p.suffix != ".new"], sep="\n")
        shutil.rmtree(folder, ignore_errors=True)


def _mend(lab: Lab) -> None:
    """Ends what is left; fails where the hosts cannot be put in order."""
    for process in lab.processes():
        process.kill()
    if lab.queued():
        lab.sge("qdel", "-u", USER, check=False)
        eventually(lambda: not lab.processes(), 10, "the user's processes end")
        for _ in range(100):
            if not lab.queued():
                break
            lab.sge("sleep", "0.1")
        else:
            lab.sge("qdel", "-f", "-u", USER, check=False)
    for host in lab.hosts.values():
        for place in ("/dev/shm", str(STATE / "tmp")):
            for path in host.root(place).iterdir():
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    open_queues = lab.sge("qstat", "-f", "-q", "all.q")
    if sum(line.startswith("all.q@") and len(line.split()) == 5 for line in open_queues.splitlines()) < 2:
        tool("engine", "head", "hello")
