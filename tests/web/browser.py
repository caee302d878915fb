"""Debian's Chromium, driven by Playwright, and axe, which finds what keeps people out."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZES = {"desk": (1200, 900), "phone": (360, 740)}


def require() -> str:
    """Returns where Chromium is; skips the test where it is not, which is a failure in CI."""
    if CHROMIUM is None:
        missing = "no chromium on PATH (Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return CHROMIUM


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Starts Chromium."""
    path = require()
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield found
        finally:
            found.close()


class Visitor:
    """Somebody who looks at pages, and all that their browser complained of."""

    def __init__(self, context: Any, address: str) -> None:
        self.context = context
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.home = address.split("/?")[0]
        self.page.goto(address)

    def go(self, path: str) -> Any:
        self.page.goto(self.home + path)
        return self.page


@contextlib.contextmanager
def visitor_of(
    chromium: Any, address: str, scheme: str = "light", size: str = "desk", **options: Any
) -> Iterator[Visitor]:
    width, height = SIZES[size]
    context = chromium.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
        **options,
    )
    try:
        yield Visitor(context, address)
    finally:
        context.close()


def axe_script() -> str:
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


def violations(page: Any, script: str, rules: Sequence[str] = ()) -> list[str]:
    """Returns what axe finds on a page; its script runs by the debugger, past the page's policy.

    :param rules: only these are looked at
    """
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    page.evaluate(script)
    found = page.evaluate(
        "only => axe.run(document, {resultTypes: ['violations'], runOnly: only})",
        {"type": "rule", "values": list(rules)} if rules else {"type": "tag", "values": tags},
    )
    return [
        f"{one['id']}: {one['help']}: {node['target']} {node['html'][:200]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
