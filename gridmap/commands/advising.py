"""What was asked for against what was used, and what to ask for instead. Pure.

A run that is short of nothing is told of what it does not need, with a margin: memory a fifth above
the largest job, at least, rounded up to a size that people use, never less than was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from msgspec import Struct

from gridmap._numbers import counted
from gridmap.backends.native import memory_text
from gridmap.commands.printing import duration, human
from gridmap.launch import LOCAL
from gridmap.views import FailureGroup, PoolView, RunView

MARGIN = 1.2
LEAST_MEMORY_BYTES = 128 << 20
ADDRESS_SPACE = ("drmaa", "grid_engine_commands")
"""Backends of Grid Engine, where memory is a limit of address space."""
SPARE_BYTES = 1 << 30
"""Of address space that a process may reserve and not use."""
LEAST_WALLTIME_S = 300
WALLTIMES_S = (
    *(60 * n for n in (5, 10, 15, 20, 30, 45)),
    *(3600 * n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24)),
)
JOBS_OF_WORKER = 2
"""A worker should have time for so many of the longest job: it takes none that it may not end."""
FEWEST_SAMPLES = 5
WORTH = 0.75
"""Less is advised where it is no more than such a part of what was asked for."""


class Advice(Struct, frozen=True):
    """What there is to say of one thing that was asked for.

    :param what: "memory", "walltime" or "slots"
    :param asked: bytes, seconds or number; None where nothing was asked for
    :param used: the same, the most that a job used; of slots, processors on average
    :param text: a sentence
    :param line: what to write in Python instead; "" where nothing is to be changed
    """

    pool: int
    what: str
    asked: float | None
    used: float
    text: str
    line: str = ""


def advices(view: RunView, failures: Iterable[FailureGroup]) -> list[Advice]:
    """Returns what there is to say of each pool of a run."""
    causes = {group.cause: group.count for group in failures}
    found = []
    for pool in view.pools:
        if pool.jobs:
            found.append(_memory(view, pool, causes.get("memory", 0)))
            found.append(_walltime(pool, causes.get("walltime", 0)))
            found += _slots(pool) if view.backend != LOCAL else ()
    return found


def _memory(view: RunView, pool: PoolView, died: int) -> Advice:
    asked, peak = pool.memory_bytes, pool.peak_rss_bytes
    jobs = counted(pool.jobs, "job")
    if not peak:
        text = f"nobody has measured what the {jobs} used"
        return Advice(pool.pool, "memory", asked, 0, text)
    if asked is None:
        text = f"nothing was asked for; the largest of {jobs} used {human(peak)}"
        return Advice(pool.pool, "memory", None, peak, text)
    enough = peak * MARGIN
    address_space = view.backend in ADDRESS_SPACE
    if address_space:
        enough = max(peak * 2, peak + SPARE_BYTES)
    wanted = friendly_bytes(enough)
    told = f"the largest of {jobs} used {human(peak)} of the {human(asked)} asked for"
    if died:
        more = friendly_bytes(max(enough, asked * 1.5))
        line = _memory_line(pool, more)
        text = f"{line} is worth a try: {counted(died, 'job')} died for want of memory, and {told}"
        return Advice(pool.pool, "memory", asked, peak, text, line)
    if wanted <= asked * WORTH:
        line = _memory_line(pool, wanted)
        text = f"{line} would do: {told}"
        if address_space:
            text += " (a limit of address space here, of which programs reserve more than they use)"
        return Advice(pool.pool, "memory", asked, peak, text, line)
    return Advice(pool.pool, "memory", asked, peak, f"fits: {told}")


def _memory_line(pool: PoolView, nbytes: int) -> str:
    """Returns how a job asks for so much, in the word that was used."""
    words = {name for name, _ in pool.asked}
    if "memory" in words:
        return f"memory={memory_text(nbytes)!r}"
    word = "h_vmem" if "h_vmem" in words else "mem_free"
    return f"{word}={memory_text(-(-nbytes // pool.slots_of_job))!r}"


def _walltime(pool: PoolView, died: int) -> Advice:
    asked, longest = pool.walltime_s, pool.longest_s
    jobs = counted(pool.jobs, "job")
    if asked is None:
        text = f"no limit was asked for; the longest of {jobs} took {duration(longest)}"
        return Advice(pool.pool, "walltime", None, longest, text)
    told = f"the longest of {jobs} took {duration(longest)}, and workers may take {duration(asked)}"
    word = "h_rt" if "h_rt" in {name for name, _ in pool.asked} else "walltime"
    if died:
        line = _time_line(word, friendly_s(max(asked * 2, longest * JOBS_OF_WORKER)))
        text = f"{line} is worth a try: {counted(died, 'job')} had no time left, and {told}"
        return Advice(pool.pool, "walltime", asked, longest, text, line)
    wanted = friendly_s(longest * JOBS_OF_WORKER)
    if wanted <= asked * WORTH:
        line = _time_line(word, wanted)
        text = f"{line} would do: {told}; one that has served its time is followed by another"
        return Advice(pool.pool, "walltime", asked, longest, text, line)
    return Advice(pool.pool, "walltime", asked, longest, f"fits: {told}")


def _time_line(word: str, seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    if word == "h_rt":
        return f"h_rt='{hours}:{rest // 60:02}:00'"
    parts = (f"{hours}h" if hours else "") + (f"{rest // 60}m" if rest else "")
    return f"walltime={parts!r}"


def _slots(pool: PoolView) -> Iterator[Advice]:
    asked = pool.slots_of_job
    used = pool.cpu_fraction
    if pool.samples < FEWEST_SAMPLES:
        return
    told = (
        f"jobs kept {used:.1f} processors busy on average, and have {counted(asked, 'slot')} each"
    )
    wanted = max(1, math.ceil(used * MARGIN))
    if wanted <= asked * WORTH:
        line = f"num_slots={wanted}"
        yield Advice(pool.pool, "slots", asked, used, f"{line} would do: {told}", line)
    elif used > asked * MARGIN:
        line = f"num_slots={math.ceil(used)}"
        text = f"{line} is what they use: {told}, so they take what is others'"
        yield Advice(pool.pool, "slots", asked, used, text, line)
    else:
        yield Advice(pool.pool, "slots", asked, used, f"fits: {told}")


def friendly_bytes(nbytes: float) -> int:
    """Returns a size of memory that people use, no smaller: a power of 2, or 1.5 times one."""
    size = LEAST_MEMORY_BYTES
    while size < nbytes:
        size = size // 2 * 3 if size & (size - 1) == 0 else size // 3 * 4
    return size


def friendly_s(seconds: float) -> int:
    """Returns a length of time that people use, no shorter."""
    for candidate in WALLTIMES_S:
        if candidate >= max(seconds, LEAST_WALLTIME_S):
            return candidate
    return math.ceil(seconds / 86_400) * 86_400
