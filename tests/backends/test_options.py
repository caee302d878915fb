"""What jobs ask for, in each scheduler's words; Grid Engine's text is in test_native."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridmap.backends.asked import TOPIC_OF, TOPICS
from gridmap.backends.options import (
    GRID_ENGINE,
    SLURM,
    Words,
    check,
    left_out,
    native_specification,
    render,
    words_from,
    words_of,
)
from gridmap.core.spec import Resources

SCHEDULERS = ("grid_engine", "slurm", "openpbs", "lsf", "htcondor", "oar")

ALL = Resources(
    num_slots=4,
    memory_bytes=6 << 30,
    walltime_s=5400.0,
    gpu=2,
    queue="long",
    project="physics",
    hosts=("n1",),
    features=("fast",),
)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_description_can_be_used(name: str) -> None:
    words = words_of(name)
    check(words)
    assert words.name and words.options and words.reserved


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "grid_engine",
            "-pe smp 4 -q long -l h=n1 -P physics -l gpu=2 -l h_vmem=1536M -l h_rt=5400 -l fast",
        ),
        (
            "slurm",
            "--cpus-per-task=4 --mem=6144M --time=1:30:00 --partition=long --account=physics "
            "--gpus-per-node=2 --constraint=fast",
        ),
        (
            "openpbs",
            "-q long -A physics -l select=1:ncpus=4:mem=6144mb:ngpus=2:host=n1:fast "
            "-l walltime=1:30:00",
        ),
        (
            "lsf",
            "-q long -P physics -n 4 -R 'select[fast] rusage[mem=6144MB] span[ptile=4]' "
            "-M 6144MB -W 1:30 -gpu num=2 -m n1",
        ),
        (
            "oar",
            "-q long --project=physics -l /nodes=1/gpu=2/core=2,walltime=1:30:00 "
            "-p 'network_address is not null and network_address in ('\"'\"'n1'\"'\"') and (fast)'",
        ),
    ],
)
def test_everything_asked_for_at_once(name: str, options: str) -> None:
    assert render(words_of(name), ALL) == shlex.split(options)


def test_htcondor_has_no_queues_and_says_the_rest() -> None:
    with pytest.raises(ValueError, match="^HTCondor cannot be asked for queue='long'$"):
        render(words_of("htcondor"), ALL)
    wanted = Resources(
        num_slots=4, memory_bytes=1, walltime_s=60.5, gpu=1, hosts=("a", "b"), features=("HasX",),
        extra=("request_disk = 2GB",), native=("+Wanted = true",), project="p",
    )  # fmt: skip
    assert render(words_of("htcondor"), wanted) == [
        "request_cpus=4", "request_memory=1", "request_gpus=1", "allowed_execute_duration=61",
        "accounting_group=p",
        'requirements=TRUE&&stringListIMember(TARGET.Machine,"a,b")&&(HasX)',
        "request_disk = 2GB", "+Wanted = true",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grid_engine", []),
        ("slurm", []),
        ("openpbs", []),
        ("lsf", []),
        ("htcondor", []),
        ("oar", ["-l", "/nodes=1/core=1"]),
    ],
)
def test_the_least_one_can_ask_for(name: str, options: list[str]) -> None:
    assert render(words_of(name), Resources()) == options
    if name != "grid_engine":  # where DEFAULT_QUEUE stands for the cluster's own choice
        assert render(words_of(name), Resources(queue="all.q", mem_free="1G")) == options


# --- historic arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "options"),
    [
        (Resources(queue="all.q", par_env="smp"), []),
        (Resources(queue="long", project="physics"), ["--partition=long", "--account=physics"]),
        (Resources(num_slots=4, par_env="smp"), ["--cpus-per-task=4"]),
        (Resources(h_vmem="2G", mem_free="1G"), ["--mem=2048M"]),
        (Resources(mem_free="1G"), []),
        (Resources(h_vmem="2G", num_slots=3), ["--cpus-per-task=3", "--mem=6144M"]),
        (Resources(h_rt="1:0:0", walltime_s=3600.0), ["--time=1:00:00"]),
        (Resources(h_rt="90", walltime_s=89.5), ["--time=0:01:30"]),
        (Resources(h_rt="INFINITY"), []),
        (Resources(gpu=2), ["--gpus-per-node=2"]),
        (Resources(extra=("--constraint=a&b", "--exclusive")), ["--constraint=a&b", "--exclusive"]),
        (Resources(hosts=("n1",), interpreting_shell="/bin/bash", validation_level="e"), []),
    ],
)
def test_options_of_sbatch(resources: Resources, options: list[str]) -> None:
    assert render(SLURM, resources) == options


def test_mem_free_counts_where_the_cluster_takes_it() -> None:
    assert render(SLURM, Resources(mem_free="2000000"), use_mem_free=True) == ["--mem=2M"]
    assert render(SLURM, Resources(mem_free="1G", h_vmem="2G"), True) == ["--mem=2048M"]
    both = Resources(memory_bytes=3 << 30, num_slots=2)
    assert render(GRID_ENGINE, both, True)[:2] == ["-l", "mem_free=1536M"]
    assert "h_vmem=1536M" in render(GRID_ENGINE, both, True)


def test_memory_is_that_of_all_slots_and_grid_engine_counts_slots() -> None:
    wanted = Resources(num_slots=3, memory_bytes=1 << 30)
    assert render(GRID_ENGINE, wanted)[-2:] == ["-l", "h_vmem=342M"]  # a third, rounded up
    assert render(SLURM, wanted) == ["--cpus-per-task=3", "--mem=1024M"]


@pytest.mark.parametrize("name", ["openpbs", "lsf", "htcondor"])
def test_historic_memory_and_time_say_what_resources_say(name: str) -> None:
    historic = Resources(num_slots=2, h_vmem="2G", h_rt="1:0:0", walltime_s=3600.0, gpu=1)
    new = Resources(num_slots=2, memory_bytes=4 << 30, walltime_s=3600.0, gpu=1)
    assert render(words_of(name), historic) == render(words_of(name), new)


@pytest.mark.parametrize(
    ("name", "request_", "options"),
    [
        ("openpbs", "license=1", ["-l", "license=1"]),
        ("lsf", "order[ut]", ["-R", "order[ut]"]),
        ("htcondor", "rank=Memory", ["rank=Memory"]),
        ("oar", "gpu_mem > 9", ["-l", "/nodes=1/core=1", "-p",
                                "network_address is not null and (gpu_mem > 9)"]),
    ],
)  # fmt: skip
def test_historic_resources_are_each_schedulers_own(
    name: str, request_: str, options: list[str]
) -> None:
    assert render(words_of(name), Resources(extra=(request_,))) == options


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "resources", "message"),
    [
        ("slurm", Resources(num_slots=2, par_env="mpi"), "cannot be asked for par_env='mpi'; num_"),
        ("slurm", Resources(os_distribution="debian"), "asked for os_distribution='debian'; ask f"),
        ("slurm", Resources(os_minor="7"), "Slurm cannot be asked for os_minor='7'"),
        ("slurm", Resources(extra=("h_fsize=1G",)), "resources has 'h_fsize=1G'; on Slurm each is"),
        ("slurm", Resources(extra=("--comment=x\ny",)), "resources has"),
        ("slurm", Resources(extra=("--array=0-3",)), "'--array=0-3', which GridMap says to Slurm"),
        ("slurm", Resources(extra=("--wait",)), "which GridMap says to Slurm itself"),
        ("slurm", Resources(queue="two words"), "queue is 'two words'; Slurm's options cannot"),
        ("slurm", Resources(project="-x;y"), "project is '-x;y'"),
        ("slurm", Resources(native=("--arr=0-3",)), "native has '--arr=0-3', which GridMap says"),
        ("slurm", Resources(native=("-a0-3",)), "native has '-a0-3', which GridMap says to Slurm"),
        ("slurm", Resources(native=("-t 5 'x",)), "native has .*No closing quotation"),
        ("slurm", Resources(native=("--x='a\nb'",)), "an option is one line"),
        ("grid_engine", Resources(native=("-t 1-3",)), "native has '-t', which GridMap says to Gr"),
        ("openpbs", Resources(hosts=("a", "b")), r"OpenPBS cannot be asked for hosts=\['a', 'b'\]"),
        ("openpbs", Resources(native=("-J 0-3",)), "native has '-J', which GridMap says"),
        ("htcondor", Resources(native=("queue = 3",)), "which GridMap says to HTCondor itself"),
        ("oar", Resources(native=("--property=x",)), "which GridMap says to OAR itself"),
        ("lsf", Resources(extra=("mem>1",)), "on LSF each is a section of a resource requirement"),
        ("lsf", Resources(h_vmem="plenty"), "h_vmem is 'plenty'"),
        ("lsf", Resources(h_rt="soon"), "h_rt is 'soon'"),
        ("slurm", Resources(num_slots=0), "num_slots is 0"),
        ("slurm", Resources(gpu=-1), "gpu is -1"),
        ("slurm", Resources(validation_level="x"), "one of e, w, n, p, v"),
    ],
)
def test_what_a_scheduler_has_no_words_for(name: str, resources: Resources, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(words_of(name), resources)


def test_an_option_that_only_resembles_one_of_gridmaps_own() -> None:
    wanted = Resources(native=("-tc 5", "-ac x=1"))
    assert render(GRID_ENGINE, wanted) == ["-tc", "5", "-ac", "x=1"]
    assert render(SLURM, Resources(native=("--wait-all-nodes=1", "-n 3"))) == [
        *("--wait-all-nodes=1", "-n", "3"),
    ]


def test_native_options_are_cut_into_words_as_by_a_shell() -> None:
    wanted = Resources(native=("--comment='a b'", "-l x=1 -l y=2"))
    assert render(SLURM, wanted) == ["--comment=a b", "-l", "x=1", "-l", "y=2"]
    with pytest.raises(ValueError, match="native has '--comment=a b'; Grid Engine's options can"):
        native_specification(wanted)
    assert native_specification(Resources(native=("-notify", "-p -5"))).endswith("-notify -p -5")


def test_what_is_left_out_is_told_and_no_error() -> None:
    oar = words_of("oar")
    assert left_out(oar, Resources(h_vmem="2G")) == ["h_vmem='2G'"]
    assert left_out(oar, Resources(memory_bytes=1 << 30)) == ["memory='1G'"]
    assert left_out(oar, Resources(num_slots=2)) == []
    assert left_out(SLURM, ALL) == []
    assert render(oar, Resources(memory_bytes=1 << 30)) == render(oar, Resources())


WANTED = st.builds(
    Resources,
    num_slots=st.integers(1, 3),
    memory_bytes=st.sampled_from([0, 1 << 30]),
    walltime_s=st.sampled_from([None, 60.0]),
    gpu=st.integers(0, 1),
    queue=st.sampled_from(["", "q7"]),
    project=st.sampled_from(["", "p7"]),
    hosts=st.sampled_from([(), ("h7",), ("h7", "h8")]),
    features=st.sampled_from([(), ("f7",)]),
    os_minor=st.sampled_from(["", "m7"]),
)


@given(st.sampled_from(SCHEDULERS), WANTED)
def test_nothing_is_dropped_in_silence(name: str, wanted: Resources) -> None:
    words = words_of(name)
    try:
        text = " ".join(render(words, wanted))
    except ValueError as error:
        assert f"{words.name} cannot be asked for" in str(error)
        return
    told = text + " ".join(left_out(words, wanted))
    marks = [wanted.queue, wanted.project, wanted.os_minor, *wanted.features]
    marks += [] if "hosts" in words.otherwise else wanted.hosts
    assert all(mark in told for mark in marks)
    assert not wanted.memory_bytes or any(x in told for x in ("G", "M", "m", "1024"))


# --- descriptions ---------------------------------------------------------------------------------


def test_a_description_of_ones_own() -> None:
    table = {"name": "Ours", "options": ["-n {cpus}"], "ignored": ["queue"], "submit": {"x": 1}}
    words = words_from(table, "ours.toml")
    assert render(words, Resources(num_slots=2, queue="q")) == ["-n", "2"]
    assert left_out(words, Resources(queue="q")) == ["queue='q'"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name is missing"),
        ({"name": 3}, "name is 3; it must be a text"),
        ({"options": []}, "options is missing"),
        ({"options": "-n {cpus}"}, "options is '-n {cpus}'; it must be a list of texts"),
        ({"options": [1]}, "options is .1.; it must be a list of texts"),
        ({"options": ["-n {cores}"]}, r"has \{cores\}; there are: cpus, "),
        ({"options": ["-n {cpus"]}, "is no template"),
        ({"options": ["-x {native}"]}, r"\{native\} stands alone"),
        ({"options": ["-x {feature} {request}"]}, "repeated for two things"),
        ({"ignored": ["luck"]}, "'luck' is nothing to ask for; there are: slots, memory"),
        ({"values": "("}, "is no regular expression"),
        ({"by_line": 1}, "by_line is 1; it must be true or false"),
    ],
)
def test_a_wrong_description(change: dict[str, Any], message: str) -> None:
    table = {"name": "Ours", "options": ["-n {cpus}"], **change}
    with pytest.raises(ValueError, match=f"^ours.toml: .*{message}"):
        words_from(table, "ours.toml")


def test_schedulers_that_there_are_not() -> None:
    for name in ("moab", "../x", ""):
        with pytest.raises(ValueError, match="grid_engine, .*htcondor, lsf, oar, openpbs, slurm"):
            words_of(name)


def test_every_topic_can_be_said_by_somebody() -> None:
    said = Words("All", tuple(f"{{{values[0]}:,}}" for topic, values in TOPICS.items()
                              if topic != "native"))  # fmt: skip
    check(said)


@pytest.mark.parametrize(
    ("described", "own"), [("slurm_commands", SLURM), ("grid_engine_commands", GRID_ENGINE)]
)
def test_a_description_reserves_what_our_own_backend_does(described: str, own: Words) -> None:
    assert set(own.reserved) <= set(words_of(described).reserved)


@pytest.mark.parametrize(
    "line", ["queue 50", "Executable = /bin/x", "GETENV=true", " universe=java"]
)
def test_lines_of_a_description_are_reserved_in_any_spelling(line: str) -> None:
    with pytest.raises(ValueError, match="which GridMap says to HTCondor itself"):
        render(words_of("htcondor"), Resources(native=(line,)))


def test_the_page_on_schedulers_has_every_variable_and_key(root: Path) -> None:
    page = (root / "docs/adding_a_scheduler.rst").read_text()
    assert [name for name in TOPIC_OF if not re.search(rf"\{{{name}(:X)?\}}", page)] == []
    assert [key for key in Words.__struct_fields__ if not re.search(rf"``{key}\b", page)] == []


def test_memory_without_a_unit_is_no_wish() -> None:
    with pytest.raises(ValueError, match="h_vmem is '512', which is 512 bytes; say \"512M\""):
        render(SLURM, Resources(h_vmem="512"))


@pytest.mark.parametrize("scheduler", ["grid_engine", "slurm", "openpbs", "lsf", "oar"])
@pytest.mark.parametrize("native", ["/tmp/a.sh", "qos=long", "--", "-- /bin/true", "-", "-x -"])
def test_native_options_name_no_program_to_run(scheduler: str, native: str) -> None:
    with pytest.raises(ValueError, match="each begins with the name of an option"):
        render(words_of(scheduler), Resources(native=(native,)))


def test_a_line_does_not_swallow_the_next_one() -> None:
    for asked in (Resources(native=("x=y \\",)), Resources(extra=("x=y\\ ",))):
        with pytest.raises(ValueError, match="one line"):
            render(words_of("htcondor"), asked)


# --- what GridMap says itself, in other spellings -------------------------------------------------


@pytest.mark.parametrize(
    ("name", "native"),
    [
        *(("slurm", x) for x in ("-HJx", "-abc", "-Oo /tmp/x", "-vQ", "-Whatever", "-sN2")),
        *(("slurm", x) for x in ("--arr=1-4", "--out x", "--job x", "--wa", "--ch /", "--par")),
        *(("slurm", x) for x in ("-n 1 : -n 2", "--dependency=afterok:7 --wra=x")),
        *(("slurm_commands", x) for x in ("-HJx", "--arr=1-4", "-vo/x")),
        *(("openpbs", x) for x in ("-fJ0-3", "-J0-3", "-zq x", "-Wblock=true", "-So", "-fNx")),
        *(("openpbs", x) for x in ("-W umask=2,block=true", "-W block=1", "--version")),
        *(("lsf", x) for x in ("-Jx[1-3]", "-oo x", "-eo x", "-BJ x", "-Is", "-KN", "-rn")),
        *(("oar", x) for x in ("-l/nodes=2", "-nx", "-kI", "--arr 3", "--ARRAY=3", "--check 5")),
        *(("oar", x) for x in ("--sig=9", "-J", "--resub 3", "--reso /nodes=3")),
        *(("htcondor", x) for x in ("+JobBatchName=x", "MY.Cmd = x", "my.out=x", "Stdout=x")),
        *(("htcondor", x) for x in ("+ Iwd = /", "include : x", "if true", "initial_dir=/")),
        *(("grid_engine", x) for x in ("-clear", "-tc 3 -t 1-3")),
    ],
)
def test_reserved_options_are_found_in_every_spelling(name: str, native: str) -> None:
    words = words_of(name)
    with pytest.raises(ValueError, match=f"which GridMap says to {words.name} itself"):
        render(words, Resources(native=(native,)))


@pytest.mark.parametrize(
    ("name", "native"),
    [
        *(("slurm", x) for x in ("-n4", "-Hn4", "-k", "-d afterok:7", "-Cfast")),
        *(("slurm", x) for x in ("--exclusive", "--qos=long", "-kJx", "-t5 -pmain")),
        *(("openpbs", x) for x in ("-W depend=afterok:1", "-Wumask=2", "-l x=1", "-p -5", "-PX")),
        *(("lsf", x) for x in ("-Jd text", "-ep x", "-env none", "-n4", "-hostfile x", "-B")),
        *(("oar", x) for x in ("-t besteffort", "-tJ", "-k", "--notify=x", "-a 17")),
        *(("htcondor", x) for x in ("+Wanted = true", "rank = Cmd", "MY.Outer=1")),
        *(("grid_engine", x) for x in ("-tc 5", "-l h=a,b=1", "-js 5", "-hold_jid 7")),
    ],
)  # fmt: skip
def test_options_that_only_look_alike_are_passed_on(name: str, native: str) -> None:
    told = render(words_of(name), Resources(native=(native,)))
    assert told[-1:] == [native if words_of(name).by_line else shlex.split(native)[-1]]


@pytest.mark.parametrize("name", ["slurm", "openpbs", "lsf", "oar"])
def test_a_letters_value_has_no_equals_sign(name: str) -> None:
    with pytest.raises(ValueError, match="'-q=main'; a letter's value has no '=': say '-q main'"):
        render(words_of(name), Resources(native=("-q=main",)))


@pytest.mark.parametrize("native", ["-n4 x.sh", "--qos=long x.sh", "-H x.sh", "-Hn4 x.sh"])
def test_a_word_behind_a_whole_option_is_a_program(native: str) -> None:
    with pytest.raises(ValueError, match="each begins with the name of an option"):
        render(SLURM, Resources(native=(native,)))


# --- values that would be something else ----------------------------------------------------------

OTHER_HOSTS = ("n[1-3]", "a,b", "!a", "~a", "a+2", "a b", 'a"', "a')", "a:b", "a=b", "a;b", "a\nb")


@pytest.mark.parametrize("name", ["slurm_commands", "openpbs", "lsf", "htcondor", "oar"])
@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_a_host_is_one_host(name: str, host: str) -> None:
    with pytest.raises(ValueError, match="hosts.*is|asked for hosts"):
        render(words_of(name), Resources(hosts=(host,)))


@pytest.mark.parametrize("host", ["a,gpu=1", "!a", "a|b", "a&b", "a=b", "(a", "a b"])
def test_grid_engine_has_patterns_of_hosts_and_nothing_more(host: str) -> None:
    for name in ("grid_engine", "grid_engine_commands"):
        assert "h=n*-[1-3]" in render(words_of(name), Resources(hosts=("n*-[1-3]",)))
        with pytest.raises(ValueError, match="hosts"):
            render(words_of(name), Resources(hosts=(host,)))


@pytest.mark.parametrize("name", [*SCHEDULERS, "slurm_commands", "grid_engine_commands"])
@pytest.mark.parametrize("field", ["queue", "project"])
@pytest.mark.parametrize("value", ["a b", "a'", 'a"', "a;b", "a\nb", "-x", "$x", "a\\", "a#b`"])
def test_no_name_is_more_than_a_name(name: str, field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is|cannot be asked for queue"):
        render(words_of(name), Resources(**{field: value}))


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        *(
            ("openpbs", x)
            for x in ("a:b", "a+2:b", "a,walltime=9", "ncpus=8", "a='b'", "a=", "a b")
        ),
        *(("htcondor", x) for x in ("HasX)||(Y", 'A=="x', "(A", "A]", "A;B", "A\nqueue")),
        *(("oar", x) for x in ("a='x", "a) or (b", "a -- b", "a /* b", "a;b", 'a"b')),
        *(("lsf", x) for x in ("fast]rusage[mem=1", "a[", "(a", "a b", "a\nb")),
        *(("slurm", x) for x in ("[a", "(a|b", "a b", "a;b", "a\nb")),
        *(("grid_engine", x) for x in ("a,h_rt=5", "a b", "a;b")),
        *(("grid_engine_commands", x) for x in ("a,h_rt=5", "a b", "a;b")),
    ],
)
def test_a_feature_stays_one(name: str, feature: str) -> None:
    with pytest.raises(ValueError, match="features (is|has)"):
        render(words_of(name), Resources(features=(feature,)))


@pytest.mark.parametrize(
    ("name", "feature"),
    [("openpbs", "avx=true"), ("htcondor", '(Arch=="X)")'), ("oar", "cputype='a)b'"),
     ("lsf", "a||b"), ("slurm", "[a|b]"), ("slurm", "a|b"), ("grid_engine", "arch=lx-amd64")],
)  # fmt: skip
def test_what_a_feature_may_be(name: str, feature: str) -> None:
    assert feature in " ".join(render(words_of(name), Resources(features=(feature,))))


@pytest.mark.parametrize("name", ["slurm", "slurm_commands", "lsf"])
def test_either_of_two_features_beside_another_one_needs_brackets(name: str) -> None:
    with pytest.raises(ValueError, match=r"features has 'a\|\|b' and others; say \"\(a\|\|b\)\""):
        render(words_of(name), Resources(features=("a||b", "c")))
    assert "(a||b)&" in " ".join(render(words_of(name), Resources(features=("(a||b)", "c"))))


@pytest.mark.parametrize("field", ["h_vmem", "mem_free", "os_distribution", "os_minor"])
def test_a_historic_amount_is_one_resource(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is '1G,gpu=4'"):
        render(GRID_ENGINE, Resources(**{field: "1G,gpu=4"}), True)


def test_a_condition_of_oar_stays_one() -> None:
    for request in ("a) or (b", "a -- b", "a='x"):
        with pytest.raises(ValueError, match="resources has"):
            render(words_of("oar"), Resources(extra=(request,)))
