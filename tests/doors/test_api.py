"""The names, signatures and attributes that programs written for GridMap rely on."""

from __future__ import annotations

import inspect
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gridmap
import gridmap.conf
import gridmap.job
from gridmap import Job, grid_map, process_jobs
from gridmap.call import _choose_backend
from tests.doors.functions import add, identity

JOB = (
    "f args kwlist=None cleanup=True mem_free='1G' name='gridmap_job' num_slots=1 queue=* "
    "interpreting_shell=None copy_env=True add_env=None project=None validation_level=None "
    "os_distribution=None os_minor=None par_env=* gpu=0 h_vmem=None h_rt=None resources=None"
)
PROCESS_JOBS = (
    "jobs temp_dir=* white_list=None quiet=True max_processes=1 local=False require_cluster=False"
)
GRID_MAP = (
    "f args_list cleanup=True mem_free='1G' name='gridmap_job' num_slots=1 temp_dir=* "
    "white_list=None queue=* quiet=True local=False max_processes=1 interpreting_shell=None "
    "copy_env=True add_env=None project=None validation_level=None os_distribution=None "
    "os_minor=None gpu=0 h_vmem=None h_rt=None resources=None completion_mail=False "
    "require_cluster=False par_env=*"
)
OF_JOB = "retry=None retry_on=() max_rss=None"
OURS = "max_workers=None on_error='raise' reuse=True backend='auto' children=1 progress=None"

PROFILE = "profile=None"

LOCAL = [{"max_processes": 1}, {"max_processes": 4}]


def signature(function: Any, kind: Any) -> str:
    """Returns the parameters of a kind; a * stands for a default read at call time."""
    words = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not kind or parameter.name == "self":
            continue
        empty = parameter.default is inspect.Parameter.empty
        read_later = parameter.name in ("queue", "par_env", "temp_dir")
        default = "" if empty else "=*" if read_later else f"={parameter.default!r}"
        words.append(parameter.name + default)
    return " ".join(words)


@pytest.mark.parametrize(
    ("function", "positional", "keywords"),
    [
        (Job.__init__, JOB, f"{OF_JOB} {PROFILE}"),
        (process_jobs, PROCESS_JOBS, f"{OURS} {PROFILE}"),
        (gridmap.submit, PROCESS_JOBS, f"{OURS} {PROFILE}"),
        (grid_map, GRID_MAP, f"{OURS} {OF_JOB} {PROFILE}"),
    ],
)
def test_signatures_are_the_historic_ones(function: Any, positional: str, keywords: str) -> None:
    assert signature(function, inspect.Parameter.POSITIONAL_OR_KEYWORD) == positional
    assert signature(function, inspect.Parameter.KEYWORD_ONLY) == keywords


def test_names_can_be_imported_from_where_they_always_were() -> None:
    for name in ("Job", "JobException", "process_jobs", "grid_map", "DRMAANotPresentException"):
        assert getattr(gridmap, name) is getattr(gridmap.job, name)
    for name in ("JobMonitor", "handle_resubmit", "send_error_mail", "send_completion_mail"):
        assert callable(getattr(gridmap.job, name))
    for name in ("HEARTBEAT_FREQUENCY", "NUM_RESUBMITS", "DEFAULT_QUEUE", "USE_MEM_FREE"):
        values = [getattr(m, name) for m in (gridmap, gridmap.job, gridmap.conf)]
        assert values[0] == values[1] == values[2]
    assert isinstance(gridmap.VERSION, tuple)
    assert isinstance(gridmap.conf.DRMAA_PRESENT, bool)
    assert issubclass(gridmap.DRMAANotPresentException, ImportError)


ATTRIBUTES = """
    function args kwlist id name ret traceback cleanup num_slots mem_free white_list path uniq_id
    queue environment working_dir cause_of_death num_resubmits home_address log_stdout_fn
    log_stderr_fn timestamp host_name heart_beat track_mem track_cpu interpreting_shell copy_env
    par_env project gpu h_vmem h_rt resources native_specification
""".split()  # noqa: SIM905


def test_a_job_has_every_attribute_before_and_after_it_ran() -> None:
    job = Job(add, [1, 2], {"more": 3}, name="a job of mine", num_slots=2, h_rt="01:00:00")
    before = {name: getattr(job, name) for name in ATTRIBUTES}
    assert (job.function, job.args, job.kwlist) == (add, [1, 2], {"more": 3})
    assert job.name == "a_job_of_mine"
    assert job.working_dir == os.getcwd()
    assert job.environment == dict(os.environ)
    assert "-pe smp 2" in before["native_specification"]
    assert "h_rt=01:00:00" in before["native_specification"]
    process_jobs([job], local=True)
    assert set(ATTRIBUTES) <= set(dir(job))
    assert job.ret == 6


