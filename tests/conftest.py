"""What all tests share: no mail leaves, runs stay in a temporary folder, settings are put back."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridmap import conf
from tests.rows import Stopwatch, record


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Of the whole process, so that the processes that tests start inherit it.
    os.environ["SEND_ERROR_MAIL"] = "0"
    os.environ["GRIDMAP_CONFIG"] = os.devnull  # no configuration file of this machine counts
    os.environ.pop("GRIDMAP_PROFILE", None)
    os.environ.setdefault("GRIDMAP_RUN_DIR", str(tmp_path_factory.mktemp("runs")))
    # What a shell starts in the background ignores interrupts, and so would all these processes.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _settings_put_back() -> Iterator[None]:
    yield
    for module in ("gridmap", "gridmap.conf"):
        for setting in conf.TABLE:
            vars(sys.modules[module]).pop(setting.name, None)


@pytest.fixture
def stopwatch(request: pytest.FixtureRequest) -> Stopwatch:
    """Returns what a row of the fault matrix is measured with."""
    request.node.stopwatch = Stopwatch()
    return request.node.stopwatch


@pytest.hookimpl(hookwrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Measures the test of a row of the fault matrix, and holds it to its bound."""
    declared = pyfuncitem.get_closest_marker("fault")
    watch = getattr(pyfuncitem, "stopwatch", None) or Stopwatch()
    outcome = yield
    if declared is None:
        return
    seconds, bound_s = watch.seconds, declared.kwargs["bound_s"]
    error = outcome.excinfo[1] if outcome.excinfo else None
    if error is None and seconds > bound_s:
        error = AssertionError(f"took {seconds:.1f} s; the bound is {bound_s} s")
        outcome.force_exception(error)
    record(pyfuncitem, seconds, error)


@pytest.fixture(scope="session")
def root() -> Path:
    """Returns the folder of the project."""
    return Path(__file__).resolve().parents[1]
