"""A described scheduler with commands that answer as a scheduler may."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gridmap.backends import bookkeeping
from gridmap.backends.base import SubmitRequest
from gridmap.backends.command import DescribedBackend
from gridmap.backends.registry import open_backend
from gridmap.core.events import NativeState as S
from gridmap.core.spec import Resources
from gridmap.errors import BackendError

DESCRIPTION = r"""
name = "Ours"
native_id = "${OURS_JOB}.${OURS_TASK}"
environment = ["OURS_*"]
gone_after_s = 0.0
options = ["-q {queue}", "-c {slots}"]

[submit]
command = ["jsub", "{array}", "-n", "{name}", "-o", "{out}", "{options}"]
array = ["-t", "{first}-{last}"]
first = 1
most = 3
answer = '^job (?P<job>\d+)$'
worker = "{job}.{element}"
log_id = "%j.%t"

[status]
command = ["jstat", "{jobs}"]
patterns = ['^(?P<job>\d+)\.(?P<element>\d+) (?P<state>\w+) (?P<exit_status>\S+) (?P<reason>.*)$']
states = { Q = "pending", H = "held", R = "running", E = "ended" }

[history]
command = ["jpast", "{ids:,}"]
patterns = ['^(?P<id>\S+) (?P<state>\w+) (?P<exit_status>\S+)$']

[find]
command = ["jstat", "-u", "{user}", "--names"]
patterns = ['^(?P<job>\d+)\.(?P<element>\d+) (?P<state>\w+) (?P<name>\S+)$']

[cancel]
command = ["jdel", "{ids}"]

[diagnose]
command = ["jtell", "{id}"]

[marks]
never = "too much"

[errors]
transient = "try later"
transient_exits = [75]
unknown = "no such job"
"""

ANSWERS = {
    "jsub": "n=$(cat number 2>/dev/null || echo 6); echo $((n + 1)) >number; echo job $((n + 1))",
    "jstat": "cat queue 2>/dev/null; true",
    "jpast": "cat past 2>/dev/null; true",
    "jdel": "true",
    "jtell": "echo it waits",
}


class Fake:
    """A folder of commands, and what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, script in ANSWERS.items():
            self.answers(name, script)
        self.description = folder / "ours.toml"
        self.description.write_text(DESCRIPTION)

    def answers(self, name: str, script: str) -> None:
        command = self.folder / name
        note = f'echo "{name} $*" >>"{self.folder}/called"; '
        note += f'test {name} != jsub || cat >"{self.folder}/script"; '
        command.write_text(f'#!/bin/sh\ncd "{self.folder}"; env >"env.{name}"; {note}\n{script}\n')
        command.chmod(0o755)

    def lists(self, *lines: str) -> None:
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))

    def called(self, name: str) -> list[str]:
        called = (self.folder / "called").read_text().splitlines()
        return [line.partition(" ")[2] for line in called if line.startswith(name + " ")]

    def with_(self, old: str, new: str) -> DescribedBackend:
        """Returns the backend of another description."""
        assert old in DESCRIPTION
        self.description.write_text(DESCRIPTION.replace(old, new))
        return DescribedBackend(self.description)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    return Fake(tmp_path)


def request(count: int = 1, folder: Path = Path("/here"), **resources: object) -> SubmitRequest:
    return SubmitRequest(
        "tag", "a name", ("python", "a b"), count, Resources(**resources), "/my logs", str(folder)
    )  # type: ignore[arg-type]


def test_a_submission_in_parts(fake: Fake) -> None:
    backend = open_backend(str(fake.description))
    ids = backend.submit(request(7, queue="long", num_slots=2))
    assert ids == ["7.1", "7.2", "7.3", "8.1", "8.2", "8.3", "9.1"]
    first, _, last = fake.called("jsub")
    assert first == "-t 1-3 -n a_name-tag -o /my logs/worker.%j.%t.out -q long -c 2"
    assert last.startswith("-t 1-1 ")
    assert (fake.folder / "script").read_text() == (
        "#!/bin/sh\nexec /usr/bin/env \"GRIDMAP_NATIVE_ID=${OURS_JOB}.${OURS_TASK}\" python 'a b'\n"
    )


