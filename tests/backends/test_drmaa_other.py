"""Other schedulers than Grid Engine, through DRMAA: what their libraries are told."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from gridmap.backends import drmaa
from gridmap.backends.base import SubmitRequest
from gridmap.backends.drmaa import DrmaaBackend, drmaa_backend
from gridmap.backends.drmaa_other import OtherDrmaaBackend
from gridmap.backends.drmaa_session import NO_USAGE, DrmaaSession
from gridmap.backends.drmaa_systems import specification, system_of
from gridmap.core.events import NativeState, NativeStatus
from gridmap.core.spec import Resources
from gridmap.errors import BackendError

# What drmaa_get_DRM_system of these libraries answers: Grid Engine's with its product and version,
# or with the version alone (Son of Grid Engine 8.1.9, in another thread than the first); those of
# pbs-drmaa a constant each, slurm-drmaa's with the version of slurmctld, lsf-drmaa's with the
# version text of LSF's headers.
DRMS_INFO = {
    " 8.1.9": "Grid Engine",
    "SGE 8.1.9": "Grid Engine",
    "SGE 6.2u5": "Grid Engine",
    "GE 6.2u5": "Grid Engine",
    "OGS/GE 2011.11p1": "Grid Engine",
    "UGE 8.6.4": "Grid Engine",
    "AGE 2023.1.0": "Grid Engine",
    "Altair Grid Engine": "Grid Engine",
    "Univa Grid Engine": "Grid Engine",
    "OCS 9.0.0": "Grid Engine",
    "SLURM 22.05.8": "Slurm (DRMAA)",
    "SLURM": "Slurm (DRMAA)",
    "PBS Professional": "PBS (DRMAA)",
    "OpenPBS 23.06": "PBS (DRMAA)",
    "Torque": "Torque (DRMAA)",
    "Platform LSF 7.0": "LSF (DRMAA)",
    "IBM Spectrum LSF Standard 10.1.0.0": "LSF (DRMAA)",
    "Condor": "HTCondor (DRMAA)",
    "HTCondor 8.8": "HTCondor (DRMAA)",
}

RUNNING = NativeStatus(NativeState.RUNNING, "running")
DONE = NativeStatus(NativeState.DONE, "exited with 0", exit_status=0)


@pytest.mark.parametrize(("drms_info", "name"), DRMS_INFO.items())
def test_which_scheduler_a_library_is_for(drms_info: str, name: str) -> None:
    system = system_of(drms_info)
    assert system.words.name == name
    assert system.grid_engine == (name == "Grid Engine")


WANTED = Resources(
    num_slots=4, memory_bytes=6 << 30, walltime_s=5400.0, project="physics", features=("fast",)
)


@pytest.mark.parametrize(
    ("drms_info", "more", "text"),
    [
        (
            "SLURM 22.05.8",
            {"gpu": 2, "queue": "long", "hosts": ("n1",)},
            "--no-requeue --nodelist=n1 --cpus-per-task=4 --mem=6144 --time=1:30 --partition=long "
            "--account=physics --gres=gpu:2 --constraint=fast",
        ),
        (
            "PBS Professional",
            {"gpu": 2, "queue": "long", "hosts": ("n1",)},
            "-q long -A physics -l select=1:ncpus=4:mem=6144mb:ngpus=2:host=n1:fast "
            "-l walltime=1:30:00",
        ),
        (
            "Torque",
            {"gpu": 2, "queue": "long"},
            "-q long -A physics -l nodes=1:ppn=4:gpus=2:fast -l mem=6144mb -l walltime=1:30:00",
        ),
        (
            "Platform LSF 7.0",
            {"queue": "long", "hosts": ("n1", "n2")},
            '-q long -P physics -n 4 -M 6291456 -W 1:30 -m "n1 n2" '
            '-R "select[fast] rusage[mem=6144] span[ptile=4]"',
        ),
        (
            "Condor",
            {"gpu": 2},
            "environment=GRIDMAP_NATIVE_ID=$(Cluster).$(Process)\nrequest_cpus=4\n"
            "request_memory=6144\nrequest_gpus=2\nallowed_execute_duration=5400\n"
            "accounting_group=physics\nrequirements=TRUE&&(fast)",
        ),
    ],
)
def test_what_its_library_is_told(drms_info: str, more: dict[str, Any], text: str) -> None:
    assert specification(system_of(drms_info), replace(WANTED, **more)) == text


@pytest.mark.parametrize(
    ("drms_info", "wanted", "message"),
    [
        ("SLURM", Resources(hosts=("a", "b")), r"Slurm \(DRMAA\) cannot be asked for hosts=\['a'"),
        ("SLURM", Resources(native=("--comment='a b'",)), "DRMAA would cut it at a blank"),
        ("PBS Professional", Resources(extra=("x='a b'",)), "resources has"),
        ("Torque", Resources(hosts=("n1",)), r"Torque \(DRMAA\) cannot be asked for hosts="),
        ("Platform LSF 7.0", Resources(gpu=1), r"LSF \(DRMAA\) cannot be asked for gpus=1"),
        ("Condor", Resources(queue="q"), r"HTCondor \(DRMAA\) cannot be asked for queue='q'"),
        ("Moab 9", Resources(h_vmem="2G", gpu=1), "Moab 9 .*does not know, cannot be asked for h_"),
        ("", Resources(num_slots=2), "This scheduler .DRMAA., whose options GridMap does not know"),
    ],
)
def test_what_it_cannot_be_told(drms_info: str, wanted: Resources, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        specification(system_of(drms_info), wanted)


def test_what_nobody_knows_is_a_grid_engine_where_there_is_one() -> None:
    assert system_of("Moab 9", sge_root=True).grid_engine
    assert not system_of("SLURM 22.05.8", sge_root=True).grid_engine


def test_an_unknown_scheduler_is_told_native_options() -> None:
    wanted = Resources(queue="all.q", mem_free="1G", native=("-l gold", "-q fast"))
    assert specification(system_of("Moab 9"), wanted) == "-l gold -q fast"


# --- the backend ----------------------------------------------------------------------------------


class Library:
    """The package drmaa of such a scheduler, as far as a session uses it; written down, not run."""

    def __init__(self, drms_info: str, ids: str = "{}.server") -> None:
        self.drms_info = drms_info
        self.ids = ids
        self.jobs: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.states: dict[str, str] = {}
        self.refuses_after = 1000
        none = type("InvalidJobException", (Exception,), {})
        self.errors = SimpleNamespace(
            InvalidJobException=none,
            ExitTimeoutException=type("ExitTimeoutException", (Exception,), {}),
            AlreadyActiveSessionException=type("AlreadyActive", (Exception,), {}),
        )
        self.JobControlAction = SimpleNamespace(TERMINATE="terminate")
        self.Session = self

    @property
    def drmsInfo(self) -> str:
        return self.drms_info

    def initialize(self) -> None:
        pass

    def exit(self) -> None:
        pass

    def createJobTemplate(self) -> SimpleNamespace:
        return SimpleNamespace()

    def deleteJobTemplate(self, template: SimpleNamespace) -> None:
        pass

    def runJob(self, template: SimpleNamespace) -> str:
        if len(self.jobs) >= self.refuses_after:
            raise RuntimeError("code 17: too many jobs")
        self.jobs.append(vars(template))
        return self.ids.format(len(self.jobs))

    def control(self, native_id: str, action: str) -> None:
        self.deleted.append(native_id)

    def jobStatus(self, native_id: str) -> str:
        return self.states.get(native_id, "running")


def connect(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> tuple[DrmaaBackend, dict[str, NativeStatus]]:
    """Returns a backend on a session of this library, and where to say how its jobs ended."""
    monkeypatch.delenv("SGE_ROOT", raising=False)
    ended: dict[str, NativeStatus] = {}
    session = DrmaaSession()
    monkeypatch.setattr("gridmap.backends.drmaa_session.load_drmaa", lambda: library)
    monkeypatch.setattr(session, "reap", lambda ids: {i: ended[i] for i in ids if i in ended})
    backend = drmaa_backend(session=session)
    assert isinstance(backend, DrmaaBackend)
    return backend, ended


def request(count: int = 3, **change: Any) -> SubmitRequest:
    given: dict[str, Any] = {
        "run_tag": "tag", "name": "my job that has a long name", "count": count,
        "command": ("/usr/bin/python3", "/run/runner.py", "0"), "resources": Resources(),
        "log_dir": "/run/logs", "working_dir": "/run",
    }  # fmt: skip
    return SubmitRequest(**{**given, **change})


def test_the_library_says_which_backend_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(connect(Library("SGE 8.1.9"), monkeypatch)[0]) is DrmaaBackend
    for drms_info, name in DRMS_INFO.items():
        if name != "Grid Engine":
            assert type(connect(Library(drms_info), monkeypatch)[0]) is OtherDrmaaBackend


def test_workers_are_submitted_one_by_one_each_with_files_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = Library("PBS Professional")
    backend, _ = connect(library, monkeypatch)
    wanted = Resources(num_slots=2, walltime_s=60.0, queue="all.q", mem_free="1G")
    assert backend.submit(request(resources=wanted)) == ["1.server", "2.server", "3.server"]
    job = library.jobs[0]
    assert (job["remoteCommand"], job["args"]) == ("/usr/bin/python3", ["/run/runner.py", "0"])
    assert job["nativeSpecification"] == "-l select=1:ncpus=2 -l walltime=0:01:00"
    assert job["jobName"] == "my_job_that_has"  # PBS takes no more
    assert "$" not in job["outputPath"], "Grid Engine's variables mean nothing there"
    files = {job[path] for job in library.jobs for path in ("outputPath", "errorPath")}
    assert len(files) == 6 and all(file.startswith(":/run/logs/worker.") for file in files)


def test_all_workers_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library("Torque")
    library.refuses_after = 2
    backend, _ = connect(library, monkeypatch)
    with pytest.raises(BackendError, match="cannot submit workers: too many jobs"):
        backend.submit(request())
    assert library.deleted == ["1.server", "2.server"]


def test_no_command_of_grid_engine_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("qstat", "qacct", "qdel"):  # PBS has commands of the same names
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        path.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    library = Library("PBS Professional")
    backend, ended = connect(library, monkeypatch)
    ids = backend.submit(request(4))
    ended[ids[0]] = NO_USAGE
    ended[ids[1]] = NativeStatus(NativeState.FAILED, "ended by SIGKILL", signal=9)
    status = backend.status(ids)
    assert [status[i].state for i in ids] == [
        NativeState.DELETED, NativeState.FAILED, NativeState.RUNNING, NativeState.RUNNING,
    ]  # fmt: skip
    assert "PBS (DRMAA) says: failed, ended by SIGKILL" in backend.diagnose(ids[1])
    backend.cancel(ids[:3])
    assert library.deleted == [ids[2]]
    backend.adopt(["77.server"])
    assert backend.status(["77.server"])["77.server"].state is NativeState.RUNNING
    backend.cancel(["77.server"])
    assert library.deleted == [ids[2], "77.server"]
    assert backend.find("tag") == []
    assert "DRMAA does not list those of PBS (DRMAA)" in caplog.text
    assert not (tmp_path / "called").exists()


def test_what_gridmap_deleted_is_not_called_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ended = connect(Library("SLURM 22.05.8", "{}"), monkeypatch)
    ids = backend.submit(request(1))
    backend.cancel(ids)
    ended[ids[0]] = NativeStatus(NativeState.FAILED, "aborted")
    assert backend.status(ids)[ids[0]].state is NativeState.DELETED


def test_the_worker_log_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    library = Library("Platform LSF 7.0", "{}")
    backend, _ = connect(library, monkeypatch)
    (native_id,) = backend.submit(request(1, log_dir=str(tmp_path)))
    with open(library.jobs[0]["errorPath"][1:], "w") as file:
        file.write("no such module")
    assert "no such module" in backend.diagnose(native_id)


def test_condors_workers_know_themselves_by_the_end_of_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = Library("Condor", "submit.example.{}.0")
    backend, ended = connect(library, monkeypatch)
    ids = backend.submit(request(2))
    assert ids == ["1.0", "2.0"]
    assert "GRIDMAP_NATIVE_ID=$(Cluster).$(Process)" in library.jobs[0]["nativeSpecification"]
    ended["submit.example.1.0"] = DONE
    library.states["submit.example.2.0"] = "queued_active"
    assert backend.status(ids) == {
        "1.0": DONE,
        "2.0": NativeStatus(NativeState.PENDING, "queued_active"),
    }
    backend.cancel(ids)
    assert library.deleted == ["submit.example.2.0"]


def test_a_shell_starts_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library("PBS Professional")
    backend, _ = connect(library, monkeypatch)
    backend.submit(request(1, resources=Resources(interpreting_shell="/bin/bash")))
    assert library.jobs[0]["remoteCommand"] == "/bin/bash"
    assert library.jobs[0]["args"] == ["-c", "exec /usr/bin/python3 /run/runner.py 0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resources": Resources(gpu=1)}, r"LSF \(DRMAA\) cannot be asked for gpus=1"),
        ({"command": ("/usr/bin/python3", "it's")}, 'would cut "it\'s"'),
        ({"command": ("/my python", "x")}, "would cut '/my python'"),
        ({"command": ("/usr/bin/python3", "a\nb")}, "would cut 'a.*nb'"),
        ({"log_dir": "/logs/%u"}, "would cut '/logs/%u'"),
        ({"log_dir": "/logs/$HOME"}, "would cut '/logs/.HOME'"),
        ({"working_dir": "/my run"}, "would cut '/my run'"),
    ],
)
def test_what_its_library_would_misread(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    library = Library("Platform LSF 7.0")
    backend, _ = connect(library, monkeypatch)
    with pytest.raises(BackendError, match=message):
        backend.submit(request(1, **change))
    assert not library.jobs


def test_a_library_that_does_not_say_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Library):
        @property
        def drmsInfo(self) -> str:
            raise RuntimeError("code 2: the scheduler is away")

    with pytest.raises(BackendError, match="does not say what it is for: the scheduler is away"):
        connect(Silent("x"), monkeypatch)
    assert drmaa.words_here() is None and drmaa.is_grid_engine()


def test_a_call_that_is_stuck_holds_up_nobody_who_asks_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gridmap.backends.drmaa_session.ANSWER_S", 0.05)
    connect(Library("Platform LSF 7.0"), monkeypatch)
    session, stuck = DrmaaSession(), DrmaaSession()
    session.system()
    with session._lock, stuck._lock, ThreadPoolExecutor(1) as others:
        assert others.submit(session.system).result(5) == "Platform LSF 7.0"
        with pytest.raises(BackendError, match="has not returned for 0.05 s") as caught:
            others.submit(stuck.system).result(5)
    assert caught.value.transient
