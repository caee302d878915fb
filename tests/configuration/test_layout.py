"""What may stand in a file, and what is said of what may not."""

from __future__ import annotations

import inspect
import pickle
import time
from typing import Any

import pytest

import gridmap
from gridmap import _toml, conf
from gridmap.configuration import arguments, layout, reading
from gridmap.configuration.reading import lines_of
from gridmap.errors import ConfigError
from gridmap.retry import Retry
from tests.configuration.conftest import Files, write

GOOD = """
[settings]
USE_MEM_FREE = true
NUM_RESUBMITS = 0
HEARTBEAT_FREQUENCY = 2.5
CHECK_FREQUENCY = 5
GRIDMAP_PORTS = 50000
DEFAULT_QUEUE = ""

[profiles.empty]

[profiles.gpu]
max_workers = 8
resources = { gpus = 1, memory = "16G", walltime = 7200, hosts = ["a", "b"] }
add_env = { LANG = "C" }
retry = { times = 2, backoff_s = 1.5, causes = ["memory"] }
settings = { NUM_RESUBMITS = 1 }

[profiles.list]
resources = ["fast=1"]
retry = 4

[backends.mine]
file = "/opt/mine.toml"
"""


def test_what_may_stand_in_a_file(files: Files) -> None:
    write(files.user, GOOD)
    now = conf.settings()
    assert (now.use_mem_free, now.num_resubmits, now.heartbeat_frequency_s) == (True, 0, 2.5)
    assert (now.check_frequency_s, now.ports, now.default_queue) == (5, "50000", "")
    found = conf.configured()
    assert {keys: entry.value for keys, entry in found.profiles["gpu"].items()} == {
        ("max_workers",): 8,
        ("resources", "gpus"): 1,
        ("resources", "memory"): "16G",
        ("resources", "walltime"): 7200,
        ("resources", "hosts"): ["a", "b"],
        ("add_env", "LANG"): "C",
        ("retry", "times"): 2,
        ("retry", "backoff_s"): 1.5,
        ("retry", "causes"): ["memory"],
        ("settings", "NUM_RESUBMITS"): 1,
    }
    assert found.profiles["empty"] == {}
    assert {keys: entry.value for keys, entry in found.profiles["list"].items()} == {
        ("resources",): ["fast=1"],
        ("retry",): 4,
    }
    assert conf.backend_files() == {"mine": "/opt/mine.toml"}


SETTINGS = ", ".join(each.name for each in conf.TABLE)
BAD = [
    ("[setings]\n", 1, "setings: there is no such table; did you mean settings? There are: "),
    ("NUM_RESUBMITS = 5\n", 1, "NUM_RESUBMITS: there is no such table. There are: settings, prof"),
    ("settings = 3\n", 1, "settings: is 3; it must be a table"),
    (
        "[settings]\n\nNUM_RESUBMIT = 5\n",
        3,
        "settings.NUM_RESUBMIT: there is no such setting; did you mean NUM_RESUBMITS? "
        f"There are: {SETTINGS}",
    ),
    ('[settings]\nNUM_RESUBMITS = "5"', 2, 'is "5"; it must be a whole number'),
    ("[settings]\nNUM_RESUBMITS = true", 2, "is True; it must be a whole number"),
    ("[settings]\nNUM_RESUBMITS = -5", 2, "settings.NUM_RESUBMITS: is -5, but must be a whole"),
    ("[settings]\nUSE_MEM_FREE = 1", 2, "is 1; it must be true or false"),
    ("[settings]\nCHECK_FREQUENCY = nan", 2, "CHECK_FREQUENCY: is nan, but must be a finite"),
    ("[settings]\nDEFAULT_QUEUE = 3", 2, "is 3; it must be a text in quotes"),
    ("[settings]\nGRIDMAP_PORTS = [1]", 2, "it must be a whole number or a text in quotes"),
    ("profiles.gpu = 3", 1, "profiles.gpu: is 3; it must be a table"),
    ("[profiles.none]", 1, "profiles.none: this name stands for no profile; choose another"),
    ("[profiles.a]\nmax_worker = 3", 2, "a.max_worker: a profile has no such key; did you mean m"),
    ("[profiles.a]\nf = 3", 2, "profiles.a.f: a profile has no such key. There are: cleanup,"),
    ("[profiles.a]\nmax_workers = 0", 2, "a.max_workers: is 0, but must be a whole number, 1 or"),
    ("[profiles.a]\nlocal = 'yes'", 2, 'a.local: is "yes"; it must be true or false'),
    ("[profiles.a]\non_error = 'ignore'", 2, 'is "ignore", but must be one of raise, finish, ret'),
    ("[profiles.a]\nwhite_list = [1]", 2, "a.white_list: is [1]; it must be a list of texts"),
    ("[profiles.a]\nadd_env.X = 1", 2, "profiles.a.add_env.X: is 1; it must be a text in quotes"),
    ("[profiles.a]\nretry.tries = 1", 2, "a.retry.tries: there is no such key; did you mean tim"),
    ("[profiles.a.resources]\ngpu = 1", 2, "a.resources.gpu: there is no such key; did you mean g"),
    ("[profiles.a.resources]\ngpus = 'x'", 2, 'resources.gpus: is "x"; it must be a whole number'),
    ("[profiles.a.settings]\nX = 1", 2, "profiles.a.settings.X: there is no such setting"),
    ("[profiles.a.settings]\nGRIDMAP_PROFILE = 'b'", 2, "GRIDMAP_PROFILE: a profile names no oth"),
    ("[backends.slurm]\nfile = 'x'", 1, "backends.slurm: GridMap has a backend of this name"),
    ("[backends.openpbs]\nfile = 'x.toml'", 1, "backends.openpbs: GridMap has a backend of this"),
    ("[backends.'x.toml']\nfile = 'x.toml'", 1, "x.toml: this would be the path of a description"),
    ("[backends.mine]\n", 1, "backends.mine: it has no file, as in file"),
    ("[backends.mine]\nfile = 'x'", 2, 'backends.mine.file: is "/'),
    ("[backends.mine]\npath = 'x'", 2, "backends.mine.path: there is no such key"),
    (
        "[settings]\nNUM_RESUBMITS = 1\nNUM_RESUBMITS = 2\nCHECK_FREQUENCY = 3",
        3,
        "is no TOML: Cann",
    ),
    ("[settings", 1, "is no TOML"),
]


