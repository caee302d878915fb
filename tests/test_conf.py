"""Settings: where a value comes from, what counts as one, and what it costs to ask."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import gridmap
from gridmap import conf


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in conf.TABLE:
        monkeypatch.delenv(setting.name, raising=False)


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> str:
        raise AssertionError("a name server was asked")

    monkeypatch.setattr(socket, "getfqdn", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)


DOCUMENTED = {
    "USE_MEM_FREE": False,
    "DEFAULT_QUEUE": "all.q",
    "DEFAULT_TEMP_DIR": "/scratch/",
    "DEFAULT_PAR_ENV": "smp",
    "CREATE_PLOTS": True,
    "SEND_ERROR_MAIL": True,
    "ERROR_MAIL_SENDER": "error@gridmap.py",
    "MAX_TIME_BETWEEN_HEARTBEATS": 90,
    "IDLE_THRESHOLD": 1.0,
    "MAX_IDLE_HEARTBEATS": 3,
    "NUM_RESUBMITS": 3,
    "CHECK_FREQUENCY": 15,
    "HEARTBEAT_FREQUENCY": 10,
    "GRIDMAP_MAX_WORKERS": 500,
    "GRIDMAP_STARTUP_DEADLINE": 60,
    "GRIDMAP_GRACE": 300,
    "GRIDMAP_START_METHOD": "auto",
    "GRIDMAP_INTERFACE": "all",
    "GRIDMAP_PORTS": "any",
    "GRIDMAP_ANNOUNCE": "own",
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_defaults_are_those_that_users_know(name: str) -> None:
    assert getattr(conf, name) == DOCUMENTED[name]
    assert getattr(gridmap, name) == DOCUMENTED[name]


def test_every_setting_is_a_field_and_has_its_default() -> None:
    fields = conf.Settings._field_defaults
    assert {setting.field for setting in conf.TABLE} == set(fields)
    for setting in conf.TABLE:
        if not callable(setting.default):
            assert fields[setting.field] == setting.default, setting.name


def test_mail_defaults_come_from_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node7.lab.example.org")
    monkeypatch.setenv("USER", "ada")
    assert conf.SMTP_SERVER == "lab.example.org"
    assert conf.ERROR_MAIL_RECIPIENT == "ada@example.org"


def test_a_short_host_name_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(socket, "getfqdn", lambda: "node7.lab.example.org")
    assert conf.SMTP_SERVER == "lab.example.org"


@pytest.mark.usefixtures("no_names")
def test_settings_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    now = conf.settings()
    assert (now.smtp_server, now.error_mail_recipient) == ("", "")


def test_settings_is_frozen_and_reads_the_environment_at_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = conf.settings()
    monkeypatch.setenv("HEARTBEAT_FREQUENCY", "0.5")
    monkeypatch.setenv("NUM_RESUBMITS", "0")
    after = conf.settings()
    assert (before.heartbeat_frequency_s, before.num_resubmits) == (10, 3)
    assert (after.heartbeat_frequency_s, after.num_resubmits) == (0.5, 0)
    with pytest.raises(AttributeError):
        after.num_resubmits = 1  # type: ignore[misc]


def test_the_module_goes_before_the_package_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NUM_RESUBMITS", "4")
    assert (conf.settings().num_resubmits, gridmap.NUM_RESUBMITS) == (4, 4)
    gridmap.NUM_RESUBMITS = 5
    assert (conf.settings().num_resubmits, conf.NUM_RESUBMITS) == (5, 5)
    conf.NUM_RESUBMITS = 6
    assert conf.settings().num_resubmits == 6
    del conf.NUM_RESUBMITS, gridmap.NUM_RESUBMITS
    assert conf.settings().num_resubmits == 4


@pytest.mark.parametrize("word", ["1", "true", "TRUE", "Yes", " on "])
def test_words_for_yes(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("USE_MEM_FREE", word)
    assert conf.USE_MEM_FREE is True


@pytest.mark.parametrize("word", ["0", "false", "False", "no", "OFF"])
def test_words_for_no(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("CREATE_PLOTS", word)
    assert conf.settings().create_plots is False


def test_an_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUM_RESUBMITS", "USE_MEM_FREE", "GRIDMAP_RUN_DIR", "DEFAULT_QUEUE"):
        monkeypatch.setenv(name, "")
    now = conf.settings()
    assert (now.num_resubmits, now.use_mem_free) == (3, False)
    assert now.run_dir.endswith("/gridmap/runs")
    assert now.default_queue == ""  # no queue is a wish, too


BAD = [
    ("GRIDMAP_PORTS", "50100-50000"),
    ("GRIDMAP_PORTS", "http"),
    ("GRIDMAP_ANNOUNCE", "login1:x"),
    ("USE_MEM_FREE", "maybe"),
    ("NUM_RESUBMITS", "-1"),
    ("NUM_RESUBMITS", "1.5"),
    ("NUM_RESUBMITS", "three"),
    ("MAX_IDLE_HEARTBEATS", "0"),
    ("HEARTBEAT_FREQUENCY", "0"),
    ("HEARTBEAT_FREQUENCY", "nan"),
    ("CHECK_FREQUENCY", "inf"),
    ("IDLE_THRESHOLD", "-2"),
    ("GRIDMAP_MAX_WORKERS", "0"),
    ("GRIDMAP_START_METHOD", "spawn"),
    ("ERROR_MAIL_RECIPIENT", "me@here\nBcc: all@there"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"environment variable {name} is .* but must be"):
        conf.settings()
    with pytest.raises(ValueError, match=name):
        getattr(conf, name)


@pytest.mark.parametrize("module", [conf, gridmap])
def test_a_bad_constant_is_named_with_its_module(module: object) -> None:
    module.HEARTBEAT_FREQUENCY = "soon"  # type: ignore[attr-defined]
    expected = f"^{module.__name__}.HEARTBEAT_FREQUENCY is 'soon'"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=expected):
        conf.settings()


def test_run_dir_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert str(tmp_path / ".local/share/gridmap/runs") == conf.GRIDMAP_RUN_DIR
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert conf.settings().run_dir == str(tmp_path / ".local/share/gridmap/runs")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert conf.settings().run_dir == "/data/gridmap/runs"
    monkeypatch.setenv("GRIDMAP_RUN_DIR", "~/runs")
    assert conf.settings().run_dir == str(tmp_path / "runs")


def test_drmaa_present_is_a_bool() -> None:
    assert isinstance(conf.DRMAA_PRESENT, bool)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="NO_SUCH_SETTING"):
        conf.NO_SUCH_SETTING  # noqa: B018
    assert "NUM_RESUBMITS" in dir(conf)


def test_a_misspelt_variable_is_told_once_and_with_what_is_meant(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(conf, "_told", set())
    for name in ("GRIDMAP_RUNDIR", "GRIDMAP_CONFG", "GRIDMAP_OF_OUR_SITE", "GRIDMAP_CONFIG"):
        monkeypatch.setenv(name, "")
    for _ in range(2):
        assert gridmap.grid_map(abs, [-1], local=True) == [1]
    told = [one.getMessage() for one in caplog.records if one.name == "gridmap.conf"]
    assert told == [
        "the environment variable GRIDMAP_CONFG is no setting of GridMap, and changes nothing; "
        "is GRIDMAP_CONFIG meant?",
        "the environment variable GRIDMAP_RUNDIR is no setting of GridMap, and changes nothing; "
        "is GRIDMAP_RUN_DIR meant?",
    ]
