"""Limits, from answers recorded from Slurm 22.05 and Son of Grid Engine 8.1.9."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gridmap.backends.commands import MISSING
from gridmap.doctor import limits
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, Status
from tests.doctor.visits import exam

SLURM = """Configuration data as of 2026-11-20T09:12:44
AccountingStorageBackupHost = (null)
AccountingStorageEnforce = associations,limits,qos
AccountingStorageHost   = localhost
BOOT_TIME               = 2026-11-20T09:00:01
ClusterName             = test
MaxArraySize            = 1001
MaxDBDMsgs              = 20008
MaxJobCount             = 10000
MaxJobId                = 67043328
SLURM_CONF              = /etc/slurm/slurm.conf

Slurmctld(primary) at here is UP
"""

GRID_ENGINE = """#global:
execd_spool_dir              /var/spool/gridengine/execd
mailer                       /usr/bin/mail
max_unheard                  00:05:00
max_aj_instances             2000
max_aj_tasks                 75000
max_u_jobs                   0
max_jobs                     0
max_advance_reservations     0
"""

SCHEDULER = """algorithm                         default
schedule_interval                 0:0:15
maxujobs                          0
queue_sort_method                 load
flush_submit_sec                  0
"""


def opened(**settings: Any) -> Exam:
    visit = exam("--backend", "slurm", **settings)
    visit.opened = object()  # type: ignore[assignment]  # it answered
    return visit


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the scheduler's commands answer: words of the command -> (status, output)."""

    def have(table: Mapping[str, tuple[int, str]]) -> None:
        def command(*words: str) -> tuple[int, str]:
            line = " ".join(words)
            found = [answer for start, answer in table.items() if line.startswith(start)]
            return found[0] if found else (MISSING, "No such file or directory")

        monkeypatch.setattr(limits, "command", command)

    return have


def named(visit: Exam) -> dict[str, Finding]:
    return {one.name: one for one in limits.examine(visit)}


# --- Slurm ----------------------------------------------------------------------------------------


def test_slurm_without_limits_on_accounts(answers: Callable[..., None]) -> None:
    config = SLURM.replace("associations,limits,qos", "none")
    answers({"scontrol show config": (0, config)})
    visit = opened()
    found = named(visit)
    assert {one.status for one in found.values()} == {Status.OK}
    assert found["MaxArraySize"].facts["limit"] == 1001
    assert found["MaxJobCount"].facts["limit"] == 10_000
    assert "not enforced" in found["MaxSubmitJobs"].found and visit.needed == {}


def test_an_account_that_may_have_fewer_jobs_than_workers(answers: Callable[..., None]) -> None:
    answers({
        "scontrol show config": (0, SLURM),
        "sacctmgr": (0, "physics||200|||normal\nphysics|gpu|50|||normal\nart|||80||normal\n"),
    })  # fmt: skip
    visit = opened()
    found = named(visit)
    assert found["MaxSubmitJobs"].status is Status.WARNING
    assert "GRIDMAP_MAX_WORKERS=50" in found["MaxSubmitJobs"].change
    assert visit.needed == {("settings", "GRIDMAP_MAX_WORKERS"): 50}
    visit = opened()
    visit.options.project = "art"
    assert "80" in named(visit)["MaxSubmitJobs"].found


def test_an_account_without_limits(answers: Callable[..., None]) -> None:
    answers({"scontrol show config": (0, SLURM), "sacctmgr": (0, "physics|||||normal\n")})
    assert named(opened())["MaxSubmitJobs"].status is Status.OK


def test_no_account_where_accounts_are_wanted(answers: Callable[..., None]) -> None:
    answers({"scontrol show config": (0, SLURM), "sacctmgr": (0, "")})
    told = named(opened())["MaxSubmitJobs"]
    assert told.status is Status.WARNING and "project=" in told.change