@pytest.mark.parametrize("how", LOCAL)
def test_jobs_tell_what_happened(how: dict[str, Any]) -> None:
    def fails() -> None:
        raise KeyError("lost")

    jobs = [Job(add, [1, 2]), Job(fails, []), Job(add, [3], {"x": 4})]
    jobs[2].ret, jobs[2].cause_of_death = "old", "older"
    values = process_jobs(jobs, None, ["here"], local=True, on_error="return", **how)
    assert values[0] == 3 and values[2] == 7
    assert [job.ret for job in jobs] == values
    assert type(values[1]) is KeyError
    assert "in fails" in str(jobs[1].traceback) and "KeyError: 'lost'" in str(jobs[1].traceback)
    assert [job.cause_of_death for job in jobs] == ["", "exception", ""]
    assert [job.traceback is None for job in jobs] == [True, False, True]
    assert [job.num_resubmits for job in jobs] == [0, 0, 0]
    assert len({job.uniq_id for job in jobs}) == 3
    assert all(job.host_name for job in jobs)
    assert all(job.white_list == [] for job in jobs)  # that of the call was not the jobs' own
    assert all(isinstance(job.home_address, str) for job in jobs)


def test_a_job_can_be_run_again() -> None:
    job = Job(add, [1])
    for max_processes in (1, 2, 1):
        assert process_jobs([job], local=True, max_processes=max_processes) == [1]
        assert job.ret == 1


@pytest.mark.parametrize("how", LOCAL)
def test_the_job_that_failed_is_noted_when_its_error_is_raised(how: dict[str, Any]) -> None:
    jobs = [Job(add, [1]), Job(add, ["x"])]
    with pytest.raises(TypeError):
        process_jobs(jobs, local=True, **how)
    assert isinstance(jobs[1].ret, TypeError)
    assert jobs[1].cause_of_death == "exception"
    assert "TypeError" in str(jobs[1].traceback)


def test_execute() -> None:
    good, bad = Job(add, [1], {"x": 2}), Job(add, ["x"])
    good.execute()
    bad.execute()
    assert good.ret == 3 and good.traceback is None
    assert isinstance(bad.ret, TypeError) and "TypeError" in str(bad.traceback)


@pytest.mark.parametrize("how", LOCAL)
def test_a_list_is_the_arguments_and_anything_else_is_the_one_argument(how: dict[str, Any]) -> None:
    def shown(*args: Any) -> str:
        return repr(args)

    elements = [[1, 2], (1, 2), [], [[1]], "ab", None, {"a": 1}, [(1,)]]
    expected = [repr(tuple(x) if isinstance(x, list) else (x,)) for x in elements]
    assert grid_map(shown, elements, local=True, **how) == expected


@pytest.mark.parametrize("how", LOCAL)
def test_args_list_may_be_any_iterable(how: dict[str, Any]) -> None:
    for elements in (
        range(5),
        (i for i in range(5)),
        dict.fromkeys(range(5)).keys(),
        dict(enumerate(range(5))).values(),
        iter([0, 1, 2, 3, 4]),
        np.arange(5),
        {0, 1, 2, 3, 4},
        map(int, "01234"),
    ):
        assert grid_map(identity, elements, local=True, **how) == [0, 1, 2, 3, 4]
    rows = grid_map(np.sum, np.ones((3, 2)), local=True, **how)
    assert rows == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("how", LOCAL)
def test_nothing_to_do_is_done(how: dict[str, Any]) -> None:
    assert grid_map(identity, [], local=True, **how) == []
    assert process_jobs([], local=True, **how) == []
    assert list(gridmap.grid_imap(identity, [], local=True, **how)) == []
    run = gridmap.submit([], local=True, **how)
    assert run.wait(0) and run.results() == [] and len(run) == 0
    assert run.status().ended and run.status().total == 0


