"""`gridmap config`: what is configured, and where each value comes from."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gridmap import conf
from gridmap.configuration.arguments import ARGUMENTS
from gridmap.configuration.current import NOT_THERE, Configuration
from gridmap.configuration.places import NAMED_VARIABLE, Place, places
from gridmap.configuration.reading import read
from gridmap.errors import ConfigError
from gridmap.kinds import NO_PROFILE

SETTING_OF = {
    "queue": "DEFAULT_QUEUE",
    "par_env": "DEFAULT_PAR_ENV",
    "temp_dir": "DEFAULT_TEMP_DIR",
    "max_workers": "GRIDMAP_MAX_WORKERS",
    "retry": "NUM_RESUBMITS",
}
"""Arguments that, when not given, are what a setting says."""

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--path", action="store_true", help="show the files only")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--profile", metavar="NAME", help="show what holds with this profile; none: without one"
    )


def main(options: argparse.Namespace) -> int:
    """Prints the configuration; returns 1 where there is something wrong with it."""
    report: dict[str, Any] = {"files": [_file(place) for place in places()]}
    errors: list[str] = []
    if not options.path:
        try:
            report |= _values(options.profile, errors)
        except ConfigError as error:
            errors.append(str(error))
    else:
        errors += [row["state"] for row in report["files"] if row["broken"]]
        if not errors:
            errors += _broken()
    report["errors"] = errors
    if options.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_text(report)))
        for message in errors:
            print(f"gridmap config: {message}", file=sys.stderr)
    return 1 if errors else 0


# --- what there is --------------------------------------------------------------------------------


def _file(place: Place) -> Row:
    """Returns where a file is and whether it is read; of one that is broken, why."""
    broken = False
    if place.status is None:
        state, broken = NOT_THERE, bool(place.variable)
    else:
        try:
            found = read(place.path, place.status)
            state = f"not read: {found}" if isinstance(found, str) else "read"
        except ConfigError as error:
            state, broken = str(error), True
    return {"role": place.role, "path": place.path, "state": state, "broken": broken}


def _values(profile: str | None, errors: list[str]) -> dict[str, Any]:
    """Returns all values.

    :raises ConfigError: a file is broken, or has no such profile
    """
    files = conf.configured()
    chosen = conf.chosen_profile(profile, files)
    settings = {each.name: _setting(each, chosen, errors) for each in conf.TABLE}
    return {
        "profile": None if chosen == NO_PROFILE else chosen,
        "settings": settings,
        "arguments": dict(_arguments(files, chosen, settings)),
        "profiles": {name: _profile(name, files, errors) for name in files.profiles},
        "backends": {name: _backend(entry, errors) for name, entry in files.backends.items()},
    }


def _broken() -> list[str]:
    """Returns what is wrong with profiles and backends of files that can be read."""
    errors: list[str] = []
    try:
        files = conf.configured()
    except ConfigError as error:
        return [str(error)]
    for name in files.profiles:
        _profile(name, files, errors)
    for entry in files.backends.values():
        _backend(entry, errors)
    return errors


def _backend(entry: Any, errors: list[str]) -> Row:
    """Returns where a backend is described, and tries to read that."""
    from gridmap.backends.description import read as read_description

    try:
        read_description(entry.value)
    except ConfigError as error:
        errors.append(f"{entry.name}: {error}")
    return _entry(entry)


def _setting(setting: conf.Setting, profile: str, errors: list[str]) -> Row:
    try:
        value, source = conf.explained(setting.name, profile)
    except ConfigError as error:  # of a variable or a constant; that of a file comes earlier
        errors.append(str(error))
        return {"value": None, "source": "wrong", "meaning": setting.meaning}
    return {"value": value, **_source(source), "meaning": setting.meaning}


def _source(source: conf.Source) -> Row:
    row: Row = {"source": source.kind}
    if source.name:
        row["name"] = source.name
    if source.entry is not None:
        row |= _stands(source.entry)
    return row


def _stands(entry: Any) -> Row:
    document = entry.document
    return {"file": document.path, "line": document.line(entry.keys), "key": entry.name}


def _entry(entry: Any) -> Row:
    return {"value": entry.value, "source": "file", **_stands(entry)}


def _arguments(
    files: Configuration, profile: str, settings: dict[str, Row]
) -> Iterator[tuple[str, Row]]:
    """Yields the defaults that arguments have now."""
    from gridmap.job import grid_imap, grid_map

    doors: Iterable[Callable[..., Any]] = (grid_map, grid_imap)
    parameters = {n: p for door in doors for n, p in inspect.signature(door).parameters.items()}
    of_profile = {} if profile == NO_PROFILE else files.profiles[profile]
    for name in ARGUMENTS:
        given = {keys: entry for keys, entry in of_profile.items() if keys[0] == name}
        for keys, entry in given.items():
            yield ".".join(keys), {**_entry(entry), "source": "profile", "name": profile}
        if not given:
            default = parameters[name].default
            row = {"value": default, "source": "default"}
            if default is None and name in SETTING_OF:
                setting = SETTING_OF[name]
                row = {"value": settings[setting]["value"], "source": "setting", "name": setting}
            yield name, row


def _profile(name: str, files: Configuration, errors: list[str]) -> dict[str, Row]:
    """Returns the values of a profile, and tries what a job would say to them."""
    from gridmap.job import Job

    try:
        Job(len, [], profile=name)
    except (TypeError, ValueError) as error:
        errors.append(f"profile {name}: {error}")
    return {".".join(keys): _entry(entry) for keys, entry in files.profiles[name].items()}


# --- as text --------------------------------------------------------------------------------------


def _text(report: dict[str, Any]) -> Iterator[str]:
    yield "Files, of which the later ones win"
    rows = [(row["role"], row["path"], row["state"]) for row in report["files"]]
    yield from _table(rows or [(f"none: {NAMED_VARIABLE} is {os.devnull}", "", "")])
    if "settings" not in report:
        return
    yield from ("", "Settings")
    yield from _table(_rows(report["settings"]))
    profile = report["profile"]
    named = f"with profile {profile}" if profile else "without a profile"
    yield from ("", f"Arguments that a call does not give, {named}")
    yield from _table(_rows(report["arguments"]))
    for name, rows_of in report["profiles"].items():
        yield from ("", f"Profile {name}")
        yield from _table(_rows(rows_of))
    if report["backends"]:
        yield from ("", "Backends")
        yield from _table(_rows(report["backends"]))


def _rows(rows: dict[str, Row]) -> list[tuple[str, str, str]]:
    return [(name, _shown(row["value"]), _said(row)) for name, row in rows.items()]


def _shown(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)


def _said(row: Row) -> str:
    """Returns where a value comes from, in few words."""
    if "file" in row:
        where = f"{row['file']}:{row['line']}" if row["line"] else row["file"]
        return f"{where} (profile {row['name']})" if "name" in row else where
    if row["source"] == "environment":
        return f"environment variable {row['name']}"
    return str(row.get("name", row["source"]))


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    if not rows:
        yield "  nothing"
        return
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    widths[1] = min(widths[1], 60)
    for name, value, source in rows:
        yield f"  {name:{widths[0]}}  {value:{widths[1]}}  {source}".rstrip()
