"""Probe: are files and settings valid, and where does what is not as by default come from?"""

from __future__ import annotations

import os
from collections.abc import Iterator

from gridmap import conf
from gridmap.conf import OTHER_VARIABLES
from gridmap.configuration.current import NOT_THERE
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, failed, ok, warning


def examine(exam: Exam) -> Iterator[Finding]:
    """Reads the files and every setting, as a run would."""
    try:
        files = conf.configured()
        profile = conf.chosen_profile(exam.options.profile, files)
    except ValueError as error:
        yield failed("files", str(error), "correct the file, or the name of the profile")
        return
    yield from _files(files.files)
    broken = list(_broken(profile))
    yield from broken
    yield from _unknown_variables()
    if broken:
        return
    exam.settings = conf.settings(profile)
    found = {setting.name: conf.explained(setting.name, profile) for setting in conf.TABLE}
    changed = {
        name: (value, str(source))
        for name, (value, source) in found.items()
        if source.kind != "default"
    }
    told = ", ".join(f"{name}={value!r} ({source})" for name, (value, source) in changed.items())
    facts = {name: {"value": value, "source": source} for name, (value, source) in changed.items()}
    yield ok("settings", f"all valid; not as by default: {told or 'none'}", changed=facts)


def _files(files: tuple[tuple[object, str], ...]) -> Iterator[Finding]:
    """Tells which configuration files were read.

    :param files: (place, why it was not read)
    """
    paths = {str(getattr(place, "path", place)): why_not for place, why_not in files}
    for path, why_not in paths.items():
        if why_not and why_not != NOT_THERE:
            told = f"{path} is not read: {why_not}"
            yield warning("files", told, "make it yours alone: own it, and chmod 600", path=path)
    read = [path for path, why_not in paths.items() if not why_not]
    yield ok("files", f"configuration files: {', '.join(read) or 'none'}", read=read)


def _broken(profile: str) -> Iterator[Finding]:
    for setting in conf.TABLE:
        try:
            conf.explained(setting.name, profile)
        except ValueError as error:
            yield failed(
                "settings",
                str(error),
                f"correct {setting.name}, or unset it",
                setting=setting.name,
            )


def _unknown_variables() -> Iterator[Finding]:
    known = {setting.name for setting in conf.TABLE}
    for name in sorted(os.environ):
        if not name.startswith("GRIDMAP_") or name in known | OTHER_VARIABLES:
            continue
        like = conf.meant(name)
        change = f"if {like} is meant, call it so" if like else "unset it; docs/api.rst has all"
        yield warning("settings", f"{name} is no setting of GridMap", change, setting=name)
