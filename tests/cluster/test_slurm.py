"""What only the Slurm backend on a real Slurm does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import gridmap
from gridmap import Job, JobOutOfTime
from gridmap.backends import slurm
from gridmap.backends.registry import open_backend
from gridmap.backends.slurm import SlurmBackend
from gridmap.core.events import NativeState
from gridmap.errors import BackendError, Cause, JobNeverStarted, JobOutOfMemory
from tests.cluster.client import eventually, make_gate, queued, workers_of
from tests.cluster.polling import ENDED, run_to_end, until
from tests.cluster.scheduler import SCHEDULER
from tests.rows import row

pytestmark = pytest.mark.only_on("slurm")


def test_it_is_found_by_itself() -> None:
    assert gridmap.grid_map(lambda: os.environ["SLURM_JOB_ID"] != "", [[]]) == [True]


def test_an_array_larger_than_slurm_takes_is_several(backend, request_for, monkeypatch) -> None:
    monkeypatch.setattr(backend, "largest_array", 3)
    request = request_for("/bin/sleep", "100", count=8)
    ids = backend.submit(request)
    assert len(set(ids)) == 8 and len({x.partition("_")[0] for x in ids}) == 3
    assert sorted(backend.find(request.run_tag)) == sorted(ids)
    until(backend, ids[:1], {NativeState.RUNNING})
    backend.cancel(ids)
    until(backend, ids, {NativeState.DELETED})


def test_the_largest_array_is_slurms(backend) -> None:
    assert backend.largest_array == 2001


@pytest.mark.endings
def test_a_worker_that_will_never_start_is_deleted_and_says_why(backend, request_for) -> None:
    [native_id] = backend.submit(request_for("/bin/true", num_slots=99))
    status = until(backend, [native_id], ENDED)[native_id]
    assert status.state is NativeState.FAILED
    assert status.text.startswith("will never start: ") and "PartitionConfig" in status.text
    eventually(lambda: not queued(), what="it is deleted")


def test_a_run_whose_workers_will_never_start_says_so() -> None:
    began = time.monotonic()
    with pytest.raises(JobNeverStarted, match="will never start: .*PartitionConfig"):
        gridmap.grid_map(abs, [1, 2], num_slots=99)
    assert time.monotonic() - began < 20


@pytest.mark.endings
@row(
    fault="uses more memory than h_vmem, which the kernel enforces (OUT_OF_MEMORY)",
    where="child",
    expected="cause memory",
    bound_s=20,
)
def test_more_memory_than_was_asked_for_is_out_of_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("NUM_RESUBMITS", "0")

    def grow(megabytes: int) -> int:
        return len(b"x" * (megabytes << 20))

    with pytest.raises(JobOutOfMemory) as caught:
        gridmap.grid_map(grow, [600], h_vmem="200M")
    assert caught.value.cause is Cause.MEMORY


def test_a_worker_on_a_named_node(backend, request_for) -> None:
    request = request_for("/bin/sh", "-c", "echo $SLURMD_NODENAME", hosts=("n2",), count=2)
    ids = backend.submit(request)
    until(backend, ids, {NativeState.DONE})
    logs = Path(request.log_dir).glob("*.out")
    assert [path.read_text().strip() for path in logs] == ["n2", "n2"]


def test_gpus(backend, request_for, shared) -> None:
    request = request_for("/bin/sh", "-c", "echo $CUDA_VISIBLE_DEVICES", gpu=2)
    assert run_to_end(backend, request).state is NativeState.DONE
    (log,) = Path(request.log_dir).glob("*.out")
    assert log.read_text().strip() == "0,1"


@pytest.mark.endings
def test_a_worker_that_cannot_start_is_diagnosed(backend, request_for) -> None:
    [native_id] = backend.submit(request_for("/nosuch/python"))
    status = until(backend, [native_id], ENDED)[native_id]
    assert (status.state, status.exit_status) == (NativeState.FAILED, 127)
    assert "/nosuch/python" in backend.diagnose(native_id)


def test_without_accounting_what_squeue_forgot_has_ended(backend, request_for, monkeypatch) -> None:
    ids = backend.submit(request_for("/bin/sleep", "100", count=2))
    until(backend, ids, {NativeState.RUNNING})
    with monkeypatch.context() as patch:
        patch.setattr(backend, "gone_after_s", 0.5)
        patch.setattr(backend, "_history_s", 0.0)
        patch.setattr(backend, "_listed", lambda *which: {})
        seen = until(backend, ids, ENDED)
    assert {status.text for status in seen.values()} == {"Slurm no longer knows it"}
    other = open_backend("slurm")
    other.cancel(ids)
    until(other, ids, {NativeState.DELETED})


def test_the_accounting_knows_what_squeue_forgot(backend, request_for, monkeypatch) -> None:
    if not SCHEDULER.accounting:
        pytest.skip("this Slurm keeps no accounts")
    ids = backend.submit(request_for("/bin/sh", "-c", "exit 3", count=2))
    later = open_backend("slurm")
    assert isinstance(later, SlurmBackend) and later._history_s > 0
    monkeypatch.setattr(later, "gone_after_s", 60.0)
    monkeypatch.setattr(later, "_listed", lambda *which: {})
    seen = until(later, ids, ENDED)
    assert {(status.state, status.exit_status) for status in seen.values()} == {
        (NativeState.FAILED, 3)
    }
    assert all("sacct says FAILED" in status.text for status in seen.values())


def test_workers_of_a_submission_that_seemed_to_fail_are_deleted(
    backend, request_for, monkeypatch
) -> None:
    """As when slurmctld is slow: sbatch gives up, and the job comes all the same."""
    request = request_for("/bin/sleep", "100", count=2)
    real = slurm.run

    def gives_up(*command: str, **options: object) -> tuple[int, str]:
        answer = real(*command, **options)  # type: ignore[arg-type]
        late = (1, "sbatch: error: Batch job submission failed: Socket timed out on send/recv")
        return late if command[0] == "sbatch" else answer

    monkeypatch.setattr(slurm, "run", gives_up)
    with pytest.raises(BackendError, match="Socket timed out") as caught:
        backend.submit(request)
    assert caught.value.transient
    monkeypatch.setattr(slurm, "run", real)
    strays = backend.find(request.run_tag)
    assert len(strays) == 2
    ids = backend.submit(request)
    eventually(lambda: set(backend.find(request.run_tag)) == set(ids), what="only the new ones")
    until(backend, strays, {NativeState.FAILED})
    backend.cancel(ids)
    until(backend, ids, {NativeState.DELETED})


def test_no_controller(tmp_path, monkeypatch) -> None:
    lines = Path(os.environ["SLURM_CONF"]).read_text().replace("SlurmctldPort=", "SlurmctldPort=1#")
    (tmp_path / "slurm.conf").write_text(lines)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    began = time.monotonic()
    with pytest.raises(BackendError, match="scontrol ping") as caught:
        open_backend("slurm")
    assert caught.value.transient and time.monotonic() - began < 15


def test_no_commands(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match="no sbatch, squeue, scancel, scontrol on PATH"):
        gridmap.grid_map(abs, [1], backend="slurm")


def test_the_time_limit_is_slurms_too(backend, request_for) -> None:
    ids = backend.submit(request_for("/bin/sleep", "100", h_rt="0:2:0", walltime_s=120.0))
    record = subprocess.run(
        ["scontrol", "show", "job", ids[0]], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    assert "TimeLimit=00:02:00" in record and "Requeue=0" in record
    backend.cancel(ids)
    until(backend, ids, ENDED)


@row(
    fault="h_rt (1 min) is exceeded, and the agent says no more (SIGSTOP)",
    where="scheduler",
    expected="cause walltime, from the scheduler (TIMEOUT)",
    bound_s=150,
    speed="slow",
)
def test_slurm_tells_of_a_worker_that_is_out_of_time_and_says_no_more(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("MAX_TIME_BETWEEN_HEARTBEATS", "600")
    wait, begun, _ = make_gate(tmp_path)
    with gridmap.submit([Job(wait, [1], h_rt="0:1:0")], max_workers=1) as run:
        eventually(begun)
        os.kill(next(iter(workers_of(run.id))), signal.SIGSTOP)
        with pytest.raises(JobOutOfTime, match="TIMEOUT"):
            run.results()
    assert begun() == [1]


@pytest.mark.endings
@row(
    fault="Slurm has forgotten a worker that was killed before anybody asked for it",
    where="scheduler",
    expected="another comes; every value",
    bound_s=30,
)
def test_a_worker_that_slurm_has_forgotten(tmp_path, monkeypatch) -> None:
    """As where jobs are forgotten soon (MinJobAge), and there is no accounting."""
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    forgotten = tmp_path / "forgotten"
    forgotten.touch()
    for command in ("squeue", "sacct"):
        script = tmp_path / "bin" / command
        script.parent.mkdir(exist_ok=True)
        leave_out = f"grep -v -F -f {forgotten} || true"
        script.write_text(f'#!/bin/sh\n{shutil.which(command)} "$@" | {leave_out}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    wait, begun, gate = make_gate(tmp_path)
    with gridmap.submit([Job(wait, [n]) for n in range(2)], max_workers=2) as run:
        eventually(lambda: len(begun()) == 2)
        pid, native_id = next(iter(workers_of(run.id).items()))
        forgotten.write_text(f"{native_id}\n")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(set(workers_of(run.id).values()) - {native_id}) == 2)
        gate.touch()
        assert run.results() == [0, 1]


def test_a_worker_that_is_requeued_is_replaced_at_once(tmp_path, monkeypatch) -> None:
    """As an administrator may do; Slurm itself would start it again after two minutes."""
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("CHECK_FREQUENCY", "0.5")
    wait, begun, gate = make_gate(tmp_path)
    jobs = [gridmap.Job(wait, [n]) for n in range(2)]
    with gridmap.submit(jobs, max_workers=2) as run:
        eventually(lambda: len(begun()) == 2)
        requeued = next(iter(workers_of(run.id).values()))
        for words in (("update", f"JobId={requeued}", "Requeue=1"), ("requeue", requeued)):
            subprocess.run(["scontrol", *words], check=True, capture_output=True, timeout=20)
        eventually(lambda: len(set(workers_of(run.id).values()) - {requeued}) == 2, 40)
        eventually(lambda: requeued not in {task.native_id for task in queued()}, what="deleted")
        gate.touch()
        assert run.results() == [0, 1]
    assert {job.num_resubmits for job in jobs} == {0}
