"""Outputs of Grid Engine's commands, recorded from Son of Grid Engine 8.1.9."""

from __future__ import annotations

import pytest

from gridmap.backends.grid_engine import (
    QueuedTask,
    account_summary,
    cause_of_account,
    fold,
    parse_qacct,
    parse_qstat,
    queue_summary,
    state_of,
    unfold,
)
from gridmap.core.events import NativeState
from gridmap.errors import Cause

QSTAT = """<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <job_list state="running">
      <JB_job_number>36</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>gridmap_job-20261120-ab12</JB_name>
      <JB_owner>griduser</JB_owner>
      <state>r</state>
      <JAT_start_time>2026-11-20T12:52:34</JAT_start_time>
      <queue_name>all.q@vm</queue_name>
      <slots>1</slots>
      <tasks>2</tasks>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>43</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>eqw</JB_name>
      <JB_owner>griduser</JB_owner>
      <state>Eqw</state>
      <JB_submission_time>2026-11-20T12:57:16</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
    </job_list>
    <job_list state="pending">
      <JB_job_number>42</JB_job_number>
      <JAT_prio>0.00000</JAT_prio>
      <JB_name>gridmap_job-20261120-ab12</JB_name>
      <JB_owner>griduser</JB_owner>
      <state>hqw</state>
      <JB_submission_time>2026-11-20T12:57:16</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
      <tasks>1-7:3</tasks>
    </job_list>
  </job_info>
</job_info>
"""

QSTAT_J = """==============================================================
job_number:                 43
owner:                      griduser
job_name:                   eqw
stdout_path_list:           NONE:NONE:/nonexist/x
script_file:                /bin/true
job_type:                   binary
error reason          1:      11/20/2026 12:57:16 [1001:17071]: error: can't open output file \
"/nonexist/x": No such file or directory
scheduling info:            Job is in error state
                            queue instance "all.q@vm" dropped because it is full
"""

QACCT = """==============================================================
qname        all.q
hostname     vm
jobnumber    38
taskid       1
qsub_time    Fri Nov 20 12:52:39 2026
start_time   -/-
end_time     -/-
slots        1
failed       27  : searching requested shell
exit_status  0
ru_wallclock 0s
maxvmem      0.000B
"""


def test_qstat_lists_tasks():
    assert parse_qstat(QSTAT) == [
        QueuedTask("36.2", "gridmap_job-20261120-ab12", "r"),
        QueuedTask("43", "eqw", "Eqw"),
        QueuedTask("42.1", "gridmap_job-20261120-ab12", "hqw"),
        QueuedTask("42.4", "gridmap_job-20261120-ab12", "hqw"),
        QueuedTask("42.7", "gridmap_job-20261120-ab12", "hqw"),
    ]


def test_what_is_not_from_qstat_is_refused():
    with pytest.raises(ValueError, match="qstat"):
        parse_qstat("error: commlib error: got select error (Connection refused)")


@pytest.mark.parametrize(
    ("tasks", "numbers"),
    [
        ("3", ["3"]),
        ("1,6", ["1", "6"]),
        ("4-6:1,9", ["4", "5", "6", "9"]),
        ("2-7:5", ["2", "7"]),
        ("", [""]),
    ],
)
def test_task_ranges(tasks, numbers):
    assert list(unfold(tasks)) == numbers


def test_stretches_of_tasks():
    assert fold([7, 3, 1, 2, 9, 8]) == [(1, 3), (7, 9)]
    assert fold([]) == []


def test_why_a_job_does_not_run():
    told = queue_summary(QSTAT_J)
    assert "can't open output file" in told
    assert "Job is in error state" in told
    assert "dropped because it is full" in told
    assert "job_name" not in told


def test_why_a_job_failed():
    assert parse_qacct(QACCT)["failed"] == "27  : searching requested shell"
    assert "failed 27 : searching requested shell" in account_summary(parse_qacct(QACCT))


def test_the_last_entry_counts():
    twice = QACCT.replace("failed       27", "failed       0 ") + QACCT
    assert parse_qacct(twice)["failed"].startswith("27")


def test_a_job_without_an_account():
    assert account_summary(parse_qacct("error: job id 99999 not found\n")) == ""


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        ("qw", NativeState.PENDING),
        ("Rq", NativeState.PENDING),
        ("dqw", NativeState.PENDING),
        ("hqw", NativeState.HELD),
        ("hRwq", NativeState.HELD),
        ("t", NativeState.RUNNING),
        ("r", NativeState.RUNNING),
        ("hr", NativeState.RUNNING),
        ("Rr", NativeState.RUNNING),
        ("Rt", NativeState.RUNNING),
        ("dr", NativeState.RUNNING),
        ("dt", NativeState.RUNNING),
        ("dRr", NativeState.RUNNING),
        ("s", NativeState.SUSPENDED),
        ("ts", NativeState.SUSPENDED),
        ("S", NativeState.SUSPENDED),
        ("tS", NativeState.SUSPENDED),
        ("T", NativeState.SUSPENDED),
        ("tT", NativeState.SUSPENDED),
        ("N", NativeState.SUSPENDED),
        ("Rs", NativeState.SUSPENDED),
        ("RtT", NativeState.SUSPENDED),
        ("dS", NativeState.SUSPENDED),
        ("Eqw", NativeState.FAILED),
        ("Ehqw", NativeState.FAILED),
        ("EhRqw", NativeState.FAILED),
        ("dEqw", NativeState.FAILED),
        ("", NativeState.UNKNOWN),
        ("?", NativeState.UNKNOWN),
    ],
)
def test_what_the_letters_of_qstat_mean(letters, state):
    assert state_of(letters) is state


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"failed": "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit"}, Cause.WALLTIME),
        ({"failed": "37  : x", "category": "-l h_rt=3", "ru_wallclock": "4s"}, Cause.WALLTIME),
        (
            {"failed": "37  : x", "category": "-l h_rt=60,h_vmem=1G", "ru_wallclock": "4s",
             "maxvmem": "1010.5MB"},
            Cause.MEMORY,
        ),
        (
            {"failed": "37  : x", "category": "-l h_rt=0:0:3,h_vmem=1G", "ru_wallclock": "4s",
             "maxvmem": "1.1GB"},
            Cause.WALLTIME,
        ),
        ({"failed": "37  : x", "category": "-l h_vmem=1G", "maxvmem": "10MB"}, Cause.WALLTIME),
        ({"failed": "37  : x", "category": "-l h_vmem=lots"}, Cause.WALLTIME),
        ({"failed": "100 : assumedly after job", "category": "-l h_rt=3"}, None),
        ({"failed": "0"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_accounting_tells_what_grid_engine_ended_for_want_of(
    fields: dict[str, str], cause: Cause | None
) -> None:
    assert cause_of_account(fields) is cause
