"""What the pages show, and that what comes from user code is shown and does nothing."""

from __future__ import annotations

import html
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridmap.core.spec import Resources
from tests.web.conftest import DEADLINE_S, RUN, Dashboard, client_of, dashboard_of
from tests.web.ledgers import make

SCRIPT = "<script>window.hurt = 1</script>"
IMAGE = '"><img src=x onerror="window.hurt = 2">'
HOSTILE = [
    SCRIPT,
    IMAGE,
    "javascript:alert(1)//",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "gpj.\u202eexe.\u2066",
    "nul\x00byte\x7f",
    "{{ 7 * 7 }}{% raise %}",
    "</pre></details></main><h1>gone</h1>",
    "x" * 50_000,
    "\U0001f9e8 größe 漢字 \u0301\u0301\u0301",
]
HOSTILE_RUN = "20261119-000000-bad0bad0"


def make_hostile(folder: Path) -> str:
    """Makes a run whose names, errors, logs and hosts were made to do harm; returns its address."""
    folder.mkdir(mode=0o700, exist_ok=True)
    log = folder / "evil<b>.log"
    log.write_bytes("\n".join(HOSTILE).encode() + b"\xff\xfe\x00")
    fifo = folder / "a pipe"
    os.mkfifo(fifo)
    make(
        folder,
        HOSTILE_RUN,
        40,
        name=IMAGE,
        names=[HOSTILE[n % len(HOSTILE)] for n in range(40)],
        errors=HOSTILE,
        failed_of=2,
        hosts=HOSTILE[:5],
        logs=[log, fifo],
        notes=HOSTILE,
        details="\n".join(HOSTILE),
    )
    return f"/runs/{HOSTILE_RUN}"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    folder = tmp_path_factory.mktemp("hostile")
    make_hostile(folder)
    with dashboard_of(folder) as found:
        yield found


def words(page: str) -> str:
    """Returns the text of a page, without its tags."""
    body = page.partition("<main")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def numbers(page: str) -> list[int]:
    return [int(one) for one in re.findall(r'aria-label="Job (\d+)"', page)]


def link(page: str, text: str) -> str:
    found = re.search(rf'<a[^>]*href="([^"]+)"[^>]*>{text}</a>', page)
    assert found is not None, text
    return html.unescape(found[1])


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with dashboard_of(tmp_path / "none") as one:
        assert "There are no runs in" in one.ask("/").text
        assert one.ask("/runs/x").status == 404


def test_runs_are_listed_with_what_became_of_them(dashboard: Dashboard) -> None:
    page = words(dashboard.ask("/").text)
    assert "stations ✕ ended, 5 failed" in page
    assert "500 of 500 jobs, 5 failed" in page
    assert "No run has nothing-like-it" in words(dashboard.ask("/?q=nothing-like-it").text)


def test_runs_come_page_by_page(tmp_path: Path) -> None:
    for number in range(27):
        folder = make(tmp_path, f"run-{number:02}", 1, failed_of=0)
        os.utime(folder / "ledger.sqlite", (number * 60, number * 60))
    with dashboard_of(tmp_path) as one:
        first = one.ask("/").text
        assert re.findall(r'href="/runs/run-(\d+)"', first)[:2] == ["26", "25"]
        second = one.ask("/" + link(first, "Earlier ones")).text
        assert re.findall(r'href="/runs/run-(\d+)"', second) == ["01", "00"]


def test_a_run_tells_how_far_how_fast_what_failed_and_why(dashboard: Dashboard) -> None:
    page = words(dashboard.ask(RUN).text)
    assert "100 % 500 of 500" in page
    assert "495 completed" in page and "5 failed" in page
    assert "✕ 3 ValueError exception ValueError: no data" in page
    assert "✕ 2 KeyError exception KeyError: 'station'" in page
    for host in ("node01", "node02", "node03"):
        assert f"4 workers on {host}" in page
    assert re.search(r"1\.\d GB at most of 4\.0 GB \(\d\d %\)", page)
    assert "Less than half was used" in page
    assert "h_vmem=4G" in page
    assert "the queue is full" in page
    assert "Jobs ended over time 500 of 500 jobs had ended, 5 of them failed." in page


