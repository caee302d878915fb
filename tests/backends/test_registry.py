"""Backends are found by name."""

from __future__ import annotations

import pytest

from gridmap.backends.registry import backend_names, open_backend


def test_an_unknown_name_tells_the_known_ones():
    with pytest.raises(ValueError, match="no backend is called 'pbs'; there are: .*drmaa"):
        open_backend("pbs")


@pytest.fixture
def added_by_others(monkeypatch, tmp_path):
    (tmp_path / "others.py").write_text("def make(**settings):\n    return settings\n")
    information = tmp_path / "others-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[gridmap.backends]\nothers = others:make\ndrmaa = others:make\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_others_add_one_by_an_entry_point(added_by_others):
    assert "others" in backend_names()
    assert open_backend("others", colour="red") == {"colour": "red"}


def test_an_own_name_is_not_taken_over(added_by_others, monkeypatch):
    monkeypatch.setattr("gridmap.backends.drmaa.drmaa_backend", lambda **settings: "our own")
    assert open_backend("drmaa") == "our own"
