"""The user's gridmap.toml, written and edited."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridmap import _toml
from gridmap.doctor.screen import Screen
from gridmap.doctor.write_config import as_toml, edited, literal, user_file, write_needed
from gridmap.errors import ConfigError
from tests.doctor.visits import exam

HERE = Path("gridmap.toml")
NEEDED = {
    ("settings", "GRIDMAP_MAX_WORKERS"): 50,
    ("settings", "SEND_ERROR_MAIL"): False,
    ("profiles", "doctor", "backend"): "slurm",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GRIDMAP_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "gridmap" / "gridmap.toml"


def written(needed: dict[tuple[str, ...], object]) -> tuple[str, str]:
    """Returns the path that was written, and what was shown."""
    visit = exam()
    visit.needed = dict(needed)
    stream = io.StringIO()
    return write_needed(visit, Screen(stream, {})), stream.getvalue()


def test_a_new_file(place: Path) -> None:
    path, shown = written(NEEDED)
    assert path == str(place) and f"written to {place}\n" in shown
    assert "+GRIDMAP_MAX_WORKERS = 50" in shown
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert _toml.load(place) == {
        "settings": {"GRIDMAP_MAX_WORKERS": 50, "SEND_ERROR_MAIL": False},
        "profiles": {"doctor": {"backend": "slurm"}},
    }


OLD = """# mine
[settings]
NUM_RESUBMITS = 5  # often
GRIDMAP_MAX_WORKERS = 500

[profiles.gpu]
backend = "slurm"
"""


def test_an_old_file_keeps_its_order_and_its_comments_and_is_kept(place: Path) -> None:
    place.parent.mkdir()
    place.write_text(OLD)
    place.chmod(0o640)
    _, shown = written({("settings", "GRIDMAP_MAX_WORKERS"): 50, ("settings", "X"): "a"})
    changed = OLD.replace("= 500\n", '= 50\nX = "a"\n')
    assert place.read_text() == changed
    assert place.with_name("gridmap.toml.bak").read_text() == OLD
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert "-GRIDMAP_MAX_WORKERS = 500" in shown and "+GRIDMAP_MAX_WORKERS = 50" in shown
    assert "gridmap.toml.bak" in shown


def test_what_is_said_already_is_not_written_again(place: Path) -> None:
    place.parent.mkdir()
    place.write_text(OLD)
    path, shown = written({("settings", "NUM_RESUBMITS"): 5})
    assert path == "" and "already" in shown and place.read_text() == OLD
    assert not place.with_name("gridmap.toml.bak").exists()


def test_nothing_is_needed(place: Path) -> None:
    assert written({})[0] == "" and not place.parent.exists()


@pytest.mark.parametrize(
    "text", ["settings = {NUM_RESUBMITS = 5}\n", 'settings.X = 1\n[profiles]\na = "b"\n', "[broken"]
)
def test_a_file_that_cannot_be_edited_stays_and_the_lines_are_shown(place: Path, text: str) -> None:
    place.parent.mkdir()
    place.write_text(text)
    path, shown = written({("settings", "GRIDMAP_MAX_WORKERS"): 50})
    assert path == "" and "was not written" in shown
    assert "    GRIDMAP_MAX_WORKERS = 50" in shown and place.read_text() == text


def test_a_value_of_several_lines_is_not_torn(place: Path) -> None:
    with pytest.raises(ConfigError, match="by hand"):
        edited("[settings]\nX = [\n  1,\n]\n", {("settings", "X"): 2}, HERE)


def test_a_link_stays_one(place: Path, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles.toml"
    kept.write_text(OLD)
    place.parent.mkdir()
    place.symlink_to(kept)
    written({("settings", "X"): 1})
    assert place.is_symlink() and "X = 1" in kept.read_text()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(place: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    path, shown = written(NEEDED)
    tmp_path.chmod(0o700)
    assert path == "" and "was not written" in shown


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIDMAP_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/ada")
    assert user_file() == Path("/home/ada/.config/gridmap/gridmap.toml")


def test_where_no_file_is_read_none_is_written(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDMAP_CONFIG", os.devnull)
    path, shown = written(NEEDED)
    assert path == "" and "GRIDMAP_CONFIG" in shown and not place.exists()


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
)


@given(VALUES)
def test_every_value_is_read_again_as_it_was(value: object) -> None:
    assert _toml.parse(f"x = {literal(value)}", HERE) == {"x": value}


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES, min_size=1))
def test_whatever_is_needed_can_be_added(values: dict[str, object]) -> None:
    needed = {("settings", key): value for key, value in values.items()}
    assert _toml.parse(as_toml(needed), HERE) == {"settings": values}
    after = edited(OLD, needed, HERE)
    assert _toml.parse(after, HERE)["settings"].items() >= values.items()
