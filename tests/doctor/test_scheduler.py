"""The probe of the scheduler, with commands that answer as the real ones do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gridmap.doctor import scheduler
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, Status
from tests.doctor.visits import exam

SINFO = "main*|up|infinite|2|idle\nmain*|up|infinite|1|drained\ngpu|up|1:00:00|1|down*\n"
CONFIG = "MaxArraySize            = 1001\n"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes commands; there are no others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("SGE_ROOT", "DRMAA_LIBRARY_PATH", "SGE_CELL"):
        monkeypatch.delenv(name, raising=False)

    def make(**scripts: str) -> None:
        for name, script in scripts.items():
            command = folder / name
            command.write_text(f"#!/bin/sh\n{script}\n")
            command.chmod(0o755)

    return make


def slurm(make: Callable[..., None], **scripts: str) -> None:
    make(
        **{
            "scontrol": 'test "$1" = ping && echo "Slurmctld(primary) at here is UP" || '
            f'echo "{CONFIG}"',
            "sinfo": f"/bin/echo '{SINFO}'",
            "sbatch": "exit 1",
            "squeue": "true",
            "scancel": "true",
        }
        | scripts
    )


def looked(*words: str, **settings: str) -> tuple[Exam, dict[str, Finding]]:
    visit = exam(*words, **settings)
    visit.backend = ""
    found = {one.name: one for one in scheduler.examine(visit)}
    visit.close()
    return visit, found


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has no DRMAA library be found, whatever this machine has."""
    monkeypatch.setattr("gridmap.backends.drmaa.why_not", lambda: "no DRMAA library found; set it")


# --- which ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_library")
def test_no_cluster_is_said_with_the_reasons(commands: Callable[..., None]) -> None:
    visit, found = looked()
    assert visit.backend == "local" and found["choice"].status is Status.WARNING
    assert "no sbatch" in found["choice"].found and "no DRMAA library" in found["choice"].found
    assert "SGE_ROOT" in found["choice"].change


def test_this_machine_as_asked() -> None:
    visit, found = looked("--backend", "local")
    assert visit.backend == "local" and found["choice"].status is Status.OK


@pytest.mark.usefixtures("no_library")
def test_slurm_is_chosen_and_looked_at(commands: Callable[..., None]) -> None:
    slurm(commands)
    visit, found = looked()
    assert visit.backend == "slurm" and found["choice"].status is Status.OK
    assert found["controllers"].found == "Slurmctld(primary) at here is UP"
    assert found["answer"].status is Status.OK
    assert found["queue"].status is Status.OK and "partition main" in found["queue"].found
    assert "2 idle, 1 drained" in found["queue"].found


@pytest.mark.usefixtures("no_library")
def test_a_slurm_that_does_not_answer(commands: Callable[..., None]) -> None:
    slurm(commands, scontrol='echo "Slurmctld(primary) at here is DOWN"; exit 1')
    visit, found = looked("--backend", "slurm")
    assert found["answer"].status is Status.FAILED and "is DOWN" in found["answer"].found
    assert "munge" in found["answer"].change and visit.opened is None


@pytest.mark.usefixtures("no_library")
def test_a_second_controller_that_is_down(commands: Callable[..., None]) -> None:
    ping = 'echo "Slurmctld(primary) at a is UP"; echo "Slurmctld(backup) at b is DOWN"'
    slurm(commands, scontrol=f'test "$1" = ping && {{ {ping}; }} || echo "{CONFIG}"')
    _, found = looked("--backend", "slurm")
    assert found["controllers"].status is Status.WARNING and found["answer"].status is Status.OK


@pytest.mark.usefixtures("no_library")
def test_a_library_that_is_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    visit, found = looked("--backend", "drmaa")
    assert (
        found["choice"].status is Status.FAILED and "DRMAA_LIBRARY_PATH" in found["choice"].change
    )
    assert visit.backend == ""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("x.so: cannot allocate memory in static TLS block", "libjemalloc"),
        ("the package drmaa is missing: pip install drmaa", "pip install drmaa"),
        ("/lib/x.so is no DRMAA library: undefined symbol", "libdrmaa.so"),
    ],
)
def test_what_is_wrong_with_a_library_says_what_to_do(error: str, words: str) -> None:
    assert words in scheduler.library_advice(error)


