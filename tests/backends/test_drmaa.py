"""The DRMAA backend's own decisions; the library itself is in tests/cluster."""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace

import pytest

from gridmap.backends import drmaa, drmaa_library
from gridmap.backends.base import SubmitRequest
from gridmap.backends.drmaa import (
    LARGEST_ARRAY,
    MOST_POLLS,
    DrmaaBackend,
    present,
    why_not,
    worker_logs,
)
from gridmap.backends.drmaa_session import (
    GONE_AFTER_S,
    NO_USAGE,
    STATES,
    Ending,
    status_of_ending,
)
from gridmap.core.events import NativeState, NativeStatus
from gridmap.core.spec import Resources
from gridmap.errors import BackendError, DRMAANotPresentException

RUNNING = NativeStatus(NativeState.RUNNING, "running")
DONE = NativeStatus(NativeState.DONE, "exited with 0", exit_status=0)


class WrittenDown:
    """A session that writes down what it is asked, in place of the scheduler."""

    def __init__(self):
        self.users = 0
        self.submitted = []
        self.terminated = []
        self.polled = []
        self.ended = {}
        self.refuse_after = None

    def open(self):
        self.users += 1

    def close(self):
        self.users -= 1

    def submit(self, attributes, count):
        if self.refuse_after is not None and len(self.submitted) >= self.refuse_after:
            raise BackendError("too many")
        self.submitted.append((attributes, count))
        return [f"{len(self.submitted)}.{task}" for task in range(1, count + 1)]

    def terminate(self, native_id):
        self.terminated.append(native_id)

    def reap(self, native_ids):
        return {i: self.ended[i] for i in native_ids if i in self.ended}

    def poll(self, native_id):
        self.polled.append(native_id)
        return RUNNING


@pytest.fixture
def session():
    return WrittenDown()


@pytest.fixture
def backend(session):
    return DrmaaBackend(session=session)


def request(count=4, *, command=("/usr/bin/python3", "/run dir/x"), log_dir="/logs", **resources):
    return SubmitRequest(
        run_tag="tag",
        name="my job",
        command=command,
        count=count,
        resources=Resources(**resources),
        log_dir=log_dir,
        working_dir="/home/me",
    )


def test_what_a_worker_is_submitted_with(backend, session):
    assert backend.submit(request(2)) == ["1.1", "1.2"]
    [(attributes, count)] = session.submitted
    assert count == 2
    assert attributes["remoteCommand"] == "/usr/bin/python3"
    assert attributes["args"] == ["/run dir/x"]
    assert attributes["nativeSpecification"].startswith("-shell no -b yes")
    assert attributes["jobName"] == "my_job-tag"
    assert attributes["workingDirectory"] == "/home/me"
    assert worker_logs("/logs", "1.2") == ("/logs/worker.1.2.out", "/logs/worker.1.2.err")


def test_a_shell_that_reads_the_command_gets_it_quoted(backend, session):
    backend.submit(request(1, interpreting_shell="/bin/bash"))
    [(attributes, _)] = session.submitted
    assert attributes["args"] == ["'/run dir/x'"]
    assert attributes["nativeSpecification"].startswith("-shell yes -b yes -S /bin/bash")


def test_more_workers_than_an_array_holds(backend, session):
    ids = backend.submit(request(LARGEST_ARRAY + 1))
    assert [count for _, count in session.submitted] == [LARGEST_ARRAY, 1]
    assert len(set(ids)) == LARGEST_ARRAY + 1


def test_all_workers_or_none(backend, session):
    session.refuse_after = 1
    with pytest.raises(BackendError, match="too many"):
        backend.submit(request(LARGEST_ARRAY + 1))
    assert session.terminated == ["1"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue": "a b"},
        {"log_dir": "/logs/$HOME"},
        {"command": ("python3", "a\nb")},
        {"command": ("python3", "x" * 100_000)},
    ],
)
def test_a_request_that_grid_engine_would_misread(backend, session, wrong):
    with pytest.raises(BackendError) as caught:
        backend.submit(request(**wrong))
    assert not caught.value.transient
    assert not session.submitted


