"""The pages in a real browser: nothing of others runs, all can be used, what changes is seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.browser import axe_script, browser, violations, visitor_of
from tests.web.conftest import DEADLINE_S, RUN, Dashboard, client_of, dashboard_of
from tests.web.test_actions import wait, wait_for_run
from tests.web.test_pages import HOSTILE_RUN, make_hostile

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

PAGES = ["/", RUN, f"{RUN}/jobs", f"{RUN}/jobs?state=failed&sort=seconds&desc=1", f"{RUN}/jobs/50",
         f"{RUN}/jobs/60", "/runs/none", "/?q=nothing"]  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


def unfold(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


@pytest.mark.parametrize(
    ("scheme", "size", "rules"),
    # a dark page differs in its colors alone, and a small one has the same colors
    [("light", "desk", []), ("light", "phone", []), ("dark", "desk", ["color-contrast"])],
)
def test_axe_finds_nothing(
    chromium: Any, dashboard: Dashboard, scheme: str, size: str, rules: list[str]
) -> None:
    script = axe_script()
    with visitor_of(chromium, dashboard.address, scheme, size) as visitor:
        for path in PAGES:
            page = visitor.go(path)
            unfold(page)
            assert violations(page, script, rules) == [], path
            wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{path} is {wide} pixels too wide"


def test_axe_finds_what_is_wrong(chromium: Any, dashboard: Dashboard) -> None:
    with visitor_of(chromium, dashboard.address) as visitor:
        visitor.page.evaluate("document.querySelector('label').remove()")
        assert any("label" in one for one in violations(visitor.page, axe_script()))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_what_can_hardly_be_read(
    chromium: Any, dashboard: Dashboard, scheme: str
) -> None:
    with visitor_of(chromium, dashboard.address, scheme) as visitor:
        visitor.page.evaluate("document.querySelector('h1').style.opacity = 0.3")
        assert violations(visitor.page, axe_script(), ["color-contrast"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_what_the_system_says(
    chromium: Any, dashboard: Dashboard, scheme: str
) -> None:
    with visitor_of(chromium, dashboard.address, scheme) as visitor:
        color = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
        shade = sum(map(int, color[4:-1].split(",")))
    assert (shade > 600) == (scheme == "light")


def test_nothing_hostile_runs(chromium: Any, tmp_path: Path) -> None:
    run = make_hostile(tmp_path / "runs")
    with (
        dashboard_of(tmp_path / "runs") as one,
        visitor_of(chromium, one.address, size="phone") as visitor,
    ):
        for path in ("/", run, f"{run}/jobs", *(f"{run}/jobs/{n}" for n in (0, *range(1, 20, 2)))):
            page = visitor.go(path)
            page.locator("#still").wait_for(state="hidden")  # its script has put parts in
            unfold(page)
            assert page.evaluate("window.hurt") is None
            assert page.locator("main h1").count() == 1, path
            assert page.locator("img").count() == 0
            assert page.evaluate("document.scripts.length") == 1
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        assert HOSTILE_RUN in page.url
        assert visitor.complaints == [] or all("404" in one for one in visitor.complaints)
        assert {url.split("/")[2] for url in visitor.asked} == {one.address.split("/")[2]}


def test_the_policy_holds(chromium: Any, dashboard: Dashboard) -> None:
    with visitor_of(chromium, dashboard.address) as visitor:
        visitor.page.evaluate(
            "() => { const one = document.createElement('script'); one.textContent = 'window.hurt"
            " = 1'; document.body.append(one); const two = document.createElement('img');"
            "two.src = 'http://127.0.0.1:9/x.png'; document.body.append(two);"
            "document.body.setAttribute('onclick', 'window.hurt = 2'); document.body.click(); }"
        )
        assert visitor.page.evaluate("window.hurt") is None
        wait(lambda: sum("Content Security Policy" in one for one in visitor.complaints) >= 3)


def test_it_works_without_scripts(chromium: Any, dashboard: Dashboard) -> None:
    with visitor_of(chromium, dashboard.address, java_script_enabled=False) as visitor:
        page = visitor.page
        page.get_by_role("link", name="stations").click()
        page.get_by_role("link", name="5 failed").click()
        assert page.locator("tbody tr").count() == 5
        page.get_by_role("searchbox").fill("KeyError")
        page.get_by_label("Sort by").select_option("seconds")
        page.get_by_label("largest first").check()
        page.get_by_role("button", name="Show").click()
        assert page.locator("tbody tr").count() == 2
        page.locator("tbody a").first.click()
        assert page.get_by_role("heading", level=1).inner_text().startswith("Job ")
        page.get_by_role("link", name="stations", exact=True).click()
        page.get_by_text("Run again what failed").click()
        assert page.get_by_role("button", name="Yes, run them again").is_visible()
        assert page.get_by_text("load it again").is_visible()


def test_the_keyboard_reaches_everything(chromium: Any, dashboard: Dashboard) -> None:
    with visitor_of(chromium, dashboard.address) as visitor:
        page = visitor.go(f"{RUN}/jobs")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        reached: set[str] = set()
        for _ in range(90):
            page.keyboard.press("Tab")
            told = page.evaluate(
                "() => { const one = document.activeElement, style = getComputedStyle(one);"
                "return [one.tagName, style.outlineStyle, style.outlineWidth]; }"
            )
            if told[0] == "BODY":
                break
            reached.add(told[0])
            assert told[1:] == ["solid", "3px"], "the focus can be seen"
        assert {"A", "INPUT", "SELECT", "BUTTON", "DIV"} <= reached


def test_what_changes_is_seen_and_nothing_else_moves(chromium: Any, tmp_path: Path) -> None:
    with (
        client_of(tmp_path, 2000, 0.05) as client,
        dashboard_of(tmp_path) as one,
        visitor_of(chromium, one.address) as visitor,
    ):
        page = visitor.go(wait_for_run(one, client))
        done = page.locator(".states a", has_text="completed").locator("strong")
        before = done.inner_text()
        page.locator("details.workers summary").click()
        link = page.locator(".states a").first
        link.focus()
        link.evaluate("one => one.marked = true")
        title = page.title()
        wait(lambda: _changed(page, done, before))
        assert page.evaluate("document.activeElement.marked"), "the same link has the focus"
        assert page.locator("details.workers").get_attribute("open") is not None
        assert page.locator("#say").inner_text().startswith("Run piece0 is under way")
        wait(lambda: _changed(page, page.locator("title"), title, text=True))

        page.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
        kept = done.inner_text()
        page.wait_for_timeout(4500)  # two turns of the stream
        assert page.evaluate("getSelection().toString()").startswith("piece0")
        assert done.inner_text() == kept, "what is selected waits"
        page.evaluate("getSelection().removeAllRanges()")
        wait(lambda: _changed(page, done, kept))
        page.get_by_text("Cancel this run").click()
        page.get_by_role("button", name="Yes, cancel the run").click()
        assert "was told to cancel" in page.get_by_role("status").first.inner_text()
        assert client.process.wait(DEADLINE_S) == 0
        page.locator(".badge.ended, .badge.failed").first.wait_for()
        assert visitor.complaints == []


def _changed(page: Any, locator: Any, before: str, text: bool = False) -> bool:
    page.wait_for_timeout(50)
    return bool((page.title() if text else locator.inner_text()) != before)


def test_a_dashboard_that_has_ended_is_said(chromium: Any, run_dir: Path) -> None:
    with dashboard_of(run_dir) as one, visitor_of(chromium, one.address) as visitor:
        page = visitor.go(RUN)
        page.wait_for_timeout(500)
        one.process.kill()
        one.process.wait(DEADLINE_S)
        page.get_by_text("The dashboard does not answer").wait_for()
        assert page.get_by_role("heading", level=1).inner_text() == "stations"


def test_a_page_that_nobody_looks_at_asks_nothing(chromium: Any, dashboard: Dashboard) -> None:
    with visitor_of(chromium, dashboard.address) as visitor:
        page = visitor.go(RUN)
        wait(lambda: any(url.endswith("/events") or "/events?" in url for url in visitor.asked))
        page.evaluate(
            "() => { Object.defineProperty(document, 'hidden', {get: () => true, configurable: true"
            "}); document.dispatchEvent(new Event('visibilitychange')); }"
        )
        asked = len(visitor.asked)
        time.sleep(4)
        assert len(visitor.asked) == asked
        page.evaluate(
            "() => { Object.defineProperty(document, 'hidden', {get: () => false, configurable: "
            "true}); document.dispatchEvent(new Event('visibilitychange')); }"
        )
        wait(lambda: _asked_more(page, visitor.asked, asked))


def _asked_more(page: Any, asked: list[str], before: int) -> bool:
    page.wait_for_timeout(50)
    return len(asked) > before
