"""Resources in Grid Engine's words."""

from __future__ import annotations

import pytest

from gridmap.backends.native import is_of_run, job_name, walltime_s
from gridmap.backends.options import native_specification
from gridmap.core.spec import Resources


def test_the_least_one_can_ask_for():
    assert native_specification(Resources()) == "-shell yes -b yes"


def test_everything_one_can_ask_for():
    resources = Resources(
        num_slots=4,
        mem_free="2G",
        queue="all.q@@fast,long.q",
        par_env="openmp",
        hosts=("node1", "node2"),
        project="physics",
        validation_level="e",
        os_distribution="Debian",
        os_minor="12",
        gpu=2,
        h_vmem="4G",
        h_rt="00:59:00",
        interpreting_shell="/bin/bash",
        extra=("arch=lx-amd64", "scratch=10G"),
    )
    assert native_specification(resources, use_mem_free=True) == (
        "-shell yes -b yes -S /bin/bash -l mem_free=2G -pe openmp 4 -q all.q@@fast,long.q "
        "-l h=node1|node2 -P physics -w e -l os_distribution=Debian -l os_minor=12 -l gpu=2 "
        "-l h_vmem=4G -l h_rt=00:59:00 -l arch=lx-amd64 -l scratch=10G"
    )


def test_mem_free_only_where_the_cluster_knows_it():
    assert "mem_free" not in native_specification(Resources(mem_free="1G"))


def test_one_slot_needs_no_parallel_environment():
    assert "-pe" not in native_specification(Resources(num_slots=1, par_env="smp"))


def test_several_slots_need_one():
    assert native_specification(Resources(num_slots=2)).endswith("-pe smp 2")


def test_our_own_worker_needs_no_shell():
    assert native_specification(Resources(), shell=False) == "-shell no -b yes"


@pytest.mark.parametrize(
    "value", ["a b", 'a"b', "a'b", "a\nb", "a;b", "$HOME", "a`b`", "a\\b", "-x"]
)
@pytest.mark.parametrize("field", ["queue", "project", "h_vmem", "interpreting_shell"])
def test_a_value_that_would_be_read_as_something_else_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        native_specification(Resources(**{field: value}))


@pytest.mark.parametrize(
    "resources",
    [
        Resources(hosts=("node1", "node 2")),
        Resources(extra=("scratch=1G -q other",)),
        Resources(num_slots=2, par_env="smp 8"),
        Resources(num_slots=0),
        Resources(gpu=-1),
        Resources(h_rt="soon"),
    ],
)
def test_other_senseless_requests_are_refused(resources):
    with pytest.raises(ValueError):
        native_specification(resources)


@pytest.mark.parametrize("level", "ewnpv")
def test_validation_levels(level):
    assert f"-w {level}" in native_specification(Resources(validation_level=level))


@pytest.mark.parametrize("level", ["x", "ew", "E"])
def test_no_other_validation_level(level):
    with pytest.raises(ValueError, match="one of e, w, n, p, v"):
        native_specification(Resources(validation_level=level))


@pytest.mark.parametrize(
    ("h_rt", "seconds"),
    [
        ("00:59:00", 3540.0),
        ("1::1", 3601.0),
        ("::30", 30.0),
        ("3600", 3600.0),
        (3600, 3600.0),
        (90.5, 90.5),
        ("0x10", 16.0),
        ("010", 8.0),
        ("1e3", 1000.0),
        ("0", 0.0),
        ("INFINITY", None),
        ("", None),
        (None, None),
    ],
)
def test_time_limits(h_rt, seconds):
    assert walltime_s(h_rt) == seconds


@pytest.mark.parametrize("h_rt", ["10:00", "5:0:0:0", "::", "1h", "-5", "xx", "09"])
def test_what_is_no_time_limit(h_rt):
    with pytest.raises(ValueError, match="h_rt"):
        walltime_s(h_rt)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("my job", "my_job"),
        ("7up", "_7up"),
        ("a/b:c@d*e", "a_b_c_d_e"),
        ("ä", "__"),
        ("", "gridmap"),
    ],
)
def test_names_that_grid_engine_takes(name, safe):
    assert job_name(name) == safe


def test_a_name_leads_back_to_its_run():
    assert is_of_run(job_name("my job", "20261120-ab12"), "20261120-ab12")
    assert not is_of_run(job_name("my job", "20261120-ab12"), "ab13")