def test_a_whole_array_is_deleted_at_once(backend, session):
    backend.cancel(backend.submit(request(4)))
    assert session.terminated == ["1"]


def test_what_ended_does_not_keep_an_array_from_being_deleted_at_once(backend, session):
    ids = backend.submit(request(4))
    session.ended[ids[0]] = DONE
    backend.cancel(ids[1:])
    assert session.terminated == ["1"]


def test_some_tasks_of_an_array(backend, session):
    ids = backend.submit(request(4))
    backend.cancel(ids[2:])
    assert session.terminated == ["1.3", "1.4"]


def test_nothing_is_left_to_delete(backend, session):
    ids = backend.submit(request(2))
    session.ended.update(dict.fromkeys(ids, DONE))
    backend.cancel(ids)
    assert session.terminated == []


def test_a_few_workers_are_asked_for_and_all_in_turn(backend, session):
    ids = backend.submit(request(100))
    session.ended[ids[0]] = DONE
    first = backend.status(ids)
    assert first[ids[0]] == DONE
    assert len(first) == 1 + MOST_POLLS
    for _ in range(3):
        backend.status(ids)
    assert set(session.polled) == set(ids[1:])


def test_a_run_sees_only_its_own(backend, session):
    ids = backend.submit(request(2))
    session.ended["99.1"] = DONE
    assert set(backend.status(ids)) == set(ids)


def test_what_gridmap_deleted_is_not_called_a_failure(backend, session):
    ids = backend.submit(request(1))
    backend.cancel(ids)
    session.ended[ids[0]] = NativeStatus(NativeState.FAILED, "could not start")
    assert backend.status(ids)[ids[0]].state is NativeState.DELETED


# --- workers of another session -------------------------------------------------------------------


