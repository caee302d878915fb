"""Writes what the doctor found to be needed to the user's gridmap.toml.

A file that is there is edited line by line, so that comments and the order of things stay; what
comes of it must say what was meant, or nothing is written.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridmap.errors import ConfigError

if TYPE_CHECKING:
    from gridmap.doctor.exam import Exam
    from gridmap.doctor.screen import Screen

Keys = tuple[str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def user_file() -> Path | None:
    """Returns where the user's configuration file is, or would be; None where none is read."""
    from gridmap.configuration.places import places

    return next((Path(place.path) for place in places() if place.role == "user"), None)


def write_needed(exam: Exam, screen: Screen) -> str:
    """Writes what is needed, shows what changes and what is left out; keeps the old file as .bak.

    :returns: the file's path; "" when it said all that already, or could not be written
    """
    path = _write_needed(exam, screen)
    for line in left_out(exam):
        screen.text(line)
    return path


def left_out(exam: Exam) -> list[str]:
    """Returns what this visit went by and what no file gets, each with what to do about it."""
    from gridmap import conf

    lines = []
    for name, value in exam.resources().items():
        if name == "queue" and exam.needed.get(("settings", "DEFAULT_QUEUE"), value) == value:
            continue  # it is written, or the usual one
        lines.append(
            f"not written: --{name} {value}, which is for the jobs: say it in the call, or in a "
            "profile's table resources"
        )
    for name in sorted(setting.name for setting in conf.TABLE if setting.name in os.environ):
        if ("settings", name) not in exam.needed:
            lines.append(
                f"not written: {name} of the environment, which this visit has not proved to be "
                "needed: write it yourself if it is"
            )
    return lines


def _write_needed(exam: Exam, screen: Screen) -> str:
    path = user_file()
    if path is None:
        screen.text("nothing is written: GRIDMAP_CONFIG says that no configuration file is read")
        return ""
    if not exam.needed:
        screen.text("nothing needs to be written to a configuration file")
        return ""
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = edited(before, exam.needed, path)
        if after == before:
            screen.text(f"{path} says all that is needed already")
            return ""
        replace(path, before, after)
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        screen.text(f"{path} was not written: {error}")
        for line in as_toml(exam.needed).splitlines():
            screen.text(f"    {line}")
        return ""
    screen.text(f"written to {path}" + (f", the old file is {backup(path)}" if before else ""))
    for line in difflib.unified_diff(
        before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=1
    ):
        screen.text(f"    {line}")
    return str(path)


def backup(path: Path) -> Path:
    return path.with_name(path.name + ".bak")


def replace(path: Path, before: str, after: str) -> None:
    """Replaces the file, all of it at once; others cannot read or write what is new.

    :param before: what it holds now, which goes into the backup; "": there is no file
    :raises OSError: it cannot be written
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    real = Path(os.path.realpath(path))  # a link to a file that is kept elsewhere stays one
    if before:
        _write(backup(path), before, real.stat().st_mode & 0o777)
    _write(real, after, real.stat().st_mode & 0o777 if before else 0o600)


def _write(path: Path, text: str, mode: int) -> None:
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, mode)
            file.write(text)
            file.flush()
            os.fsync(handle)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


# --- editing --------------------------------------------------------------------------------------


def edited(text: str, needed: Mapping[Keys, Any], path: Path) -> str:
    """Returns a text in TOML that says what is needed, too.

    :param needed: values by their keys: ("settings", "NUM_RESUBMITS")
    :raises ConfigError: the text is no TOML, or written in a way that has to be edited by hand
    """
    from gridmap._toml import parse

    wanted = copy.deepcopy(parse(text, path))
    for keys, value in needed.items():
        _put(wanted, keys, value, path)
    if wanted == parse(text, path):
        return text
    lines = text.removesuffix("\n").split("\n") if text else []
    for (*table, key), value in needed.items():
        _set(lines, tuple(table), key, value)
    after = "\n".join(lines) + "\n"
    try:
        right = parse(after, path) == wanted
    except ConfigError:
        right = False
    if not right:
        raise ConfigError(
            f"{path} is written in a way that this cannot edit; put these lines there by hand",
            os.fspath(path),
        )
    return after


def _put(document: dict[str, Any], keys: Keys, value: Any, path: Path) -> None:
    for key in keys[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: {key} is no table", os.fspath(path))
    document[keys[-1]] = value


def _set(lines: list[str], table: Keys, key: str, value: Any) -> None:
    """Changes the line of a key, or adds it to its table, or adds the table."""
    line = f"{_key(key)} = {literal(value)}"
    header = ".".join(map(_key, table))
    start = next((n for n, one in enumerate(lines) if _header(one) == header), None)
    if start is None:
        lines += [*([""] if lines and lines[-1].strip() else []), f"[{header}]", line]
        return
    forms = "|".join(map(re.escape, {_key(key), literal(key), f"'{key}'"}))
    at = last = start + 1
    while at < len(lines) and not lines[at].lstrip().startswith("["):
        if re.match(rf"\s*({forms})\s*=", lines[at]):
            lines[at] = line
            return
        if lines[at].strip():
            last = at + 1
        at += 1
    lines.insert(last, line)


def _header(line: str) -> str:
    """Returns the name in "[settings]  # so", "" when the line is no header of a table."""
    found = re.fullmatch(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?", line)
    return re.sub(r"\s*\.\s*", ".", found[1]) if found else ""


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else literal(key)


def literal(value: Any) -> str:
    """Returns a value as TOML writes it: texts, numbers, flags and lists of them."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    # of what JSON escapes, TOML knows all but the delete sign
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def as_toml(needed: Mapping[Keys, Any]) -> str:
    """Returns a whole text that says what is needed."""
    lines: list[str] = []
    for (*table, key), value in needed.items():
        _set(lines, tuple(table), key, value)
    return "\n".join(lines) + "\n"
