"""What a job asks for: frozen values that decide which workers may run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Consecutive job numbers, first .. first + count - 1."""

    first: int
    count: int  # type: ignore[assignment]

    @property
    def stop(self) -> int:
        """One past the last job number."""
        return self.first + self.count


@dataclass(frozen=True)
class Resources:
    """What one worker needs from the scheduler; jobs with equal Resources share a pool of workers.

    Memory and time limits are kept as the user wrote them (Grid Engine's syntax: "1G", "00:59:00",
    "3600"); `walltime_s` is the parsed h_rt.
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


@dataclass(frozen=True)
class JobSpec:
    """What all jobs of a range have in common.

    :param function: digest of the function's blob
    :param context: digest of the blob with environment, working directory and sys.path
    :param pool: number of the pool of workers that may run it
    :param rerunnable: may be run twice (POSIX 1003.2d)
    :param reuse: a child may run several jobs, one after the other
    """

    function: str
    context: str
    pool: int = 0
    rerunnable: bool = True
    reuse: bool = True
