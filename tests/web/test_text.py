"""Numbers, times and foreign text, as people read them."""

from __future__ import annotations

import time

import pytest
from markupsafe import Markup

from gridmap.web import text


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [
        (None, "–"), (0, "–"), (512, "512 B"), (2048, "2 KB"), (1_500_000, "1.4 MB"),
        (123 << 20, "123 MB"), (1023 << 20, "1.0 GB"), (4 << 30, "4.0 GB"), (3 << 40, "3.0 TB"),
        (5000 << 40, "5000 TB"),
    ],
)  # fmt: skip
def test_sizes(nbytes: int | None, said: str) -> None:
    assert text.size(nbytes) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(0, 0, "0 %"), (0, 9, "0 %"), (1, 1000, "< 1 %"), (999, 1000, "99 %"), (9, 9, "100 %")],
)
def test_percents_say_all_and_none_only_where_it_is_so(part: int, whole: int, said: str) -> None:
    assert text.percent(part, whole) == said


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"),
        ("größe 漢字", "größe 漢字"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07end", "red end"),
        ("a\x00b\x1bc\x7f", "a␀b␛c␡"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("a\u2066b\u200fc\ufeff", "a\\u2066b\\u200fc\\ufeff"),
        ("lines\r\nstay\n\ttabs", "lines\nstay\n\ttabs"),
        ("\x85\u2028\x9b31m", "\\u0085\\u2028\\u009b31m"),
        ("\ud800", "\\ud800"),
        ("no\u00a0break", "no\u00a0break"),
    ],
)
def test_foreign_text_does_nothing(given: str, shown: str) -> None:
    assert text.visible(given) == shown
    shown.encode()


def test_what_is_too_long_is_cut() -> None:
    shown = text.visible("x" * (text.LONGEST + 5000))
    assert len(shown) < text.LONGEST + 100 and "5,000 more" in shown


def test_values_of_pages_are_made_harmless_and_markup_is_not() -> None:
    assert text.finalize("a\x00") == "a␀"
    assert text.finalize(None) == "" and text.finalize(7) == 7
    assert text.finalize(Markup("<b>")) == Markup("<b>")


def test_a_time_of_today_is_short_and_one_of_another_day_has_its_date() -> None:
    now_s = time.mktime((2026, 11, 27, 14, 2, 31, 0, 0, -1))
    assert text.clock(now_s, now_s) == "14:02:31"
    assert text.clock(now_s - 86400, now_s) == "Nov 26, 14:02"
    assert text.clock(now_s - 400 * 86400, now_s).startswith("2025-10-2")
    assert 'datetime="2026-11-27T14:02:31' in text.stamp(now_s)
