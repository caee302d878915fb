"""Open pages are told what changes."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridmap.web.events import MOST_STREAMS
from tests.web.conftest import DEADLINE_S, RUN, Dashboard, client_of, dashboard_of
from tests.web.test_actions import wait_for_run


@contextlib.contextmanager
def stream_of(one: Dashboard, path: str) -> Iterator[http.client.HTTPResponse]:
    connection = one.connect()
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Cookie": one.cookie})
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield response


def events_of(response: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    deadline = time.monotonic() + DEADLINE_S
    name = ""
    while line := response.readline().decode().rstrip("\n"):
        yield from ()
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])
        response.readline() if line.startswith(("data", "retry", ":")) else None
        assert time.monotonic() < deadline


def test_what_changes_comes_and_what_does_not_does_not(tmp_path: Path) -> None:
    with client_of(tmp_path, 300, 0.05) as client, dashboard_of(tmp_path) as one:
        page = wait_for_run(one, client)
        with stream_of(one, f"{page}/events") as response:
            events = events_of(response)
            name, first = next(events)
            assert name == "regions"
            assert {"head", "progress", "hosts", "actions", "title", "say"} <= set(first)
            name, second = next(events)
            assert "head" in second and second["head"] != first["head"]
            assert "resources" not in second or second["resources"] != first["resources"]
            assert "actions" not in second


def test_a_run_that_is_gone_is_said(tmp_path: Path) -> None:
    with dashboard_of(tmp_path) as one:
        connection = one.connect()
        with contextlib.closing(connection):
            path = "/runs/none/events"
            connection.request("GET", path, headers={"Cookie": one.cookie})
            lines = connection.getresponse().read().decode()
    assert "event: gone" in lines and "There is no run none" in lines


def test_no_more_pages_are_kept_up_to_date_than_can_be(dashboard: Dashboard) -> None:
    more = 30
    with contextlib.ExitStack() as undo:
        asked = []
        for _ in range(MOST_STREAMS + more):
            connection = undo.enter_context(contextlib.closing(dashboard.connect()))
            connection.request("GET", f"{RUN}/events", headers={"Cookie": dashboard.cookie})
            asked.append(connection)
        statuses = [connection.getresponse().status for connection in asked]
    assert sorted(statuses) == [200] * MOST_STREAMS + [503] * more


def test_a_page_that_is_left_costs_nothing_more(dashboard: Dashboard) -> None:
    deadline = time.monotonic() + DEADLINE_S
    opened = 0
    while opened < MOST_STREAMS + 20:
        with contextlib.closing(dashboard.connect()) as connection:
            headers = {"Cookie": dashboard.cookie}
            connection.request("GET", f"{RUN}/jobs/events", headers=headers)
            response = connection.getresponse()
            if response.status == 200:
                assert response.readline() == b"retry: 3000\n"
                opened += 1
            else:  # that those before have left is noticed a little later
                assert response.status == 503 and time.monotonic() < deadline
    while True:
        with contextlib.closing(dashboard.connect()) as connection:
            connection.request("GET", f"{RUN}/events", headers={"Cookie": dashboard.cookie})
            line = connection.getresponse().readline()
        if line == b"retry: 3000\n":
            break
        assert time.monotonic() < deadline
