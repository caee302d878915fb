"""What `make test` says at its end is what happened."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PASSED = "echo '7 passed, 2 skipped in 1.00s'"
FAILED = "echo '1 failed, 3 passed, 1 error in 1.00s'; exit 1"
SKIPPED = "echo 'SKIPPED cluster tests: not root'"


def summary(root: Path, *parts: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [str(root / "tools/summary"), *parts], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout.rpartition("=== summary\n")[2].splitlines()


def test_all_is_well(root: Path) -> None:
    status, lines = summary(root, "lint", "true", "unit", PASSED)
    assert status == 0
    assert [line.split()[:2] for line in lines[:2]] == [["lint", "ok"], ["unit", "ok"]]
    assert lines[-1] == "7 passed, 0 failed, 2 skipped"


def test_what_was_skipped_is_said(root: Path) -> None:
    status, lines = summary(root, "unit", PASSED, "cluster", SKIPPED)
    assert status == 0
    assert lines[1].split()[:2] == ["cluster", "skipped"]
    assert "  cluster: SKIPPED cluster tests: not root" in lines


@pytest.mark.parametrize("bad", [FAILED, SKIPPED + "; exit 1", "false"])
def test_one_failure_fails_the_whole_and_hides_nothing_after_it(root: Path, bad: str) -> None:
    status, lines = summary(root, "unit", bad, "more", PASSED)
    assert status == 1
    assert [line.split()[:2] for line in lines[:2]] == [["unit", "FAILED"], ["more", "ok"]]
    passed = 10 if bad is FAILED else 7
    assert lines[-1] == f"{passed} passed, {2 if bad is FAILED else 0} failed, 2 skipped"


def test_a_part_may_run_beside_the_others(root: Path, tmp_path: Path) -> None:
    """Two parts wait for each other; a third one beside finds its forerunner done."""

    def meet(one: str, other: str) -> str:
        look = f"test -e '{tmp_path}/{other}' && break"
        wait = f"for i in {{1..500}}; do {look}; sleep 0.02; done; test $i != 500"
        return f"touch '{tmp_path}/{one}'; {wait}"

    first = f"{meet('a', 'b')} && sleep 0.1 && touch '{tmp_path}/done'; {FAILED}"
    other = f"{meet('b', 'a')} && {PASSED}"
    third = f"test -e '{tmp_path}/done' && {PASSED}"
    status, lines = summary(root, "&first", first, "other", other, "&third", third)
    assert status == 1
    words = [line.split()[:2] for line in lines[:3]]
    assert words == [["first", "FAILED"], ["other", "ok"], ["third", "ok"]]
    assert lines[-1] == "17 passed, 2 failed, 4 skipped"


def test_a_part_that_is_a_summary_is_counted_as_a_whole(root: Path) -> None:
    inner = f'{root}/tools/summary one "{PASSED}" other "{FAILED}"'
    status, lines = summary(root, "inner", inner, "unit", PASSED)
    assert status == 1
    assert [line.split()[:2] for line in lines[:2]] == [["inner", "FAILED"], ["unit", "ok"]]
    assert lines[-1] == "17 passed, 2 failed, 4 skipped"


def test_two_lanes_run_beside_the_others(root: Path, tmp_path: Path) -> None:
    """Three parts wait for one another."""

    def meet(one: str, *others: str) -> str:
        look = " && ".join(f"test -e '{tmp_path}/{other}'" for other in others)
        wait = f"for i in {{1..500}}; do {look} && break; sleep 0.02; done; test $i != 500"
        return f"touch '{tmp_path}/{one}'; {wait} && {PASSED}"

    parts = {"&a": meet("a", "b", "c"), "&&b": meet("b", "a", "c"), "c": meet("c", "a", "b")}
    status, lines = summary(root, *(word for part in parts.items() for word in part))
    assert status == 0
    assert [line.split()[:2] for line in lines[:3]] == [["a", "ok"], ["b", "ok"], ["c", "ok"]]
    assert lines[-1] == "21 passed, 0 failed, 6 skipped"
