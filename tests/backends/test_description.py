"""Descriptions of schedulers are read strictly; an error names file, key and what may be there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from gridmap import ConfigError
from gridmap.backends.description import read
from gridmap.backends.filling import fill, fill_words, variables
from gridmap.backends.registry import backend_names, description_of

GOOD = r"""
name = "Ours"
options = ["-q {queue}"]

[submit]
command = ["jsub", "{array}", "{options}"]
array = ["-t", "0-{last}"]
most = 100
answer = '^job (?P<job>\d+)$'
worker = "{job}.{element}"

[status]
command = ["jstat", "{jobs}"]
patterns = ['^(?P<job>\d+)\.(?P<element>\d+) (?P<state>\w+) (?P<name>\S+)']
states = { Q = "pending", R = "running", E = "ended" }

[cancel]
command = ["jdel", "{ids}"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "ours.toml"
    path.write_text(text)
    return path


def test_a_good_one(tmp_path: Path) -> None:
    description = read(written(tmp_path, GOOD))
    assert description.words.name == "Ours" and description.submit.most == 100
    assert description.history is None and description.submit.script.startswith("#!{shell}")


@pytest.mark.parametrize("name", ["openpbs", "lsf", "htcondor", "oar", "grid_engine_commands"])
def test_those_that_are_shipped(name: str) -> None:
    path = description_of(name)
    assert path is not None and name in backend_names()
    read(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "Ours"', 'nane = "Ours"', "nane: no such key; the file may have .*name"),
        ('name = "Ours"', "", "name is missing"),
        ('name = "Ours"', 'name = "Ours"\ndeadline_s = nan', "deadline_s: must be a number of s"),
        ('name = "Ours"', 'name = "Ours"\ngone_after_s = -1', "gone_after_s: must be a number"),
        ("most = 100", "most = 100\nfrist = 1", r"submit\.frist: no such key; \[submit\] may have"),
        ("[cancel]\n", "[delete]\n", "delete: no such key"),
        ('[cancel]\ncommand = ["jdel", "{ids}"]', "", "cancel: is missing"),
        ('command = ["jdel", "{ids}"]', "", r"cancel\.command: is missing"),
        ('["jdel", "{ids}"]', '"jdel"', r"cancel\.command: expected `array`, got `str`"),
        ('["jdel", "{ids}"]', "[]", r"cancel\.command: must have the name of a command"),
        ("most = 100", 'most = "100"', r"submit\.most: expected `int`"),
        (', "{options}"]', "]", r"submit\.command: must have \{options\}, or stdin must"),
        ("most = 100", "most = 0", r"submit\.most: must be >= 1"),
        (
            "{ids}",
            "{idents}",
            r"cancel\.command: no variable \{idents\}; there are \{id\}, \{ids\}",
        ),
        ('"{array}", ', "", r"submit\.command: must have \{array\}"),
        ("0-{last}", "0-{size}", r"submit\.array: no variable \{size\}; there are \{count\}"),
        ("0-{last}", "0-9", r"submit\.most: the command must have \{count\} or \{last\}"),
        ("{job}.{element}", "{jobid}.{element}", r"submit\.worker: no variable \{jobid\}"),
        (r"'^job (?P<job>\d+)$'", "'^job ('", r"submit\.answer: no regular expression: missing \)"),
        ("(?P<name>", "(?P<title>", r"status\.patterns\[0\]: no group 'title'; there are element"),
        (r"(?P<element>\d+)", r"\d+", r"status\.patterns: must have a group 'id', or element"),
        ("(?P<state>", "(?P<reason>", r"status\.patterns: must have a group 'state'"),
        ('Q = "pending"', 'Q = "waiting"', r"status\.states\.Q: no state 'waiting'; there are"),
        ('Q = "pending"', '"Q(" = "pending"', r"status\.states\.Q\(: no regular expression"),
        (
            'states = { Q = "pending", R = "running", E = "ended" }',
            "",
            r"status\.states: is missing",
        ),
        (
            "[cancel]",
            "[marks]\nkilled = 'x'\n[cancel]",
            r"marks\.killed: no such key; there are del",
        ),
        ("[cancel]", "[marks]\nmemory = '('\n[cancel]", r"marks\.memory: no regular expression"),
        (
            "[cancel]",
            "[errors]\nunknown = '('\n[cancel]",
            r"errors\.unknown: no regular expression",
        ),
        ('"-q {queue}"', '"-q {que}"', r"'-q \{que\}' has \{que\}; there are"),
        ("[cancel]", "[cancel", r"ours\.toml:\d+ is no TOML"),
        ("{jobs}", "{ids:,}{jobs:,}", r"status\.command: .* two variables of several values"),
        (
            "[cancel]",
            "[find]\ncommand = ['f']\npatterns = ['(?P<id>x)']\n[cancel]",
            r"find\.patterns: must have a group 'name'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value) and caught.value.file == str(path)


def test_that_of_the_documentation(root: Path, tmp_path: Path) -> None:
    block = re.search(
        r"code-block:: toml\n\n((?:    .*\n|\n)+)",
        (root / "docs/adding_a_scheduler.rst").read_text(),
    )
    assert block is not None
    text = textwrap.dedent(block[1]).strip()
    assert len([line for line in text.splitlines() if line]) <= 40
    assert read(written(tmp_path, text)).words.name == "My cluster"


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nosuch.toml cannot be read: No such file"):
        read(tmp_path / "nosuch.toml")


def test_variables_in_words() -> None:
    assert variables("{a}-{b:,} ${HOME} {C} {}") == ["a", "b"]
    values = {"a": "1 2", "b": ["x", "y"]}
    words = fill_words(["-{a}", "{b}", "--one={b}", "{b:,}", "${a}", "{}"], values)
    assert words == ["-1 2", "x", "y", "--one=x", "--one=y", "x,y", "${a}", "{}"]
    assert fill_words(["{b}", "z"], {"b": []}) == ["z"]
    assert fill("{b}\n", values) == "x\ny\n"
