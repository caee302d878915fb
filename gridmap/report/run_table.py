"""A run's jobs and workers as arrays, and what they come to in bins of time."""

from __future__ import annotations

from typing import Any

from gridmap.report.story import CANCELED, COMPLETED, FAILED, Story

BINS = 400
NEXT_TO_NOTHING = 1e-6
"""Less than this is what is left over where floats are added and taken away again."""


class RunTable:
    """A story as arrays: so many jobs are only drawn when they have been added up."""

    def __init__(self, story: Story) -> None:
        import numpy

        self.np = numpy
        jobs = story.jobs
        nan = float("nan")

        def numbers(values: Any) -> Any:
            return numpy.fromiter(values, dtype=float, count=len(jobs))

        self.end = numbers(nan if job.ended_s is None else job.ended_s for job in jobs)
        self.seconds = numbers(nan if job.seconds is None else job.seconds for job in jobs)
        self.peak = numbers(job.peak_rss_bytes or nan for job in jobs)
        self.failed = numbers(job.state == FAILED for job in jobs).astype(bool)
        self.canceled = numbers(job.state == CANCELED for job in jobs).astype(bool)
        self.completed = numbers(job.state == COMPLETED for job in jobs).astype(bool)
        self.begin = self.end - self.seconds
        self._lay_out(story)

    def _lay_out(self, story: Story) -> None:
        """Finds out which workers there were, and when the run began and ended."""
        np = self.np
        names: dict[str, int] = {}
        self.hosts: list[str] = []
        for worker in story.workers:
            names.setdefault(worker.id, len(names))
            if len(self.hosts) < len(names):
                self.hosts.append(worker.host)
        lanes = []
        for job in story.jobs:
            key = job.worker or job.host
            lane = -1 if not key else names.setdefault(key, len(names))
            if lane == len(self.hosts):
                self.hosts.append(job.host)
            lanes.append(lane)
        self.workers = list(names)
        self.lane = np.array(lanes, dtype=int)
        count = len(names)
        self.up, self.gone = np.full(count, np.inf), np.full(count, -np.inf)
        for worker in story.workers:
            number = names[worker.id]
            if worker.up_s is not None:
                self.up[number] = worker.up_s
            if worker.gone_s is not None:
                self.gone[number] = worker.gone_s
        on = self.lane >= 0
        begins = on & np.isfinite(self.begin)
        np.minimum.at(self.up, self.lane[begins], self.begin[begins])
        ends = on & np.isfinite(self.end)
        np.maximum.at(self.gone, self.lane[ends], self.end[ends])
        sampled = [sample.at_s for job in story.jobs for sample in job.samples]
        times = [self.begin, self.end, self.up, self.gone, np.array(sampled)]
        known = np.concatenate([part[np.isfinite(part)] for part in times])
        self.first = float(known.min()) if known.size else 0.0
        self.last = float(known.max()) if known.size else 1.0
        self.last = max(self.last, self.first + 1e-3)
        self.up = np.where(np.isfinite(self.up), self.up, self.first)
        still = {worker.id for worker in story.workers if worker.gone_s is None}
        stays = np.array([name in still for name in self.workers], dtype=bool)
        self.gone = np.where(np.isfinite(self.gone) & ~stays, self.gone, self.last)

    def busy(self, low: Any, high: Any, lane: Any = 0, lanes: int = 1, weight: Any = 1.0) -> Any:
        """Returns in how much of each bin of time jobs ran, summed, for each lane.

        :param weight: how much of something each of them is
        """
        np = self.np
        step = (self.last - self.first) / BINS
        left, right = (low - self.first) / step, (high - self.first) / step
        # The integral of a step function: what begins adds from there on, what ends takes it away.
        grid = np.zeros((lanes, BINS + 2))
        for edge, sign in ((left, 1.0), (right, -1.0)):
            number = np.clip(edge.astype(int), 0, BINS - 1)
            inside = edge - number
            np.add.at(grid, (lane, number), sign * (1 - inside) * weight)
            np.add.at(grid, (lane, number + 1), sign * inside * weight)
        return np.cumsum(grid, axis=1)[:, :BINS]


def over_time(table: RunTable, story: Story, field: str, running: Any) -> Any:
    """Returns the sum over all jobs of what they used, in bins of time; None: nothing was measured.

    A job counts as using what was measured last until it is measured again, or ends.  Where jobs
    ran and none was measured, nothing is known, which is not 0: NaN, a gap in the line.
    """
    np = table.np
    low, high, value = [], [], []
    for number, job in enumerate(story.jobs):
        ended = table.end[number] if np.isfinite(table.end[number]) else table.last
        for at, sample in enumerate(job.samples):
            following = job.samples[at + 1].at_s if at + 1 < len(job.samples) else ended
            low.append(sample.at_s)
            high.append(max(following, sample.at_s))
            value.append(getattr(sample, field))
    if not low:
        return None
    begin, end = np.array(low), np.array(high)
    total = table.busy(begin, end, weight=np.array(value))[0]
    known = table.busy(begin, end)[0]
    unknown = (known < NEXT_TO_NOTHING) & (running > NEXT_TO_NOTHING)
    return np.where(unknown, np.nan, np.maximum(total, 0))


def running_of(table: RunTable) -> Any:
    """Returns how many jobs ran, in bins of time."""
    np = table.np
    drawn = np.isfinite(table.begin)
    return np.maximum(table.busy(table.begin[drawn], table.end[drawn])[0], 0)


def bins(table: RunTable, scale: float) -> Any:
    step = (table.last - table.first) / BINS
    return (table.np.arange(BINS) + 0.5) * step / scale


def side_by_side(table: RunTable, drawn: Any) -> tuple[list[int], dict[int, int]]:
    """Returns the row of each job in its worker's lane, and how many rows each lane has."""
    ends: dict[int, list[float]] = {}
    rows = [0] * len(drawn)
    tolerance = (table.last - table.first) / 1000
    for place in sorted(range(len(drawn)), key=lambda place: table.begin[drawn[place]]):
        job = drawn[place]
        taken = ends.setdefault(int(table.lane[job]), [])
        for row, end in enumerate(taken):
            if table.begin[job] >= end - tolerance:
                rows[place], taken[row] = row, table.end[job]
                break
        else:
            rows[place] = len(taken)
            taken.append(table.end[job])
    return rows, {lane: len(taken) for lane, taken in ends.items()}
