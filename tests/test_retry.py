"""What a user may say about trying again, and the pools of workers that follow from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridmap import Job, Retry
from gridmap.backends.native import memory_bytes, memory_text
from gridmap.core.spec import PoolSpec, Resources
from gridmap.errors import Cause
from gridmap.retry import as_exceptions, as_retry, ladder


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1G", 1 << 30), ("1g", 10**9), ("1.5G", 3 << 29), ("512M", 1 << 29), ("2k", 2000),
     ("100", 100), ("0x10K", 16384), (4096, 4096)],
)  # fmt: skip
def test_amounts_of_memory(text: str | int, nbytes: int) -> None:
    assert memory_bytes("h_vmem", text) == nbytes


@pytest.mark.parametrize("text", ["", "G", "1GB", 1.5, "-1G", "1 G", "0", True, None, "inf", "1e3"])
def test_what_is_no_amount_of_memory(text: Any) -> None:
    with pytest.raises(ValueError, match="h_vmem is"):
        memory_bytes("h_vmem", text)


def test_amounts_in_the_schedulers_words() -> None:
    assert [memory_text(n) for n in (1, 1 << 20, 3 << 29, 4 << 30)] == ["1M", "1M", "1536M", "4G"]
    assert all(memory_bytes("x", memory_text(n)) >= n for n in (1, 10**9, 10**10 + 1))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"times": -1}, ValueError),
        ({"times": 1.5}, TypeError),
        ({"times": True}, TypeError),
        ({"memory": 0.5}, ValueError),
        ({"memory": "2"}, TypeError),
        ({"memory": float("nan")}, ValueError),
        ({"time": float("inf")}, ValueError),
        ({"backoff_s": -1}, ValueError),
        ({"backoff_s": 10**400}, ValueError),
        ({"backoff_s": 10, "backoff_most_s": 1}, ValueError),
        ({"memory": 1e150}, ValueError),
        ({"time_most": 0}, ValueError),
        ({"time_most": ""}, ValueError),
        ({"other_host": "no"}, TypeError),
        ({"causes": 5}, TypeError),
        ({"memory_most": "lots"}, ValueError),
        ({"time_most": "long"}, ValueError),
        ({"causes": "died"}, TypeError),
        ({"causes": ["exception"]}, ValueError),
        ({"causes": ["bad luck"]}, ValueError),
    ],
)
def test_bad_retries_are_refused_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="^Retry: "):
        Retry(**options)


@pytest.mark.parametrize("given", ["3", 1.5, True, OSError])
def test_what_is_no_retry(given: Any) -> None:
    with pytest.raises(TypeError, match="retry"):
        as_retry(given)


@pytest.mark.parametrize("given", ["OSError", [int], [OSError()], 3, KeyboardInterrupt])
def test_what_are_no_exceptions(given: Any) -> None:
    with pytest.raises(TypeError, match="retry_on"):
        as_exceptions(given)


def test_pauses_have_a_bound_that_fits() -> None:
    assert Retry().longest_pause_s == 30 and Retry(backoff_s=60).longest_pause_s == 60
    assert Retry(backoff_s=1, backoff_most_s=2).rule(()).backoff_most_s == 2


def test_jobs_that_differ_in_what_is_no_matter_of_workers_share_them() -> None:
    wanted = Resources(h_vmem="1G")
    plain = [(wanted, Retry(n, backoff_s=n, causes=["died"])) for n in range(5)]
    assert len(ladder(plain, 3)) == 1
    assert len(ladder([(wanted, Retry(1, memory=2)), (wanted, Retry(2, memory=2))], 3)) == 5


def test_a_number_is_a_retry_and_a_class_is_a_tuple_of_one() -> None:
    assert as_retry(np.int64(2)) == Retry(2)
    assert as_retry(2) == Retry(2) and as_retry(None) == Retry()
    assert as_exceptions(OSError) == (OSError,) and as_exceptions([OSError, EOFError])


def test_the_rule_of_a_retry() -> None:
    rule = Retry(2, memory=2, memory_most="1G", causes=["memory"]).rule((Exception,))
    assert (rule.times, rule.memory, rule.memory_most_bytes) == (2, 2.0, 1 << 30)
    assert rule.causes == ("memory",) and rule.no_memory
    assert Retry().rule(()).times == -1 and not Retry().rule((OSError,)).no_memory
    none = Retry(causes=[]).rule(()).causes
    assert none and not {*none} & {*map(str, Cause)}, "none, not the usual ones"


def test_jobs_alike_share_a_pool_and_nothing_grows_unasked() -> None:
    wanted = Resources(h_vmem="1G", h_rt="60", walltime_s=60.0)
    assert ladder([(wanted, Retry())], 3) == [PoolSpec(wanted)]


def test_memory_and_time_grow_step_by_step_up_to_their_bounds() -> None:
    wanted = Resources(h_vmem="1G", mem_free="", h_rt="0:1:0", walltime_s=60.0)
    pools = ladder([(wanted, Retry(memory=2, memory_most="3G", time=10, time_most=300))], 3)
    asked = [(p.resources.h_vmem, p.resources.h_rt, p.more_memory, p.more_time) for p in pools]
    assert asked == [
        ("1G", "0:1:0", 1, 2),
        ("2G", "0:1:0", 3, 4),
        ("1G", "300", 4, -1),
        ("3G", "0:1:0", -1, 5),
        ("2G", "300", 5, -1),
        ("3G", "300", -1, -1),
    ]
    assert pools[2].resources.walltime_s == 300.0


def test_a_ladder_has_no_more_steps_than_there_are_tries() -> None:
    pools = ladder([(Resources(h_vmem="1G", mem_free="2G"), Retry(2, memory=2))], 9)
    assert [(p.resources.h_vmem, p.resources.mem_free) for p in pools] == [
        ("1G", "2G"), ("2G", "4G"), ("4G", "8G"),
    ]  # fmt: skip
    assert len(ladder([(Resources(h_vmem="1G"), Retry(10**9, memory=1.01))], 3)) == 17


def test_requests_by_name_grow_too() -> None:
    wanted = Resources(extra=("h_vmem=1G", "scratch=5G", "h_rt=60"))
    pools = ladder([(wanted, Retry(1, memory=2, time=2))], 3)
    assert pools[1].resources.extra == ("h_vmem=2G", "scratch=5G", "h_rt=60")
    assert pools[2].resources.extra == ("h_vmem=1G", "scratch=5G", "h_rt=120")


def test_a_job_says_at_once_that_its_memory_cannot_grow() -> None:
    with pytest.raises(ValueError, match="^h_vmem is 'plenty'"):
        Job(abs, [1], h_vmem="plenty", retry=Retry(memory=2))
    with pytest.raises(ValueError, match="max_rss"):
        Job(abs, [1], max_rss="plenty")


def test_amounts_are_read_as_those_of_resources() -> None:
    same = Retry(memory=2, memory_most="64GB", time=2, time_most="24h")
    assert same.rule(()).memory_most_bytes == 64 << 30
    for wrong in ({"memory_most": "64"}, {"time_most": "3600"}, {"memory_most": "4g"}):
        with pytest.raises(ValueError, match="Retry: (memory|time)_most is"):
            Retry(**wrong)  # type: ignore[arg-type]
    assert Job(abs, [1], max_rss="4GiB").max_rss_bytes == 4 << 30
    with pytest.raises(ValueError, match='max_rss is \'1500\'.*say "1500G" or "1500M"'):
        Job(abs, [1], max_rss="1500")