def test_what_was_asked_for_and_nearly_used_up_is_said(tmp_path: Path) -> None:
    make(tmp_path, "run", 50, asked=Resources(h_vmem="1600M"))
    with dashboard_of(tmp_path) as one:
        assert "That is near the limit." in words(one.ask("/runs/run").text)


def test_jobs_can_be_paged_there_and_back(dashboard: Dashboard) -> None:
    first = dashboard.ask(f"{RUN}/jobs").text
    assert numbers(first) == list(range(50))
    second = dashboard.ask(f"{RUN}/jobs" + link(first, "Next page")).text
    assert numbers(second) == list(range(50, 100))
    third = dashboard.ask(f"{RUN}/jobs" + link(second, "Next page")).text
    assert numbers(third) == list(range(100, 150))
    back = dashboard.ask(f"{RUN}/jobs" + link(third, "Previous page")).text
    assert numbers(back) == list(range(50, 100))
    again = dashboard.ask(f"{RUN}/jobs" + link(back, "Next page")).text
    assert numbers(again) == list(range(100, 150))
    begin = dashboard.ask(f"{RUN}/jobs" + link(back, "Previous page")).text
    assert numbers(begin) == list(range(50)) and "Previous page" not in begin
    last = dashboard.ask(f"{RUN}/jobs?desc=1").text
    assert numbers(last) == list(range(499, 449, -1))
    before = dashboard.ask(f"{RUN}/jobs" + link(last, "Next page")).text
    assert numbers(before) == list(range(449, 399, -1))
    assert numbers(dashboard.ask(f"{RUN}/jobs" + link(before, "Previous page")).text) == list(
        range(499, 449, -1)
    )


@pytest.mark.parametrize("sort", ["seconds", "memory", "ended"])
def test_each_order_shows_each_job_once(dashboard: Dashboard, sort: str) -> None:
    found: list[int] = []
    path = f"?sort={sort}&desc=1"
    while True:
        page = dashboard.ask(f"{RUN}/jobs{path}").text
        found += numbers(page)
        if "Next page" not in page:
            break
        path = link(page, "Next page")
    assert sorted(found) == list(range(500))
    assert 'aria-sort="descending"' in page


def test_jobs_can_be_filtered_and_searched(dashboard: Dashboard) -> None:
    failed = dashboard.ask(f"{RUN}/jobs?state=failed").text
    assert numbers(failed) == [50, 150, 250, 350, 450]
    assert numbers(dashboard.ask(f"{RUN}/jobs?state=failed&q=KeyError").text) == [150, 350]
    assert numbers(dashboard.ask(f"{RUN}/jobs?q=77").text) == [77]
    assert numbers(dashboard.ask(f"{RUN}/jobs?q=stations123").text) == [123]
    nothing = words(dashboard.ask(f"{RUN}/jobs?state=running&q=nowhere").text)
    assert "No job that is running has nowhere" in nothing
    on_host = dashboard.ask(f"{RUN}/jobs?q=node02").text
    assert len(numbers(on_host)) == 50 and on_host.count("<bdi>node02</bdi>") >= 50


@pytest.mark.parametrize(
    "query",
    ["sort=nonsense", "state=nonsense", "after=nonsense", "before=[", "q=%00%ff", "page=-1",
     "after=[1e999,1]", "q=" + "9" * 150, "after=[1,99999999999999999999999]",
     "sort=ended&before=[1,1]"],
)  # fmt: skip
def test_a_query_that_means_nothing_breaks_nothing(dashboard: Dashboard, query: str) -> None:
    assert dashboard.ask(f"{RUN}/jobs?{query}").status == 200
    assert dashboard.ask(f"/?{query}").status == 200


