"""The `gridmap` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import cli, conf
from gridmap.configuration.arguments import ARGUMENTS
from tests.configuration.conftest import Files, files, write

__all__ = ["files"]

TEXT = """\
[settings]
NUM_RESUBMITS = 5

[profiles.gpu]
max_workers = 8
add_env = { LANG = "C" }
settings = { CHECK_FREQUENCY = 30 }

[backends.mine]
file = "mine.toml"
"""
NOT_READ = "not read: other users can write it (mode 666); run: chmod go-w"


def write_all(files: Files) -> Path:
    """Writes the user's file, and the description that it names."""
    described = Path(gridmap.__file__).parent / "backends" / "schedulers" / "openpbs.toml"
    write(files.user.parent / "mine.toml", described.read_text())
    return write(files.user, TEXT)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gridmap", *words]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=60)


def test_a_profile_that_says_nothing(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    write(files.user, "[profiles.empty]\n")
    assert cli.main(["config"]) == 0
    assert "Profile empty\n  nothing" in capsys.readouterr().out


# --- the command ----------------------------------------------------------------------------------


def test_help_shows_commands_examples_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    for each in cli.COMMANDS:
        assert each.name in printed and each.help in printed
        assert all(line in printed and what in printed for line, what in each.examples)
    assert "exit status: 0 all went well, 1 something failed, 2 wrong usage" in printed


@pytest.mark.parametrize("each", cli.COMMANDS, ids=lambda each: each.name)
def test_every_subcommand_has_help_and_examples_that_parse(
    each: cli.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([each.name, "--help"])
    assert end.value.code == 0
    assert each.examples[0][0] in capsys.readouterr().out
    for line, _ in each.examples:
        program, *words = line.split()
        assert program == "gridmap"
        parser, chosen = cli._parser(words)
        assert chosen is each
        assert parser.parse_args(words).command == each.name


@pytest.mark.parametrize("words", [["nope"], ["config", "--nope"], ["config", "extra"], ["--nope"]])
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == cli.USAGE
    assert "usage: gridmap" in capsys.readouterr().err


def test_no_words_are_wrong_usage_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == cli.USAGE
    printed = capsys.readouterr()
    assert not printed.out and "examples:" in printed.err


def test_the_module_is_the_command(files: Files) -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"gridmap {gridmap.__version__}\n")
    assert run("nope").returncode == 2


def test_only_the_subcommand_that_is_used_is_loaded() -> None:
    program = "import sys\nfrom gridmap import cli\ntry: cli.main(['--help'])\nexcept SystemExit: "
    program += "print(*[name for name in sys.modules if name.startswith('gridmap.')])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert not set(loaded) & {each.module for each in cli.COMMANDS}
    assert "gridmap.cli" in loaded and "gridmap.conf" not in loaded


def test_a_reader_that_goes_away_is_no_traceback(files: Files) -> None:
    with subprocess.Popen(
        command("config"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == cli.FAILED


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (gridmap.BackendError("no answer"), cli.FAILED, "gridmap config: no answer\n"),
        (PermissionError(13, "Denied", "/x"), cli.FAILED, "[Errno 13] Denied: '/x'\n"),
        (KeyboardInterrupt(), cli.INTERRUPTED, ""),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    said: str,
) -> None:
    from gridmap.commands import config

    def fail(options: object) -> int:
        raise error

    monkeypatch.setattr(config, "main", fail)
    assert cli.main(["config"]) == status
    printed = capsys.readouterr().err
    assert printed.endswith(said) and printed.count("\n") <= 1


# --- gridmap config -------------------------------------------------------------------------------


def config(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[list[str]], str]:
    """Returns the exit status, the words of each line, and what was said on stderr."""
    status = cli.main(["config", *words])
    printed = capsys.readouterr()
    return status, [line.split() for line in printed.out.splitlines()], printed.err


def test_config_shows_values_and_where_they_come_from(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(files)
    monkeypatch.setenv("DEFAULT_QUEUE", "my.q")
    gridmap.GRIDMAP_GRACE = 77
    status, lines, errors = config(capsys)
    assert (status, errors) == (0, "")
    user = str(files.user)
    for expected in (
        ["user", user, "read"],
        ["project", str(files.work / "gridmap.toml"), "not", "there"],
        ["NUM_RESUBMITS", "5", f"{user}:2"],
        ["CHECK_FREQUENCY", "15", "default"],
        ["DEFAULT_QUEUE", '"my.q"', "environment", "variable", "DEFAULT_QUEUE"],
        ["GRIDMAP_GRACE", "77", "gridmap.GRIDMAP_GRACE"],
        ["max_workers", "500", "GRIDMAP_MAX_WORKERS"],
        ["h_rt", "-", "default"],
        ["max_workers", "8", f"{user}:5"],
        ["settings.CHECK_FREQUENCY", "30", f"{user}:7"],
        ["mine", f'"{files.user.parent}/mine.toml"', f"{user}:10"],
    ):
        assert expected in lines
    named = {line[0] for line in lines if line}
    assert {each.name for each in conf.TABLE} | set(ARGUMENTS) <= named


def test_config_with_a_profile(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(files)
    _, lines, _ = config(capsys, "--profile", "gpu")
    of_profile = ["(profile", "gpu)"]
    assert ["CHECK_FREQUENCY", "30", f"{files.user}:7", *of_profile] in lines
    assert ["max_workers", "8", f"{files.user}:5", *of_profile] in lines
    assert ["add_env.LANG", '"C"', f"{files.user}:6", *of_profile] in lines
    status, _, errors = config(capsys, "--profile", "cpu")
    assert status == 1 and "there is no profile 'cpu'" in errors


def test_config_as_json(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(files)
    monkeypatch.setenv("GRIDMAP_PROFILE", "gpu")
    assert cli.main(["config", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["errors"] == [] and told["profile"] == "gpu"
    here = {"file": str(files.user)}
    assert told["settings"]["NUM_RESUBMITS"] == {
        "value": 5, "source": "file", "line": 2, "key": "settings.NUM_RESUBMITS", **here,
        "meaning": "how often a job that started is tried again",
    }  # fmt: skip
    assert told["arguments"]["max_workers"] == {
        "value": 8, "source": "profile", "name": "gpu", "line": 5,
        "key": "profiles.gpu.max_workers", **here,
    }  # fmt: skip
    assert told["settings"]["GRIDMAP_PROFILE"]["name"] == "GRIDMAP_PROFILE"
    assert told["profiles"]["gpu"]["add_env.LANG"]["value"] == "C"
    assert told["backends"]["mine"]["value"] == str(files.user.parent / "mine.toml")
    assert [row["role"] for row in told["files"]] == ["user", "project"]


def test_config_path(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(files)
    write(files.project, "").chmod(0o666)
    monkeypatch.setenv("GRIDMAP_SITE_CONFIG", str(files.site))
    status, lines, errors = config(capsys, "--path")
    assert lines[1:] == [
        ["site", str(files.site), "not", "there"],
        ["user", str(files.user), "read"],
        ["project", str(files.project), *NOT_READ.split(), str(files.project)],
    ]
    assert status == 1  # a file that a variable names
    monkeypatch.delenv("GRIDMAP_SITE_CONFIG")
    assert config(capsys, "--path")[0] == 0
    write(files.user, "[settings\n")
    status, lines, errors = config(capsys, "--path")
    assert status == 1 and f"{files.user}:1 is no TOML" in errors
    monkeypatch.setenv("GRIDMAP_CONFIG", os.devnull)
    status, lines, _ = config(capsys, "--path")
    assert status == 0 and lines[1:] == [["none:", "GRIDMAP_CONFIG", "is", "/dev/null"]]


def test_config_tells_what_is_wrong(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files.user, '[profiles.a]\nh_rt = "soon"\n')
    monkeypatch.setenv("NUM_RESUBMITS", "many")
    status, lines, errors = config(capsys)
    assert status == 1
    assert ["NUM_RESUBMITS", "-", "wrong"] in lines
    assert ["CHECK_FREQUENCY", "15", "default"] in lines
    assert "environment variable NUM_RESUBMITS is 'many', but must be a number" in errors
    assert "gridmap config: profile a: h_rt is 'soon'" in errors
    write(files.user, "[settings]\nX = 1\n")
    status, lines, errors = config(capsys)
    assert status == 1 and f"{files.user}:2: settings.X: there is no such setting" in errors
    assert ["user", str(files.user), "read"] in lines


@pytest.mark.parametrize("words", [[], ["--path"]])
def test_what_is_broken_in_the_files_is_an_exit_status(
    files: Files, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    write_all(files)
    assert config(capsys, *words)[0] == 0
    write(files.user.parent / "mine.toml", "[words]\n")
    status, _, errors = config(capsys, *words)
    assert status == 1 and "gridmap config: backends.mine.file: " in errors
    (files.user.parent / "mine.toml").unlink()
    status, _, errors = config(capsys, *words)
    assert status == 1 and "mine.toml cannot be read: No such file" in errors
    write(files.user, '[profiles.a]\nh_rt = "soon"\n')
    status, _, errors = config(capsys, *words)
    assert status == 1 and "gridmap config: profile a: h_rt is 'soon'" in errors


def test_the_warning_of_a_file_that_is_not_read_is_one_line(files: Files) -> None:
    write_all(files).chmod(0o666)
    done = run("config", "--path")
    assert done.returncode == 0
    assert done.stderr == (f"gridmap: {files.user} is {NOT_READ} {files.user}\n")


def test_the_command_is_declared(root: Path) -> None:
    text = (root / "pyproject.toml").read_text()
    assert '\ngridmap = "gridmap.cli:main"\n' in text
