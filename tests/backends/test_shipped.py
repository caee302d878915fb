"""What the commands of the shipped descriptions print, in the form that their manuals show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gridmap.backends.description import Description, read
from gridmap.backends.listing import Meaning, records
from gridmap.backends.registry import description_of
from gridmap.core.events import NativeState as S
from gridmap.core.events import NativeStatus
from gridmap.errors import Cause

RECORDED = Path(__file__).with_name("recorded")


def of(name: str) -> Description:
    path = description_of(name)
    assert path is not None
    return read(path)


def told(description: Description, part: str, file: str) -> dict[str, NativeStatus]:
    """Returns each worker's status by its job and element, or its id."""
    output = (RECORDED / file).read_text()
    listed = getattr(description, part)
    meaning = Meaning(listed.command[0], listed.states, description.marks, listed.signals_above)
    found = {}
    for record in records(listed.patterns, output):
        fields = record.fields
        if not {"id", "job"} & fields.keys():
            continue  # of a whole array
        key = fields.get("id") or f"{fields['job']}.{fields.get('element', '')}".rstrip(".")
        found[key] = meaning.status(record)
    return found


def states(statuses: dict[str, NativeStatus]) -> dict[str, S]:
    return {key: status.state for key, status in statuses.items()}


def causes(statuses: dict[str, NativeStatus]) -> dict[str, Cause]:
    return {key: status.cause for key, status in statuses.items() if status.cause}


def test_openpbs() -> None:
    listed = told(of("openpbs"), "status", "openpbs.qstat")
    assert states(listed) == {
        "4007[1].pdw-s1": S.RUNNING, "4007[2].pdw-s1": S.PENDING, "4007[3].pdw-s1": S.FAILED,
        "4007[4].pdw-s1": S.DELETED, "4008.pdw-s1": S.DONE, "4009.pdw-s1": S.FAILED,
        "4010.pdw-s1": S.FAILED, "4011.pdw-s1": S.FAILED, "4012.pdw-s1": S.HELD,
        "4013.pdw-s1": S.FAILED,
    }  # fmt: skip
    assert causes(listed) == {
        "4009.pdw-s1": Cause.WALLTIME, "4010.pdw-s1": Cause.MEMORY,
        "4011.pdw-s1": Cause.NEVER_STARTED,
    }  # fmt: skip
    assert listed["4007[3].pdw-s1"].signal == 15 and listed["4013.pdw-s1"].exit_status == 3
    assert listed["4011.pdw-s1"].text.startswith("will never start: ")
    assert "on pdw-c2" in listed["4007[1].pdw-s1"].text


def test_lsf() -> None:
    listed = told(of("lsf"), "status", "lsf.bjobs")
    assert list(states(listed).values()) == [
        S.RUNNING, S.PENDING, S.DONE, S.FAILED, S.FAILED, S.FAILED, S.DELETED, S.HELD, S.SUSPENDED,
        S.UNKNOWN,
    ]  # fmt: skip
    assert causes(listed) == {"123.5": Cause.MEMORY, "123.6": Cause.WALLTIME}
    assert listed["123.4"].exit_status == 3 and listed["123.5"].signal == 9
    assert "Not enough job slot(s)" in listed["123.2"].text
    assert "TERM_RUNLIMIT" in listed["123.6"].text


def test_htcondor() -> None:
    listed = told(of("htcondor"), "status", "htcondor.condor_q")
    assert list(states(listed).values()) == [
        S.RUNNING, S.PENDING, S.HELD, S.FAILED, S.FAILED, S.FAILED, S.SUSPENDED,
    ]  # fmt: skip
    assert causes(listed) == {
        "123.3": Cause.MEMORY, "123.4": Cause.WALLTIME, "123.5": Cause.NEVER_STARTED,
    }  # fmt: skip
    assert listed["123.3"].text.startswith("is held for good: ")
    assert listed["123.5"].text.startswith("will never start: ")
    assert "Failed to execute" in listed["123.5"].text
    ended = told(of("htcondor"), "history", "htcondor.condor_history")
    assert list(states(ended).values()) == [S.DONE, S.FAILED, S.FAILED, S.DELETED]
    assert ended["123.8"].exit_status == 3 and ended["123.9"].signal == 11


