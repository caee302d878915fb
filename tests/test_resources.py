"""`Resources`: units, refusals, and how they go together with the historic arguments."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import pickle
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import gridmap
from gridmap import Job, Resources, Retry, grid_map
from gridmap.backends.asked import asked
from gridmap.backends.options import SLURM, render
from gridmap.core.spec import Resources as Wanted
from gridmap.retry import ladder
from tests.doors.functions import identity


@pytest.mark.parametrize(
    ("memory", "nbytes"),
    [
        ("4G", 4 << 30), ("512M", 512 << 20), ("4GB", 4 << 30), ("4GiB", 4 << 30), ("4gb", 4 << 30),
        ("1.5G", 3 << 29), (" 2 G ", 2 << 30), ("1T", 1 << 40), ("2048K", 2 << 20),
        (1 << 20, 1 << 20), (np.int64(1 << 30), 1 << 30), (None, 0),
    ],
)  # fmt: skip
def test_memory(memory: Any, nbytes: int) -> None:
    assert Resources(memory=memory).memory_bytes == nbytes


@pytest.mark.parametrize(
    ("memory", "kind", "message"),
    [
        ("4", ValueError, 'memory is \'4\': in which unit. say "4G" or "4M"'),
        (4, ValueError, 'memory is 4, less than 1 MiB; say "4G" or "4M"'),
        (4096, ValueError, "less than 1 MiB"),
        (0, ValueError, "less than 1 MiB"),
        (-(1 << 30), ValueError, "less than 1 MiB"),
        ("512K", ValueError, "less than 1 MiB"),
        ("0G", ValueError, "less than 1 MiB"),
        ("4g", ValueError, 'powers of 1000 to some schedulers; say "4G"'),
        ("plenty", ValueError, "it must be an amount such as"),
        ("", ValueError, "it must be an amount such as"),
        ("-4G", ValueError, "it must be an amount such as"),
        ("4G 2", ValueError, "it must be an amount such as"),
        ("٤G", ValueError, "it must be an amount such as"),
        (4e9, TypeError, "not 4000000000.0"),
        (True, TypeError, "not True"),
        ([1], TypeError, r"not \[1\]"),
    ],
)
def test_what_is_no_memory(memory: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Resources(memory=memory)


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        (3600, 3600.0), (90.5, 90.5), (np.int32(60), 60.0), (np.float64(60), 60.0),
        (timedelta(hours=1.5), 5400.0), ("00:59:00", 3540.0), ("100:00:00", 360_000.0),
        ("1-12:00:00", 129_600.0), ("90m", 5400.0), ("2h", 7200.0), ("30s", 30.0), ("1d", 86_400.0),
        ("1h30m", 5400.0), ("1d12h", 129_600.0), ("1.5h", 5400.0), (None, None),
    ],
)  # fmt: skip
def test_walltime(walltime: Any, seconds: float | None) -> None:
    assert Resources(walltime=walltime).walltime_s == seconds


@pytest.mark.parametrize(
    ("walltime", "kind", "message"),
    [
        ("3600", ValueError, 'in which unit. say 3600 .seconds. or "3600m"'),
        ("59:00", ValueError, 'minutes and seconds. say "59:00:00" or "0:59:00"'),
        ("1-12", ValueError, "it must be a time such as"),
        ("soon", ValueError, "it must be a time such as"),
        ("", ValueError, "it must be a time such as"),
        ("30m2h", ValueError, "it must be a time such as"),
        ("-5m", ValueError, "it must be a time such as"),
        ("00:00:00", ValueError, "more than nothing"),
        (0, ValueError, "more than nothing"),
        (-1.5, ValueError, "more than nothing"),
        (float("inf"), ValueError, "and an end"),
        (float("nan"), ValueError, "more than nothing"),
        (timedelta(0), ValueError, "more than nothing"),
        (True, TypeError, "not True"),
        ([1], TypeError, r"not \[1\]"),
    ],
)
def test_what_is_no_walltime(walltime: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Resources(walltime=walltime)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"slots": 0}, ValueError),
        ({"slots": "2"}, TypeError),
        ({"slots": True}, TypeError),
        ({"gpus": -1}, ValueError),
        ({"gpus": 1.5}, TypeError),
        ({"queue": 7}, TypeError),
        ({"project": ["p"]}, TypeError),
        ({"hosts": "node1"}, TypeError),
        ({"features": [1]}, TypeError),
        ({"features": [""]}, TypeError),
        ({"native": "-l x=1"}, TypeError),
        ({"hosts": 3}, TypeError),
    ],
)
def test_other_senseless_requests(wrong: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"Resources: {next(iter(wrong))} is"):
        Resources(**wrong)


def test_a_value_that_cannot_be_changed_and_is_told_by_name() -> None:
    wanted = Resources(slots=np.int64(2), hosts=iter(["n1"]))
    assert (wanted.slots, wanted.hosts) == (2, ("n1",))
    assert wanted == pickle.loads(pickle.dumps(wanted)) == Resources(slots=2, hosts=["n1"])
    with pytest.raises(AttributeError):
        wanted.slots = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Resources(2)  # type: ignore[misc]


# --- with the historic arguments ------------------------------------------------------------------


def wanted_by(resources: Resources, **historic: Any) -> Wanted:
    return Job(identity, [1], resources=resources, **historic).resources_wanted()


def test_what_a_job_asks_for_then() -> None:
    job = Job(
        identity,
        [1],
        resources=Resources(
            slots=2, memory="3G", walltime="1h", gpus=1, queue="long", project="physics",
            hosts=["n1"], features=["fast"], native=["-notify"],
        ),
    )  # fmt: skip
    assert (job.num_slots, job.gpu, job.queue, job.project) == (2, 1, "long", "physics")
    assert job.resources == []
    assert job.native_specification == (
        "-shell yes -b yes -pe smp 2 -q long -l h=n1 -P physics -l gpu=1 -l h_vmem=1536M "
        "-l h_rt=3600 -l fast -notify"
    )
    assert job.resources_wanted().memory_bytes == 3 << 30


def test_nothing_said_leaves_the_historic_defaults_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_by(Resources()) == Job(identity, [1]).resources_wanted()
    monkeypatch.setenv("DEFAULT_QUEUE", "short.q")
    assert wanted_by(Resources()).queue == "short.q"
    assert wanted_by(Resources(queue="long.q")).queue == "long.q"


@pytest.mark.parametrize(
    ("resources", "historic"),
    [
        (Resources(slots=4, memory="4G"), {"h_vmem": "1G"}),
        (Resources(slots=4, memory="4G"), {"num_slots": 4, "mem_free": "1024M"}),
        (Resources(memory="4G"), {"h_vmem": "4G"}),
        (Resources(walltime="1h"), {"h_rt": "1:0:0"}),
        (Resources(walltime="1h"), {"h_rt": 3600}),
        (Resources(gpus=2), {"gpu": 2}),
        (Resources(queue="q"), {"queue": "q"}),
        (Resources(project="p"), {"project": "p"}),
    ],
)
def test_the_same_said_twice_is_said_once(resources: Resources, historic: dict[str, Any]) -> None:
    assert render(SLURM, wanted_by(resources, **historic)) == render(SLURM, wanted_by(resources))


@pytest.mark.parametrize(
    ("resources", "historic", "message"),
    [
        (Resources(memory="4G"), {"h_vmem": "2G"}, r"h_vmem='2G' and Resources\(memory='4G'\)"),
        (Resources(slots=2, memory="4G"), {"h_vmem": "4G"}, "h_vmem='4G for each of 2 slots' and"),
        (Resources(memory="4G"), {"mem_free": "2G"}, "mem_free='2G' and Resources.memory='4G'"),
        (Resources(walltime="1h"), {"h_rt": 60}, r"h_rt=60 and Resources\(walltime='1h'\) differ"),
        (Resources(slots=2), {"num_slots": 3}, r"num_slots=3 and Resources\(slots=2\) differ"),
        (Resources(gpus=2), {"gpu": 1}, r"gpu=1 and Resources\(gpus=2\) differ: say one"),
        (Resources(memory="8G"), {"mem_free": "1G"}, r"mem_free='1G' and Resources\(memory='8G'"),
        (Resources(slots=4), {"num_slots": 1}, r"num_slots=1 and Resources\(slots=4\) differ"),
        (Resources(slots=1), {"num_slots": 4}, r"num_slots=4 and Resources\(slots=1\) differ"),
        (Resources(gpus=2), {"gpu": 0}, r"gpu=0 and Resources\(gpus=2\) differ: say one"),
        (Resources(queue="a"), {"queue": "b"}, r"queue='b' and Resources\(queue='a'\) differ"),
        (Resources(project="a"), {"project": "b"}, r"project='b' and Resources\(project='a'\)"),
    ],
)
def test_two_things_said_of_one(
    resources: Resources, historic: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Job(identity, [1], resources=resources, **historic)
    with pytest.raises(ValueError, match=message):
        grid_map(identity, [1], resources=resources, local=True, **historic)


def test_hosts_are_those_that_both_the_call_and_the_job_allow() -> None:
    job = Job(identity, [1], resources=Resources(hosts=["n1", "n2"]))
    assert job.resources_wanted().hosts == ("n1", "n2")
    assert job.resources_wanted(["n2", "n3"]).hosts == ("n2",)
    assert Job(identity, [1]).resources_wanted(["n3"]).hosts == ("n3",)
    with pytest.raises(
        ValueError, match=r"white_list has n3 and Resources\(hosts.* has n1, n2: no"
    ):
        job.resources_wanted(["n3"])


@pytest.mark.parametrize("wrong", ["a=b", 3, 4.5])
def test_what_resources_are_not(wrong: Any) -> None:
    with pytest.raises(TypeError, match="resources are a gridmap.Resources or a list"):
        Job(identity, [1], resources=wrong)


# --- growing --------------------------------------------------------------------------------------


def test_memory_and_time_grow() -> None:
    retry = Retry(2, memory=2, time=3, memory_most="5G", time_most="2:0:0")
    wanted = wanted_by(Resources(slots=2, memory="2G", walltime="1h"))
    more = retry.more_memory(wanted)
    assert more.memory_bytes == 4 << 30
    assert retry.more_memory(more).memory_bytes == 5 << 30
    assert retry.more_memory(retry.more_memory(more)) == retry.more_memory(more)
    longer = retry.more_time(wanted)
    assert (longer.walltime_s, longer.h_rt) == (7200.0, "")
    assert retry.more_time(longer) == longer
    pools = ladder([(wanted, Retry(1, memory=2))], 9)
    assert [pool.resources.memory_bytes >> 30 for pool in pools] == [2, 4]


def test_what_does_not_grow_stays() -> None:
    wanted = wanted_by(Resources())
    assert Retry(memory=2, time=2).more_memory(wanted) == wanted.__class__(
        **{**{f: getattr(wanted, f) for f in wanted.__struct_fields__}, "mem_free": "2G"}
    )
    assert Retry(memory=2, time=2).more_time(wanted) == wanted
    assert "memory" not in dict(asked(wanted, use_mem_free=False))


# --- at the door ----------------------------------------------------------------------------------


def test_on_this_machine_gpus_are_said_to_be_ignored_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridmap.call._said", set())
    with caplog.at_level(logging.WARNING):
        for wanted in (Resources(gpus=1, memory="4G", walltime="1h", queue="x"), Resources(gpus=2)):
            assert grid_map(identity, [1, 2], resources=wanted, local=True) == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "on this machine nothing gives out GPUs: every job sees all of them"
    ]


def test_what_slurm_cannot_be_asked_for_is_an_error_before_anything_is_started(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm here, and nobody asks for one
    for options in ({"os_minor": "7"}, {"num_slots": 2, "par_env": "mpi"}):
        with pytest.raises(ValueError, match="^Slurm cannot be asked for "):
            grid_map(identity, [1], backend="slurm", **options)
        with pytest.raises(ValueError, match="^Slurm cannot be asked for "):
            next(gridmap.grid_imap(identity, [1], backend="slurm", **options))
        with pytest.raises(ValueError, match="^Slurm cannot be asked for "):
            gridmap.submit([Job(identity, [1], **options)], backend="slurm")
    with pytest.raises(ValueError, match="native has '--array=2', which GridMap says to Slurm"):
        grid_map(identity, [1], backend="slurm", resources=Resources(native=["--array=2"]))
    assert not (tmp_path / "runs").exists()


def test_what_was_said_is_a_fact_that_nobody_sees() -> None:
    plain, said = Resources(), Resources(slots=1, gpus=0, hosts=[], features=(), native=())
    assert plain == said and hash(plain) == hash(said) and repr(plain) == repr(said)
    assert repr(plain) == (
        "Resources(slots=1, memory=None, walltime=None, gpus=0, queue=None, project=None, "
        "hosts=(), features=(), native=())"
    )
    assert json.dumps([plain.slots, plain.gpus, plain.hosts]) == "[1, 0, []]"
    assert str(inspect.signature(Resources).parameters["slots"]).endswith("= 1")
    for copied in (copy.deepcopy, replace, lambda one: pickle.loads(pickle.dumps(one))):
        assert copied(plain).said() == {}
        assert copied(said).said() == {
            "slots": 1, "gpus": 0, "hosts": (), "features": (), "native": (),
        }  # fmt: skip
    assert Resources(slots=2, memory="4G").said() == {"slots": 2, "memory": "4G"}


@pytest.mark.parametrize(
    "more",
    [
        {"memory": "9" * 400 + "P"}, {"memory": 10**400}, {"memory": "4000000P"},
        {"walltime": "9" * 400 + ":00:00"}, {"walltime": 10**400}, {"walltime": 1e300},
        {"slots": 2**70}, {"gpus": 2**70},
    ],
)  # fmt: skip
def test_what_is_beyond_all_measure_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(more))):
        Resources(**more)
    with pytest.raises(ValueError, match="children is 1000000"):
        grid_map(abs, [1], local=True, children=10**20)
    with pytest.raises(ValueError, match="max_rss is '9999"):
        Job(abs, [1], max_rss="9" * 400 + "P")
