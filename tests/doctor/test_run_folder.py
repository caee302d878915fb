"""The probe of the run directory, on folders that are really so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gridmap.doctor import run_folder
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, Status
from tests.doctor.visits import ROOT, exam

# Lines of /proc/self/mountinfo: a home folder by NFS, its sub-folder by Lustre, names with blanks.
MOUNTS = r"""
22 1 253:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,size=1024k
88 22 0:51 / /home rw,relatime shared:40 - nfs4 filer:/export/home rw,vers=4.2
89 88 0:52 / /home/ada/big\040data rw shared:41 - lustre 10.0.0.1@tcp:/scratch rw
90 22 0:53 / /tmp rw - tmpfs tmpfs rw
91 22 0:54 /sub /mnt/c rw,relatime master:3 propagate_from:2 - cifs //pc/c rw
broken line
"""


def looked(parent: Path, *words: str) -> tuple[Exam, dict[str, Finding]]:
    """Returns the visit, which is still to be closed, and what was found by name."""
    visit = exam("--backend", "drmaa", *words, run_dir=str(parent))
    return visit, {one.name: one for one in run_folder.examine(visit)}


def test_a_folder_is_made_looked_at_and_removed(tmp_path: Path) -> None:
    parent = tmp_path / "new" / "runs"
    visit, found = looked(parent)
    assert found["folder"].status is Status.OK and "was made" in found["folder"].found
    assert {found[name].status for name in ("private", "space", "locks")} <= {
        Status.OK, Status.WARNING,
    }  # fmt: skip
    assert visit.directory is not None
    assert visit.directory.path.stat().st_mode & 0o777 == 0o700
    visit.close()
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "runs" / "other").mkdir(parents=True)
    visit, found = looked(tmp_path / "runs")
    assert "is there" in found["folder"].found
    visit.close()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    visit, found = looked(tmp_path / "file" / "runs")
    assert found["folder"].status is Status.FAILED and "Not a directory" in found["folder"].found
    assert "GRIDMAP_RUN_DIR" in found["folder"].change and visit.directory is None
    visit.close()


def test_a_folder_that_others_can_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    visit, found = looked(tmp_path)
    visit.close()
    assert found["private"].status is Status.WARNING
    assert found["private"].change == f"chmod go-w {tmp_path}"


def test_a_file_system_that_keeps_no_modes(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o755)  # as one of Windows' would look
    told = run_folder.private_finding(folder, tmp_path)
    assert told.status is Status.FAILED and "does not keep modes" in told.found


# --- file systems ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/home/ada", "nfs4"),
        ("/home/ada/big data/runs", "lustre"),
        ("/home/ada/big", "nfs4"),
        ("/homes", "ext4"),
        ("/dev/shm/runs", "tmpfs"),
        ("/mnt/c", "cifs"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    assert run_folder.mount_of(path, MOUNTS).kind == kind


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/home/ada/runs", Status.OK),
        ("/opt/runs", Status.OK),
        ("/tmp/runs", Status.WARNING),
        ("/var/tmp/runs", Status.WARNING),
        ("/dev/shm", Status.WARNING),
    ],
)
def test_what_only_this_host_sees_is_a_warning(path: str, status: Status) -> None:
    told = run_folder.file_system_finding(Path(path), MOUNTS, is_local=False)
    assert told.status is status
    assert run_folder.file_system_finding(Path(path), MOUNTS, is_local=True).status is Status.OK


def test_this_machines_own_list_is_read(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    device = os.stat(run_folder.mount_of(str(tmp_path), mounts).point).st_dev
    assert device == tmp_path.stat().st_dev


# --- room and locks -------------------------------------------------------------------------------

LOOK = """
import sys
from pathlib import Path
from gridmap.doctor.run_folder import space_finding
found = space_finding(Path(sys.argv[1]))
print(found.status.value, found.found, sep="|")
"""


def test_a_file_that_cannot_be_written_for_want_of_room(tmp_path: Path) -> None:
    done = subprocess.run(
        ["prlimit", "--fsize=4096", sys.executable, "-c", LOOK, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("failed|1.0 MB cannot be written: File too large"), done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("size", "told"),
    [("512k", "failed|1.0 MB cannot be written: No space left"), ("16m", "warning|16.0 MB free")],
)
def test_a_file_system_that_is_full_or_nearly_so(tmp_path: Path, size: str, told: str) -> None:
    mount = f'mount -t tmpfs -o size={size} none "{tmp_path}" && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "-", sys.executable, "-c", LOOK, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith(told), done.stdout + done.stderr


def test_a_lock_that_another_process_gets_too_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as where locks are kept on each host apart: this process's is taken on another file
    lockf = run_folder.fcntl.lockf

    def elsewhere(file: object, flags: int) -> None:
        lockf((tmp_path / "elsewhere").open("w"), flags)

    visit = exam("--backend", "drmaa")
    assert run_folder.lock_finding(visit, tmp_path).status is Status.OK
    visit.close()
    monkeypatch.setattr(run_folder.fcntl, "lockf", elsewhere)
    told = run_folder.lock_finding(visit, tmp_path)
    visit.close()
    assert told.status is Status.FAILED and "GRIDMAP_LEDGER=never" in told.change


def test_a_file_system_without_locks_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: object, flags: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "lockf", none)
    visit = exam("--backend", "drmaa")
    told = run_folder.lock_finding(visit, tmp_path)
    visit.close()
    assert told.status is Status.FAILED and "No locks available" in told.found


# --- what was left behind -------------------------------------------------------------------------


def test_what_a_killed_doctor_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in ("doctor-old", "doctor-young", "20260101"))
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "questions.json").write_text("{}")
    long_ago = time.time() - 2 * run_folder.OLD_S
    for folder in (old, other):
        os.utime(folder, (long_ago, long_ago))
    run_folder.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20260101", "doctor-young"]