def test_a_job_tells_its_attempts_its_curves_and_why_it_failed(dashboard: Dashboard) -> None:
    page = words(dashboard.ask(f"{RUN}/jobs/50").text)
    assert "Job 50 stations50 ✕ failed" in page
    assert "Why it failed exception ValueError: no data" in page
    assert "Traceback (most recent call last):" in page
    assert "Attempts" in page and "it died: SIGSEGV (11)" in page
    assert re.search(r"Memory At most [\d.]+ [MG]B of the 4.0 GB that were asked for", page)
    assert "cores on average" in page
    assert dashboard.ask(f"{RUN}/jobs/500").status == 404
    assert dashboard.ask(f"{RUN}/jobs/{'9' * 30}").status == 404


PAGES = ["", "/jobs", "/jobs?state=failed", "/jobs/0", *(f"/jobs/{n}" for n in range(1, 20, 2))]


@pytest.mark.parametrize("path", PAGES)
def test_names_errors_and_logs_are_text(hostile: Dashboard, path: str) -> None:
    reply = hostile.ask(f"/runs/{HOSTILE_RUN}{path}")
    assert reply.status == 200
    assert "window.hurt" in reply.text
    assert SCRIPT not in reply.text and "<img" not in reply.text and "<h1>gone" not in reply.text
    for character in "\x00\x1b\x7f\u202e\u2066\x07":
        assert character not in reply.text, repr(character)
    assert len(re.findall("<script", reply.text)) == 1
    assert not re.search(r"<[^>]*\s(style|on\w+)=", re.sub('"[^"]*"', '""', reply.text))


def test_the_hostile_run_in_the_list(hostile: Dashboard) -> None:
    page = hostile.ask("/").text
    assert "<img" not in page and "onerror=&#34;" in page


def test_the_end_of_the_log_is_shown_and_a_pipe_holds_up_nobody(hostile: Dashboard) -> None:
    page = hostile.ask(f"/runs/{HOSTILE_RUN}/jobs/0").text
    assert "evil&lt;b&gt;.log" in page
    assert "red" in page and "cannot be read here" in page


def test_a_client_that_does_not_answer_is_said_and_holds_up_nobody(tmp_path: Path) -> None:
    make(tmp_path, "ended-run", 10)
    with client_of(tmp_path, 200, 0.05) as client, dashboard_of(tmp_path) as one:
        deadline = time.monotonic() + DEADLINE_S
        while "under way" not in one.ask(f"/runs/{client.run}").text:
            assert time.monotonic() < deadline
        client.process.send_signal(signal.SIGSTOP)
        time.sleep(1.1)  # what was said just now is good no longer
        for path in ("/", f"/runs/{client.run}", f"/runs/{client.run}/jobs"):
            began = time.monotonic()
            page = words(one.ask(path).text)
            assert time.monotonic() - began < 10
            assert "has not answered yet" in page or "did not answer" in page
            assert "yet It was asked" not in page
        began = time.monotonic()
        assert one.ask("/runs/ended-run").status == 200
        assert time.monotonic() - began < 5
        client.process.send_signal(signal.SIGCONT)
        while "not answer" in one.ask(f"/runs/{client.run}").text:
            assert time.monotonic() < deadline + DEADLINE_S


def test_a_damaged_ledger_is_said(tmp_path: Path) -> None:
    folder = make(tmp_path, "run", 10)
    with open(folder / "ledger.sqlite", "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(20000))
    with dashboard_of(tmp_path) as one:
        for path in ("/", "/runs/run", "/runs/run/jobs", "/runs/run/jobs/3"):
            assert "damaged" in one.ask(path).text, path


def test_the_run_of_somebody_else_is_not_read(tmp_path: Path) -> None:
    make(tmp_path, "run", 10).chmod(0o755)
    with dashboard_of(tmp_path) as one:
        page = words(one.ask("/runs/run").text)
    assert "damaged" in page and "495" not in page
