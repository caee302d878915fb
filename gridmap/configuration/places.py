"""Where configuration files are."""

from __future__ import annotations

import os
from collections.abc import Iterator

NAME = "gridmap.toml"
SITE_FILE = "/etc/gridmap.toml"
SITE_VARIABLE = "GRIDMAP_SITE_CONFIG"
NAMED_VARIABLE = "GRIDMAP_CONFIG"
VARIABLES = (NAMED_VARIABLE, SITE_VARIABLE, "XDG_CONFIG_HOME", "HOME")
"""On which the places depend, beside the working directory."""


class Place:
    """Where a file may be.

    A plain class, as those that are loaded with `gridmap.conf`: to make a NamedTuple takes longer
    than to look for all files.

    :param role: site, user, project or named
    :param variable: the environment variable that names it; it must be there then
    :param status: as os.stat gives it; None where there is no such file
    """

    __slots__ = ("path", "role", "status", "variable")

    def __init__(self, role: str, path: str, variable: str, status: os.stat_result | None) -> None:
        self.role = role
        self.path = path
        self.variable = variable
        self.status = status


def places() -> list[Place]:
    """Returns where files are looked for; of two the later one wins.

    /dev/null as the site's file is none, and as the named file it means that no file is read.
    """
    named = os.environ.get(NAMED_VARIABLE, "")
    if named == os.devnull:
        return []
    return [*_site(), _place("user", _user_file()), *_project(), *_named(named)]


def _site() -> Iterator[Place]:
    site = os.environ.get(SITE_VARIABLE, "")
    if site != os.devnull:
        path = _absolute(site) if site else SITE_FILE
        yield _place("site", path, SITE_VARIABLE if site else "")


def _user_file() -> str:
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):  # the XDG specification: a relative path counts as unset
        folder = os.path.expanduser("~/.config")
    return os.path.join(folder, "gridmap", NAME)


def _project() -> Iterator[Place]:
    """Yields the nearest file in the working directory and the folders above it.

    The last folder is the home folder, or the root of the file system that the working directory is
    on: above that, to look for a file may have an automounter look for a host of that name.
    """
    try:
        folder = first = os.getcwd()
        here = os.stat(folder)
    except OSError:  # it was removed
        return
    home = _status(os.path.expanduser("~"))
    while True:
        place = _place("project", os.path.join(folder, NAME))
        above = os.path.dirname(folder)
        if place.status is not None:
            yield place
            return
        if above == folder or (home is not None and os.path.samestat(here, home)):
            break
        status = _status(above)
        if status is None or status.st_dev != here.st_dev:
            break
        folder, here = above, status
    yield Place("project", os.path.join(first, NAME), "", None)


def _named(path: str) -> Iterator[Place]:
    if path:
        yield _place("named", _absolute(path), NAMED_VARIABLE)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _place(role: str, path: str, variable: str = "") -> Place:
    return Place(role, path, variable, _status(path))


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # not there, or not for us to see
        return None
