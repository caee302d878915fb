"""The pictures in docs/dashboard.rst, made of the pages as they are.

`tools/screenshots` makes them anew; else they are only made, and looked at by no one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridmap.core.spec import Resources
from tests.web.browser import browser, visitor_of
from tests.web.conftest import Client, Dashboard, client_of, dashboard_of
from tests.web.ledgers import make
from tests.web.test_actions import wait_for_run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

MOST_BYTES = 200_000
RUN = "20261120-101500-a1b2c3d4"
ERRORS = (
    "ValueError: station 4711 has no data before 1951",
    "FileNotFoundError: [Errno 2] No such file or directory: '/data/era5/t2m_1951.nc'",
    "ValueError: station 4712 has no data before 1951",
)
DETAILS = """Traceback (most recent call last):
  File "/home/ada/climate/fit.py", line 48, in fit_station
    series = load(station, first_year)
  File "/home/ada/climate/load.py", line 17, in load
    raise ValueError(f"station {station} has no data before {first_year}")
ValueError: station 4711 has no data before 1951
"""
ELSEWHERE = """([host, name, folder, home]) => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const one = walker.currentNode;
        one.data = one.data.replaceAll(folder, home);
        if (one.data.trim() === host) one.data = name;
        one.data = one.data.replace(` on ${host},`, ` on ${name},`);
    }
}"""
"""Shows the names of a machine that is none, instead of this one's."""
PICTURES = [
    ("runs-light", "/", "light", "desk"),
    ("run-light", f"/runs/{RUN}", "light", "desk"),
    ("run-dark", f"/runs/{RUN}", "dark", "desk"),
    ("run-phone", f"/runs/{RUN}", "dark", "phone"),
    ("jobs-light", f"/runs/{RUN}/jobs?state=failed&sort=memory&desc=1", "light", "desk"),
    ("job-light", f"/runs/{RUN}/jobs/50", "light", "desk"),
    ("live-dark", "", "dark", "desk"),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dashboard, Client]]:
    folder = tmp_path_factory.mktemp("screens") / "runs"
    folder.mkdir(mode=0o700)
    log = folder / "fit_stations.o4711.1"
    log.write_text("".join(f"10:21:{n:02} station 47{n:02} fitted\n" for n in range(20)))
    asked = Resources(h_vmem="4G", num_slots=1)
    make(folder, RUN, 2000, name="fit_stations", errors=ERRORS, failed_of=100, asked=asked,
         logs=[log], details=DETAILS, notes=["all.q is full: 12 workers wait"])  # fmt: skip
    make(folder, "20261119-170312-5e6f7a8b", 800, name="regrid_models", failed_of=0)
    make(
        folder,
        "20261119-091144-99aa00bb",
        120,
        name="download_era5",
        failed_of=0,
        ended=False,
        missing=31,
    )
    with client_of(folder, 400, 2.0) as client, dashboard_of(folder) as one:
        wait_for_run(one, client)
        yield one, client
        assert one.process.poll() is None, one.process.stderr and one.process.stderr.read()


@pytest.mark.parametrize(("name", "path", "scheme", "size"), PICTURES)
def test_picture(
    chromium: Any,
    shown: tuple[Dashboard, Client],
    tmp_path: Path,
    root: Path,
    name: str,
    path: str,
    scheme: str,
    size: str,
) -> None:
    one, client = shown
    folder = Path(os.environ.get("GRIDMAP_SCREENSHOTS") or tmp_path)
    with visitor_of(chromium, one.address, scheme, size) as visitor:
        page = visitor.go(path or f"/runs/{client.run}")
        page.get_by_role("heading", level=1).wait_for()
        if not path:
            page.wait_for_timeout(6000)  # a few turns of the stream
        page.evaluate(
            ELSEWHERE, [os.uname().nodename, "login01", str(one.run_dir), "/home/ada/runs"]
        )
        picture = folder / f"{name}.png"
        whole = size == "desk" and "/jobs?" not in path
        page.screenshot(path=picture, full_page=whole, animations="disabled")
    assert 10_000 < picture.stat().st_size < MOST_BYTES
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_docs_show_the_pictures_that_there_are(root: Path) -> None:
    text = (root / "docs" / "dashboard.rst").read_text()
    named = set(re.findall(r"images/(\S+)\.png", text))
    there = {path.stem for path in (root / "docs" / "images").glob("*.png")}
    assert named == there == {name for name, *_ in PICTURES}
    sizes = [path.stat().st_size for path in (root / "docs" / "images").glob("*.png")]
    assert max(sizes) < MOST_BYTES
