"""What the ledger of a run tells those who watch it: one question, one answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from gridmap.backends.asked import asked
from gridmap.backends.native import memory_bytes
from gridmap.core.spec import JobSpec, PoolSpec, Span, for_worker
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
            resubmitted=self._number("SELECT count(*) FROM tries"),
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
        return [self._pool(number, pool) for number, pool in enumerate(self.header.pools)]

    def _pool(self, number: int, pool: PoolSpec) -> PoolView:
        children = pool.children(int(self.header.options.get("children") or 1))
        jobs, peak, longest_s = 0, 0, 0.0
        several = len(self.header.pools) > 1
        for where in self._parts_of(number) if several else ("",):
            for table, first, each in (
                ("vals", "first", "seconds / count"),
                ("failures", "job", "seconds"),
            ):
                count = "sum(count)" if table == "vals" else "count(*)"
                row = self._rows(
                    f"SELECT coalesce({count}, 0), coalesce(max(peak_rss), 0), "
                    f"coalesce(max({each}), 0.0) FROM {table} {where.format(first)}"
                )[0]
                jobs, peak, longest_s = jobs + row[0], max(peak, row[1]), max(longest_s, row[2])
            sampled = self._rows(
                f"SELECT coalesce(max(rss), 0) FROM samples {where.format('job')}"
            )[0][0]
            peak = max(peak, sampled)
        local = self.header.backend == "local"
        words = [] if local else list(asked(pool.resources, self._use_mem_free))
        return PoolView(
            number,
            [tuple(text.split("=", 1)) for _, text in words],  # type: ignore[misc]
            None if local else self._memory_of_job(pool),
            None if local else pool.resources.walltime_s,
            for_worker(pool.resources, children).num_slots,
            children,
            jobs,
            peak,
            longest_s,
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

    def _parts_of(self, pool: int) -> Iterator[str]:
        """Yields a condition for each stretch of jobs of a pool."""
        for first, count, spec in self._rows("SELECT first, count, spec FROM parts"):
            if msgspec.msgpack.decode(spec, type=JobSpec).pool == pool:
                yield f"WHERE {{0}} >= {first} AND {{0}} < {first + count}"

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
            attempt: TryView(attempt, worker, hosts.get(worker, ""), cause, text, at_s)
            for _, attempt, cause, worker, text, at_s in self._rows(
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
                tries[-1].attempt, row.worker, row.host, row.cause, row.error, row.ended_s
            )
        return tries

    def _samples(self, job: int) -> list[SampleView]:
        rows = self._rows("SELECT at_s, rss, cpu FROM samples WHERE job = ? ORDER BY at_s", job)
        step = -(-len(rows) // MOST_SAMPLES) or 1
        return [SampleView(*row) for row in rows[::step]]

    def _pool_of(self, job: int) -> PoolView | None:
        for first, count, spec in self._rows(
            "SELECT first, count, spec FROM parts WHERE first <= ? ORDER BY first DESC LIMIT 1", job
        ):
            number = msgspec.msgpack.decode(spec, type=JobSpec).pool
            if job < first + count and number < len(self.header.pools):
                return self._pool(number, self.header.pools[number])
        return None

    def spans(self, jobs: Iterable[int]) -> tuple[Span, ...]:
        """Returns spans of single jobs.

        :raises UnknownJob: one of them does not exist
        """
        found = []
        for job in jobs:
            self._range_of(job)
            found.append(Span(job, 1))
        return tuple(found)
