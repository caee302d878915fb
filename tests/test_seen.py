"""Ten thousand calls, thirteen of which fail: in a terminal, in a browser and in a mailbox.

The workers are processes of this machine that a scheduler of the tests starts, since mails about
jobs are for those who do not sit beside them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.visits import ROOT, plug_in
from tests.report.conftest import post
from tests.report.mailbox import Post
from tests.survey import AT_THE_END, AT_THE_GATE, KILLED, LEAVES, VALUE_ERRORS, check_mails, survey
from tests.survey_pages import pages_of
from tests.web.browser import browser
from tests.web.conftest import dashboard_of

__all__ = ["post"]

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

PICTURES = (
    ("ended-run", "", "dark", "phone"),
    ("ended-failed", "/jobs?state=failed", "light", "phone"),
    ("ended-raised", f"/jobs/{VALUE_ERRORS[0]}", "dark", "desk"),
)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of the runs; the backend "processes" is there for programs."""
    path = plug_in(tmp_path / "plugged")
    folder = tmp_path / "runs"
    folder.mkdir(mode=0o700)
    for name, value in {
        "PYTHONPATH": f"{path}{os.pathsep}{ROOT}",
        "GRIDMAP_RUN_DIR": str(folder),
        "HEARTBEAT_FREQUENCY": "0.25",
        "MAX_IDLE_HEARTBEATS": "1000",
        "SEND_ERROR_MAIL": "1",
        "ERROR_MAIL_RECIPIENT": "ada@example.org",
    }.items():
        monkeypatch.setenv(name, value)
    return folder


def test_a_run_with_failures_is_seen_everywhere(
    tmp_path: Path, runs: Path, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, settings = post.serve()
    monkeypatch.setenv("SMTP_SERVER", settings.smtp_server)
    how: dict[str, Any] = {"backend": "processes", "max_workers": 2}
    begun = time.monotonic()
    pictures = Path(os.environ.get("GRIDMAP_SEEN") or tmp_path)
    with (
        browser() as chromium,
        survey(tmp_path, runs, how) as shown,
        dashboard_of(runs) as dashboard,
        pages_of(chromium, dashboard.address, shown.run) as pages,
    ):
        shown.check_display()
        shown.check_status(shown.other, AT_THE_GATE, 4)
        pages.check_run(AT_THE_GATE)
        pages.look_at(pictures / "live-run.png", "", "light", "desk")

        shown.finish()
        check_mails(box, shown.run, time.monotonic() - begun)
        pages.check_run(AT_THE_END)
        pages.check_failed_jobs()
        pages.check_jobs()
        for name, place, scheme, size in PICTURES:
            pages.look_at(pictures / f"{name}.png", place, scheme, size)
        pages.check_quiet()

        shown.check_status(shown.client, AT_THE_END, 1)
        shown.check_jobs(shown.client)
        shown.check_show(shown.client, VALUE_ERRORS[0], KILLED[0], LEAVES)
