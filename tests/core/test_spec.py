"""What jobs ask for, and what that means for their workers."""

from __future__ import annotations

from gridmap.backends.options import GRID_ENGINE, SLURM, render
from gridmap.core.spec import PoolSpec, Resources, for_worker
from gridmap.retry import Retry, ladder

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
    for job in (Resources(gpu=1, h_vmem="2G"), Resources(gpu=1, memory_bytes=2 << 30)):
        worker = for_worker(job, 4)
        slurm = render(SLURM, worker)
        assert slurm == ["--cpus-per-task=4", "--mem=8192M", "--gpus-per-node=4"]
        grid_engine = " ".join(render(GRID_ENGINE, worker))
        assert grid_engine == "-pe smp 4 -l gpu=4 -l h_vmem=2G"


def test_a_worker_for_jobs_that_have_grown_is_no_larger() -> None:
    assert [PoolSpec(growth=growth).children(16) for growth in (1, 1.5, 2, 4, 16, 99)] == [
        16, 10, 8, 4, 1, 1,
    ]  # fmt: skip
    assert PoolSpec().children(1) == 1
    pools = ladder([(Resources(h_vmem="2G", h_rt="60", walltime_s=60.0), Retry(3, memory=2))], 3)
    workers = [for_worker(pool.resources, pool.children(8)) for pool in pools]
    assert [(each.h_vmem, each.num_slots) for each in workers] == [
        ("2G", 8), ("4G", 4), ("8G", 2), ("16G", 1),
    ]  # fmt: skip


def test_more_time_takes_no_jobs_from_a_worker() -> None:
    wanted = Resources(h_vmem="2G", h_rt="60", walltime_s=60.0)
    pools = ladder([(wanted, Retry(2, memory=2, time=2))], 2)
    asked = {(p.resources.h_vmem, p.resources.walltime_s): p.children(8) for p in pools}
    assert asked == {
        ("2G", 60): 8, ("4G", 60): 4, ("2G", 120): 8, ("8G", 60): 2, ("4G", 120): 4,
        ("2G", 240): 8,
    }  # fmt: skip
