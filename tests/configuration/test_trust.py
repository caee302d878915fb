"""Files that somebody else could have written are not read, and that is said."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import gridmap
from gridmap import conf, trust
from gridmap.backends import description
from gridmap.backends.registry import description_of, open_backend, words_for
from gridmap.call import Call
from gridmap.configuration.reading import read
from gridmap.errors import ConfigError
from gridmap.profiles import with_profile
from tests.configuration.conftest import Files, write

SOMEBODY = 54321
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
FIVE = "[settings]\nNUM_RESUBMITS = 5\n"


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o644, 0o755])
def test_files_that_only_their_owner_can_write_are_read(files: Files, mode: int) -> None:
    write(files.user, FIVE).chmod(mode)
    assert conf.NUM_RESUBMITS == 5


@pytest.mark.parametrize("mode", [0o646, 0o666, 0o602])
def test_a_file_that_everybody_can_write_is_not_read(
    files: Files, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    write(files.user, FIVE).chmod(mode)
    assert [conf.NUM_RESUBMITS for _ in range(3)] == [3, 3, 3]
    (record,) = caplog.records  # it is said once
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"{files.user} is not read: other users can write it (mode {mode:o}); "
        f"run: chmod go-w {files.user}"
    )
    files.user.chmod(0o644)
    assert conf.NUM_RESUBMITS == 5


@root_only
def test_a_file_of_somebody_else_is_not_read(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    write(files.project, FIVE)
    os.chown(files.project, SOMEBODY, SOMEBODY)
    assert conf.NUM_RESUBMITS == 3
    expected = f"it belongs to user {SOMEBODY}, and only files of root are read"
    assert expected in caplog.text


def test_a_file_of_root_is_read_by_others(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.stat("/etc/passwd")
    assert status.st_uid == 0
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert trust.why_not("/etc/passwd", status) == ""


def test_another_user_reads_no_file_of_ours(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(files.user, FIVE)
    if os.geteuid() == 0:
        os.chown(path, SOMEBODY + 1, -1)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert f"and only files of user {SOMEBODY} and of root" in trust.why_not(
        str(path), os.stat(path)
    )


@root_only
def test_a_link_of_somebody_else_is_not_followed(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.project.symlink_to(write(files.named, FIVE))
    assert conf.NUM_RESUBMITS == 5
    os.chown(files.project, SOMEBODY, SOMEBODY, follow_symlinks=False)
    os.utime(files.named)  # a file that is as it was is not judged again
    assert conf.NUM_RESUBMITS == 3
    assert "it is a link that belongs to user" in caplog.text


def group_of_user() -> grp.struct_group:
    """Returns a private group, made up: whether this machine has such is not for a test to say."""
    user = pwd.getpwuid(os.geteuid())
    return grp.struct_group((user.pw_name, "x", user.pw_gid, []))


@pytest.mark.parametrize(
    ("change", "read"),
    [({}, True), ({"gr_mem": ["eve"]}, False), ({"gr_name": "lab"}, False), ({"gr_gid": 1}, False)],
)
def test_a_group_may_write_when_it_is_the_users_own(
    files: Files, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], read: bool
) -> None:
    path = write(files.user, FIVE)
    path.chmod(0o664)
    own = group_of_user()
    names = ("gr_name", "gr_passwd", "gr_gid", "gr_mem")
    group = grp.struct_group([change.get(name, getattr(own, name)) for name in names])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group)
    assert (5 if read else 3) == conf.NUM_RESUBMITS


def test_an_access_control_list_can_let_others_write(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(files.user, FIVE)
    path.chmod(0o664)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group_of_user())
    # version 2; owner, user 1, group, mask and others, each: tag, permissions, id
    entries = ((1, 6, -1), (2, 6, 1), (4, 4, -1), (16, 6, -1), (32, 4, -1))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    assert "other users can write it" in trust.why_not(str(path), os.stat(path))


def test_what_is_no_plain_file_is_not_opened(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(files.project)  # to read it would take for ever
    files.user.mkdir()
    assert conf.NUM_RESUBMITS == 3
    assert f"{files.project} is not read: it is no plain file" in caplog.text
    assert f"{files.user} is not read: it is no plain file" in caplog.text


@pytest.fixture
def shared(files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yields a folder in which everybody can make files, as /tmp; the working directory is in it.

    pytest's own folders can be entered by this user only.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o1777)
        (folder / "work").mkdir()
        monkeypatch.chdir(folder / "work")
        yield folder
        os.chdir("/")


@root_only
def test_a_file_that_somebody_else_closed_to_us_stops_nothing(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(shared / "gridmap.toml", FIVE)
    path.chmod(0o600)
    os.chown(path, SOMEBODY, SOMEBODY)
    os.seteuid(SOMEBODY + 1)
    try:
        with pytest.raises(PermissionError):
            path.read_text()
        assert [conf.NUM_RESUBMITS for _ in range(3)] == [3, 3, 3]
    finally:
        os.seteuid(0)
    (record,) = caplog.records
    assert f"{path} is not read: it belongs to user {SOMEBODY}" in record.getMessage()


@pytest.mark.parametrize("mine", [True, pytest.param(False, marks=root_only)])
def test_a_socket_stops_nothing(shared: Path, caplog: pytest.LogCaptureFixture, mine: bool) -> None:
    path = shared / "gridmap.toml"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        if not mine:
            os.chown(path, SOMEBODY, SOMEBODY)
        assert conf.NUM_RESUBMITS == 3
    assert f"{path} is not read: it is no plain file" in caplog.text


def test_what_is_exchanged_between_look_and_opening_stops_nothing(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(shared / "gridmap.toml", FIVE)
    status = os.stat(path)
    path.unlink()
    assert read(str(path), status) == "it was taken away just now"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert read(str(path), status) == "it is no plain file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_file_of_ours_that_cannot_be_read(files: Files) -> None:
    write(files.user, FIVE).chmod(0o200)
    with pytest.raises(ConfigError, match=f"{files.user} cannot be read: Permission denied"):
        conf.settings()


def test_a_description_that_others_can_write_is_not_used(files: Files) -> None:
    names = ("good", "bad", "missing")
    text = "".join(f'[backends.{name}]\nfile = "{name}.toml"\n' for name in names)
    write(files.user, text + '[profiles.p]\nbackend = "bad.toml"\n')
    folder = files.user.parent
    shipped = Path(gridmap.__file__).parent / "backends/schedulers/lsf.toml"
    write(folder / "good.toml", shipped.read_text())
    write(folder / "bad.toml", shipped.read_text()).chmod(0o666)
    assert conf.backend_files() == {
        name: str(Path(folder, f"{name}.toml")) for name in ("good", "missing")
    }
    assert Call.checked(backend="good").options.backend == str(folder / "good.toml")
    said = f"{files.user}:4: backends.bad.file: {folder}/bad.toml is not used: other users can"
    with pytest.raises(ConfigError, match=said):
        Call.checked(backend="bad")
    with pytest.raises(ConfigError, match=f"{files.user}:8: profiles.p.backend: .* is not used"):
        gridmap.grid_map(abs, [1], profile="p")
    assert gridmap.grid_map(abs, [-1], profile="p", local=True) == [1]
    with pytest.raises(ConfigError, match="missing.toml cannot be read"):
        Call.checked(backend="missing")


def test_a_description_is_judged_whenever_it_is_read(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = files.user.parent / "ours.toml"
    write(path, (description_of("lsf") or Path()).read_text())
    assert Call.checked(backend=str(path)).options.backend == str(path)
    assert words_for(str(path)) is not None
    path.chmod(0o666)  # as somebody could do who has put a file of his there
    for use in (open_backend, words_for, description.read):
        with pytest.raises(ConfigError, match=f"{path} is not used: other users can write it"):
            use(str(path))
    # those that come with GridMap are judged as little as its code
    monkeypatch.setattr(description, "SHIPPED", path.parent)
    assert description.read(path).words.name
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    for other in (pipe, tmp_path):
        with pytest.raises(ConfigError, match=f"{other} is not used: it is no plain file"):
            description.read(other)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
def commands(files: Files, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns a configuration that names commands, in which each is used for the first time."""
    monkeypatch.setattr(conf, "_told", set())
    text = (description_of("slurm_commands") or Path()).read_text()
    for folder in (files.user.parent, files.project.parent):
        write(folder / "it.toml", text)
    return (
        '[backends.mine]\nfile = "it.toml"\n'
        '[profiles.a]\nbackend = "it.toml"\nlocal = false\n'
        '[profiles.b]\ninterpreting_shell = "/bin/odd"\n'
        '[profiles.c]\nbackend = "local"\nqueue = "q"\n'
    )


