"""The Slurm backend with commands that answer as Slurm does, or as it may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gridmap.backends import bookkeeping
from gridmap.backends.base import SubmitRequest
from gridmap.backends.slurm import SlurmBackend
from gridmap.core.events import NativeState as S
from gridmap.core.spec import Resources
from gridmap.errors import BackendError, Cause

ANSWERS = {
    "scontrol": 'case "$1" in ping) echo "Slurmctld(primary) at here is UP";; '
    '*) echo "MaxArraySize            = 3";; esac',
    "sbatch": "n=$(cat number 2>/dev/null || echo 6); echo $((n + 1)) >number; echo $((n + 1))",
    "squeue": "cat queue 2>/dev/null; true",
    "scancel": "true",
    "sinfo": 'printf "n1\\nn2\\nn3\\n"',
    "sacct": 'echo "Slurm accounting storage is disabled"; exit 1',
}


class Fake:
    """A folder of commands, and what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, script in ANSWERS.items():
            self.answers(name, script)

    def answers(self, name: str, script: str) -> None:
        command = self.folder / name
        note = f'echo "{name} $*" >>"{self.folder}/called"; '
        note += f'test {name} != sbatch || cat >"{self.folder}/script"; '
        command.write_text(f'#!/bin/sh\ncd "{self.folder}"; env >"env.{name}"; {note}\n{script}\n')
        command.chmod(0o755)

    def lists(self, *lines: str) -> None:
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))

    def called(self, name: str) -> list[str]:
        called = (self.folder / "called").read_text().splitlines()
        return [line.partition(" ")[2] for line in called if line.startswith(name + " ")]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(bookkeeping, "GONE_AFTER_S", 0.0)
    return Fake(tmp_path)


def request(count: int = 1, **resources: object) -> SubmitRequest:
    return SubmitRequest(
        "tag", "a name", ("python", "a b"), count, Resources(**resources), "/logs 100%", "/here"
    )  # type: ignore[arg-type]


def test_a_submission_in_parts(fake: Fake) -> None:
    backend = SlurmBackend()
    ids = backend.submit(request(7, hosts=("n2",)))
    assert ids == ["7_0", "7_1", "7_2", "8_0", "8_1", "8_2", "9_0"]
    first, _, last = fake.called("sbatch")
    assert "--array=0-2" in first and "--array=0-0" in last
    assert "--output=/logs 100%%/worker.%A_%a.out" in first and "--job-name=a_name-tag" in first
    script = (fake.folder / "script").read_text()
    assert script == "#!/bin/sh\n#SBATCH --exclude=n1,n3\nexec python 'a b'\n"


def test_without_arrays_each_worker_is_a_job(fake: Fake) -> None:
    fake.answers("scontrol", 'echo "MaxArraySize = 0"')
    backend = SlurmBackend()
    assert backend.submit(request(2)) == ["7", "8"]
    assert all("--array" not in words and "%j.out" in words for words in fake.called("sbatch"))
    fake.lists("7|RUNNING|None|0|n1|0|", "8|PENDING|Priority|0||0|")
    states = {one: status.state for one, status in backend.status(["7", "8"]).items()}
    assert states == {"7": S.RUNNING, "8": S.PENDING}