@pytest.mark.parametrize(
    "answer", [(MISSING, ""), (1, "sacctmgr: error: Unable to connect to the database")]
)
def test_an_accounting_that_does_not_answer_is_left_out(
    answers: Callable[..., None], answer: tuple[int, str]
) -> None:
    answers({"scontrol show config": (0, SLURM), "sacctmgr": answer})
    assert named(opened())["MaxSubmitJobs"].status is Status.SKIPPED


@pytest.mark.parametrize(
    ("size", "words"), [(1, "each worker is a job"), (200, "500 workers are 3 arrays")]
)
def test_arrays_that_are_small(answers: Callable[..., None], size: int, words: str) -> None:
    config = SLURM.replace("= 1001", f"= {size}")
    answers({"scontrol show config": (0, config), "sacctmgr": (0, "a|||||normal")})
    told = named(opened(max_workers=500))["MaxArraySize"]
    assert told.status is Status.OK and words in told.found


def test_a_cluster_that_takes_few_jobs_in_all(answers: Callable[..., None]) -> None:
    config = SLURM.replace("= 10000", "= 100")
    answers({"scontrol show config": (0, config), "sacctmgr": (0, "a|||||normal")})
    assert named(opened(max_workers=500))["MaxJobCount"].status is Status.WARNING


# --- Grid Engine ----------------------------------------------------------------------------------


def grid_engine(
    answers: Callable[..., None], config: str = GRID_ENGINE, scheduler: str = SCHEDULER
) -> tuple[Exam, dict[str, Finding]]:
    answers({"qconf -sconf": (0, config), "qconf -ssconf": (0, scheduler)})
    visit = opened(max_workers=500)
    visit.backend, visit.is_grid_engine = "drmaa", True
    return visit, named(visit)


def test_grid_engine_as_it_comes(answers: Callable[..., None]) -> None:
    visit, found = grid_engine(answers)
    assert {one.status for one in found.values()} == {Status.OK} and visit.needed == {}
    assert set(found) == {"max_aj_tasks", "max_u_jobs", "max_jobs", "max_aj_instances", "maxujobs"}


def test_arrays_of_fewer_tasks_than_workers(answers: Callable[..., None]) -> None:
    visit, found = grid_engine(answers, GRID_ENGINE.replace("75000", "100"))
    assert found["max_aj_tasks"].status is Status.WARNING
    assert "GRIDMAP_MAX_WORKERS=100" in found["max_aj_tasks"].change
    assert visit.needed == {("settings", "GRIDMAP_MAX_WORKERS"): 100}


def test_few_jobs_of_a_user(answers: Callable[..., None]) -> None:
    few = GRID_ENGINE.replace("max_u_jobs                   0", "max_u_jobs                   3")
    assert grid_engine(answers, few)[1]["max_u_jobs"].status is Status.WARNING
    many = few.replace("   3", "   300")
    assert grid_engine(answers, many)[1]["max_u_jobs"].status is Status.OK


def test_few_tasks_at_work_are_told_and_no_fault(answers: Callable[..., None]) -> None:
    config = GRID_ENGINE.replace("2000", "20")
    scheduler = SCHEDULER.replace("maxujobs                          0", "maxujobs      30")
    _, found = grid_engine(answers, config, scheduler)
    for name, number in (("max_aj_instances", 20), ("maxujobs", 30)):
        assert found[name].status is Status.OK and found[name].facts["limit"] == number
        assert "more workers than that wait" in found[name].found


def test_without_qconf_they_are_left_out(answers: Callable[..., None]) -> None:
    answers({})
    visit = opened()
    visit.backend, visit.is_grid_engine = "drmaa", True
    assert named(visit)["limits"].status is Status.SKIPPED


# --- neither --------------------------------------------------------------------------------------


def test_what_has_no_scheduler_has_no_limits() -> None:
    assert named(exam("--backend", "local"))["limits"].status is Status.SKIPPED
    away = exam("--backend", "slurm")
    assert "does not answer" in named(away)["limits"].found
    other = opened()
    other.backend = "mine"
    assert "'mine'" in named(other)["limits"].found
