"""What Slurm's commands print, and what sbatch is told."""

from __future__ import annotations

import pytest

from gridmap.backends import slurm_words as words
from gridmap.core.events import NativeState as S
from gridmap.errors import Cause

# as Slurm 22.05 printed it
LISTED = """\
9_2|PENDING|JobArrayTaskLimit|0||0|
9_1|RUNNING|None|0|n1|0|
9_3|FAILED|NonZeroExitCode|768|n2|0|
9_4|FAILED|NonZeroExitCode|11|n2|0|
15_0|PENDING|PartitionConfig|0||0|
16_0|PENDING|JobHeldUser|0||0|
17_0|OUT_OF_MEMORY|OutOfMemory|125|n1|0|
18_0|TIMEOUT|TimeLimit|1|n1|0|
19_0|COMPLETED|None|0|n1|0|
20|CANCELLED|None|0|n1|0|
21_7|NODE_FAIL|NodeDown|1|n2|0|
22_7|COMPLETING|None|0|n2|0|
23_7|PREEMPTED|None|0|n2|0|
24_7|SOMETHING_NEW|None|0|n2|0|
25_7|PENDING|BeginTime|0||1|
"""


def test_what_squeue_lists() -> None:
    listed = {one.native_id: one.status for one in words.parse_squeue("CLUSTER: one\n" + LISTED)}
    states = {native_id: status.state for native_id, status in listed.items()}
    assert states == {
        "9_2": S.PENDING, "9_1": S.RUNNING, "9_3": S.FAILED, "9_4": S.FAILED, "15_0": S.FAILED,
        "16_0": S.HELD, "17_0": S.FAILED, "18_0": S.FAILED, "19_0": S.DONE, "20": S.DELETED,
        "21_7": S.FAILED, "22_7": S.RUNNING, "23_7": S.FAILED, "24_7": S.UNKNOWN,
        "25_7": S.FAILED,
    }  # fmt: skip
    assert (listed["9_3"].exit_status, listed["9_3"].signal) == (3, 0)
    assert (listed["9_4"].exit_status, listed["9_4"].signal) == (-1, 11)
    assert listed["15_0"].text.startswith("will never start: ")
    assert "PartitionConfig" in listed["15_0"].text and "on n2, exited with 3" in listed["9_3"].text
    causes = {one: status.cause for one, status in listed.items() if status.cause}
    assert causes == {
        "15_0": Cause.NEVER_STARTED, "17_0": Cause.MEMORY, "18_0": Cause.WALLTIME,
        "23_7": Cause.PREEMPTED, "25_7": Cause.PREEMPTED,
    }  # fmt: skip


def test_what_the_accounting_says() -> None:
    text = "9_3|FAILED|3:0|n1\n9_4|CANCELLED by 1001|0:15|n1\n9_[5-7]|PENDING|0:0|None assigned\n"
    listed = {one.native_id: one.status for one in words.parse_sacct(text)}
    assert listed.keys() == {"9_3", "9_4"}
    assert (listed["9_3"].state, listed["9_3"].exit_status) == (S.FAILED, 3)
    assert (listed["9_4"].state, listed["9_4"].signal) == (S.DELETED, 15)


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("Resources", S.PENDING),
        ("AssocGrpCpuLimit", S.PENDING),
        ("QOSMaxJobsPerUserLimit", S.PENDING),
        ("ReqNodeNotAvail, UnavailableNodes:n1", S.PENDING),
        ("Dependency", S.PENDING),
        ("JobHeldAdmin", S.HELD),
        ("AssocMaxCpuPerJobLimit", S.FAILED),
        ("QOSMaxWallDurationPerJobLimit", S.FAILED),
        ("QOSMinGRES", S.FAILED),
        ("DependencyNeverSatisfied", S.FAILED),
        ("launch failed requeued held", S.FAILED),
    ],
)
def test_what_a_waiting_job_waits_for(reason: str, state: S) -> None:
    (listed,) = words.parse_squeue(f"9_1|PENDING|{reason}|0||0|\n")
    assert listed.status.state is state and reason in listed.status.text
    assert listed.status.text.startswith("will never start") is (state is S.FAILED)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12\n", ("12", "")),
        ("12;far-away\n", ("12", "far-away")),
        ("sbatch: warning: be careful\n12\n", ("12", "")),
    ],
)
def test_the_job_that_sbatch_made(text: str, answer: tuple[str, str]) -> None:
    assert words.submitted(text) == answer


def test_an_answer_without_a_job() -> None:
    with pytest.raises(ValueError, match="'welcome'"):
        words.submitted("welcome\n")


def test_which_troubles_may_pass() -> None:
    down = "Unable to contact slurm controller (connect failure)"
    assert words.may_pass(f"sbatch: error: Batch job submission failed: {down}")
    assert words.may_pass("slurm_load_jobs error: Socket timed out on send/recv operation")
    assert not words.may_pass("sbatch: error: invalid partition specified: nosuch")
    assert words.knows_none("slurm_load_jobs error: Invalid job id specified")


def test_elements_are_folded() -> None:
    ids = ["12_3", "12_1", "12_2", "12_7", "13", "14_0"]
    assert words.fold_ids(ids) == ["12_[1-3,7]", "13", "14_[0]"]


SINFO_TIMES = (
    "main*|1:00:00|infinite\nlong|n/a|2-00:00:00\nfree|n/a|infinite\nshort|30:00|1:00:00\n"
)


@pytest.mark.parametrize(
    ("queue", "seconds"),
    [("", 3600), ("long", 172800), ("free", 0), ("short", 1800), ("long,short", 1800), ("no", 0)],
)
def test_how_long_a_job_may_run_that_asks_for_no_time(queue: str, seconds: float) -> None:
    assert words.usual_time_s(queue, SINFO_TIMES) == seconds
    assert words.usual_time_s(queue, "") == 0