@with_profile()
def door(backend: str = "auto", profile: str | None = None) -> str:
    return Call.checked(backend=backend, profile=profile).options.backend


def test_a_command_that_a_found_file_names_is_told_once(
    files: Files, commands: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(files.project, commands)
    for _ in range(2):
        assert door(profile="c") == "local"
        assert gridmap.Job(abs, [1], profile="a").interpreting_shell is None
    assert warnings_of(caplog) == []  # no command was used
    said = "found from the working directory, says by"
    for _ in range(2):
        assert door("mine") == str(path.parent / "it.toml")
    expected = [f"{path}:2, {said} backends.mine.file what commands are run: {path.parent}/it.toml"]
    assert warnings_of(caplog) == expected
    for _ in range(2):
        assert gridmap.Job(abs, [1], profile="b").interpreting_shell == "/bin/odd"
    expected.append(
        f"{path}:7, {said} profiles.b.interpreting_shell what commands are run: /bin/odd"
    )
    assert warnings_of(caplog) == expected
    conf._told.clear()
    for _ in range(2):
        assert door(profile="a") == str(path.parent / "it.toml")
    expected.append(
        f"{path}:4, {said} profiles.a.backend what commands are run: {path.parent}/it.toml"
    )
    assert warnings_of(caplog) == expected


@pytest.mark.parametrize("role", ["user", "both", "named"])
def test_commands_of_a_file_that_somebody_named_are_not_told(
    files: Files, commands: str, caplog: pytest.LogCaptureFixture, role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if role == "named":
        monkeypatch.setenv("GRIDMAP_CONFIG", str(write(files.project, commands)))
    else:
        write(files.user, commands)
        monkeypatch.chdir(files.user.parent if role == "both" else files.work)
    door("mine")
    door(profile="a")
    gridmap.Job(abs, [1], profile="b")
    assert warnings_of(caplog) == []


def test_a_call_names_a_description_of_the_configuration(files: Files) -> None:
    write(files.user, '[backends.ours]\nfile = "ours.toml"\n')
    path = files.user.parent / "ours.toml"
    write(path, (description_of("slurm_commands") or Path()).read_text())
    assert Call.checked(backend="ours").options.backend == str(path)
    write(path, 'name = "Ours"\n')
    with pytest.raises(ConfigError, match=f"{path}: options is missing"):
        Call.checked(backend="ours")
    with pytest.raises(ValueError, match="'yours'; it must be one of auto, .*openpbs, ours, slurm"):
        Call.checked(backend="yours")


LOGIN = '[settings]\nSMTP_SERVER = "mail.example.org"\nSMTP_USER = "ada"\n'


@pytest.mark.parametrize(
    "line",
    [
        'SMTP_SERVER = "evil.example.com"',
        'SMTP_PASSWORD_FILE = "~/.ssh/id_ed25519"',
        'SMTP_CA_FILE = "mine.pem"',
    ],
)
def test_a_file_that_was_only_found_does_not_send_a_password_anywhere(
    files: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    write(files.user, LOGIN + 'SMTP_PASSWORD_FILE = "password"\n')
    settings = conf.settings()
    assert settings.smtp_user == "ada"
    assert settings.smtp_password_file == str(files.user.parent / "password")
    write(files.project, f"[settings]\n{line}\n")
    for _ in range(3):
        assert (conf.settings().smtp_user, conf.settings().smtp_password_file) == ("none", "none")
    (record,) = caplog.records
    name = line.partition(" ")[0]
    assert str(files.project) in record.getMessage() and name in record.getMessage()
    monkeypatch.setenv("GRIDMAP_CONFIG", str(files.project))  # somebody has named it
    assert conf.settings().smtp_user == "ada"


def test_a_password_is_no_setting(files: Files) -> None:
    write(files.user, '[settings]\nSMTP_PASSWORD = "correct horse"\n')
    with pytest.raises(ConfigError, match="did you mean SMTP_PASSWORD_FILE") as caught:
        conf.settings()
    assert "horse" not in str(caught.value)
