"""The pages of the dashboard about the run of tests/survey.py, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.survey import (
    AGAIN,
    AT_THE_GATE,
    CALLS,
    DIED,
    FAILED,
    KEY_ERRORS,
    KILLED,
    LEAVES,
    VALUE_ERRORS,
    WHY,
    Numbers,
)
from tests.web.browser import Visitor, axe_script, violations, visitor_of


class Pages:
    """Somebody who has the run's page open, and goes to others."""

    def __init__(self, chromium: Any, address: str, run: str, visitor: Visitor) -> None:
        self._chromium = chromium
        self._address = address
        self._run = f"/runs/{run}"
        self._axe = axe_script()
        self._page = visitor.go(self._run)
        self._visitor = visitor

    def check_run(self, numbers: Numbers) -> None:
        """Waits until the page, which is not loaded anew, has these numbers; checks the others."""
        page, under_way = self._page, numbers is AT_THE_GATE
        states = page.locator(".states")
        for number, state in zip(numbers, numbers._fields, strict=True):
            states.get_by_text(re.compile(rf"^\W*{number:,} {state}$")).wait_for()
        page.locator(".badge.under-way" if under_way else ".badge.failed").first.wait_for()
        found = _flat(states.inner_text())
        assert f"{CALLS:,} jobs" in found and ("1 running" in found) == under_way, found
        figures = _flat(page.locator("dl.figures").first.inner_text())
        assert f"{sum(numbers):,} of {CALLS:,}" in figures, figures
        assert f"{len(AGAIN)} failed attempts repeated" in figures, figures
        if under_way:  # the one that was killed is not among them
            (up,) = re.findall(r"Workers (\d+)", figures)
            hosts = _flat(page.locator("section[aria-labelledby=hosts-title]").inner_text())
            assert sum(map(int, re.findall(r"(\d+) up", hosts))) == int(up), (up, hosts)
        failures = page.locator(".failures > li")
        for jobs, kind, words in (
            (VALUE_ERRORS, "ValueError", f"no data of station {VALUE_ERRORS[0]}"),
            (KEY_ERRORS, "KeyError", f"KeyError: {KEY_ERRORS[0]}"),
            (tuple(sorted(DIED)), "died", "died on"),
        ):
            # each part of the page is brought up to date by itself
            counted = failures.filter(has_text=re.compile(rf"^\W*{len(jobs)}\W+{kind}\b"))
            counted.wait_for()
            group = _flat(counted.inner_text())
            assert words in group, group
            linked = re.findall(r"job (\d+)\b(?! \()", group)
            assert tuple(map(int, linked)) == jobs, group
        assert failures.count() == 3, failures.all_inner_texts()
        notes = page.locator(".notes li", has_text="(exception)").count()
        assert notes == len(AGAIN), page.locator(".notes").inner_text()

    def check_failed_jobs(self) -> None:
        """Goes to the jobs that failed: those and no others."""
        place = f"{self._run}/jobs?state=failed"
        assert self._numbers(place) == FAILED
        with self._at(place) as page:
            row = page.locator("table.jobs tbody tr", has_text=f"survey{KILLED[1]}")
            took = row.locator("td.number").nth(1).inner_text()
        assert took == "–", "nobody lived to say how long"

    def _numbers(self, place: str) -> tuple[int, ...]:
        with self._at(place) as page:
            cells = page.locator("table.jobs tbody td:first-child").all_inner_texts()
        return tuple(map(int, cells))

    def check_jobs(self) -> None:
        """Goes to one job of each kind, whose page says why it failed."""
        for job, (cause, words) in WHY.items():
            with self._at(f"{self._run}/jobs/{job}") as page:
                why = page.locator("section[aria-labelledby=error-title]").inner_text()
                assert words in why and cause in why, why
                assert ("in survey" in why) == (cause == "exception"), why
                assert page.locator(".badge.failed").first.is_visible()
                logs = page.locator("section[aria-labelledby=logs-title]").inner_text()
            if job == LEAVES:
                assert "the disk is full" in logs, logs

    def look_at(self, picture: Path, place: str, scheme: str, size: str) -> None:
        """Goes to a page; checks it by axe, and leaves a picture of it for people to look at."""
        with visitor_of(self._chromium, self._address, scheme, size) as visitor:
            page = _answered(visitor.go(self._run + place))
            page.screenshot(path=picture, full_page=True, animations="disabled")
            found = violations(page, self._axe)
            assert not found, (place, scheme, size, found)
            wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{place} is {wide} pixels too wide ({size})"
            assert visitor.complaints == []
        assert picture.stat().st_size > 10_000

    def check_quiet(self) -> None:
        """Checks that the browser never complained."""
        assert self._visitor.complaints == []

    @contextmanager
    def _at(self, place: str) -> Iterator[Any]:
        page = self._visitor.context.new_page()
        page.goto(self._visitor.home + place)
        yield _answered(page)
        page.close()


@contextmanager
def pages_of(chromium: Any, address: str, run: str) -> Iterator[Pages]:
    """Opens the run's page in a browser."""
    with visitor_of(chromium, address) as visitor:
        yield Pages(chromium, address, run, visitor)


def _answered(page: Any) -> Any:
    """Waits until the run has answered what the page asks, which a busy machine may put off."""
    page.get_by_text("has not answered yet").first.wait_for(state="hidden")
    return page


def _flat(text: str) -> str:
    return " ".join(text.split())
