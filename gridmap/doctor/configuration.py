"""Probe: are the settings valid, and where does what is no default come from?"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator

from gridmap import conf
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, failed, ok, warning

OTHER_VARIABLES = frozenset({
    "GRIDMAP_CONFIG", "GRIDMAP_NATIVE_ID", "GRIDMAP_PROFILE", "GRIDMAP_SITE_CONFIG",
    "GRIDMAP_WORKER",
})  # fmt: skip
"""Variables of GridMap's that are no settings of the table."""


def examine(exam: Exam) -> Iterator[Finding]:
    """Reads every setting, as a run would."""
    broken = list(_broken())
    yield from broken
    yield from _unknown_variables()
    if broken:
        return
    exam.settings = conf.settings()
    changed = {
        setting.name: str(getattr(conf, setting.name))
        for setting in conf.TABLE
        if setting.name in os.environ
    }
    told = ", ".join(f"{name}={value}" for name, value in changed.items())
    yield ok(
        "settings",
        f"all valid; from the environment: {told or 'none'}",
        from_environment=changed,
    )


def _broken() -> Iterator[Finding]:
    for setting in conf.TABLE:
        try:
            getattr(conf, setting.name)
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
        like = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        change = f"if {like[0]} is meant, call it so" if like else "unset it; docs/api.rst has all"
        yield warning("settings", f"{name} is no setting of GridMap", change, setting=name)
