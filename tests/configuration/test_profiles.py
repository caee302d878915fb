"""Profiles: defaults of arguments; what the call says wins."""

from __future__ import annotations

import functools
import inspect
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import (
    Job,
    Resources,
    Retry,
    conf,
    grid_imap,
    grid_imap_unordered,
    grid_map,
    process_jobs,
)
from gridmap.errors import ConfigError
from gridmap.profiles import parameters, with_profile
from tests.configuration.conftest import Files, write

TEXT = """
[profiles.big]
h_rt = "02:00:00"
h_vmem = "16G"
num_slots = 4
queue = "big.q"
max_workers = 8
local = true
max_processes = 2
add_env = { LANG = "C", MODE = "big" }
retry = { times = 7, memory = 2 }
white_list = ["a", "b"]
settings = { NUM_RESUBMITS = 1, DEFAULT_PAR_ENV = "openmp" }

[profiles.cluster]
backend = "slurm"
require_cluster = true

[profiles.here]
local = true
on_error = "return"
"""


@pytest.fixture
def big(files: Files) -> Path:
    return write(files.user, TEXT)


@with_profile()
def door(
    f: Any, queue: str | None = None, local: bool = False, max_workers: int | None = None,
    *, backend: str = "auto", require_cluster: bool = False, h_rt: Any = None,
    add_env: Any = None, retry: Any = None, profile: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A door that tells what it was given."""
    return dict(locals())


def test_without_a_profile_nothing_changes(files: Files) -> None:
    assert door(1) == {
        "f": 1, "queue": None, "local": False, "max_workers": None, "backend": "auto",
        "require_cluster": False, "h_rt": None, "add_env": None, "retry": None, "profile": "none",
    }  # fmt: skip
    assert door(1, "q", h_rt=3)["queue"] == "q"


def test_a_profile_gives_what_the_call_does_not(big: Path) -> None:
    got = door(1, profile="big")
    assert (got["queue"], got["local"], got["max_workers"], got["h_rt"]) == (
        "big.q", True, 8, "02:00:00",
    )  # fmt: skip
    assert got["retry"] == Retry(7, memory=2)
    assert got["profile"] == "big"


@pytest.mark.parametrize("call", [lambda: door(1, "q", False, profile="big")])
def test_what_the_call_says_by_place_wins(big: Path, call: Any) -> None:
    got = call()
    assert (got["queue"], got["local"], got["max_workers"]) == ("q", False, 8)


def test_what_the_call_says_by_name_wins(big: Path) -> None:
    got = door(1, max_workers=2, retry=0, h_rt=60, add_env={"MODE": "own"}, profile="big")
    assert (got["max_workers"], got["retry"], got["h_rt"]) == (2, 0, 60)
    assert got["add_env"] == {"LANG": "C", "MODE": "own"}


def test_none_says_nothing(big: Path) -> None:
    """So that a function may hand on what it was not given itself."""
    got = door(1, None, max_workers=None, h_rt=None, add_env=None, profile="big")
    assert (got["queue"], got["max_workers"], got["h_rt"]) == ("big.q", 8, "02:00:00")
    assert got["add_env"] == {"LANG": "C", "MODE": "big"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (False, "slurm", True)),
        ({"local": True}, (True, "auto", False)),
        ({"local": False}, (False, "slurm", True)),
        ({"backend": "drmaa"}, (False, "drmaa", False)),
    ],
)
def test_where_a_call_says_to_run_is_not_contradicted(
    big: Path, said: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    got = door(1, profile="cluster", **said)
    assert (got["local"], got["backend"], got["require_cluster"]) == expected


def test_a_required_cluster_is_not_this_machine(big: Path) -> None:
    assert door(1, require_cluster=True, profile="here")["local"] is False
    assert door(1, backend="slurm", profile="here")["local"] is False
    write(big, '[profiles.here]\nbackend = "local"\n')
    assert door(1, require_cluster=True, profile="here")["backend"] == "auto"
    assert door(1, require_cluster=False, profile="here")["backend"] == "local"


def test_the_profile_of_the_variable_the_constant_and_the_file(
    big: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files.project, '[settings]\nGRIDMAP_PROFILE = "here"\n')
    assert door(1)["profile"] == "here"
    monkeypatch.setenv("GRIDMAP_PROFILE", "cluster")
    assert door(1)["profile"] == "cluster"
    monkeypatch.setenv("GRIDMAP_PROFILE", "")
    assert door(1)["profile"] == "none"
    gridmap.GRIDMAP_PROFILE = "big"
    assert door(1)["profile"] == "big"
    assert door(1, profile="here")["profile"] == "here"
    assert door(1, profile="none")["local"] is False


@pytest.mark.parametrize("call", [
    functools.partial(grid_map, abs, [1]), functools.partial(process_jobs, []), conf.settings,
    functools.partial(gridmap.submit, []), functools.partial(grid_imap, abs, [1]),
    functools.partial(grid_imap_unordered, abs, [1]), functools.partial(Job, abs, [1]),
])  # fmt: skip
def test_an_unknown_profile_is_an_error_at_once(big: Path, call: Any) -> None:
    with pytest.raises(ConfigError) as error:
        call(profile="gpu")
    assert "there is no profile 'gpu', which the call names" in str(error.value)
    assert f"profiles: big, cluster, here; configuration files: {big} (" in str(error.value)
    with pytest.raises(TypeError, match="profile is the name of a profile, not 3"):
        call(profile=3)


def test_an_unknown_profile_of_the_variable(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_PROFILE", "gpu")
    expected = "which environment variable GRIDMAP_PROFILE names; profiles: none; .* files: none"
    for call in (conf.settings, functools.partial(Job, abs, [1])):
        with pytest.raises(ConfigError, match=expected):
            call()


def test_a_wrong_call_is_told_by_python_itself(big: Path) -> None:
    with pytest.raises(TypeError, match="door.. got multiple values for argument 'queue'"):
        door(1, "q", queue="r", profile="big")
    with pytest.raises(TypeError, match="takes from 1 to 4 positional arguments but 5"):
        door(1, "q", False, 3, 4, profile="big")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'f'"):
        door(profile="big")
    with pytest.raises(TypeError, match="unexpected keyword argument 'quue'"):
        door(1, quue="q", profile="big")
    with pytest.raises(TypeError, match="unexpected keyword argument 'quue'"):
        grid_imap(abs, [1], quue="q", profile="big")


def test_a_job_takes_what_it_has(big: Path) -> None:
    job = Job(abs, [-1], profile="big")
    assert (job.h_rt, job.h_vmem, job.num_slots, job.queue) == ("02:00:00", "16G", 4, "big.q")
    assert (job.par_env, job.retry.times) == ("openmp", 7)
    assert job.environment is not None and job.add_env == {"LANG": "C", "MODE": "big"}
    plain = Job(abs, [-1])
    assert (plain.h_rt, plain.num_slots, plain.queue, plain.par_env) == (None, 1, "all.q", "smp")
    own = Job(abs, [-1], None, True, "2G", "name", 2, profile="big", queue="my.q")
    assert (own.num_slots, own.mem_free, own.queue, own.h_vmem) == (2, "2G", "my.q", "16G")


def test_a_class_derived_from_job(big: Path) -> None:
    class Mine(Job):
        def __init__(self, number: int, **options: Any) -> None:
            super().__init__(abs, [number], **options)

    assert Mine(3, profile="big").num_slots == 4
    assert pickle.loads(pickle.dumps(Job(abs, [-1], profile="big"))).queue == "big.q"


def test_settings_of_a_profile(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert conf.settings("big").num_resubmits == 1
    assert conf.settings().num_resubmits == 3
    monkeypatch.setenv("GRIDMAP_PROFILE", "big")
    assert (conf.settings().num_resubmits, gridmap.NUM_RESUBMITS) == (1, 1)
    assert conf.settings("none").num_resubmits == 3
    monkeypatch.setenv("NUM_RESUBMITS", "2")  # the environment wins
    assert conf.settings("big").num_resubmits == 2


def test_a_profile_is_put_together_value_by_value(big: Path, files: Files) -> None:
    write(
        files.project,
        """
        [profiles.big]
        max_workers = 99
        retry = 1
        [profiles.big.add_env]
        MODE = "project"
        """,
    )
    got = door(1, profile="big")
    assert (got["max_workers"], got["queue"], got["retry"]) == (99, "big.q", 1)
    assert got["add_env"] == {"LANG": "C", "MODE": "project"}
    write(files.project, "[profiles.big.retry]\ntimes = 3\n[profiles.cluster]\nh_rt = 5\n")
    assert door(1, profile="big")["retry"] == Retry(3, memory=2)
    assert door(1, profile="cluster")["h_rt"] == 5


def test_a_value_that_makes_no_sense_is_named_with_its_file(files: Files) -> None:
    write(files.user, "[profiles.a]\nretry.times = 1\nretry.memory = 0.5\n")
    expected = f"{files.user}:2, {files.user}:3: profiles.a.retry: .*memory"
    with pytest.raises(ConfigError, match=expected):
        Job(abs, [1], profile="a")


GPU = """
[profiles.gpu]
resources = { gpus = 1, memory = "16G", walltime = "02:00:00", queue = "gpu", hosts = ["a"] }
[profiles.old]
gpu = 1
h_vmem = "16G"
mem_free = "16G"
h_rt = "02:00:00"
[profiles.list]
resources = ["fast=1"]
"""


def asked_for(**said: Any) -> tuple[Any, ...]:
    """Returns GPUs, bytes of memory, seconds and queue of a job that was made so."""
    wanted = Job(abs, [1], **said).resources_wanted()
    memory = wanted.h_vmem or wanted.memory_bytes >> 30
    return (wanted.gpu, memory, wanted.walltime_s, wanted.queue)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (1, 16, 7200, "gpu")),
        ({"resources": Resources(memory="64G")}, (1, 64, 7200, "gpu")),
        ({"resources": Resources(memory="64G", gpus=2, queue="q")}, (2, 64, 7200, "q")),
        ({"h_vmem": "8G"}, (1, "8G", 7200, "gpu")),
        ({"gpu": 3, "h_rt": 60}, (3, 16, 60, "gpu")),
        ({"queue": "my.q"}, (1, 16, 7200, "my.q")),
        ({"resources": ["fast=1"]}, (1, 16, 7200, "gpu")),
        ({"resources": []}, (1, 16, 7200, "gpu")),
        ({"mem_free": "", "h_vmem": "", "h_rt": ""}, (1, 16, 7200, "gpu")),
    ],
)
def test_resources_of_a_profile(files: Files, said: dict[str, Any], expected: Any) -> None:
    write(files.user, GPU)
    assert asked_for(profile="gpu", **said) == expected


def test_historic_arguments_of_a_profile_and_resources_of_the_call(files: Files) -> None:
    write(files.user, GPU)
    assert asked_for(profile="old") == (1, "16G", 7200, "all.q")
    assert asked_for(profile="old", resources=Resources(memory="4G")) == (1, 4, 7200, "all.q")
    assert asked_for(profile="old", resources=Resources(gpus=2, walltime="1h")) == (
        2, "16G", 3600, "all.q",
    )  # fmt: skip
    assert Job(abs, [1], profile="list").resources == ["fast=1"]
    job = Job(abs, [1], profile="list", resources=Resources(gpus=1))
    assert (job.resources, job.gpu) == (["fast=1"], 1)


def test_a_historic_list_and_a_table_stand_side_by_side(files: Files) -> None:
    write(files.user, GPU)
    job = Job(abs, [1], profile="gpu", resources=["fast=1"])
    assert (job.resources, job.hosts, job.gpu) == (["fast=1"], ("a",), 1)
    assert Job(abs, [1], profile="gpu", resources=[]).resources == []
    assert Job(abs, [1], profile="list", resources=["slow=1"]).resources == ["slow=1"]
    with pytest.raises(TypeError, match="resources are a gridmap.Resources or a list"):
        Job(abs, [1], profile="gpu", resources="fast=1")  # type: ignore[arg-type]


def test_hosts_of_a_profile_and_of_the_call(files: Files) -> None:
    write(files.user, GPU)
    assert Job(abs, [1], profile="gpu").hosts == ("a",)
    assert Job(abs, [1], profile="gpu", resources=Resources(hosts=["b"])).hosts == ("b",)


def test_a_call_can_say_what_the_default_is(files: Files) -> None:
    write(
        files.user,
        "[profiles.a]\nresources = { slots = 8, gpus = 2, hosts = ['a'], features = ['x'] }\n"
        "[profiles.b]\nnum_slots = 8\ngpu = 2\n",
    )
    plain = Resources(slots=1, gpus=0, hosts=(), features=[])
    for name in "ab":
        job = Job(abs, [1], profile=name, resources=plain)
        assert (job.num_slots, job.gpu, job.hosts, job.features) == (1, 0, (), ())
        for more in ({"memory": None}, {}):
            job = Job(abs, [1], profile=name, resources=Resources(gpus=0, **more))
            assert (job.num_slots, job.gpu) == (8, 0)
    assert Job(abs, [1], profile="a", resources=Resources(gpus=0)).hosts == ("a",)


def test_an_amount_that_could_be_two_things_is_named_with_its_file(files: Files) -> None:
    write(files.user, '[profiles.a]\nresources = { memory = "4", gpus = 1 }\n')
    with pytest.raises(ConfigError, match=f"{files.user}:2: profiles.a.resources: .*memory is '4'"):
        Job(abs, [1], profile="a")
    assert grid_map(abs, [-1], local=True) == [1]  # who does not use the profile is not disturbed


def where(_: Any) -> int:
    return os.getpid()


@pytest.mark.parametrize("imap", [grid_imap, grid_imap_unordered])
def test_the_doors_run_with_a_profile(big: Path, imap: Any) -> None:
    """In two processes, or here, and with failures as values: the profile says so."""
    assert os.getpid() not in grid_map(where, [1, 2], profile="big", backend="local")
    assert os.getpid() not in list(imap(where, [1, 2], profile="big"))
    assert grid_map(where, [1], profile="big", max_processes=1) == [os.getpid()]
    for values in (
        grid_map(int, ["1", "x"], profile="here"),
        list(imap(int, ["1", "x"], profile="here")),
        process_jobs([Job(int, [text]) for text in "1x"], profile="here"),
        gridmap.submit([Job(int, [text]) for text in "1x"], profile="here").results(),
    ):
        assert sorted(map(repr, values)) == sorted(map(repr, [1, values[1]]))
        assert any(isinstance(value, ValueError) for value in values)


def test_the_variable_holds_for_all_doors(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_PROFILE", "here")
    values = grid_map(int, ["1", "x"])
    assert values[0] == 1 and isinstance(values[1], ValueError)
    with pytest.raises(ValueError, match="invalid literal"):
        grid_map(int, ["1", "x"], profile="none", local=True)


def test_a_stream_with_a_window_of_a_profile(files: Files) -> None:
    write(files.user, "[profiles.a]\nwindow = 1\nlocal = true\nmax_processes = 2\n")
    read: list[int] = []

    def numbers() -> Any:
        for number in range(100):
            read.append(number)
            yield number

    stream = grid_imap(abs, numbers(), profile="a")
    assert next(stream) == 0
    assert len(read) <= 2
    stream.close()
    with pytest.raises(ValueError, match="window is 0"):
        grid_imap(abs, [1], window=0, profile="a")


def test_doors_look_as_they_are() -> None:
    assert grid_map.__name__ == "grid_map" and "computed on the cluster" in str(grid_map.__doc__)
    assert list(inspect.signature(grid_map).parameters)[:3] == ["f", "args_list", "cleanup"]
    assert pickle.loads(pickle.dumps(grid_map)) is grid_map
    places, names = parameters(grid_map)
    assert places[:2] == ("f", "args_list") and "profile" in names
