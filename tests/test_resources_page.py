"""docs/resources.rst: its one table says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gridmap import Job, Resources
from gridmap.backends.options import left_out, render, words_of
from tests.doors.functions import identity

COLUMNS = ("grid_engine", "slurm", "openpbs", "lsf", "htcondor", "oar")

ELSEWHERE = {"hosts": "``--exclude`` of all others", "interpreting_shell": "starts the worker",
             "validation_level": "(it always checks)"}  # fmt: skip
"""What is said in another way than by an option."""


def table(page: str) -> list[list[str]]:
    """Returns the cells of each row of the list-table of a page."""
    rows: list[list[str]] = []
    for line in page[page.index(".. list-table::") :].splitlines():
        found = re.match(r"   (\* -|  -)(?: (.*))?$", line)
        if found and found[1] == "* -":
            rows.append([])
        if found:
            rows[-1].append((found[2] or "").strip())
        elif rows and re.match(r"\S", line):
            break
    return rows


def said(cell: str) -> dict[str, Any]:
    """Returns the arguments in a cell, ``slots=4``."""
    found = re.match(r"``(\w+)=(.*?)``", cell)
    return {found[1]: eval(found[2])} if found else {}


def asked_for(name: str, new: dict[str, Any], historic: dict[str, Any]) -> str:
    """Returns what a cell of the table is to say."""
    words = words_of(name)
    try:
        white_list = new.pop("hosts", None) or historic.pop("white_list", None)
        job = Job(identity, [1], resources=Resources(**new), **historic) if new else None
        wanted = (job or Job(identity, [1], **historic)).resources_wanted(white_list)
        options = render(words, wanted)
        extra = [
            x for x in options if x not in render(words, Job(identity, [1]).resources_wanted())
        ]
    except ValueError:
        return "error"
    if left_out(words, wanted):
        return "left out, with a warning"
    if not extra:
        return next(ELSEWHERE[x] for x in ("hosts", *historic) if x in ELSEWHERE and (
            x != "hosts" or wanted.hosts))  # fmt: skip
    if words.by_line:
        return f"``{' '.join(extra)}``"
    at = options.index(extra[0])
    shown = [options[at - 1], *extra] if at and options[at - 1] not in extra and (
        not extra[0].startswith("-")) else extra  # fmt: skip
    text = " ".join(f'"{word}"' if " " in word else word for word in shown)
    return f"``{text}``"


def test_the_table_says_what_the_code_does(root: Path) -> None:
    head, *rows = table((root / "docs/resources.rst").read_text())
    assert head[2:] == [words_of(name).name for name in COLUMNS]
    assert len(rows) >= 14
    for row in rows:
        assert len(row) == len(head), row
        for name, cell in zip(COLUMNS, row[2:], strict=True):
            new, historic = said(row[0]), said(row[1])
            if new:
                assert cell == asked_for(name, dict(new), {}), (row[0], name)
            elif historic and cell != "each scheduler's own":
                assert cell == asked_for(name, {}, dict(historic)), (row[1], name)


@pytest.mark.parametrize("name", COLUMNS)
def test_historic_arguments_say_the_same(root: Path, name: str) -> None:
    both = 0
    for row in table((root / "docs/resources.rst").read_text())[1:]:
        new, historic = said(row[0]), said(row[1])
        if new and historic:
            both += 1
            alike = asked_for(name, {}, historic).replace("h_rt=2:0:0", "h_rt=7200")
            assert alike == asked_for(name, new, {}), row[:2]
    assert both >= 6
