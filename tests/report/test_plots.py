"""Plots: of one job for mails, of whole runs for people; they cost nothing until one is drawn."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap.report import plots, run_plot, run_table
from gridmap.report.story import (
    CANCELED,
    COMPLETED,
    FAILED,
    JobStory,
    Story,
    Usage,
    WorkerStory,
)

pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def used(*megabytes: float, at_s: float = 1.7e9) -> list[Usage]:
    return [Usage(at_s + 10 * n, size * 2**20, 0.9) for n, size in enumerate(megabytes)]


def story(count: int, workers: int, **job: Any) -> Story:
    """Returns a run of some workers, each of which computes all the time."""
    up_s = [1.7e9 + number for number in range(workers)]
    jobs = []
    for number in range(count):
        lane = number % workers
        seconds = 1.0 + number % 7
        up_s[lane] += seconds
        state = FAILED if number % 11 == 3 else COMPLETED
        jobs.append(
            JobStory(
                number,
                f"fit{number}",
                state,
                "died" if state == FAILED else "",
                f"node{lane}",
                f"4711.{lane}",
                1,
                up_s[lane],
                seconds,
                1 << 28,
                **job,
            )  # fmt: skip
        )
    return Story("run", "fit", jobs)


def drawn(figure: Any) -> Any:
    """Returns the picture as an array of pixels."""
    from matplotlib.image import imread

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=60)
    png.seek(0)
    return imread(png)


# --- one job --------------------------------------------------------------------------------------


def test_a_plot_is_a_png_with_something_on_it() -> None:
    rising = plots.memory_png(used(1, 10, 100))
    flat = plots.memory_png(used(1, 1, 1))
    assert rising.startswith(b"\x89PNG\r\n") and rising[-8:-4] == b"IEND"
    assert zlib.crc32(rising) != zlib.crc32(flat)
    assert plots.cpu_png(used(1, 10, 100)) != rising


def test_the_limit_is_a_line() -> None:
    samples = used(1, 10, 100)
    assert plots.memory_png(samples, 1 << 30) != plots.memory_png(samples)


@pytest.mark.parametrize("count", [1, 2, 59, 5000])
def test_any_number_of_measurements(count: int) -> None:
    assert plots.memory_png(used(*[0.0] * count), 100).startswith(b"\x89PNG")
    assert plots.cpu_png(used(*range(count))).startswith(b"\x89PNG")


# --- a run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "workers"), [(0, 1), (1, 1), (60, 4), (300, 60), (3000, 3), (10_000, 300)]
)
def test_runs_of_all_sizes(count: int, workers: int) -> None:
    figure = run_plot.plot(story(count, workers))
    assert len(figure.axes) == 4
    height, width, _ = drawn(figure).shape
    assert (width, height) == (540, 516)


@pytest.mark.slow
def test_more_jobs_than_can_be_drawn() -> None:
    figure = run_plot.plot(story(200_000, 1000))
    assert "181,818 completed, 18,182 failed on 1,000 workers" in figure.get_suptitle()
    artists = figure.findobj()
    assert len(artists) < 3000


def test_what_it_shows() -> None:
    figure = run_plot.plot(story(60, 4, samples=used(1, 2)))
    top, cpu, memory, hist = figure.axes
    assert figure.get_suptitle().startswith("fit: 54 completed, 6 failed on 4 workers in ")
    assert [label.get_text() for label in top.get_yticklabels()] == [f"node{n}" for n in range(4)]
    crosses = [c for c in top.collections if len(c.get_offsets()) == 6]
    assert len(crosses) == 1
    bars = sum(len(c.get_paths()) for c in top.collections if c not in crosses)
    assert bars == 60
    assert {t.get_text() for t in top.get_legend().get_texts()} >= {"at work", "a job failed"}
    assert len(cpu.lines) == 1 and len(memory.lines) == 2
    assert sum(patch.get_height() for patch in hist.patches) == 60


def test_jobs_that_ran_at_once_lie_below_each_other() -> None:
    jobs = [
        JobStory(n, f"fit{n}", COMPLETED, "", "node", "1", 1, 100.0 + n, 10.0) for n in range(3)
    ]
    figure = run_plot.plot(Story("run", "fit", jobs))
    bars = [c for c in figure.axes[0].collections if type(c).__name__ == "PolyCollection"]
    rows = {round(path.get_extents().y0, 3) for c in bars for path in c.get_paths()}
    assert len(rows) == 3


def test_what_was_not_measured_is_not_drawn_as_nothing() -> None:
    jobs = [
        JobStory(0, "a", COMPLETED, "", "n", "1", 1, 110.0, 10.0, 5 << 20, used(4, at_s=100.0)),
        JobStory(1, "b", COMPLETED, "", "n", "1", 1, 120.0, 10.0, 5 << 20),
        JobStory(2, "c", COMPLETED, "", "n", "1", 1, 140.0, 10.0, 5 << 20, used(4, at_s=130.0)),
    ]
    figure = run_plot.plot(Story("run", "fit", jobs))
    for title, most in (("Processors", 0.9), ("Memory [MB]", 4.0)):
        (axes,) = (a for a in figure.axes if a.get_title(loc="left") == title)
        times, values = map(list, axes.lines[0].get_data())
        at = dict(zip(times, values, strict=True))
        during = {at_s: [v for t, v in at.items() if at_s - 4 < t < at_s + 4] for at_s in (5, 15)}
        assert during[5] == pytest.approx([most] * len(during[5]))
        assert all(value != value for value in during[15]), "a job ran that nobody measured"
        assert all(value == 0 for t, value in at.items() if 21 < t < 29), "no job ran"


def test_busy_time_is_kept_when_it_is_added_up() -> None:
    told = story(5000, 50)
    table = run_table.RunTable(told)
    step = (table.last - table.first) / run_table.BINS
    busy = table.busy(table.begin, table.end, table.lane, 50)
    assert busy.sum() * step == pytest.approx(table.seconds.sum(), rel=0.02)
    assert busy.max() < 1.2


def test_little_is_known() -> None:
    jobs = [JobStory(0), JobStory(1, state=CANCELED), JobStory(2, state=FAILED, host="a")]
    workers = [WorkerStory("1"), WorkerStory("2", "b", 5)]
    figure = run_plot.plot(Story("run", "x" * 100, jobs, workers))
    assert drawn(figure).shape


def test_hostile_names_are_only_text() -> None:
    evil = r"$\frac{1}{$" + "\n%_^ <b> \x1b[2J" + "y" * 500
    job = JobStory(0, evil, FAILED, "died", evil, evil, 1, 100.0, 10.0, 5, used(1, 2, at_s=91))
    assert drawn(run_plot.plot(Story(evil, evil, [job]))).shape


def test_the_users_own_figures_and_settings_are_left_alone() -> None:
    import matplotlib
    from matplotlib import pyplot

    before = pyplot.get_fignums(), dict(matplotlib.rcParams), matplotlib.get_backend()
    plots.cpu_png(used(1, 2))
    run_plot.plot(story(60, 4))
    assert (pyplot.get_fignums(), dict(matplotlib.rcParams), matplotlib.get_backend()) == before


def test_beside_the_users_own_plots() -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    made: list[bytes] = []
    errors: list[BaseException] = []

    def draw() -> None:
        try:
            made.extend(plots.memory_png(used(1, 10, 100), 1 << 30) for _ in range(5))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    figure = pyplot.figure()
    for number in range(5):
        pyplot.plot([number, 1])
        pyplot.savefig(io.BytesIO(), format="png")
    for thread in threads:
        thread.join()
    assert not errors and len(set(made)) == 1 and len(made) == 15
    assert pyplot.gcf() is figure
    pyplot.close(figure)


def test_a_notebook_shows_it_and_it_can_be_pickled() -> None:
    import pickle

    figure = run_plot.plot(story(3, 1))
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(figure)).get_suptitle() == figure.get_suptitle()


# --- the door -------------------------------------------------------------------------------------


def test_plot_and_table_of_a_run() -> None:
    pandas = pytest.importorskip("pandas")
    jobs = [gridmap.Job(abs, [-n], name=f"part_{n}") for n in range(3)]
    jobs.append(gridmap.Job(int, ["x"], name="part_x"))
    with gridmap.submit(jobs, local=True, max_processes=2, on_error="return") as run:
        run.results()
        figure = gridmap.plot(run)
        table = run.to_dataframe()
    assert figure.get_suptitle().startswith("part: 3 completed, 1 failed on 1 worker")
    assert list(table["state"]) == ["completed"] * 3 + ["failed"]
    assert list(table["cause"]) == ["", "", "", "exception"]
    assert list(table.columns) == [
        "job", "name", "state", "cause", "host", "worker", "attempts", "seconds", "peak_rss_mb",
        "ended",
    ]  # fmt: skip
    assert (table["attempts"] == 1).all() and (table["peak_rss_mb"] > 1).all()
    assert (table["seconds"] > 0).all() and (table["seconds"] < 5).all()
    now = pandas.Timestamp.now("UTC")
    assert ((now - table["ended"]).dt.total_seconds() < 60).all()
    assert jobs[0].ended_s and jobs[0].seconds and jobs[0].peak_rss_bytes
    assert [job.state for job in jobs] == list(table["state"])


def test_plot_by_id(tmp_path: Path) -> None:
    gridmap.conf.GRIDMAP_LEDGER = "always"
    gridmap.conf.GRIDMAP_RUN_DIR = str(tmp_path)
    jobs = [gridmap.Job(int, [text], name=f"part_{text}") for text in ("1", "x", "2")]
    with gridmap.submit(jobs, local=True, max_processes=2, on_error="return") as run:
        run.results()
    figure = gridmap.plot(run.id)
    assert figure.get_suptitle().startswith("part_1: 2 completed, 1 failed")
    with pytest.raises(gridmap.LedgerError, match="no run nosuch"):
        gridmap.plot("nosuch")
    with pytest.raises(TypeError, match="a Run or the id"):
        gridmap.plot(3)


@pytest.mark.parametrize(
    ("hidden", "call"),
    [("matplotlib", "gridmap.plot(run)"), ("pandas", "run.to_dataframe()")],
)
def test_what_to_install(hidden: str, call: str) -> None:
    extra = {"matplotlib": "plots", "pandas": "pandas"}[hidden]
    program = f"""
import sys, importlib.util
class Hidden:
    def find_spec(self, name, *others):
        if name.partition(".")[0] == {hidden!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *o: None if name == {hidden!r} else real(name, *o)
import gridmap
run = gridmap.submit([], local=True)
try:
    {call}
except ImportError as error:
    sys.exit(0 if "pip install gridmap[{extra}]" in str(error) else str(error))
sys.exit("no error")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_importing_and_asking_load_no_matplotlib() -> None:
    program = (
        "import sys; from gridmap.report import mail, plots; plots.available(); "
        "import gridmap; gridmap.plot; "
        "sys.exit(bool({'matplotlib', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
