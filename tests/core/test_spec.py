"""What jobs ask for, and what that means for their workers."""

from __future__ import annotations

from gridmap.backends.native import native_specification
from gridmap.backends.slurm_words import sbatch_options
from gridmap.core.spec import Resources, for_worker

JOB = Resources(num_slots=2, gpu=1, h_vmem="2G", mem_free="1G", walltime_s=60.0, extra=("ssd=1",))


def test_a_worker_needs_what_its_jobs_need_together() -> None:
    assert for_worker(JOB, 1) == JOB
    worker = for_worker(Resources(memory_bytes=3 << 30), 4)
    assert (worker.num_slots, worker.gpu, worker.memory_bytes) == (4, 0, 12 << 30)
    worker = for_worker(JOB, 4)
    assert (worker.num_slots, worker.gpu) == (8, 4)
    assert (worker.h_vmem, worker.mem_free, worker.walltime_s) == ("2G", "1G", 60.0)
    assert worker.extra == JOB.extra, "what it means nobody knows here"


def test_schedulers_are_asked_for_the_whole_worker() -> None:
    assert "-pe smp 4 " in native_specification(for_worker(Resources(h_vmem="2G"), 4))
    slurm = sbatch_options(for_worker(Resources(gpu=1, h_vmem="2G"), 4))
    assert slurm == ["--cpus-per-task=4", "--mem=8192M", "--gpus=4"]
