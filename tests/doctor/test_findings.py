"""What is found, and how it is printed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gridmap.doctor import PROBES, examine
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import (
    Examined,
    Finding,
    Probe,
    Status,
    failed,
    merged,
    ok,
    skipped,
    warning,
    worst,
)
from gridmap.doctor.screen import Screen, Silent, as_object
from tests.doctor.visits import options


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def nothing(exam: Exam) -> Iterator[Finding]:
    yield from ()


def probe(examined: Any = nothing) -> Probe:
    return Probe("one", "One thing", "looked at", examined)


def test_the_worst_counts_and_what_was_skipped_least() -> None:
    assert worst([Status.OK, Status.SKIPPED]) is Status.OK
    assert worst([Status.OK, Status.WARNING, Status.SKIPPED]) is Status.WARNING
    assert worst([Status.FAILED, Status.WARNING]) is Status.FAILED
    assert worst([]) is Status.SKIPPED


def test_what_is_the_same_on_all_hosts_is_told_once() -> None:
    both = [("a", ok("python", "3.11")), ("b", ok("python", "3.11"))]
    (one,) = merged([*both, ("a", ok("python", "3.11"))])
    assert one.found == "a, b: 3.11" and one.facts["hosts"] == ["a", "b"]
    (alone,) = merged([("a", ok("python", "3.11"))] * 2)
    assert alone.found == "3.11"


def test_what_differs_in_times_only_is_told_once() -> None:
    (one,) = merged([("a", ok("clock", "by 0.02 s")), ("b", ok("clock", "by 0.10 s"))])
    assert one.found == "a, b: by 0.02 s"


def test_what_differs_is_told_with_the_hosts_and_by_name() -> None:
    told = merged(
        [
            ("a", ok("python", "3.11")),
            ("a", ok("clock", "well")),
            ("b", failed("python", "3.6", "install")),
            ("b", ok("clock", "well")),
        ]
    )
    assert [(one.name, one.found) for one in told] == [
        ("python", "a: 3.11"),
        ("python", "b: 3.6"),
        ("clock", "a, b: well"),
    ]


def test_a_probe_that_breaks_is_a_finding_and_the_next_one_runs() -> None:
    def broken(exam: Exam) -> Iterator[Finding]:
        yield ok("first", "well")
        raise ZeroDivisionError("oh")

    def missing(exam: Exam) -> Iterator[Finding]:
        raise ImportError("No module named 'msgspec'")
        yield

    probes = [probe(broken), probe(missing), probe(lambda exam: iter([ok("last", "well")]))]
    results = list(examine(Exam(options()), probes, Silent(io.StringIO())))
    assert [result.status for result in results] == [Status.FAILED, Status.FAILED, Status.OK]
    assert results[0].findings[0].name == "first"
    assert "ZeroDivisionError: oh" in results[0].findings[1].found
    assert "install" in results[1].findings[0].change


def shown(stream: io.StringIO, **environ: str) -> str:
    screen = Screen(stream, environ)
    found = (
        ok("a", "well"),
        warning("b", "so-so", "mend it"),
        failed("c", "bad\nlog", "mend that"),
    )
    screen.begin(probe())
    for finding in found:
        screen.finding(finding)
    screen.end([Examined(probe(), (*found, skipped("d", "no")), 1.0)])
    return stream.getvalue()


def test_a_file_gets_no_colors() -> None:
    text = shown(io.StringIO())
    assert "\033" not in text
    assert " 1. One thing: looked at\n    ok      well\n    warning so-so\n" in text
    assert "            -> mend it\n    failed  bad\n            log\n" in text


def test_the_end_sums_up_with_what_is_worst_first() -> None:
    end = shown(io.StringIO()).rpartition("\n\n")[2].splitlines()
    assert end[0] == "1 ok, 1 warning, 1 failed, 1 skipped"
    assert end[1:] == ["    failed  One thing: mend that", "    warning One thing: mend it"]


def test_a_terminal_gets_colors_unless_it_wants_none() -> None:
    assert "\033[1;31mfailed  \033[0m" in shown(Terminal())
    assert "\033[3" not in shown(Terminal(), NO_COLOR="1")


def test_what_is_waited_for_is_one_line_of_a_terminal() -> None:
    stream = Terminal()
    screen = Screen(stream, {})
    screen.say("10 s: waits\n(Resources)")
    screen.say("20 s: waits")
    screen.finding(ok("a", "well"))
    assert stream.getvalue().count("\n") == 1
    assert "waiting 10 s: waits (Resources)" in stream.getvalue()
    assert stream.getvalue().rpartition("\r\033[K")[2].startswith("    \033[32mok")
    stream = io.StringIO()
    Screen(stream, {}).say("10 s: waits")
    assert stream.getvalue() == "    waiting 10 s: waits\n"


def test_the_object_for_programs_has_stable_keys() -> None:
    told = as_object([Examined(probe(), (ok("a", "well", number=3),), 1.5)], gridmap="1.0")
    assert json.loads(json.dumps(told)) == {
        "format": 1,
        "gridmap": "1.0",
        "status": "ok",
        "probes": [
            {
                "name": "one",
                "title": "One thing",
                "did": "looked at",
                "status": "ok",
                "seconds": 1.5,
                "findings": [
                    {"name": "a", "status": "ok", "found": "well", "change": "",
                     "facts": {"number": 3}},
                ],
            }
        ],
    }  # fmt: skip


def test_the_probes_names_are_each_their_own() -> None:
    assert [one.name for one in PROBES] == [
        "machine", "settings", "scheduler", "run_dir", "limits", "submit", "node", "connection",
        "grid_map", "mail",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [["--timeout", "0"], ["--timeout", "x"], ["--slots", "two"]])
def test_wrong_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options(*words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
