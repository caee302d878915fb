"""What is advised: with a margin, never less than was measured, in the words that were used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridmap.commands.advising import advices, friendly_bytes, friendly_s
from gridmap.commands.show import _used
from gridmap.resources import memory_bytes, walltime_s
from gridmap.views import FailureGroup, JobRow, JobView, PoolView, RunView, SampleView

GB = 1 << 30


def advised(
    asked: list[tuple[str, str]], backend: str = "slurm", died: str = "", **pool: Any
) -> dict[str, tuple[str, str]]:
    """Returns for each topic the line and the sentence."""
    view = RunView("r", backend=backend, pools=[PoolView(0, asked, **{"jobs": 10_000, **pool})])
    failures = [FailureGroup(died, died, "x", 3, [1])] if died else []
    return {one.what: (one.line, one.text) for one in advices(view, failures)}


MEMORY = [("memory", "'16G'")]


def test_less_memory() -> None:
    line, text = advised(MEMORY, memory_bytes=16 * GB, peak_rss_bytes=int(1.2 * GB))["memory"]
    assert line == "memory='1536M'"
    assert text == (
        "memory='1536M' would do: the largest of 10,000 jobs used 1.2 GB of the 16.0 GB asked for"
    )


def test_what_fits_stays() -> None:
    line, text = advised(MEMORY, memory_bytes=16 * GB, peak_rss_bytes=12 * GB)["memory"]
    assert not line and text.startswith("fits: ")
    line, text = advised(MEMORY, memory_bytes=16 * GB, peak_rss_bytes=0)["memory"]
    assert not line and "nobody has measured" in text
    line, text = advised([], peak_rss_bytes=GB)["memory"]
    assert not line and "nothing was asked for; the largest of 10,000 jobs used 1.0 GB" in text
    assert advised(MEMORY, memory_bytes=GB, jobs=0) == {}


def test_more_memory_after_deaths() -> None:
    line, text = advised(MEMORY, died="memory", memory_bytes=16 * GB, peak_rss_bytes=GB)["memory"]
    assert line == "memory='24G'" and "3 jobs died for want of memory" in text


def test_memory_of_slots_in_the_word_that_was_used() -> None:
    asked = [("num_slots", "4"), ("h_vmem", "'8G'")]
    found = advised(asked, memory_bytes=32 * GB, peak_rss_bytes=2 * GB, slots=4)
    assert found["memory"][0] == "h_vmem='768M'"  # for each of the four
    asked = [("mem_free", "'8G'")]
    found = advised(asked, memory_bytes=8 * GB, peak_rss_bytes=GB)
    assert found["memory"][0] == "mem_free='1536M'"


def test_address_space_is_more_than_what_is_used() -> None:
    line, text = advised(MEMORY, "drmaa", memory_bytes=16 * GB, peak_rss_bytes=GB)["memory"]
    assert line == "memory='2G'" and "limit of address space" in text
    line, _ = advised(MEMORY, "drmaa", memory_bytes=16 * GB, peak_rss_bytes=50 << 20)["memory"]
    assert line == "memory='1536M'"


def test_walltime() -> None:
    asked = [("walltime", "14400 s")]
    line, text = advised(asked, walltime_s=14_400, longest_s=500)["walltime"]
    assert line == "walltime='20m'" and "the longest of 10,000 jobs took 8 min 20 s" in text
    line, text = advised(asked, walltime_s=14_400, longest_s=9000)["walltime"]
    assert not line and text.startswith("fits")
    found = advised([("h_rt", "'4:0:0'")], died="walltime", walltime_s=14_400, longest_s=14_000)
    assert found["walltime"][0] == "h_rt='8:00:00'"
    assert advised([], longest_s=5)["walltime"][1].startswith("no limit was asked for")


def test_slots() -> None:
    asked = [("num_slots", "8")]
    found = advised(asked, slots=8, cpu_fraction=1.1, samples=50)
    assert found["slots"][0] == "num_slots=2"
    assert advised(asked, slots=8, cpu_fraction=7.5, samples=50)["slots"][0] == ""
    found = advised([], slots=1, cpu_fraction=3.8, samples=50)
    assert found["slots"][0] == "num_slots=4" and "take what is others'" in found["slots"][1]
    assert "slots" not in advised(asked, slots=8, cpu_fraction=1.1, samples=2)
    assert "slots" not in advised([], "local", slots=1, cpu_fraction=3.8, samples=50)
    of_node = advised([], slots=8, children=8, cpu_fraction=1.0, samples=50)
    assert of_node["slots"][1].startswith("fits")


@given(
    st.integers(1 << 20, 1 << 40), st.integers(1 << 20, 1 << 40), st.integers(1, 64),
    st.sampled_from(["slurm", "drmaa"]), st.sampled_from(["memory", "h_vmem"]),
    st.sampled_from(["", "memory"]),
)  # fmt: skip
def test_never_less_than_was_measured(
    asked: int, peak: int, slots: int, backend: str, word: str, died: str
) -> None:
    found = advised(
        [(word, "x")], backend, died, memory_bytes=asked, peak_rss_bytes=peak, slots=slots
    )
    line = found["memory"][0]
    if line:
        of_job = slots if word == "h_vmem" else 1
        amount = memory_bytes("memory", line.split("'")[1]) * of_job
        assert amount >= 1.19 * peak  # bytes are rounded
        assert amount > asked if died else amount < asked


@given(st.floats(1, 1e7), st.floats(1, 1e7))
def test_never_less_time_than_was_taken(asked: float, longest: float) -> None:
    line = advised([], walltime_s=asked, longest_s=longest)["walltime"][0]
    if line:
        assert walltime_s("walltime", line.split("'")[1]) >= 2 * longest


def test_friendly_numbers() -> None:
    assert [friendly_bytes(n) >> 20 for n in (1, 129 << 20, 200 << 20, 5 * GB, 7 * GB)] == [
        128, 192, 256, 6144, 8192,
    ]  # fmt: skip
    assert [friendly_s(n) for n in (1, 301, 3601, 90_000)] == [300, 600, 7200, 172_800]
    with pytest.raises(TypeError):
        friendly_s("x")  # type: ignore[arg-type]


def test_what_a_job_asked_for_is_told_and_not_what_its_worker_had() -> None:
    pool = PoolView(0, [("num_slots", "1")], slots=4, children=4)
    assert pool.slots_of_job == 1
    samples = [SampleView(at, 1 << 20, 0.5) for at in (1.0, 2.0)]
    told = dict(_used(JobView(JobRow(0, "", "completed"), samples=samples, pool=pool), samples))
    assert told["processors"].endswith("0.5 on average, 1 asked for")
