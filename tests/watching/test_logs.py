"""Ends of logs: bounded and harmless, whatever stands in them or in their place."""

from __future__ import annotations

import os
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridmap.watching.logs import harmless, read, tail


def test_the_end_of_a_log_is_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [f"line {number}" for number in range(1000)]
    path.write_text("\n".join(lines) + "\n")
    assert tail(path).splitlines() == lines
    assert tail(path, 100).splitlines() == lines[-11:]
    assert len(tail(path, 100)) <= 100
    path.write_text("x" * 1000)
    assert tail(path, 10) == "x" * 10  # it has no lines


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    begun = time.monotonic()
    for path in (fifo, tmp_path, tmp_path / "none", "/dev/zero", "/dev/tty", "a\0b", ""):
        assert tail(path) == "", path
    assert time.monotonic() - begun < 2
    hidden = tmp_path / "hidden"
    hidden.write_text("secret")
    assert tail(hidden, 0) == ""


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"a\x1b[31mb\x07\n", "a\\x1b[31mb\\x07\n"),
        (b"caf\xc3\xa9 \xff\xfe\tx\n", "café \ufffd\ufffd\tx\n"),
        (b"10 %\r50 %\r100 %\ndone\r\n", "100 %\ndone\n"),
        (b"bar\r", "bar"),
        ("\u202eevil\u2066\u2028".encode(), "\\u202eevil\\u2066\\u2028"),
        (b"\xc2\x9b31m", "\\x9b31m"),
        (b"[red]x[/]", "[red]x[/]"),
    ],
)
def test_what_would_do_something_is_shown(tmp_path: Path, written: bytes, shown: str) -> None:
    (tmp_path / "log").write_bytes(written)
    assert tail(tmp_path / "log") == shown


@given(st.text())
def test_nothing_does_anything(text: str) -> None:
    kept = harmless(text)
    assert not [c for c in kept if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert harmless(kept) == kept


def test_a_log_that_grows_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    piece = read(path, -100)
    assert piece is not None and (piece.text, piece.end) == ("one\n", 4)
    with path.open("ab") as file:
        file.write(b"two\nthree\n")
    more = read(path, piece.end, 4)
    assert more is not None and (more.text, more.end) == ("two\n", 8)
    rest = read(path, more.end)
    assert rest is not None and rest.text == "three\n"
    nothing = read(path, rest.end)
    assert nothing is not None and (nothing.text, nothing.end) == ("", rest.end)
    assert read(tmp_path / "none", 0) is None


def test_a_long_line_is_read_as_fast_as_many_short_ones() -> None:
    assert harmless("ab\rc" * 50_000 + "\n") == "c\n"
    begun = time.process_time()
    assert harmless("x" * 1_000_000) == "x" * 1_000_000
    assert time.process_time() - begun < 2  # in each place looked at to the end: an hour