def test_what_goes_along_and_what_does_not(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET", "SQUEUE_STATES", "SBATCH_WAIT", "SBATCH_ACCOUNT", "SLURM_CONF"):
        monkeypatch.setenv(name, "mark")
    backend = SlurmBackend()
    backend.status(backend.submit(request()))
    for command, names in (("sbatch", {"SBATCH_ACCOUNT", "SLURM_CONF"}), ("squeue", None)):
        told = (fake.folder / f"env.{command}").read_text().splitlines()
        seen = {line.partition("=")[0] for line in told if line.endswith("=mark")}
        assert seen == names if names else "SQUEUE_STATES" not in seen


def test_all_or_none(fake: Fake) -> None:
    fake.answers(
        "sbatch", "test -e once && { echo 'Socket timed out' >&2; exit 1; }; touch once; echo 7"
    )
    backend = SlurmBackend()
    with pytest.raises(BackendError, match="Socket timed out") as caught:
        backend.submit(request(5))
    assert caught.value.transient
    assert fake.called("scancel") == ["7_[0-2]"]
    fake.lists("7_0|a_name-tag", "8_0|a_name-tag", "9_0|other-tug")
    backend.close()
    assert fake.called("scancel")[1:] == ["7_[0] 8_[0]"], "whatever came of it"


def test_who_will_never_start_is_deleted_in_one_go(fake: Fake) -> None:
    backend = SlurmBackend()
    ids = backend.submit(request(3))
    fake.lists(*(f"{one}|PENDING|BadConstraints|0||0|" for one in ids))
    fake.answers("scancel", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert {status.state for status in backend.status(ids).values()} == {S.FAILED}
    fake.answers("scancel", "true")
    answer = backend.status(ids)
    assert all(one.text.startswith("will never start") for one in answer.values())
    assert fake.called("scancel") == ["7_[0-2]"] * 2, "the first had failed"
    backend.status(ids)
    assert len(fake.called("squeue")) == 2, "what has ended is not asked for"


def test_what_is_gone(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SlurmBackend()
    ids = backend.submit(request(3))
    fake.lists(
        "7_0|PENDING|Resources|0||0|", "7_1|RUNNING|None|0|n1|0|", "7_2|PENDING|Resources|0||0|"
    )
    backend.status(ids)
    fake.lists()
    assert backend.status(ids[:2])["7_0"].state is S.DELETED
    assert backend.status(ids[:2])["7_1"].state is S.FAILED
    monkeypatch.setattr(bookkeeping, "TRUSTED_S", 0.0)  # as if it had been long ago
    assert backend.status(ids)["7_2"].state is S.FAILED


def test_a_controller_that_does_not_answer(fake: Fake) -> None:
    backend = SlurmBackend()
    ids = backend.submit(request())
    fake.answers("squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    with pytest.raises(BackendError, match="slurm_load_jobs error") as caught:
        backend.status(ids)
    assert caught.value.transient


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'sbatch: error: invalid partition specified: x' >&2; exit 1", "^sbatch: invalid"),
        ("echo 'Job violates policy (job submit limit)' >&2; exit 1", "a lower max_workers"),
        ("echo hello", "'hello', and no job id"),
    ],
)
def test_refusals(fake: Fake, script: str, words: str) -> None:
    fake.answers("sbatch", script)
    with pytest.raises(BackendError, match=words) as caught:
        SlurmBackend().submit(request())
    assert not caught.value.transient


def test_who_was_sent_back_to_the_queue_is_deleted_and_not_blamed(fake: Fake) -> None:
    backend = SlurmBackend()
    ids = backend.submit(request(2))
    fake.lists("7_0|PENDING|BeginTime|0||1|", "7_1|RUNNING|None|0|n1|1|")
    seen = backend.status(ids)
    assert (seen["7_0"].state, seen["7_0"].cause) == (S.FAILED, Cause.PREEMPTED)
    assert seen["7_0"].text.startswith("was sent back to the queue: squeue says PENDING")
    assert seen["7_1"].state is S.RUNNING, "it has begun again before anybody looked"
    assert fake.called("scancel") == ["7_[0]"]


def test_workers_that_ask_for_no_time_get_that_of_their_partition(fake: Fake) -> None:
    fake.answers("sinfo", 'printf "main*|1:00:00|infinite\\nlong|n/a|2-00:00:00\\n"')
    backend = SlurmBackend()
    assert backend.walltime_s(Resources(queue="all.q")) == 3600
    assert backend.walltime_s(Resources(queue="long")) == 172800
    assert backend.walltime_s(Resources(native=("-t 5",))) == 0
    assert backend.walltime_s(Resources(extra=("--time=5",))) == 0
    fake.answers("sinfo", "exit 1")
    assert SlurmBackend().walltime_s(Resources()) == 0
