"""What the ledger of a run tells those who watch it: one question, one answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gridmap.backends.asked import asked
from gridmap.backends.native import memory_bytes
from gridmap.core.spec import JobSpec, PoolSpec, for_worker
from gridmap.core.states import JobState
from gridmap.views import (
    FailureGroup,
    JobRow,
    JobView,
    NoteView,
    PoolView,
    RunView,
    SampleView,
    Tick,
    TryView,
    WorkerView,
)
from gridmap.watching.pages import Pages

MOST_SAMPLES = 2000
"""Points of a curve."""

_KIND = (
    "CASE cause WHEN 'exception' THEN substr(error, 1, instr(error || ':', ':') - 1) ELSE cause END"
)


_USES = (
    ("vals", "first", "sum(count)", "max(peak_rss), max(seconds / count)"),
    ("failures", "job", "count(*)", "max(peak_rss), max(seconds)"),
    ("samples", "job", "0", "max(rss), 0, sum(cpu), count(*)"),
)
"""Where the ledger tells what jobs used: a table, the job, and the columns of _Used."""


@dataclass
class _Used:
    """What the jobs of a pool used."""

    jobs: int = 0
    peak_rss_bytes: int = 0
    longest_s: float = 0.0
    cpu: float = 0.0
    samples: int = 0

    def add(self, other: _Used) -> None:
        self.jobs += other.jobs
        self.peak_rss_bytes = max(self.peak_rss_bytes, other.peak_rss_bytes)
        self.longest_s = max(self.longest_s, other.longest_s)
        self.cpu += other.cpu
        self.samples += other.samples


class Questions(Pages):
    """Answers from a ledger's connection, in the thread that owns it."""

    # --- the run ----------------------------------------------------------------------------------

    def run(self) -> RunView:
        """Returns the run at a glance, as far as the ledger knows."""
        header = self.header
        facts = {name for (name,) in self._rows("SELECT name FROM facts")}
        total = self.total
        completed, busy_s, peak, ended_s = self._rows(
            "SELECT coalesce(sum(count), 0), coalesce(sum(seconds), 0.0), "
            "coalesce(max(peak_rss), 0), max(ended_s) FROM vals"
        )[0]
        (failed, failed_peak, failed_s) = self._rows(
            "SELECT count(*), coalesce(max(peak_rss), 0), max(ended_s) FROM failures"
        )[0]
        ends = dict(self._rows("SELECT state, sum(count) FROM ends GROUP BY state"))
        ends_s = self._rows("SELECT max(ended_s) FROM ends")[0][0]
        sampled = self._number("SELECT coalesce(max(rss), 0) FROM samples")
        failed += ends.pop(int(JobState.FAILED), 0)
        canceled = sum(ends.values())
        left = max(0, total - completed - failed - canceled)
        lost = self._rows("SELECT count(*), coalesce(sum(seconds), 0.0) FROM tries")[0]
        latest = [at for at in (ended_s, failed_s, ends_s) if at is not None]
        return RunView(
            id=header.run,
            name=header.name,
            backend=header.backend,
            state="ended" if "ended" in facts else "interrupted",
            kept="given_away" not in facts,
            created_s=header.created_s,
            ended_s=max(latest) if latest and "ended" in facts else None,
            input_ended="input_ended" in facts,
            total=total,
            completed=completed,
            failed=failed,
            canceled=canceled,
            queued=left,
            busy_s=busy_s,
            peak_rss_bytes=max(peak, failed_peak, sampled),
            resubmitted=lost[0],
            lost_s=lost[1],
            pools=self.pools(),
            python=header.python,
            gridmap=header.gridmap,
        )

    def ended_since(self, at_s: float) -> int:
        """Returns how many jobs have ended with a value or failed since then."""
        self._prepare()
        values = "SELECT coalesce(sum(count), 0) FROM vals WHERE ended_s >= ?"
        failed = "SELECT count(*) FROM failures WHERE ended_s >= ?"
        return self._number(values, at_s) + self._number(failed, at_s)

    def pools(self) -> list[PoolView]:
        """Returns what was asked for, and what was used of it."""
        specs, used = self.header.pools, self._used()
        return [self._pool(number, spec, used[number]) for number, spec in enumerate(specs)]

    def _used(self) -> list[_Used]:
        """Returns what the jobs of each pool used; the last word on a job is what it ended in."""
        several = len(self.header.pools) > 1
        used = [_Used() for _ in self.header.pools]
        if several:
            self._connection.create_function("pool_of", 1, self._pools_of_jobs())
        for table, first, jobs, each in _USES:
            pool = f"pool_of({first})" if several else "0"
            statement = f"SELECT {pool} AS pool, {jobs}, {each} FROM {table} GROUP BY pool"
            for number, *found in self._rows(statement):
                if 0 <= number < len(used):
                    used[number].add(_Used(*found))
        return used

    def _pools_of_jobs(self) -> Callable[[int], int]:
        """Returns what tells the pool of a job: that of its part, or what it was given later."""
        firsts, pools, moved = [], [], {}
        for first, spec in self._rows("SELECT first, spec FROM parts ORDER BY first"):
            firsts.append(first)
            pools.append(msgspec.msgpack.decode(spec, type=JobSpec).pool)
        for job, spec in self._rows("SELECT job, spec FROM charges WHERE spec IS NOT NULL"):
            moved[job] = msgspec.msgpack.decode(spec, type=JobSpec).pool

        def pool_of(job: int) -> int:
            at = bisect_right(firsts, job) - 1
            return moved.get(job, pools[at] if at >= 0 else 0)

        return pool_of

    def _pool(self, number: int, pool: PoolSpec, used: _Used) -> PoolView:
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

    def notes(self, most: int = 200) -> list[NoteView]:
        """Returns the latest things that a person was told, the oldest first."""
        rows = self._rows("SELECT at_s, level, text FROM notes ORDER BY rowid DESC LIMIT ?", most)
        return [NoteView(*row) for row in reversed(rows)]

    def timeline(self, stretches: int = 100) -> list[Tick]:
        """Returns how many jobs ended when, in so many stretches of equal length."""
        self._prepare()
        begun_s = self.header.created_s
        latest = self._rows(
            "SELECT max(max, 0) FROM (SELECT max(coalesce((SELECT max(ended_s) FROM vals), 0), "
            "coalesce((SELECT max(ended_s) FROM failures), 0)) AS max)"
        )[0][0]
        width = max(latest - begun_s, 1e-3) / stretches
        ticks: dict[int, list[int]] = {}
        for column, table, count in ((0, "vals", "sum(count)"), (1, "failures", "count(*)")):
            for stretch, jobs in self._rows(
                f"SELECT min(cast((ended_s - ?) / ? AS INTEGER), ?) AS s, {count} FROM {table} "
                "GROUP BY s", begun_s, width, stretches - 1,
            ):  # fmt: skip
                ticks.setdefault(max(0, stretch), [0, 0])[column] = jobs
        last = max(ticks, default=-1)
        return [Tick(begun_s + n * width, *ticks.get(n, (0, 0))) for n in range(last + 1)]

    def failures(self) -> list[FailureGroup]:
        """Returns the failures, those alike together, the most frequent first."""
        groups = [
            FailureGroup(cause, kind, error, count, self._some(cause, kind))
            for cause, kind, count, error, _ in self._rows(
                f"SELECT cause, {_KIND} AS kind, count(*) AS n, error, min(job) FROM failures "
                "GROUP BY cause, kind"
            )
        ]
        for cause, text, count, first in self._rows(
            "SELECT cause, text, sum(count), min(first) FROM ends WHERE state = ? "
            "GROUP BY cause, text",
            int(JobState.FAILED),
        ):
            groups.append(FailureGroup(cause, cause, text, count, [first]))
        return sorted(groups, key=lambda group: -group.count)

    def _some(self, cause: str, kind: str, most: int = 10) -> list[int]:
        rows = self._rows(
            f"SELECT job FROM failures WHERE cause = ? AND {_KIND} = ? ORDER BY job LIMIT ?",
            cause, kind, most,
        )  # fmt: skip
        return [job for (job,) in rows]

    def workers(self) -> list[WorkerView]:
        """Returns the workers that said Hello, in the order in which they came."""
        self._prepare()
        jobs = dict(self._rows("SELECT worker, sum(count) FROM vals GROUP BY worker"))
        for worker, count in self._rows("SELECT worker, count(*) FROM failures GROUP BY worker"):
            jobs[worker] = jobs.get(worker, 0) + count
        used = {
            worker: (at_s, rss, cpu)
            for worker, at_s, rss, cpu in self._rows(
                "SELECT worker, max(at_s), rss, cpu FROM samples GROUP BY worker"
            )
        }
        found = []
        for worker, host, children, up_s, heard_s, state, out, err in self._rows(
            "SELECT * FROM lives ORDER BY up_s, worker"
        ):
            at_s, rss, cpu = used.get(worker, (0.0, 0, 0.0))
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
            "SELECT attempt, worker FROM leases WHERE first <= ? AND first + count > ? "
            "ORDER BY rowid", job, job,
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
        number = self._pools_of_jobs()(job)
        pools = self.pools()
        return pools[number] if number < len(pools) else None
