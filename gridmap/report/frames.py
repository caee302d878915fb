"""A run as a table of pandas, which is loaded only here and only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridmap.report.story import Story

if TYPE_CHECKING:
    from pandas import DataFrame


def frame_of(story: Story) -> DataFrame:
    """Returns a row for each job, in their order.

    :raises ImportError: there is no pandas
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("this needs pandas: pip install gridmap[pandas]") from error
    jobs = story.jobs
    ended = pandas.to_datetime([job.ended_s for job in jobs], unit="s", utc=True)
    peaks = [job.peak_rss_bytes / 1e6 if job.peak_rss_bytes else None for job in jobs]
    return pandas.DataFrame(
        {
            "job": [job.number for job in jobs],
            "name": [job.name for job in jobs],
            "state": [job.state for job in jobs],
            "cause": [job.cause for job in jobs],
            "host": [job.host for job in jobs],
            "worker": [job.worker for job in jobs],
            "attempts": [job.attempts for job in jobs],
            "seconds": pandas.Series([job.seconds for job in jobs], dtype="float64"),
            "peak_rss_mb": pandas.Series(peaks, dtype="float64"),
            "ended": ended,
        }
    )
