"""Times, speeds and counts, as people read them."""

from __future__ import annotations

import pytest

from gridmap import _numbers
from gridmap.commands import printing
from gridmap.web import text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "0.00 s"), (0, "0.00 s"), (2.7e-5, "0.027 ms"), (0.0021, "2.1 ms"), (0.039, "39 ms"),
        (0.0994, "99 ms"), (0.0996, "0.10 s"), (0.25, "0.25 s"), (1.04, "1.0 s"), (9.94, "9.9 s"),
        (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (303, "5 min 03 s"),
        (3599.7, "1 h 00 min"), (11520, "3 h 12 min"), (187200, "2 d 4 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert _numbers.duration(seconds) == said
    assert text.duration(seconds) == said == printing.duration(seconds)


def test_a_duration_that_nobody_knows() -> None:
    assert (text.duration(None), printing.duration(None)) == ("–", "-")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "1 s"), (0, "1 s"), (0.2, "1 s"), (1.01, "2 s"), (59.0, "59 s"), (59.5, "1 min 00 s"),
        (185, "3 min 05 s"), (7800, "2 h 10 min"), (3 * 86400 + 4.5 * 3600, "3 d 4 h"),
    ],
)  # fmt: skip
def test_time_left(seconds: float, said: str) -> None:
    assert _numbers.time_left(seconds) == said


@pytest.mark.parametrize(
    ("per_s", "said"),
    [
        (123456.7, "123,457 calls/s"), (31.4, "31 calls/s"), (3.14, "3.1 calls/s"),
        (0.5, "30 calls/min"), (1 / 40, "1.5 calls/min"), (1 / 600, "6.0 calls/h"),
        (0, "0 calls/h"),
    ],
)  # fmt: skip
def test_rates(per_s: float, said: str) -> None:
    assert _numbers.rate(per_s, "calls") == said
    assert _numbers.rate(per_s) == said.replace(" calls", "")


def test_counts() -> None:
    told = [_numbers.counted(n, "worker") for n in (0, 1, 1200)]
    assert told == ["0 workers", "1 worker", "1,200 workers"]
    assert [_numbers.counted(2, "class"), _numbers.counted(2, "child", "children")] == [
        "2 classes", "2 children",
    ]  # fmt: skip
