"""What a job asks for: frozen values that decide which workers may run it."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace


class Span(NamedTuple):
    """Consecutive job numbers, first .. first + count - 1."""

    first: int
    count: int  # type: ignore[assignment]

    @property
    def stop(self) -> int:
        """One past the last job number."""
        return self.first + self.count

    def within(self, count: int) -> Span:
        """Returns what of it lies among so many jobs; its count may be less than nothing."""
        first = max(0, self.first)
        return Span(first, min(self.stop, count) - first)


class Resources(Struct, frozen=True):
    """What one job needs; jobs with equal Resources share a pool of workers.

    The historic `mem_free`, `h_vmem` and `h_rt` are kept as the user wrote them, in Grid Engine's
    syntax: "1G", "00:59:00", "3600".

    :param h_vmem: memory of each slot; so is `mem_free`
    :param walltime_s: the time limit, however it was said; None: none
    :param extra: the historic `resources=[...]`, in each scheduler's own words
    :param memory_bytes: memory of all slots together; 0: said by `h_vmem`, or not at all
    :param features: what a node must have, in the scheduler's words
    :param native: the scheduler's options as they are
    """

    num_slots: int = 1
    mem_free: str = ""
    queue: str = ""
    par_env: str = ""
    hosts: tuple[str, ...] = ()
    project: str = ""
    validation_level: str = ""
    os_distribution: str = ""
    os_minor: str = ""
    gpu: int = 0
    h_vmem: str = ""
    h_rt: str = ""
    walltime_s: float | None = None
    interpreting_shell: str = ""
    extra: tuple[str, ...] = ()
    memory_bytes: int = 0
    features: tuple[str, ...] = ()
    native: tuple[str, ...] = ()


def for_worker(resources: Resources, children: int) -> Resources:
    """Returns what a worker needs that runs so many jobs at once.

    `h_vmem` and `mem_free` are what each slot needs, as Grid Engine counts, and grow with the
    slots; what is in `extra` is the user's own word, and stays as it is.

    Held by tests/core/test_spec.py::test_a_worker_needs_what_its_jobs_need_together.
    """
    return replace(
        resources,
        num_slots=resources.num_slots * children,
        gpu=resources.gpu * children,
        memory_bytes=resources.memory_bytes * children,
    )


class PoolSpec(Struct, frozen=True):
    """What the jobs of one pool need.

    :param more_memory: number of the pool for jobs of this one that need more memory; -1: none
    :param more_time: the same for time
    :param growth: so many times the memory that was asked for at first
    """

    resources: Resources = Resources()
    more_memory: int = -1
    more_time: int = -1
    growth: float = 1.0

    def children(self, most: int) -> int:
        """Returns how many jobs a worker of the pool runs at once, so that it needs no more memory
        than one that runs `most` of those that asked for least: a node may have no more.

        Held by tests/core/test_spec.py::test_a_worker_for_jobs_that_have_grown_is_no_larger.
        """
        return max(1, int(most / self.growth))


class RetryRule(Struct, frozen=True):
    """Whether, when and where a job that failed is tried again.

    Of `times`, `backoff_s` and `backoff_most_s`, -1 stands for what the run's policy says.

    :param times: most further tries
    :param causes: the causes of death after which it is; none: those that another try may not meet
    :param backoff_s: pause before the second try, doubled before each further one
    :param backoff_most_s: longest pause
    :param other_host: another host is preferred
    :param no_memory: it is tried again when it raised MemoryError
    :param memory: after a death for want of memory, so many times as much is given
    :param memory_most_bytes: but not more; 0: no bound
    """

    times: int = -1
    causes: tuple[str, ...] = ()
    backoff_s: float = -1.0
    backoff_most_s: float = -1.0
    other_host: bool = True
    no_memory: bool = False
    memory: float = 1.0
    memory_most_bytes: int = 0


class JobSpec(Struct, frozen=True):
    """What all jobs of a range have in common.

    :param function: digest of the function's blob
    :param context: digest of the blob with environment, working directory and sys.path
    :param pool: number of the pool of workers that may run it
    :param rerunnable: may be run twice (POSIX 1003.2d)
    :param reuse: a child may run several jobs, one after the other
    :param max_rss_bytes: a job that uses more memory is ended; 0: any
    :param retry: what to do about an attempt that failed
    """

    function: str
    context: str
    pool: int = 0
    rerunnable: bool = True
    reuse: bool = True
    max_rss_bytes: int = 0
    retry: RetryRule = RetryRule()