@pytest.mark.parametrize(("text", "line", "message"), BAD)
def test_what_may_not_is_named(files: Files, text: str, line: int, message: str) -> None:
    write(files.user, text)
    with pytest.raises(ConfigError) as error:
        conf.settings()
    assert str(error.value).startswith(f"{files.user}:{line}")
    assert message in str(error.value)
    assert (error.value.file, error.value.line) == (str(files.user), line)
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.file, again.line) == (str(error.value), str(files.user), line)


def test_an_error_stays_until_the_file_is_changed(files: Files) -> None:
    write(files.user, "[settings]\nX = 1")
    for _ in range(2):
        with pytest.raises(ConfigError):
            gridmap.NUM_RESUBMITS  # noqa: B018
    write(files.user, "")
    assert gridmap.NUM_RESUBMITS == 3


def test_a_file_that_is_no_text(files: Files) -> None:
    files.user.write_bytes(b"[settings]\nDEFAULT_QUEUE = '\xff'\n")
    files.user.chmod(0o600)
    with pytest.raises(ConfigError, match="is no UTF-8"):
        conf.settings()
    write(files.user, "#" * (1 << 20) + "\n")
    with pytest.raises(ConfigError, match="is too long for a configuration file"):
        conf.settings()
    write(files.user, "a = " + "[" * 10_000)
    with pytest.raises(ConfigError, match="is no TOML"):
        conf.settings()


def test_lines_are_those_in_which_values_begin() -> None:
    text = '# one\na.b = 1\n\nc = [\n  1,\n  2,\n]\nd = """\nc = 1\n"""\n[t]\nx = { y = 1 }\n'
    assert lines_of(text, "f") == {
        ("a",): 2,
        ("a", "b"): 2,
        ("c",): 4,
        ("d",): 8,
        ("t",): 11,
        ("t", "x"): 12,
        ("t", "x", "y"): 12,
    }
    assert lines_of("a = 1\n" + "#\n" * 5000, "f") == {}
    assert lines_of("a = 1\nb = [\n" + "1,\n" * 500 + "]\nc = 1\n", "f") == {("a",): 1}


def every_beginning(text: str) -> dict[tuple[str, ...], int]:
    """Returns the lines in another, slow way: what is new when a longer beginning is TOML."""
    lines, found, begin = text.splitlines(keepends=True), {}, 1
    for count in range(1, len(lines) + 1):
        try:
            data = _toml.parse("".join(lines[:count]), "f")
        except ConfigError:
            continue
        for keys in reading._keys(data, ()):
            found.setdefault(keys, begin)
        begin = count + 1
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "[a.b.'c d']\nx.y = 1\n[a]\nz = '''\n[no]\n'''\n  [e] # [f]\n",
        "x = [\n [1],\n ['''\n]''']\n]\n[t]\ni = { j = { k = [\n1] } }\n[t.u]\nv = 1",
        '[[list]]\n[t]\n#[u]\n[t.\'[v]\']\n\'=\' = 1\n"a.b".c = 2\nd = """\\\n x"""\n',
    ],
)
def test_lines_are_those_that_every_beginning_tells(text: str, end: str) -> None:
    text = text.replace("\n", end)
    assert lines_of(text, "f") == every_beginning(text)


def test_the_lines_of_a_long_file_are_there_soon() -> None:
    text = "".join(
        f"[profiles.p{number}]\nmax_workers = 1\nresources = {{ gpus = 1 }}\nwhite_list = [\n]\n"
        for number in range(380)
    )
    begin_s = time.process_time()
    lines = lines_of(text, "f")
    assert time.process_time() - begin_s < 2
    assert lines[("profiles", "p379", "resources", "gpus")] == 379 * 5 + 3


def parameters(*doors: Any) -> set[str]:
    return {name for door in doors for name in inspect.signature(door).parameters}


def test_a_profile_can_give_every_argument_that_is_not_of_one_call() -> None:
    doors = (gridmap.grid_map, gridmap.process_jobs, gridmap.submit, gridmap.Job)
    of_one_call = {"f", "args", "args_list", "kwlist", "jobs", "iterable", "options", "name"}
    of_one_call |= {"profile", "retry_on"}
    there = parameters(*doors, gridmap.grid_imap) - of_one_call
    assert set(arguments.ARGUMENTS) == there
    assert set(arguments.RETRY) == parameters(Retry)
    assert set(arguments.RESOURCES) == parameters(gridmap.Resources)


@pytest.mark.parametrize("name", [name for name in arguments.ARGUMENTS if name != "window"])
def test_defaults_are_what_a_profile_could_say(name: str) -> None:
    default = inspect.signature(gridmap.grid_map).parameters[name].default
    shape = arguments.ARGUMENTS[name]
    assert default is None or type(default) in shape.types
    if shape.check is not None and default is not None:
        shape.check(default)


def test_every_kind_of_setting_has_a_type() -> None:
    for setting in conf.TABLE:
        default = setting.default() if callable(setting.default) else setting.default
        types = layout._TYPES_OF_KINDS.get(setting.kind, (str,))
        assert type(default) in types, setting.name
