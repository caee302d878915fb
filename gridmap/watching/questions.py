"""What the ledger of a run tells those who watch it: one question, one answer."""

from __future__ import annotations

from msgspec.structs import replace

from gridmap.backends.asked import asked
from gridmap.backends.native import memory_bytes
from gridmap.core.spec import PoolSpec, for_worker
from gridmap.core.states import JobState
from gridmap.views import (
    ENDED,
    INTERRUPTED,
    FailureGroup,
    JobRow,
    JobView,
    NoteView,
    PoolView,
    RunView,
    SampleView,
    Tick,
    TryView,
    UsageView,
    WorkerView,
)
from gridmap.watching.pages import Pages
from gridmap.watching.sums import Used
from gridmap.watching.told import KIND

MOST_SAMPLES = 2000
"""Points of a curve."""
MOST_USAGE = 20_000
"""Of all jobs together."""


class Questions(Pages):
    """Answers from a ledger's connection, in the thread that owns it."""

    # --- the run ----------------------------------------------------------------------------------

    def run(self) -> RunView:
        """Returns the run at a glance, as far as the ledger knows."""
        header = self.header
        facts = {name for (name,) in self._rows("SELECT name FROM facts")}
        total = self.total
        sums = self.sums
        (failed, failed_peak, failed_s) = self._rows(
            "SELECT count(*), coalesce(max(peak_rss), 0), max(ended_s) FROM failures"
        )[0]
        ends = dict(self._rows("SELECT state, sum(count) FROM ends GROUP BY state"))
        ends_s = self._rows("SELECT max(ended_s) FROM ends")[0][0]
        peak = max((used.peak_rss_bytes for used in sums.pools.values()), default=0)
        failed += ends.pop(int(JobState.FAILED), 0)
        canceled = sum(ends.values())
        left = max(0, total - sums.completed - failed - canceled)
        lost = self._rows("SELECT count(*), coalesce(sum(seconds), 0.0) FROM tries")[0]
        latest = [at for at in (sums.ended_s, failed_s, ends_s) if at is not None]
        return RunView(
            id=header.run,
            name=header.name,
            backend=header.backend,
            state=ENDED if "ended" in facts else INTERRUPTED,
            created_s=header.created_s,
            ended_s=max(latest) if latest and "ended" in facts else None,
            input_ended="input_ended" in facts,
            total=total,
            completed=sums.completed,
            failed=failed,
            canceled=canceled,
            queued=left,
            busy_s=sums.busy_s,
            peak_rss_bytes=max(peak, failed_peak),
            resubmitted=lost[0],
            lost_s=lost[1],
            pools=self.pools(),
            python=header.python,
            gridmap=header.gridmap,
        )

    def pools(self) -> list[PoolView]:
        """Returns what was asked for, and what was used of it."""
        specs, used = self.header.pools, self._used()
        return [self._pool(number, spec, used[number]) for number, spec in enumerate(specs)]

    def _used(self) -> list[Used]:
        """Returns what the jobs of each pool used; the last word on a job is what it ended in."""
        several = len(self.header.pools) > 1
        told = self.sums.pools
        used = [replace(told.get(number, Used())) for number in range(len(self.header.pools))]
        if several:
            self._connection.create_function("pool_of", 1, self._pools_of_jobs())
        pool = "pool_of(job)" if several else "0"
        for number, jobs, peak, longest_s in self._rows(
            f"SELECT {pool} AS pool, count(*), max(peak_rss), max(seconds) FROM failures "
            "GROUP BY pool"
        ):
            if 0 <= number < len(used):
                one = used[number]
                one.jobs += jobs
                one.peak_rss_bytes = max(one.peak_rss_bytes, peak)
                one.longest_s = max(one.longest_s, longest_s)
        return used

    def _pool(self, number: int, pool: PoolSpec, used: Used) -> PoolView:
        children = pool.children(int(self.header.options.get("children") or 1))
        local = self.header.backend == "local"
        words = [] if local else list(asked(pool.resources, self._use_mem_free))
        return PoolView(
            number,
            [tuple(text.split("=", 1)) for _, text in words],  # type: ignore[misc]
            None if local else self._memory_of_job(pool),
            None if local else pool.resources.walltime_s,
            for_worker(pool.resources, children).num_slots,
            children,
            used.jobs,
            used.peak_rss_bytes,
            used.longest_s,
            used.cpu / used.samples if used.samples else 0.0,
            used.samples,
        )

    @property
    def _use_mem_free(self) -> bool:
        return bool(self.header.options.get("use_mem_free"))

    def _memory_of_job(self, pool: PoolSpec) -> int | None:
        """Returns the memory that was asked for each job, where it was."""
        resources = pool.resources
        if resources.memory_bytes:
            return resources.memory_bytes
        for name in ("h_vmem", "mem_free") if self._use_mem_free else ("h_vmem",):
            amount = getattr(resources, name)
            if amount:
                return memory_bytes(name, amount) * resources.num_slots
        return None

    def usage(self, most: int = MOST_USAGE) -> list[UsageView]:
        """Returns what jobs used, in the order of time: about so many of the measurements."""
        number = self._number("SELECT coalesce(max(rowid), 0) FROM samples")
        every = max(1, -(-number // most))
        rows = self._rows(
            "SELECT job, at_s, rss, cpu FROM samples WHERE rowid % ? = 0 ORDER BY rowid", every
        )
        return [UsageView(*row) for row in rows]

    def notes(self, most: int = 200) -> list[NoteView]:
        """Returns the latest things that a person was told, the oldest first."""
        rows = self._rows("SELECT at_s, level, text FROM notes ORDER BY rowid DESC LIMIT ?", most)
        return [NoteView(*row) for row in reversed(rows)]

    def timeline(self, most: int = 100) -> list[Tick]:
        """Returns how many jobs ended when, in stretches of equal length, at most so many."""
        self._prepare("failures")
        sums, begun_s = self.sums, self.header.created_s
        failed_s = self._rows("SELECT max(ended_s) FROM failures")[0][0]
        latest = max(sums.ended_s or begun_s, failed_s or begun_s)
        width = sums.stretch_s
        while int((latest - begun_s) / width) >= most:
            width *= 2
        ticks: dict[int, list[int]] = {}
        for stretch, jobs in sums.stretches.items():
            ticks.setdefault(int(stretch * sums.stretch_s / width), [0, 0])[0] += jobs
        for stretch, jobs in self._rows(
            "SELECT cast((ended_s - ?) / ? AS INTEGER) AS s, count(*) FROM failures GROUP BY s",
            begun_s, width,
        ):  # fmt: skip
            ticks.setdefault(max(0, stretch), [0, 0])[1] += jobs
        last = max(ticks, default=-1)
        return [Tick(begun_s + n * width, *ticks.get(n, (0, 0))) for n in range(last + 1)]

    def failures(self) -> list[FailureGroup]:
        """Returns the failures, those alike together, the most frequent first."""
        self._prepare("kinds")
        groups = []
        for cause, kind, count in self._rows(
            f"SELECT cause, {KIND} AS kind, count(*) FROM failures GROUP BY cause, kind"
        ):
            some = self._some(cause, kind)
            error = self._rows("SELECT error FROM failures WHERE job = ?", some[0])[0][0]
            groups.append(FailureGroup(cause, kind, error, count, some))
        for cause, text, count, first in self._rows(
            "SELECT cause, text, sum(count), min(first) FROM ends WHERE state = ? "
            "GROUP BY cause, text",
            int(JobState.FAILED),
        ):
            groups.append(FailureGroup(cause, cause, text, count, [first]))
        return sorted(groups, key=lambda group: -group.count)

    def _some(self, cause: str, kind: str, most: int = 10) -> list[int]:
        rows = self._rows(
            f"SELECT job FROM failures WHERE cause = ? AND {KIND} = ? ORDER BY job LIMIT ?",
            cause, kind, most,
        )  # fmt: skip
        return [job for (job,) in rows]

    def workers(self) -> list[WorkerView]:
        """Returns the workers that said Hello, in the order in which they came."""
        self._prepare("failures")
        sums = self.sums
        jobs = sums.jobs_of_workers()
        for worker, count in self._rows("SELECT worker, count(*) FROM failures GROUP BY worker"):
            jobs[worker] = jobs.get(worker, 0) + count
        found = []
        for worker, host, children, up_s, heard_s, state, out, err in self._rows(
            "SELECT * FROM lives ORDER BY up_s, worker"
        ):
            at_s, rss, cpu = sums.lately.get(worker, (0.0, 0, 0.0))
            found.append(
                WorkerView(
                    worker,
                    host,
                    state.lower(),
                    children,
                    up_s,
                    max(heard_s, at_s),
                    jobs.get(worker, 0),
                    [],
                    rss,
                    cpu,
                    out,
                    err,
                )  # fmt: skip
            )
        return found

    # --- a job ---------------------------------------------------------------------------------

    def job(self, job: int) -> JobView:
        """Returns all that is known of a job.

        :raises UnknownJob: there is none
        """
        one = self._range_of(job)
        self._prepare("tries", "samples", "leases")
        hosts = dict(self._rows("SELECT worker, host FROM lives"))
        row = self._waiting(job) if one is None else self._row(one, job)
        error = one.error if one is not None else ""
        details, out, err = "", "", ""
        told = self._rows("SELECT details, log_stdout, log_stderr FROM failures WHERE job = ?", job)
        if told and row.state == "failed":
            details, out, err = told[0]
        elif row.worker:
            logs = self._rows(
                "SELECT log_stdout, log_stderr FROM lives WHERE worker = ?", row.worker
            )
            out, err = logs[0] if logs else ("", "")
        return JobView(
            row,
            error,
            details,
            self._tries(job, row, hosts),
            self._samples(job),
            out,
            err,
            self._pool_of(job),
        )

    def _tries(self, job: int, row: JobRow, hosts: dict[str, str]) -> list[TryView]:
        failed = {
            attempt: TryView(attempt, worker, hosts.get(worker, ""), cause, text, at_s, s)
            for _, attempt, cause, worker, text, at_s, s in self._rows(
                "SELECT * FROM tries WHERE job = ? ORDER BY rowid", job
            )
        }
        for attempt, worker in self._rows(
            "SELECT attempt, worker FROM leases WHERE first > ? AND first <= ? AND "
            "first + count > ? ORDER BY rowid", job - self.sums.widest, job, job,
        ):  # fmt: skip
            failed.setdefault(attempt, TryView(attempt, worker, hosts.get(worker, "")))
        tries = sorted(failed.values(), key=lambda one: one.attempt)
        if tries and row.worker and tries[-1].worker == row.worker and not tries[-1].cause:
            tries[-1] = TryView(
                tries[-1].attempt, row.worker, row.host, row.cause, row.error, row.ended_s,
                row.seconds,
            )  # fmt: skip
        return tries

    def _samples(self, job: int) -> list[SampleView]:
        rows = self._rows("SELECT at_s, rss, cpu FROM samples WHERE job = ? ORDER BY at_s", job)
        step = -(-len(rows) // MOST_SAMPLES) or 1
        return [SampleView(*row) for row in rows[::step]]

    def _pool_of(self, job: int) -> PoolView | None:
        number = self._pools_of_jobs()(job) if len(self.header.pools) > 1 else 0
        pools = self.pools()
        return pools[number] if number < len(pools) else None