def test_oar() -> None:
    listed = told(of("oar"), "status", "oar.oarstat")
    assert states(listed) == {
        "702": S.RUNNING, "703": S.PENDING, "704": S.DONE, "705": S.FAILED, "706": S.FAILED,
        "707": S.DELETED, "708": S.HELD,
    }  # fmt: skip
    assert causes(listed) == {"706": Cause.WALLTIME}
    assert listed["705"].exit_status == 3 and listed["706"].signal == 9
    assert "on node-3" in listed["702"].text


def test_grid_engine() -> None:
    description = of("grid_engine_commands")
    listed = told(description, "status", "grid_engine.qstat")
    assert list(states(listed).values()) == [S.RUNNING, S.PENDING, S.HELD, S.FAILED]
    ended = told(description, "history", "grid_engine.qacct")
    assert list(states(ended).values()) == [S.FAILED, S.FAILED, S.DELETED, S.FAILED, S.DONE]
    assert causes(ended) == {"12.6": Cause.WALLTIME}
    assert (ended["12.5"].exit_status, ended["12.6"].signal) == (3, 9)
    assert "before writing exit_status" in ended["12.8"].text


@pytest.mark.parametrize(
    ("name", "answer", "job"),
    [
        ("openpbs", "4007[].pdw-s1\n", "4007"),
        ("openpbs", "4008.pdw-s1\n", "4008"),
        ("lsf", "Job <123> is submitted to default queue <normal>.\n", "123"),
        ("htcondor", "123.0 - 123.9\n", "123"),
        ("oar", "Simple array job submission is used\nOAR_JOB_ID=702\n", "702"),
        ("grid_engine_commands", "12.1-3:1\n", "12"),
        ("slurm_commands", "sbatch: warning: mind the gap\n12;far\n", "12"),
    ],
)
def test_what_submissions_answer(name: str, answer: str, job: str) -> None:
    (found,) = re.finditer(of(name).submit.answer, answer, re.MULTILINE)
    assert found["job"] == job


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openpbs", "qdel: Unknown Job Id 580[3-5]"),
        ("openpbs", "qdel: Job has finished 4008.pdw-s1"),
        ("lsf", "Job <123> is not found"),
        ("lsf", "Job <123[4]>: Job has already finished"),
        ("htcondor", "Couldn't find/remove all jobs matching constraint"),
        ("grid_engine_commands", 'denied: job "12" does not exist'),
        ("slurm_commands", "scancel: error: Kill job error on job id 12: Invalid job id specified"),
    ],
)
def test_jobs_that_are_gone_are_an_answer(name: str, said: str) -> None:
    assert re.search(of(name).errors.unknown, said)
    assert not re.search(of(name).errors.transient, said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openpbs", "Connection refused\nqstat: cannot connect to server pdw-s1 (errno=15010)"),
        ("lsf", "LSF is down. Please wait ..."),
        ("lsf", "batch system daemon not responding ... still trying"),
        ("htcondor", "Error: Can't find address of local schedd"),
        ("oar", "DB connection error, exiting."),
        ("grid_engine_commands", "error: commlib error: got select error (Connection refused)"),
        ("slurm_commands", "squeue: error: Unable to contact slurm controller (connect failure)"),
    ],
)
def test_troubles_that_may_pass(name: str, said: str) -> None:
    assert re.search(of(name).errors.transient, said)
    assert not re.search(of(name).errors.unknown, said)


def test_arrays_of_openpbs_can_be_rerun() -> None:
    """Else it refuses them: "cannot submit non-rerunable Array Job". Source: qsub(1B), -r"""
    submit = of("openpbs").submit
    assert "-r" not in submit.command
    assert submit.array[-2:] == ("-r", "y")


def test_commands_that_authenticate_find_their_credentials() -> None:
    names = of("htcondor").environment
    assert {"KRB5CCNAME", "BEARER_TOKEN*", "X509_USER_*", "XDG_RUNTIME_DIR"} <= set(names)
