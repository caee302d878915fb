"""Where files are looked for, which of them win, and when they are read again."""

from __future__ import annotations

import os
import subprocess
import sys
import timeit
from pathlib import Path

import pytest

import gridmap
from gridmap import conf
from gridmap.configuration import reading
from gridmap.configuration.places import SITE_FILE, places
from gridmap.errors import ConfigError
from tests.configuration.conftest import Files, write


def roles() -> list[tuple[str, str]]:
    return [(place.role, place.path) for place in places()]


def test_the_places_in_their_order(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    write(files.project, "")
    monkeypatch.setenv("GRIDMAP_SITE_CONFIG", str(files.site))
    monkeypatch.setenv("GRIDMAP_CONFIG", str(files.named))
    assert roles() == [
        ("site", str(files.site)),
        ("user", str(files.user)),
        ("project", str(files.project)),
        ("named", str(files.named)),
    ]
    monkeypatch.delenv("GRIDMAP_SITE_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/settings")
    monkeypatch.setenv("GRIDMAP_CONFIG", "~/mine.toml")
    assert [path for _, path in roles()] == [
        SITE_FILE,
        "/settings/gridmap/gridmap.toml",
        str(files.project),
        str(files.home / "mine.toml"),
    ]
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # counts as unset
    assert ("user", str(files.user)) in roles()


def test_dev_null_is_no_file(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    write(files.project, "[settings]\nNUM_RESUBMITS = 7\n")
    assert conf.NUM_RESUBMITS == 7
    assert "site" not in dict(roles())
    monkeypatch.setenv("GRIDMAP_CONFIG", os.devnull)
    assert conf.NUM_RESUBMITS == 3


def test_the_nearest_project_file_counts(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    write(files.home / "gridmap.toml", "[settings]\nNUM_RESUBMITS = 5\n")
    assert conf.NUM_RESUBMITS == 5
    write(files.project, "[settings]\nCHECK_FREQUENCY = 20\n")
    assert (conf.NUM_RESUBMITS, conf.CHECK_FREQUENCY) == (3, 20)
    monkeypatch.chdir(files.home)
    assert (conf.NUM_RESUBMITS, conf.CHECK_FREQUENCY) == (5, 15)


def test_above_the_home_folder_nothing_is_looked_for(files: Files) -> None:
    write(files.home.parent / "gridmap.toml", "[settings]\nNUM_RESUBMITS = 5\n")
    assert conf.NUM_RESUBMITS == 3


def test_outside_the_home_folder_parents_count_too(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = files.named.parent / "deep" / "deeper"
    below.mkdir(parents=True)
    write(files.home.parent / "gridmap.toml", "[settings]\nNUM_RESUBMITS = 5\n")
    monkeypatch.chdir(below)
    assert conf.NUM_RESUBMITS == 5


def test_a_linked_home_folder_is_known(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    link = files.home.parent / "link"
    link.symlink_to(files.home)
    monkeypatch.setenv("HOME", str(link))
    write(files.home.parent / "gridmap.toml", "[settings]\nNUM_RESUBMITS = 5\n")
    assert conf.NUM_RESUBMITS == 3


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no file system of its own there")
def test_another_file_system_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIDMAP_CONFIG")
    monkeypatch.chdir("/dev/shm")
    asked: list[str] = []
    real = os.stat

    def stat(path: str, **options: object) -> os.stat_result:
        asked.append(str(path))
        return real(path, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "stat", stat)
    places()
    assert "/dev/shm/gridmap.toml" in asked
    assert not {"/dev/gridmap.toml", "/gridmap.toml"} & set(asked)


def test_a_working_directory_that_was_removed(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = files.work / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    write(files.user, "[settings]\nNUM_RESUBMITS = 5\n")
    assert "project" not in dict(roles())
    assert conf.NUM_RESUBMITS == 5


ORDER = ("site", "user", "project", "named", "environment", "package", "module")


@pytest.mark.parametrize("most", range(len(ORDER)))
def test_what_wins(files: Files, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setenv("GRIDMAP_SITE_CONFIG", str(files.site))
    write(files.site, "")
    for value, where in enumerate(ORDER[: most + 1], start=10):
        if where in ("site", "user", "project", "named"):
            write(getattr(files, where), f"[settings]\nNUM_RESUBMITS = {value}\n")
            if where == "named":
                monkeypatch.setenv("GRIDMAP_CONFIG", str(files.named))
        elif where == "environment":
            monkeypatch.setenv("NUM_RESUBMITS", str(value))
        else:
            vars(gridmap if where == "package" else conf)["NUM_RESUBMITS"] = value
    assert conf.NUM_RESUBMITS == conf.settings().num_resubmits == 10 + most
    found, source = conf.explained("NUM_RESUBMITS")
    assert found == 10 + most
    assert source.kind == {"environment": "environment", "package": "program"}.get(
        ORDER[most], "program" if ORDER[most] == "module" else "file"
    )
    if source.kind == "file":
        assert str(source) == f"{getattr(files, ORDER[most])}:2"


@pytest.mark.parametrize("variable", ["GRIDMAP_CONFIG", "GRIDMAP_SITE_CONFIG"])
def test_a_file_that_a_variable_names_has_to_be_there(
    files: Files, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(files.named))
    with pytest.raises(ConfigError, match=f"{variable} names {files.named}, and there is no"):
        conf.settings()


def test_a_file_is_read_again_when_it_changed(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    real = reading.Document.__init__

    def init(self: reading.Document, path: str, text: str) -> None:
        parsed.append(path)
        real(self, path, text)

    monkeypatch.setattr(reading.Document, "__init__", init)
    write(files.user, "[settings]\nNUM_RESUBMITS = 5\n")
    assert [conf.NUM_RESUBMITS for _ in range(3)] == [5, 5, 5]
    assert parsed == [str(files.user)]
    # of the same length, and perhaps within the same tick of the clock
    write(files.user, "[settings]\nNUM_RESUBMITS = 6\n")
    assert conf.NUM_RESUBMITS == 6
    os.utime(files.user, (1e9, 1e9))  # long ago: from now on its times are enough
    assert conf.NUM_RESUBMITS == 6
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", None)  # and it is not even opened
        assert conf.NUM_RESUBMITS == 6
    assert parsed == [str(files.user)] * 2


def test_a_file_that_was_replaced_or_removed(files: Files) -> None:
    write(files.user, "[settings]\nNUM_RESUBMITS = 5\n")
    assert conf.NUM_RESUBMITS == 5
    write(files.user.with_name("new"), "[settings]\nNUM_RESUBMITS = 6\n").replace(files.user)
    assert conf.NUM_RESUBMITS == 6
    files.user.unlink()
    assert conf.NUM_RESUBMITS == 3


def test_jobs_made_in_a_row_ask_for_files_now_and_then(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gridmap.configuration import current

    asked: list[int] = []
    real = current.places
    monkeypatch.setattr(current, "places", lambda: asked.append(1) or real())
    jobs = [gridmap.Job(len, [""]) for _ in range(200)]
    assert len(jobs) == 200
    assert 1 <= len(asked) < 100
    looked: list[int] = []
    really = conf.current
    with monkeypatch.context() as patch:
        patch.setattr(conf, "current", lambda *args: looked.append(1) or really(*args))
        gridmap.Job(len, [""])
    assert len(looked) == 1
    # whoever has looked since, the job sees what he saw
    write(files.user, '[settings]\nDEFAULT_QUEUE = "user.q"\n')
    assert conf.DEFAULT_QUEUE == "user.q" == gridmap.Job(len, [""]).queue
    files.user.unlink()
    assert conf.DEFAULT_QUEUE == "all.q"
    # and what another working directory or variable says counts at once
    write(files.named, '[settings]\nDEFAULT_QUEUE = "other.q"\n')
    monkeypatch.setenv("GRIDMAP_CONFIG", str(files.named))
    assert gridmap.Job(len, [""]).queue == "other.q"
    monkeypatch.delenv("GRIDMAP_CONFIG")
    assert gridmap.Job(len, [""]).queue == "all.q"
    write(files.home / "gridmap.toml", '[settings]\nDEFAULT_QUEUE = "home.q"\n')
    monkeypatch.chdir(files.home)
    assert gridmap.Job(len, [""]).queue == "home.q"


def test_settings_without_a_file_are_cheap(files: Files) -> None:
    timer = timeit.Timer(conf.settings)
    assert min(timer.repeat(20, number=5)) / 5 < 0.001


PROGRAM = """
import os, sys
seen = []
sys.addaudithook(lambda event, args: seen.append(str(args[0])) if event == "open" else None)
import gridmap
assert not any(name.endswith("gridmap.toml") for name in seen), seen
{more}
print("tomllib" in sys.modules or "tomli" in sys.modules)
"""


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", "False"),
        ("gridmap.NUM_RESUBMITS", "True"),
        ("os.environ['GRIDMAP_CONFIG'] = os.devnull; gridmap.NUM_RESUBMITS", "False"),
    ],
)
def test_nothing_is_read_before_it_is_needed(files: Files, more: str, expected: str) -> None:
    write(files.user, "[settings]\nNUM_RESUBMITS = 5\n")
    command = [sys.executable, "-c", PROGRAM.format(more=more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_without_a_file_no_parser_is_loaded(files: Files) -> None:
    program = "import gridmap.conf, sys; gridmap.conf.settings(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"tomllib", "tomli", "gridmap._toml", "gridmap.configuration.layout"}


def test_paths_in_a_file_start_from_its_folder(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/ada")
    monkeypatch.setenv("CLUSTER", "main")
    write(
        files.project,
        """
        [settings]
        GRIDMAP_RUN_DIR = "runs"
        DEFAULT_TEMP_DIR = "$SCRATCH/logs"
        [profiles.a]
        temp_dir = "~/out"
        backend = "clusters/mine.toml"
        [profiles.b]
        backend = "slurm"
        [backends.mine]
        file = "../${CLUSTER}/it.toml"
        """,
    )
    now = conf.settings()
    folder = files.project.parent
    assert (now.run_dir, now.default_temp_dir) == (str(folder / "runs"), "/scratch/ada/logs")
    profiles = conf.configured().profiles
    assert profiles["a"][("temp_dir",)].value == str(files.home / "out")
    assert profiles["a"][("backend",)].value == str(folder / "clusters/mine.toml")
    assert profiles["b"][("backend",)].value == "slurm"
    assert conf.backend_files() == {"mine": f"{folder}/../main/it.toml"}
    monkeypatch.setenv("SCRATCH", "/scratch/eve")  # the file is as it was
    assert conf.settings().default_temp_dir == "/scratch/eve/logs"
    monkeypatch.delenv("SCRATCH")
    with pytest.raises(ConfigError, match="DEFAULT_TEMP_DIR.*no environment variable SCRATCH"):
        conf.settings()


def test_the_sites_file_by_a_relative_path_or_from_the_home_folder(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files.work / "here.toml", '[backends.mine]\nfile = "it.toml"\n')
    monkeypatch.setenv("GRIDMAP_SITE_CONFIG", "here.toml")
    assert conf.backend_files() == {"mine": str(files.work / "it.toml")}
    monkeypatch.setenv("GRIDMAP_SITE_CONFIG", "~/study/scripts/here.toml")
    assert conf.backend_files() == {"mine": str(files.work / "it.toml")}


def test_a_relative_named_file_starts_from_the_working_directory(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files.work / "here.toml", "[settings]\nNUM_RESUBMITS = 9\n")
    monkeypatch.setenv("GRIDMAP_CONFIG", "here.toml")
    assert conf.NUM_RESUBMITS == 9
    monkeypatch.chdir(Path("/"))
    with pytest.raises(ConfigError, match="GRIDMAP_CONFIG names /here.toml"):
        conf.settings()