def test_only_what_is_needed_goes_along(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET", "OURS_CONF", "LC_ALL"):
        monkeypatch.setenv(name, "C")
    DescribedBackend(fake.description).submit(request())
    told = (fake.folder / "env.jsub").read_text().splitlines()
    assert {line for line in told if line.endswith("=C")} == {"OURS_CONF=C", "LC_ALL=C"}


def test_a_small_array_may_have_to_be_a_job(fake: Fake) -> None:
    backend = fake.with_("most = 3", 'most = 3\nleast = 2\nsingle = "{job}"')
    assert backend.submit(request(4)) == ["7.1", "7.2", "7.3", "8"]
    assert fake.called("jsub")[1].startswith("-n a_name-tag")


def test_one_job_a_worker(fake: Fake) -> None:
    backend = fake.with_('worker = "{job}.{element}"', 'worker = "{job}"')
    fake.answers("jsub", "printf 'job 11\\njob 12\\njob 15\\n'")
    assert backend.submit(request(3)) == ["11", "12", "15"]
    with pytest.raises(BackendError, match="jsub made 3 jobs, not 1"):
        backend.submit(request(1))


def test_the_script_as_a_file(fake: Fake) -> None:
    backend = fake.with_('"{options}"]', '"{options}", "{script}"]')
    backend.submit(request(4, fake.folder))
    (path,) = {line.split()[-1] for line in fake.called("jsub")}
    assert Path(path).read_text().startswith("#!/bin/sh\nexec ")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert (fake.folder / "script").read_text() == ""


def test_the_command_as_a_word_and_a_description_on_stdin(fake: Fake) -> None:
    backend = fake.with_(
        '"{options}"]', '"{options}", "{command}"]\nstdin = "{options}\\nrun {script}"'
    )
    backend.submit(request(1, fake.folder, queue="long"))
    assert fake.called("jsub")[0].endswith("${OURS_TASK}\" python 'a b'")
    lines = (fake.folder / "script").read_text().splitlines()
    assert lines[:2] == ["-q", "long"] and lines[2].startswith(f"run {fake.folder}/worker-")


def test_status(fake: Fake) -> None:
    backend = DescribedBackend(fake.description)
    ids = backend.submit(request(3))
    fake.lists("7.1 R - ", "7.2 Q - no room", "7.3 H - ", "noise", "9.1 R - ")
    seen = backend.status(ids)
    assert [seen[x].state for x in ids] == [S.RUNNING, S.PENDING, S.HELD]
    assert seen["7.2"].text == "jstat says Q, reason no room"
    fake.lists("7.1 E 0 ", "7.2 E 3 ")
    (fake.folder / "past").write_text("7.3 E 1\n")
    seen = backend.status(ids)
    assert [seen[x].state for x in ids] == [S.DONE, S.FAILED, S.FAILED]
    assert [seen[x].exit_status for x in ids] == [0, 3, 1]
    assert fake.called("jpast") == ["7.3"]
    backend.status(ids)
    assert len(fake.called("jstat")) == 2, "what has ended is not asked for"


def test_what_is_gone(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = DescribedBackend(fake.description)
    ids = backend.submit(request(2))
    fake.lists("7.1 Q - ", "7.2 R - ")
    backend.status(ids)
    fake.lists()
    fake.answers("jpast", "exit 1")
    seen = backend.status(ids)
    assert [seen[x].state for x in ids] == [S.DELETED, S.FAILED]
    assert seen["7.2"].text == "Ours no longer knows it"


def test_what_is_missing_is_unknown_for_a_while(fake: Fake) -> None:
    backend = fake.with_("gone_after_s = 0.0", "gone_after_s = 60")
    ids = backend.submit(request(2))
    fake.lists("7.1 R - ")
    assert backend.status(ids).keys() == {"7.1"}


def test_an_ending_without_exit_status(fake: Fake) -> None:
    backend = DescribedBackend(fake.description)
    ids = backend.submit(request(2))
    fake.lists("7.1 Q - ", "7.2 R - ")
    backend.status(ids)
    fake.lists("7.1 E - ", "7.2 E - ")
    assert [one.state for one in backend.status(ids).values()] == [S.DELETED, S.FAILED]


def test_who_will_never_start_is_deleted(fake: Fake) -> None:
    backend = DescribedBackend(fake.description)
    ids = backend.submit(request(2))
    fake.lists("7.1 Q - asks for too much", "7.2 R - ")
    seen = backend.status(ids)
    assert seen["7.1"].text == "will never start: jstat says Q, reason asks for too much"
    assert fake.called("jdel") == ["7.1"]


def test_a_state_that_nobody_knows_is_said_once(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    backend = DescribedBackend(fake.description)
    ids = backend.submit(request(2))
    fake.lists("7.1 Z - ", "7.2 Z - ")
    for _ in range(2):
        assert {one.state for one in backend.status(ids).values()} == {S.UNKNOWN}
    assert caplog.text.count("jstat says Z, which tells nothing") == 1


@pytest.mark.parametrize(
    ("script", "words", "transient"),
    [
        ("echo 'jsub: error: no queue long' >&2; exit 1", "^jsub: no queue long$", False),
        ("echo 'busy, try later'; exit 1", "try later", True),
        ("exit 75", "it said nothing", True),
        ("echo hello", "'hello', and no job id", False),
    ],
)
def test_refusals(fake: Fake, script: str, words: str, transient: bool) -> None:
    fake.answers("jsub", script)
    with pytest.raises(BackendError, match=words) as caught:
        DescribedBackend(fake.description).submit(request())
    assert caught.value.transient is transient


def test_a_submission_that_may_have_been_heard(fake: Fake) -> None:
    fake.answers("jsub", "test -e once && { echo try later; exit 1; }; touch once; echo job 7")
    backend = DescribedBackend(fake.description)
    with pytest.raises(BackendError, match="try later"):
        backend.submit(request(5))
    assert fake.called("jdel") == ["7.1 7.2 7.3"]
    fake.lists("8.1 Q a_name-tag", "8.2 R a_name-tag", "8.3 E a_name-tag", "9.1 Q other-tug")
    backend.close()
    assert fake.called("jdel")[1:] == ["8.1 8.2"], "whatever came of it"
    assert fake.called("jstat")[0].endswith(" --names")


def test_no_way_to_find_workers(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    at = DESCRIPTION.index("[find]")
    backend = fake.with_(DESCRIPTION[at : DESCRIPTION.index("[cancel]")], "")
    assert backend.find("tag") == []
    assert "ours.toml has no [find]" in caplog.text


def test_a_scheduler_that_does_not_answer(fake: Fake) -> None:
    backend = DescribedBackend(fake.description)
    ids = backend.submit(request())
    fake.answers("jstat", "echo 'jstat: cannot reach the server' >&2; exit 2")
    with pytest.raises(BackendError, match="jstat: cannot reach the server") as caught:
        backend.status(ids)
    assert caught.value.transient
    fake.answers("jstat", "echo 'no such job'; exit 2")
    assert backend.status(ids)[ids[0]].state is S.FAILED, "that is an answer"


def test_a_command_that_takes_too_long(fake: Fake) -> None:
    backend = fake.with_("gone_after_s = 0.0", "deadline_s = 0.2")
    fake.answers("jsub", "exec sleep 5")
    with pytest.raises(BackendError, match="no answer within 0.2 s") as caught:
        backend.submit(request())
    assert caught.value.transient


def test_canceling(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridmap.backends.command.MOST_IDS", 2)
    backend = DescribedBackend(fake.description)
    ids = backend.submit(request(3))
    fake.answers("jdel", "echo no such job >&2; exit 1")
    backend.cancel(ids)
    assert fake.called("jdel") == ["7.1 7.2", "7.3"]
    fake.answers("jdel", "echo not yours >&2; exit 1")
    with pytest.raises(BackendError, match="jdel: not yours") as caught:
        backend.cancel(ids)
    assert not caught.value.transient
    fake.lists("7.1 E 1 ")
    assert backend.status(ids[:1])["7.1"].state is S.DELETED, "that was our doing"


def test_diagnosis(fake: Fake) -> None:
    backend = DescribedBackend(fake.description)
    ids = backend.submit(request())
    fake.lists("7.1 Q - no room")
    told = backend.diagnose(ids[0])
    assert "Ours says: pending, jstat says Q, reason no room" in told
    assert "jtell 7.1:\nit waits" in told and "/my logs/worker.7.1.out: No such file" in told


def test_what_the_scheduler_has_no_words_for(fake: Fake) -> None:
    with pytest.raises(BackendError, match="Ours cannot be asked for gpus=2"):
        DescribedBackend(fake.description).submit(request(gpu=2))


def test_logs_where_they_cannot_be(fake: Fake) -> None:
    asked = SubmitRequest("tag", "n", ("true",), 1, Resources(), "/100%", "/here")
    with pytest.raises(BackendError, match="Ours cannot write to '/100%': '%' in it"):
        DescribedBackend(fake.description).submit(asked)


def test_commands_that_are_not_here(fake: Fake) -> None:
    (fake.folder / "jsub").unlink()
    with pytest.raises(BackendError, match="Ours: no jsub on PATH"):
        DescribedBackend(fake.description)


def test_the_accounting_is_not_asked_for_ever(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bookkeeping, "MOST_HISTORY_S", 0.0)
    backend = DescribedBackend(fake.description)
    assert backend.status(backend.submit(request()))["7.1"].state is S.FAILED
    assert fake.called("jpast") == []
