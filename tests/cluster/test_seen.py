"""Ten thousand calls with failures on a real scheduler: in a terminal, a browser and a mailbox.

What is checked, and more of the pages, stands in tests/survey.py and tests/survey_pages.py.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cluster.client import SLOTS, eventually, queued
from tests.report.conftest import post
from tests.report.mailbox import Post
from tests.survey import AT_THE_END, AT_THE_GATE, KILLED, LEAVES, VALUE_ERRORS, check_mails, survey
from tests.survey_pages import pages_of
from tests.web.browser import browser
from tests.web.conftest import dashboard_of

__all__ = ["post"]


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_a_run_with_failures_is_seen_everywhere(
    tmp_path: Path, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, settings = post.serve()
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o700)
    for name, value in {
        "GRIDMAP_RUN_DIR": str(runs),
        "HEARTBEAT_FREQUENCY": "0.25",
        "CHECK_FREQUENCY": "1",
        "MAX_IDLE_HEARTBEATS": "1000",
        "SEND_ERROR_MAIL": "1",
        "SMTP_SERVER": settings.smtp_server,
        "ERROR_MAIL_RECIPIENT": "ada@example.org",
    }.items():
        monkeypatch.setenv(name, value)
    begun = time.monotonic()
    with (
        browser() as chromium,
        survey(tmp_path, runs, {"max_workers": SLOTS}) as shown,
        dashboard_of(runs) as dashboard,
        pages_of(chromium, dashboard.address, shown.run) as pages,
    ):
        shown.check_display()
        shown.check_status(shown.other, AT_THE_GATE, 4)
        shown.check_jobs(shown.other)
        shown.check_show(shown.other, LEAVES)
        pages.check_run(AT_THE_GATE)

        shown.finish()
        check_mails(box, shown.run, time.monotonic() - begun)
        pages.check_run(AT_THE_END)
        pages.check_failed_jobs()
        shown.check_status(shown.client, AT_THE_END, 1)
        shown.check_jobs(shown.client)
        shown.check_show(shown.client, VALUE_ERRORS[0], KILLED[0])
    eventually(lambda: not queued(), what="no worker is left")
