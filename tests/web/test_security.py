"""Who gets in, and what those who do not get to see."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gridmap.web.security import HEADERS, Lock
from gridmap.web.server import listen, opened
from tests.web.conftest import COMMAND, DEADLINE_S, RUN, Dashboard, dashboard_of

PATHS = ["/", RUN, f"{RUN}/jobs", f"{RUN}/jobs/5", f"{RUN}/events", "/static/live.js", "/none"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=%C3%A4", "?token=%00"])
def test_a_stranger_sees_nothing(
    dashboard: Dashboard, run_dir: Path, path: str, query: str
) -> None:
    reply = dashboard.ask(path + query, known=False)
    assert reply.status == 403
    assert "stations" not in reply.text and str(run_dir) not in reply.text
    assert "Set-Cookie" not in reply.headers


def test_a_guessed_cookie_opens_nothing(dashboard: Dashboard) -> None:
    name = dashboard.cookie.split("=")[0]
    for value in ("", "x", dashboard.token, '"', "a" * 43):
        reply = dashboard.ask("/", headers={"Cookie": f"{name}={value}"}, known=False)
        assert reply.status == 403, value


def test_the_token_is_changed_into_a_cookie(dashboard: Dashboard) -> None:
    reply = dashboard.ask(f"{RUN}/jobs?state=failed&token={dashboard.token}", known=False)
    assert reply.status == 303
    assert reply.headers["Location"] == f"{RUN}/jobs?state=failed"
    cookie = str(reply.headers["Set-Cookie"])
    assert f"gridmap_web_{dashboard.port}=" in cookie
    assert "HttpOnly" in cookie and "Path=/" in cookie and "samesite=strict" in cookie.lower()
    assert dashboard.token not in cookie
    assert dashboard.ask(RUN).status == 200


def test_the_token_leads_nowhere_else(dashboard: Dashboard) -> None:
    reply = dashboard.ask(f"//evil.example/x?token={dashboard.token}", known=False)
    assert reply.status == 303
    assert reply.headers["Location"].startswith("/") and "//" not in reply.headers["Location"]


@pytest.mark.parametrize("path", PATHS)
def test_each_answer_tells_the_browser_what_is_allowed(dashboard: Dashboard, path: str) -> None:
    for known in (True, False):
        connection = dashboard.connect()
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Cookie": dashboard.cookie} if known else {})
            response = connection.getresponse()
            for name, value in HEADERS.items():
                assert response.headers[name] == value, (path, known)
            assert "Server" not in response.headers


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("frame-ancestors") == policy.pop("base-uri") == "'none'"
    assert set(policy.values()) == {"'self'"}
    assert set(policy) == {"script-src", "style-src", "img-src", "connect-src", "form-action"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "10.0.0.1", "[::"]
)
def test_another_name_for_this_host_is_refused(dashboard: Dashboard, host: str) -> None:
    for path in (f"/?token={dashboard.token}", "/"):
        assert dashboard.ask(path, headers={"Host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost:9000", "LOCALHOST", "127.0.0.1", "[::1]:8076"])
def test_a_tunnel_may_end_anywhere(dashboard: Dashboard, host: str) -> None:
    assert dashboard.ask("/", headers={"Host": host}).status == 200


def test_which_names_are_this_machine() -> None:
    beyond = Lock("0.0.0.0", 1)
    assert beyond.is_here("192.168.1.2:80") and beyond.is_here(socket.gethostname())
    assert not beyond.is_here("evil.example")
    named = Lock("login.cluster", 1)
    assert named.is_here("login.cluster:1") and not named.is_here("other.cluster")


def form_token(dashboard: Dashboard) -> str:
    return dashboard.ask(RUN).form_token


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "https://127.0.0.1"},
        {"Origin": ""},
        {"Origin": "", "Referer": "http://evil.example/"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_of_another_site_is_refused(dashboard: Dashboard, headers: dict[str, str]) -> None:
    reply = dashboard.post(f"{RUN}/cancel", form_token(dashboard), **headers)
    assert reply.status == 403


def test_a_form_without_the_session_is_refused(dashboard: Dashboard) -> None:
    token = form_token(dashboard)
    assert dashboard.post(f"{RUN}/cancel", token, Cookie="").status == 403
    assert dashboard.post(f"{RUN}/cancel?token={dashboard.token}", token, Cookie="").status == 403


def test_a_form_of_another_session_is_refused(dashboard: Dashboard) -> None:
    token = form_token(dashboard)
    other = dashboard.ask(f"/?token={dashboard.token}", known=False).cookie
    assert dashboard.post(f"{RUN}/cancel", token, Cookie=other).status == 403
    for wrong in ("", "x", token + "x"):
        assert dashboard.post(f"{RUN}/cancel", wrong).status == 403


def test_a_form_of_this_session_is_taken(dashboard: Dashboard) -> None:
    reply = dashboard.post(f"{RUN}/cancel", form_token(dashboard))
    assert reply.status == 409 and "no client that lives" in reply.text


def test_a_number_that_no_job_has_is_refused(dashboard: Dashboard) -> None:
    reply = dashboard.post(f"{RUN}/jobs/{10**30}/cancel", form_token(dashboard))
    assert reply.status == 404 and "There is no job" in reply.text


def test_a_large_form_is_refused(dashboard: Dashboard) -> None:
    reply = dashboard.post(f"{RUN}/cancel", "x" * 100_000)
    assert reply.status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_other_methods_do_nothing(dashboard: Dashboard, method: str) -> None:
    reply = dashboard.ask(RUN, method, {"Origin": f"http://127.0.0.1:{dashboard.port}"})
    assert reply.status == (200 if method == "HEAD" else 405 if method == "POST" else reply.status)
    assert reply.status < 500


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/runs/..%2f..", "/runs/../../etc",
     "/runs/history", "/runs/x/jobs/0"],
)  # fmt: skip
def test_nothing_else_can_be_read(dashboard: Dashboard, path: str) -> None:
    assert dashboard.ask(path).status == 404


def test_it_listens_on_the_loopback_only(dashboard: Dashboard) -> None:
    with open("/proc/net/tcp") as file:
        listening = [line.split()[1] for line in file if line.split()[3] == "0A"]
    port = f"{dashboard.port:04X}"
    assert [one for one in listening if one.endswith(port)] == [f"0100007F:{port}"]


def test_a_port_that_is_taken_is_said_and_passed_over(dashboard: Dashboard, tmp_path: Path) -> None:
    command = [*COMMAND, "--run-dir", str(tmp_path), "--port", str(dashboard.port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
        said = process.stderr.read()
    assert f":{dashboard.port}/" not in line and "http://127.0.0.1:" in line
    assert f"port {dashboard.port} is taken" in said


def test_no_such_host_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    from gridmap import web

    assert web.main(["--host", "192.0.2.1", "--port", "0"]) == 1
    assert "192.0.2.1" in capsys.readouterr().err


def test_it_ends_at_once_with_pages_open(run_dir: Path) -> None:
    with dashboard_of(run_dir) as one:
        connection = one.connect()
        connection.request("GET", f"{RUN}/events", headers={"Cookie": one.cookie})
        assert connection.getresponse().readline() == b"retry: 3000\n"
        began = time.monotonic()
        one.process.send_signal(signal.SIGINT)
        assert one.process.wait(DEADLINE_S) == 0
        assert time.monotonic() - began < 10
        assert one.process.stderr is not None and one.process.stderr.read() == ""


def test_it_says_what_is_not_installed() -> None:
    program = (
        "import sys; sys.modules['starlette'] = None; import gridmap.web; "
        "raise SystemExit(gridmap.web.main(['--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "starlette" in done.stderr and "pip install 'gridmap[web]'" in done.stderr


def test_the_browser_gets_the_address_by_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    with opened("http://127.0.0.1:1/?token=abc"):
        path = Path(shown[0].removeprefix("file://"))
        assert "abc" not in shown[0]
        assert "token=abc" in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_listening_on_ipv6() -> None:
    try:
        sock = listen("::1", 0)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with sock:
        assert sock.family == socket.AF_INET6
