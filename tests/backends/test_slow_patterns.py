"""Regular expressions that would hold up the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridmap.backends.description import SHIPPED, read
from gridmap.backends.slow_patterns import is_slow
from gridmap.errors import ConfigError


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a*)*", "(a|ab)*c", r"(\w+\s?)*$", "(?:x(a+)*)+", "(.*,?)*;",
     r"^(\d+|\w)*$", "(a+b+a*)*", r"(\w*,\w*)*",
     "((a{1,9}){1,20})+", "(?P<id>(a+)+)b", "(?=(a+)+b)"],
)  # fmt: skip
def test_what_may_take_for_ever(pattern: str) -> None:
    assert is_slow(pattern)


@pytest.mark.parametrize(
    "pattern",
    [r"(\d+,)+\d+", r"^(?P<job>\d+)(\[\])?(\.\S+)?$", r"(?: +\S+)*", "(foo|bar)*", ".*E.*",
     "(a+){3}", r"^\s+x = (?P<y>.+)", "[a-z]+[0-9]*", r"(\[\d+\])*"],
)  # fmt: skip
def test_what_does_not(pattern: str) -> None:
    assert not is_slow(pattern)


def test_no_description_of_ours_is_refused() -> None:
    assert [read(path).path for path in sorted(SHIPPED.glob("*.toml"))]


def test_a_description_with_one_is_refused(tmp_path: Path) -> None:
    text = (SHIPPED / "lsf.toml").read_text().replace("TERM_PREEMPT", "(T+)+PREEMPT")
    file = tmp_path / "ours.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="ours.toml: marks.preempted: .* may take for ever"):
        read(file)