class Cluster:
    """The commands of a Grid Engine, on PATH: qstat lists what it is told to, qdel writes down."""

    def __init__(self, folder):
        self.folder = folder
        self.now = 100.0
        self._script("qstat", f'echo "$@" >> {folder}/asked; cat {folder}/listed')
        self._script("qdel", f'echo "$@" >> {folder}/deleted')
        self.lists()

    def _script(self, name, text):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)

    def lists(self, *tasks, name="my_job-tag"):
        entries = "".join(
            f"<job_list><JB_job_number>{job}</JB_job_number><JB_name>{name}</JB_name>"
            f"<state>{state}</state><tasks>{numbers}</tasks></job_list>"
            for job, numbers, state in tasks
        )
        (self.folder / "listed").write_text(
            f"<job_info><queue_info>{entries}</queue_info></job_info>"
        )

    def refuses(self):
        self._script("qstat", "echo 'error: unable to contact qmaster'; exit 1")

    def told(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    made = Cluster(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(drmaa, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_workers_of_another_session_are_asked_for_by_one_qstat(backend, session, cluster):
    ids = ["7.1", "7.2", "7.3", "7.4", "8"]
    backend.adopt(ids)
    cluster.lists(("7", "1-2", "r"), ("7", "3-4:1", "hqw"), ("8", "", "s"), ("9", "1", "r"))
    status = backend.status(ids)
    assert {i: s.state for i, s in status.items()} == {
        "7.1": NativeState.RUNNING,
        "7.2": NativeState.RUNNING,
        "7.3": NativeState.HELD,
        "7.4": NativeState.HELD,
        "8": NativeState.SUSPENDED,
    }
    assert "hqw" in status["7.3"].text
    assert len(cluster.told("asked")) == 1 and session.polled == []


def test_a_worker_of_another_session_that_is_not_listed_has_ended_only_if_that_lasts(
    backend, cluster
):
    backend.adopt(["7.1", "7.2"])
    cluster.lists(("7", "1", "r"))
    assert set(backend.status(["7.1", "7.2"])) == {"7.1"}
    cluster.now += GONE_AFTER_S - 0.1
    assert set(backend.status(["7.1", "7.2"])) == {"7.1"}
    cluster.now += 0.1
    assert backend.status(["7.1", "7.2"])["7.2"].state is NativeState.FAILED


def test_a_worker_of_another_session_that_is_listed_again_was_never_gone(backend, cluster):
    backend.adopt(["7.1"])
    assert backend.status(["7.1"]) == {}
    cluster.now += 4
    cluster.lists(("7", "1", "t"))
    assert backend.status(["7.1"])["7.1"].state is NativeState.RUNNING
    cluster.lists()
    cluster.now += 4
    assert backend.status(["7.1"]) == {}
    cluster.now += 4
    assert backend.status(["7.1"]) == {}
    cluster.now += 1
    assert backend.status(["7.1"])["7.1"].state is NativeState.FAILED


def test_workers_of_both_sessions(backend, session, cluster):
    own = backend.submit(request(2))
    session.ended[own[0]] = DONE
    backend.adopt(["7.1"])
    cluster.lists(("7", "1", "r"), ("1", "2", "qw"))
    status = backend.status([*own, "7.1"])
    assert [status[i].state for i in (*own, "7.1")] == [
        NativeState.DONE,
        NativeState.RUNNING,
        NativeState.RUNNING,
    ]
    assert session.polled == [own[1]]
    assert backend.status(own) and len(cluster.told("asked")) == 1  # no qstat for one's own


@pytest.mark.parametrize("printed", ["", "<job_info>"])
def test_a_qstat_that_does_not_answer_ends_nobody(backend, cluster, printed):
    backend.adopt(["7.1"])
    backend.status(["7.1"])
    cluster.now += 100
    if printed:
        (cluster.folder / "listed").write_text(printed)
    else:
        cluster.refuses()
    with pytest.raises(BackendError, match="qstat"):
        backend.status(["7.1"])


def test_workers_of_another_session_are_deleted_by_qdel(backend, session, cluster):
    own = backend.submit(request(1))
    backend.adopt(["7.1", "7.2", "7.3", "7.5", "8.1"])
    backend.cancel([*own, "7.1", "7.3", "7.2", "7.5", "8.1"])
    assert sorted(cluster.told("deleted")) == ["7 -t 1-3", "7 -t 5-5", "8 -t 1-1"]
    assert session.terminated == ["1"]
    backend.status(["7.1"])
    cluster.now += GONE_AFTER_S
    assert backend.status(["7.1"])["7.1"].state is NativeState.DELETED


def test_a_worker_that_drmaa_calls_deleted_and_qstat_lists_is_not_deleted(
    backend, session, cluster
):
    own = backend.submit(request(3))
    session.ended = dict.fromkeys(own, NO_USAGE)
    cluster.lists(("1", "1", "r"), ("1", "2", "dr"))
    assert {i: s.state for i, s in backend.status(own).items()} == {
        "1.1": NativeState.RUNNING,
        "1.2": NativeState.DELETED,
        "1.3": NativeState.DELETED,
    }
    cluster.lists(("1", "1", "s"))
    assert backend.status(["1.1"])["1.1"].state is NativeState.SUSPENDED
    backend.status(["1.2", "1.3"])
    assert len(cluster.told("asked")) == 3, "those that are gone are looked for once"
    backend.cancel(["1.1"])
    assert cluster.told("deleted") == ["1 -t 1-1"]


def test_whether_a_worker_is_deleted_stays_open_while_qstat_does_not_answer(
    backend, session, cluster
):
    own = backend.submit(request(1))
    session.ended = dict.fromkeys(own, NO_USAGE)
    cluster.refuses()
    assert backend.status(own) == {"1.1": RUNNING}  # what the session says when it is asked
    cluster._script("qstat", f"cat {cluster.folder}/listed")
    assert backend.status(own) == {"1.1": NO_USAGE}


def test_the_workers_of_a_run_are_found_by_its_tag(backend, cluster):
    cluster.lists(("7", "1-2", "r"), ("8", "1", "qw"))
    assert backend.find("tag") == ["7.1", "7.2", "8.1"]
    assert backend.find("other") == []
    cluster.refuses()
    with pytest.raises(BackendError, match="unable to contact qmaster") as caught:
        backend.find("tag")
    assert caught.value.transient


# --- endings --------------------------------------------------------------------------------------


def test_closed_once_however_often(backend, session):
    backend.close()
    backend.close()
    assert session.users == 0


RAN = {"start_time": "1795179161.0000", "ru_wallclock": "3.0000"}


@pytest.mark.parametrize(
    ("ending", "state", "exit_status", "number", "text"),
    [
        (Ending(exited=True, usage=RAN), NativeState.DONE, 0, 0, "exited with 0 after 3 s"),
        (Ending(exited=True, exit_status=3, usage=RAN), NativeState.FAILED, 3, 0, "with 3"),
        (Ending(signal_name="SIGKILL", usage=RAN), NativeState.FAILED, -1, signal.SIGKILL, "SIGK"),
        (Ending(aborted=True, usage=RAN), NativeState.DELETED, -1, 0, "deleted while it ran"),
        (Ending(aborted=True, usage={}), NativeState.FAILED, -1, 0, "could not start"),
        (Ending(usage=RAN), NativeState.FAILED, -1, 0, "without an exit status"),
        (None, NativeState.DELETED, -1, 0, "before it started"),
    ],
)
def test_how_a_worker_ended(ending, state, exit_status, number, text):
    status = status_of_ending(ending)
    assert (status.state, status.exit_status, status.signal) == (state, exit_status, number)
    assert text in status.text


def test_every_state_of_drmaa_has_a_meaning():
    if not present():
        pytest.skip(why_not())
    states = vars(drmaa_library.load_drmaa().JobState)
    words = {word for name, word in states.items() if name.isupper()}
    assert len(words) == 11
    assert words <= set(STATES)


def test_a_library_is_made_to_do_without_jemalloc():
    library = b"\x7fELF..\0libc.so.6\0libjemalloc.so.2\0libm.so.6\0.."
    changed = drmaa_library.without_jemalloc(library)
    assert len(changed) == len(library)
    assert b"jemalloc" not in changed
    assert changed.endswith(b"\0libm.so.6\0..")


@pytest.mark.parametrize("library", [b"", b"\0libjemalloc.so.2\0" * 2, b"xlibjemalloc.so.2\0"])
def test_an_unknown_library_is_left_alone(library):
    with pytest.raises(ValueError):
        drmaa_library.without_jemalloc(library)


def test_the_named_library_is_the_only_candidate(monkeypatch):
    monkeypatch.setenv("DRMAA_LIBRARY_PATH", "/somewhere/libdrmaa.so")
    assert list(drmaa_library.candidates()) == ["/somewhere/libdrmaa.so"]


def test_the_library_of_sge_root_comes_first(monkeypatch, tmp_path):
    monkeypatch.delenv("DRMAA_LIBRARY_PATH", raising=False)
    library = tmp_path / "lib" / "lx-amd64" / "libdrmaa.so"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setenv("SGE_ROOT", str(tmp_path))
    assert next(drmaa_library.candidates()) == str(library)


def test_a_file_that_is_no_library_is_named(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "drmaa", raising=False)
    wrong = tmp_path / "libdrmaa.so"
    wrong.write_text("not a library")
    monkeypatch.setenv("DRMAA_LIBRARY_PATH", str(wrong))
    with pytest.raises(DRMAANotPresentException, match=str(wrong)):
        drmaa_library.load_drmaa()
    assert str(wrong) in why_not()
