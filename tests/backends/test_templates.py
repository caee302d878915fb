"""Templates of options."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gridmap.backends.templates import fill, names, parse

GIVEN = {"a": ["1"], "b": ["two words"], "many": ["x", "y"]}


def values(name: str) -> Sequence[str]:
    return GIVEN.get(name, [])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("-x", ["-x"]),
        ("-x {a}", ["-x", "1"]),
        ("-x={a}:{a}", ["-x=1:1"]),
        ("-x {none}", []),
        ("-x {a} {none}", []),
        ("-x {b}", ["-x", "two words"]),  # a value never makes two words
        ('-x "{a} {b}"', ["-x", "1 two words"]),
        ("-x {many:,}", ["-x", "x,y"]),
        ("-x {a:,}", ["-x", "1"]),
        ("-x '{many: }'", ["-x", "x y"]),
        ("-x s=1<:a={a}><:n={none}><:m={many:+}>", ["-x", "s=1:a=1:m=x+y"]),
        ("-x s=1<:n={none}>", []),  # all that it could say is missing
        ("-x {a}<:n={none}>", ["-x", "1"]),
        ("-x {none}<:a={a}>", []),
        ("-x <a={a},n={none}>", []),  # in a part all or nothing
        ("'<n={none}>< a={a}>'", ["a=1"]),
        ("{none}", []),
    ],
)
def test_a_template_is_filled_in(template: str, words: list[str]) -> None:
    assert fill(template, values)[0] == words


def test_what_went_in_is_told() -> None:
    assert fill("{a}<:{none}><:{many:,}>", values)[1] == {"a", "many"}
    assert fill("{none}<:{a}>", values)[1] == set()
    assert names("-x {a}<:{none}>") == ["a", "none"]


@pytest.mark.parametrize(
    "template",
    ["-x <{a}", "-x {a}>", "<<{a}>>", "{a", "a}", "{A B}", "{}", "-x 'a", "<a {a}>", "{a:{b}}"],
)
def test_what_is_no_template(template: str) -> None:
    with pytest.raises(ValueError, match="is no template of options"):
        parse(template)


def test_several_values_where_one_is_expected() -> None:
    with pytest.raises(ValueError, match=r"\{many\} stands for one value, and there are 2"):
        fill("{many}", values)
