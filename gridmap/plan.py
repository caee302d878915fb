"""What a run is made of: functions, contexts and resources, cut where they change.

The user's thread walks through a plan and pickles; nothing has been started until the first part
of it, with small inputs all of it, has been found good.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from msgspec import Struct, field

from gridmap import data
from gridmap.core.spec import JobSpec, PoolSpec, Resources
from gridmap.retry import Retry, ladder

EAGER_BYTES = 64 << 20
"""So much is pickled before anything is started,"""

EAGER_LOCAL_S = 0.05
"""or for so long, where to start something takes no longer."""

LARGE_BLOB_BYTES = 1 << 20


class Segment(Struct):
    """Consecutive jobs that have all but their arguments in common.

    :param elements: as `data.pack_arguments` takes them, one for each job
    :param retry_on: exceptions after which to try again
    :param max_rss_bytes: a job that uses more memory is ended; 0: any
    """

    function: Callable[..., Any]
    context: data.Context
    resources: Resources
    elements: Iterable[Any]
    retry: Retry = field(default_factory=Retry)
    retry_on: tuple[type[BaseException], ...] = ()
    max_rss_bytes: int = 0


class Plan(Struct, dict=True):
    """All jobs of a run.

    :param name: what the workers are called in the scheduler's list
    :param describe: says which job a number is, for errors
    :param names: the jobs' names; for a map one, which the number of each call follows
    :param one_by_one: the jobs were made by hand
    :param num_resubmits: how often a job is tried again where it does not say
    :param pools: what each pool of workers is asked for; what the segments want when not given
    """

    segments: list[Segment]
    name: str
    describe: Callable[[int], str]
    reuse: bool = True
    names: list[str] = field(default_factory=list)
    one_by_one: bool = False
    num_resubmits: int = 0
    pools: list[PoolSpec] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = {(one.resources, one.retry.growth): one.retry for one in self.segments}
        self._wanted = list(wanted)
        if not self.pools:
            asked = [(resources, retry) for (resources, _), retry in wanted.items()]
            self.pools = ladder(asked, self.num_resubmits)

    def pool_of(self, segment: Segment) -> int:
        """Returns the number of the pool whose workers run these jobs first."""
        return self._wanted.index((segment.resources, segment.retry.growth))


class Part(NamedTuple):
    """Consecutive jobs, ready to travel.

    :param blobs: those that were not part of an earlier Part, by digest
    """

    spec: JobSpec
    packet: data.Packet
    blobs: dict[str, list[data.Frame]]

    @property
    def nbytes(self) -> int:
        return self.packet.nbytes


def parts(plan: Plan, local: bool, max_items: int | Callable[[], int] = 4096) -> Iterator[Part]:
    """Pickles a plan, lazily.

    :param local: all jobs share one pool of workers, whatever they ask for, and nobody asks whether
        he has a blob already: a large function of its own is named without reading it
    :raises PicklingError: names the job, the argument and the part of it that cannot be pickled
    """
    functions: dict[int, tuple[Any, str]] = {}
    contexts: dict[int, str] = {}
    new: dict[str, list[data.Frame]] = {}
    number = 0

    def remember(frames: list[data.Frame]) -> str:
        large = sum(memoryview(frame).nbytes for frame in frames) >= LARGE_BLOB_BYTES
        unread = local and large and len(plan.segments) == 1  # else two may be the same
        digest = os.urandom(32).hex() if unread else data.digest(frames)
        new[digest] = frames
        return digest

    for segment in plan.segments:
        known = functions.get(id(segment.function))
        if known is None:
            known = (segment.function, remember(data.pack_function(segment.function)))
            functions[id(segment.function)] = known
        if id(segment.context) not in contexts:
            contexts[id(segment.context)] = remember([segment.context.encode()])
        spec = JobSpec(
            function=known[1],
            context=contexts[id(segment.context)],
            pool=0 if local else plan.pool_of(segment),
            reuse=plan.reuse,
            max_rss_bytes=segment.max_rss_bytes,
            retry=segment.retry.rule(segment.retry_on),
        )
        start = number

        def describe(index: int, start: int = start) -> str:
            return plan.describe(start + index)

        for packet in data.pack_arguments(segment.elements, describe, max_items):
            yield Part(spec, packet, dict(new))
            new.clear()
            number += packet.count


def client_sys_path() -> list[str]:
    """Returns where this process looks for modules, all of it absolute."""
    return [os.path.abspath(entry) for entry in sys.path]


def new_run_id() -> str:
    """Returns a name for a run: when it began, and something that no other has."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(4).hex()}"


def is_run_id(name: str) -> bool:
    """Returns whether `new_run_id` may have made this name."""
    return re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{8}", name) is not None