def test_a_backend_that_does_not_exist() -> None:
    _, found = looked("--backend", "slurp")
    assert found["choice"].status is Status.FAILED and "slurm" in found["choice"].found


def test_a_temp_dir_that_is_not_there_is_told_and_the_rest_goes_on(
    commands: Callable[..., None], no_library: None
) -> None:
    slurm(commands)
    visit, found = looked("--backend", "slurm", "--temp-dir", "/nosuch")
    assert found["temp_dir"].status is Status.FAILED and "/nosuch" in found["temp_dir"].found
    assert found["answer"].status is Status.OK and visit.temp_dir == ""


# --- partitions -----------------------------------------------------------------------------------


def partition(queue: str, output: str = SINFO, code: int = 0) -> Finding:
    (found,) = scheduler.partitions(queue, code, output)
    return found


def test_a_partition_that_does_not_exist() -> None:
    told = partition("long")
    assert told.status is Status.FAILED and "there are: main, gpu" in told.found


def test_a_partition_none_of_whose_nodes_takes_jobs() -> None:
    told = partition("gpu")
    assert told.status is Status.WARNING and "1 down*" in told.found and "sinfo -R" in told.change
    assert partition("", "main*|down|infinite|2|idle").status is Status.WARNING


def test_no_partition_is_the_default_one() -> None:
    told = partition("", SINFO.replace("*|", "|"))
    assert told.status is Status.WARNING and "DEFAULT_QUEUE" in told.change


def test_sinfo_that_fails() -> None:
    assert partition("", "Unable to contact slurm controller", 1).status is Status.WARNING


@pytest.mark.parametrize("state", ["idle", "mixed", "allocated", "idle~", "mixed+", "planned"])
def test_nodes_that_take_jobs(state: str) -> None:
    assert partition("", f"main*|up|infinite|1|{state}").status is Status.OK


@pytest.mark.parametrize("state", ["down", "drained", "draining", "idle*", "unknown", "maint"])
def test_nodes_that_take_none(state: str) -> None:
    assert partition("", f"main*|up|infinite|1|{state}").status is Status.WARNING


# --- Grid Engine ----------------------------------------------------------------------------------


def queue(name: str, output: str = "all.q\ngpu.q\n", code: int = 0) -> tuple[Exam, Finding]:
    visit = exam("--backend", "drmaa")
    (found,) = scheduler.grid_engine_queues(visit, name, code, output)
    return visit, found


def test_a_queue_that_is_there() -> None:
    for name in ("all.q", "gpu.q@node1", "", "*.q", "all.q,gpu.q"):
        assert queue(name)[1].status is Status.OK


def test_a_queue_that_is_not_there() -> None:
    visit, told = queue("long.q")
    assert told.status is Status.FAILED and "all.q, gpu.q" in told.found and visit.needed == {}
    visit, told = queue("all.q", "main.q\n")
    assert told.status is Status.FAILED
    assert visit.needed == {("settings", "DEFAULT_QUEUE"): "main.q"}


def test_a_cell_that_is_there_and_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRMAA_LIBRARY_PATH", raising=False)
    common = tmp_path / "here" / "common"
    common.mkdir(parents=True)
    (common / "act_qmaster").write_text("head\n")
    told = scheduler.cell_finding(str(tmp_path), "here")
    assert told.status is Status.OK and "qmaster on head" in told.found
    told = scheduler.cell_finding(str(tmp_path), "default")
    assert told.status is Status.WARNING and "SGE_CELL=default" in told.found
    assert "SGE_CELL" in told.change
    assert scheduler.cell_finding("", "default").status is Status.WARNING