@pytest.mark.parametrize("how", LOCAL)
def test_grid_map_numbers_the_names_of_its_jobs(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(x: int) -> None:
        if x == 2:
            raise SystemExit(5) if how["max_processes"] == 1 else SystemExit(5)

    if how["max_processes"] == 1:
        with pytest.raises(SystemExit):
            grid_map(dies, range(4), name="my map", local=True, **how)
        return
    gridmap.NUM_RESUBMITS = 0
    with pytest.raises(gridmap.JobException, match="my_map2") as caught:
        grid_map(dies, range(4), name="my map", local=True, **how)
    assert caught.value.name == "my_map2" and caught.value.job == 2


def test_positional_temp_dir_and_white_list(tmp_path: Path) -> None:
    jobs = [Job(add, [i]) for i in range(3)]
    assert process_jobs(jobs, str(tmp_path), ["a", "b"], True, 2, True) == [0, 1, 2]
    map_args = (True, "1G", "name", 1, "/scratch/", ["a"], "all.q", True, True, 2)
    assert grid_map(identity, [1], *map_args) == [1]


@pytest.mark.parametrize("how", LOCAL)
def test_a_job_runs_where_and_as_it_was_made(
    how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def where() -> tuple[str, str | None, str | None]:
        return os.getcwd(), os.environ.get("DOORS_OLD"), os.environ.get("DOORS_NEW")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOORS_OLD", "old")
    jobs = [Job(where, []), Job(where, [], add_env={"DOORS_NEW": "new"})]
    monkeypatch.chdir("/")
    monkeypatch.setenv("DOORS_OLD", "changed")
    here = str(tmp_path)
    expected = [(here, "old", None), (here, "old", "new")]
    assert process_jobs(jobs, local=True, **how) == expected
    assert (os.getcwd(), os.environ["DOORS_OLD"]) == ("/", "changed")


def test_add_env_counts_without_copy_env_as_well() -> None:
    def told() -> str | None:
        return os.environ.get("DOORS_NEW")

    for how in LOCAL:
        job = Job(told, [], copy_env=False, add_env={"DOORS_NEW": "new"})
        assert process_jobs([job], local=True, **how) == ["new"]
    assert "DOORS_NEW" not in os.environ


def test_settings_are_read_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def exits() -> None:
        os._exit(9)

    seen = []
    for number in (0, 1):
        gridmap.NUM_RESUBMITS = number
        (error,) = process_jobs([Job(exits, [])], local=True, max_processes=2, on_error="return")
        seen.append(error.attempts)
    del gridmap.NUM_RESUBMITS
    monkeypatch.setenv("NUM_RESUBMITS", "2")
    job = Job(exits, [])
    (error,) = process_jobs([job], local=True, max_processes=2, on_error="return")
    assert [*seen, error.attempts] == [1, 2, 3]
    assert job.num_resubmits == 2
    gridmap.conf.DEFAULT_QUEUE = "mine.q"
    assert Job(add, []).queue == "mine.q"


def test_historic_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridmap.backends.drmaa.why_not", lambda: "there is none")
    jobs = [Job(add, [i]) for i in range(3)]
    with gridmap.job.JobMonitor(temp_dir="/scratch/") as monitor:
        monitor.check("session", jobs)
        monitor.check_if_alive()
        assert monitor.all_jobs_done()
        assert isinstance(monitor.home_address, str)
    assert [job.ret for job in jobs] == [0, 1, 2]
    gridmap.job.handle_resubmit("session", jobs[1], temp_dir="/scratch/")
    assert jobs[1].ret == 1 and jobs[1].num_resubmits == 1


def test_mails_never_raise() -> None:
    gridmap.conf.SMTP_SERVER = "127.0.0.1:1"
    job = Job(add, ["x"], name="mailed")
    job.execute()
    gridmap.job.send_error_mail(job)
    gridmap.job.send_completion_mail("mailed")


def test_no_library_means_a_warning_and_local_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gridmap.backends.drmaa.why_not", lambda: "there is no libdrmaa")
    assert grid_map(identity, [1, 2]) == [1, 2]
    warnings = [r for r in caplog.records if "there is no libdrmaa" in r.getMessage()]
    assert [r.levelname for r in warnings] == ["WARNING"]
    for options in ({"require_cluster": True}, {"backend": "drmaa"}):
        with pytest.raises(gridmap.DRMAANotPresentException, match="there is no libdrmaa"):
            grid_map(identity, [1], **options)


@pytest.mark.parametrize(
    ("named", "library", "slurm", "chosen"),
    [
        ("", "", True, "slurm"),  # Debian's library may be there without its scheduler
        ("", "", False, "drmaa"),
        ("SGE_ROOT", "", True, "drmaa"),
        ("DRMAA_LIBRARY_PATH", "", True, "drmaa"),
        ("SGE_ROOT", "there is none", True, "slurm"),
        ("", "there is none", False, "local"),
    ],
)
def test_which_cluster_is_chosen(
    named: str, library: str, slurm: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SGE_ROOT", "DRMAA_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    if named:
        monkeypatch.setenv(named, "/somewhere")
    monkeypatch.setattr("gridmap.backends.drmaa.why_not", lambda: library)
    monkeypatch.setattr("gridmap.backends.slurm.present", lambda: slurm)
    assert _choose_backend("auto", local=False, require_cluster=False) == chosen
    assert _choose_backend("slurm", local=False, require_cluster=True) == "slurm"


def test_a_job_can_be_pickled_and_copied() -> None:
    job = pickle.loads(pickle.dumps(Job(len, ["abc"])))
    job.execute()
    assert job.ret == 3


def test_positional_map_args_match_the_python_in_use() -> None:
    python = grid_map(lambda _: sys.version_info[:2], [0], local=True, max_processes=2)
    assert python == [sys.version_info[:2]]
