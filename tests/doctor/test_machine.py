"""The probes of this machine and of its settings; limits are real ones, set for a process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gridmap import _toml
from gridmap.doctor import configuration, machine
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, Status
from tests.doctor.visits import ROOT, options

LOOK = """
import json, sys
from gridmap.doctor import machine
from gridmap.doctor.exam import Exam
found = machine.examine(Exam(None))
json.dump([[one.name, one.status.value, one.found, one.change] for one in found], sys.stdout)
"""


def looked(*prefix: str, **environment: str) -> dict[str, list[str]]:
    """Returns what the doctor finds in a process of its own: name -> status, found, change."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", LOOK],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in json.loads(done.stdout)}


def test_all_is_well_here() -> None:
    found = looked()
    assert found["python"][0] == "ok" and sys.executable in found["python"][1]
    assert found["dependencies"][0] == "ok" and "pyzmq" in found["dependencies"][1]


def test_too_few_open_files_are_told_with_the_number_that_is_enough() -> None:
    status, told, change = looked("prlimit", "--nofile=200:300")["open_files"]
    assert status == "warning" and "enough for 172 workers" in told
    assert "GRIDMAP_MAX_WORKERS=172" in change
    enough = looked("prlimit", "--nofile=200:300", GRIDMAP_MAX_WORKERS="172")["open_files"]
    assert enough[0] == "ok"


def test_limits_on_files() -> None:
    none = resource.RLIM_INFINITY
    assert machine.descriptor_finding(1024, none, 10_000).status is Status.OK
    assert machine.descriptor_finding(40, 50, 500).status is Status.FAILED
    assert machine.descriptor_finding(1024, 4096, 500).status is Status.OK


def test_processes_that_are_too_many() -> None:
    near = machine.process_finding(1000, 1024, "ulimit -u")
    assert near.status is Status.WARNING and "1000 now, 1024 at most (ulimit -u)" in near.found
    assert machine.process_finding(100, 1024, "ulimit -u").status is Status.OK
    assert machine.process_finding(0, -1, "").status is Status.OK


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_users_limit_on_processes_is_read(tmp_path: Path) -> None:
    code = "from gridmap.doctor.machine import process_room; print(*process_room(), sep='|')"
    # of an unprivileged user, by a Python that it can read
    done = subprocess.run(
        ["prlimit", "--nproc=77:77", "setpriv", "--reuid=65534", "--clear-groups", "--regid=65534",
         "/usr/bin/python3", "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    if "No module named 'gridmap'" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("that user cannot read this folder")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("|77|ulimit -u")


def test_no_room_for_temporary_files() -> None:
    status, told, change = looked("prlimit", "--fsize=0")["temp_space"]
    assert status == "failed" and "no temporary file can be written" in told and "TMPDIR" in change


def test_little_shared_memory() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can mount")
    mount = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"'
    found = looked("unshare", "--mount", "sh", "-c", mount, "-")["shared_memory"]
    assert found[0] == "warning" and "1.0 MB free" in found[1] and "shm-size" in found[2]


# --- packages -------------------------------------------------------------------------------------


def test_a_package_that_is_missing_or_broken_is_told(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("raise ImportError('built for another Python')")
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    broken = [one for one in json.loads(done.stdout) if one[1] == "failed"]
    assert [one[0] for one in broken] == ["dependencies"]
    assert "psutil" in broken[0][2] and "built for another Python" in broken[0][2]
    assert "pip install" in broken[0][3]


def test_the_doctor_comes_up_without_any_of_the_packages(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "gridmap.doctor", "--no-submit", "--json"],
        cwd=ROOT,
        env={**os.environ, "GRIDMAP_RUN_DIR": str(tmp_path / "runs")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    missing = [one["found"] for one in told["probes"][0]["findings"] if one["status"] == "failed"]
    assert [text.split()[0] for text in missing] == list(machine.DEPENDENCIES)
    assert told["probes"][2]["findings"][0]["name"] == "broken"


def test_the_packages_are_those_of_pyproject() -> None:
    declared = _toml.load(ROOT / "pyproject.toml")["project"]["dependencies"]
    needed = {text.partition(">=")[0] for text in declared}
    if sys.version_info >= (3, 11):
        needed.remove("tomli")
    assert needed == set(machine.DEPENDENCIES)


def test_versions_are_compared_as_numbers() -> None:
    assert machine.is_older("25.0.2", "25.1") and not machine.is_older("25.10", "25.9")
    assert not machine.is_older("3.0.0", "3.0") and machine.is_older("0.9", "0.18.6")


def test_amounts() -> None:
    assert [machine.human(n) for n in (5, 1536, 200 << 20, 3 << 40)] == [
        "5 bytes", "1.5 kB", "200 MB", "3.0 TB",
    ]  # fmt: skip


# --- settings -------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns where the user's configuration file would be; there is no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRIDMAP_CONFIG", raising=False)
    monkeypatch.setenv("GRIDMAP_SITE_CONFIG", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "gridmap").mkdir(parents=True)
    return tmp_path / "config" / "gridmap" / "gridmap.toml"


def settings_found(*words: str) -> tuple[Exam, list[Finding]]:
    exam = Exam(options(*words))
    return exam, list(configuration.examine(exam))


def test_each_setting_that_is_wrong_is_told(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_RESUBMITS", "many")
    monkeypatch.setenv("GRIDMAP_PORTS", "80-70")
    exam, found = settings_found()
    assert [(one.status, one.facts["setting"]) for one in found[1:]] == [
        (Status.FAILED, "NUM_RESUBMITS"),
        (Status.FAILED, "GRIDMAP_PORTS"),
    ]
    assert "many" in found[1].found and exam.settings is None


def test_a_variable_that_is_almost_a_setting_is_told(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDMAP_RUNDIR", "/here")
    exam, found = settings_found()
    assert found[1].status is Status.WARNING and "GRIDMAP_RUN_DIR" in found[1].change
    assert found[2].status is Status.OK and exam.settings is not None


def test_settings_that_are_well_say_what_is_set_and_where(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = "[profiles.mine]\nsettings = {CHECK_FREQUENCY = 3}\n"
    files.write_text(f"[settings]\nGRIDMAP_GRACE = 77\n{profile}")
    monkeypatch.setenv("NUM_RESUBMITS", "7")
    exam, found = settings_found("--profile", "mine")
    changed: Any = found[-1].facts["changed"]
    assert changed["NUM_RESUBMITS"] == {"value": 7, "source": "environment variable NUM_RESUBMITS"}
    assert changed["GRIDMAP_GRACE"]["source"] == f"{files}:2"
    assert exam.settings is not None and exam.settings.check_frequency_s == 3
    assert found[0].facts["read"] == [str(files)]


def test_a_file_that_is_broken_is_told_once(files: Path) -> None:
    files.write_text("[settings]\nNUM_RESUBMITS = no\n")
    exam, (told,) = settings_found()
    assert told.status is Status.FAILED and f"{files}:2" in told.found and exam.settings is None


def test_a_file_that_others_can_write_is_told(files: Path) -> None:
    files.write_text("[settings]\nNUM_RESUBMITS = 7\n")
    files.chmod(0o666)
    exam, found = settings_found()
    assert found[0].status is Status.WARNING and str(files) in found[0].found
    assert exam.settings is not None and exam.settings.num_resubmits != 7


def test_a_profile_that_does_not_exist(files: Path) -> None:
    _, (told,) = settings_found("--profile", "nosuch")
    assert told.status is Status.FAILED and "nosuch" in told.found
