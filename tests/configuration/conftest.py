"""A machine's configuration files, all of them in a temporary folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gridmap import conf


class Files:
    """The files that GridMap looks at, and a working directory below the home folder."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.work = self.home / "study" / "scripts"
        self.site = root / "etc" / "gridmap.toml"
        self.user = self.home / ".config" / "gridmap" / "gridmap.toml"
        self.project = self.home / "study" / "gridmap.toml"
        self.named = root / "other" / "special.toml"
        for folder in (self.work, *(each.parent for each in (self.site, self.user, self.named))):
            folder.mkdir(parents=True, exist_ok=True)


def write(path: Path, text: str) -> Path:
    """Writes a file that only its owner can write, whatever the umask is."""
    path.write_text(text)
    path.chmod(0o644)
    return path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Returns where the files are; there are none."""
    found = Files(tmp_path)
    for name in ("GRIDMAP_CONFIG", "XDG_CONFIG_HOME", *(each.name for each in conf.TABLE)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(found.home))
    monkeypatch.setenv("GRIDMAP_SITE_CONFIG", os.devnull)
    monkeypatch.chdir(found.work)
    return found
