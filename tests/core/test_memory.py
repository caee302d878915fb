"""Memory: who is near a limit, when to look again, and what died for want of it."""

from __future__ import annotations

import pytest

from gridmap.core import memory
from gridmap.core.memory import CGROUP, H_VMEM, MACHINE, MAX_RSS, Killed, Mark, cause_of_death

GB = 1024**3
NOT = Killed()
HERE, ELSEWHERE = Killed(CGROUP), Killed(MACHINE)


def test_who_grows_towards_a_limit_is_looked_at_more_often() -> None:
    def after(before: int, now: int, gone_s: float = 1.0) -> float:
        return memory.look_after_s([Mark("x", now, 100)], [Mark("x", before, 100)], gone_s)

    assert after(0, 0) == memory.LOOK_S
    assert after(25, 25) == after(50, 25) == 0.75
    assert after(95, 95) == after(120, 120) == memory.LOOK_NEAR_S
    assert after(10, 20) == 0.8, "eight more such seconds until the limit"
    assert after(20, 60) == 0.4
    assert after(0, 60) == pytest.approx(1 / 3)
    assert after(0, 99) == after(0, 120) == memory.LOOK_OFTEN_S
    assert memory.look_after_s([], [], 1.0) == memory.LOOK_S


def test_the_limits_of_a_job_are_those_of_its_worker_and_its_own() -> None:
    of = memory.marks([Mark(CGROUP, 5, 10)], 3, 4)
    assert of == (Mark(CGROUP, 5, 10), Mark(MAX_RSS, 3, 4))
    assert (memory.least(of), memory.nearest(of), memory.over(of)) == (4, 0.75, None)
    assert memory.over(memory.marks([Mark(CGROUP, 11, 10)], 5, 4)) == Mark(MAX_RSS, 5, 4)
    assert memory.over([Mark(CGROUP, 11, 10)]) is None, "the kernel sees to that"
    assert (memory.least([]), memory.nearest([])) == (0, 0.0)


@pytest.mark.parametrize(
    ("of", "exit_status", "signal", "risen", "killed", "limit"),
    [
        # the kernel's SIGKILL
        ([], -1, 9, 0, NOT, None),
        ([], -1, 9, 0, ELSEWHERE, MACHINE),
        ([], -1, 9, 0, HERE, CGROUP),
        ([Mark(CGROUP, 1, 100)], -1, 9, 0, HERE, CGROUP),
        ([Mark(CGROUP, 89, 100)], -1, 9, 0, NOT, None),
        ([Mark(CGROUP, 90, 100)], -1, 9, 0, NOT, CGROUP),
        ([Mark(CGROUP, 10, 100)], -1, 9, 95, NOT, CGROUP),
        ([Mark(H_VMEM, 92, 100)], -1, 9, 0, NOT, H_VMEM),
        ([Mark(MAX_RSS, 99, 100)], -1, 9, 99, NOT, None),  # the agent would have said so
        # an address space that was spent
        ([Mark(H_VMEM, 96, 100)], -1, 11, 0, NOT, H_VMEM),
        ([Mark(H_VMEM, 96, 100)], -1, 6, 0, NOT, H_VMEM),
        ([Mark(H_VMEM, 96, 100)], 1, 0, 0, NOT, H_VMEM),
        ([Mark(H_VMEM, 50, 100)], -1, 6, 96, NOT, H_VMEM),
        # an ordinary crash, exit or signal
        ([Mark(H_VMEM, 94, 100)], -1, 11, 94, NOT, None),
        ([Mark(H_VMEM, 96, 100)], 0, 0, 0, NOT, None),
        ([Mark(H_VMEM, 96, 100)], -1, 15, 0, NOT, None),
        ([Mark(CGROUP, 99, 100)], -1, 11, 0, HERE, None),
        ([Mark(CGROUP, 99, 100)], 1, 0, 0, HERE, None),
    ],
)
def test_what_counts_as_a_death_for_want_of_memory(
    of: list[Mark], exit_status: int, signal: int, risen: int, killed: Killed, limit: str | None
) -> None:
    mark = cause_of_death(of, exit_status, signal, risen, killed)
    assert (None if mark is None else mark.limit) == limit


@pytest.mark.parametrize(
    ("mark", "exit_status", "signal", "words"),
    [
        (Mark(MAX_RSS, 3 * GB, GB), -1, 9, "used 3.0 GB of the 1.0 GB that max_rss allows"),
        (
            Mark(H_VMEM, 1900 * 1024**2, 2 * GB),
            -1,
            11,
            "killed by SIGSEGV (11) with 1.9 GB of the 2.0 GB of address space that h_vmem allows",
        ),
        (Mark(H_VMEM, GB, GB), 1, 0, "exited with status 1 with 1.0 GB of the 1.0 GB"),
        (
            Mark(CGROUP, 0, 100 * 1024**2),
            -1,
            9,
            "killed by SIGKILL (9) for want of memory: its control group may have 100.0 MB",
        ),
        (Mark(MACHINE, 0, 0), -1, 9, "killed by SIGKILL (9) for want of memory: the kernel says"),
    ],
)
def test_it_says_how_much_was_used_of_what(
    mark: Mark, exit_status: int, signal: int, words: str
) -> None:
    assert memory.describe(mark, exit_status, signal).startswith(words)
    assert memory.human(3000) == "3 KB"


def test_a_job_may_have_its_part_and_what_others_leave() -> None:
    group = Mark(CGROUP, 90, 100)
    assert memory.part_of(group, 90, 0, 1) == group
    assert memory.part_of(group, 70, 20, 2) == Mark(CGROUP, 70, 80), "what the other leaves"
    assert memory.part_of(group, 20, 70, 2) == Mark(CGROUP, 20, 50), "its part, taken or not"
    assert memory.part_of(group, 20, 500, 4) == Mark(CGROUP, 20, 25), "pages that are shared"
    far = Mark(CGROUP, 79, 100)
    assert memory.part_of(far, 60, 19, 2) == far


@pytest.mark.parametrize(
    ("victim", "used", "jobs", "pays"),
    [
        (10, {1: 70, 2: 10}, 4, 1),
        (10, {1: 30, 2: 40}, 4, 2),
        (10, {1: 25, 2: 25}, 4, None),  # none had more than its part
        (23, {1: 70}, 4, None),  # 90 % of its part, and what it took since the last look
        (60, {1: 70}, 2, None),
        (10, {}, 4, None),
        (10, {}, 1, None),
    ],
)
def test_who_pays_for_a_limit_that_jobs_share(
    victim: int, used: dict[int, int], jobs: int, pays: int | None
) -> None:
    assert memory.culprit(Mark(CGROUP, 100, 100), victim, used, jobs) == pays
    assert memory.culprit(Mark(CGROUP, 0, 0), victim, used, jobs) is None, "a limit nobody knows"
