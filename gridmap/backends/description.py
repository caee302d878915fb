"""A scheduler's commands as a TOML file describes them; read strictly.

What each key means stands in docs/adding_a_scheduler.rst.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gridmap._toml import load, load_trusted
from gridmap.backends.filling import variables
from gridmap.backends.listing import GROUPS, MARKS, STATES
from gridmap.backends.options import Words, words_from
from gridmap.errors import ConfigError

SHIPPED = Path(__file__).with_name("schedulers")

MOST_S = 3600

SCRIPT = "#!{shell}\nexec {command}\n"
"""exec: a shell would not pass a warning on, nor the exit status as it is."""


class Submit(Struct, frozen=True):
    """How workers are started.

    :param answer: what it prints of each job that it made; groups are for the names of workers
    :param worker: native id of an element of an array
    :param single: native id of a worker that is no element; "": as `worker`
    :param array: words that ask for an array
    :param most, least: workers that one array may have
    :param first: number of an array's first element
    :param script: what a node runs; it goes to the command's standard input, or to a file
    :param stdin: what goes there instead
    :param log_id: what stands for the native id in the names of logs
    """

    command: tuple[str, ...]
    answer: str
    worker: str = "{job}"
    single: str = ""
    array: tuple[str, ...] = ()
    most: int = 1
    least: int = 1
    first: int = 0
    script: str = SCRIPT
    stdin: str = ""
    log_id: str = ""


class List(Struct, frozen=True):
    """How workers are asked for, in the queue or in what is recorded of the past.

    What [history] and [find] leave out is as in [status].

    :param patterns: where the record of a worker begins, and what is looked for in it
    :param states: the scheduler's words for states, as regular expressions, and ours
    :param signals_above: an exit status above it stands for a signal
    """

    command: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    states: dict[str, str] = {}
    signals_above: int = 0

    def or_as_in(self, other: List) -> List:
        """Returns it with what it leaves out as in another one."""
        return List(
            self.command or other.command,
            self.patterns or other.patterns,
            self.states or other.states,
            self.signals_above or other.signals_above,
        )


class Command(Struct, frozen=True):
    command: tuple[str, ...]


class Errors(Struct, frozen=True):
    """What a command that fails says.

    :param transient: a regular expression of what may pass
    :param transient_exits: exit statuses after which the same may succeed later
    :param unknown: a regular expression of "there are no such jobs", which is an answer
    """

    transient: str = ""
    transient_exits: tuple[int, ...] = ()
    unknown: str = ""


class Description(Struct, frozen=True):
    """A scheduler's commands, their output and their words.

    :param words: how it is asked for resources
    :param native_id: what a worker is told that it is, in the words of a shell; "": it knows
    :param environment: variables that the commands need, beside the usual ones
    :param deadline_s: how long a command may take
    :param gone_after_s: a worker that nobody lists for so long has ended
    """

    path: str
    words: Words
    submit: Submit
    status: List
    cancel: Command
    history: List | None = None
    find: List = List()
    diagnose: Command | None = None
    marks: dict[str, str] = {}
    errors: Errors = Errors()
    native_id: str = ""
    environment: tuple[str, ...] = ()
    deadline_s: float = 30.0
    gone_after_s: float = 10.0


OF_SUBMIT = ("command", "count", "err", "first", "last", "log_dir", "name", "out", "script",
             "shell", "tag", "user", "working_dir")  # fmt: skip
OF_QUEUE = ("id", "ids", "job", "jobs", "user")
OF_FIND = ("tag", "user")
OF_DIAGNOSE = ("id", "job", "user")
_LISTS = ("array", "ids", "jobs", "options")


def read(path: str | os.PathLike[str]) -> Description:
    """Returns the description in a file.

    :raises ConfigError: it cannot be read, somebody else could have written it, or it has something
        in it that cannot be; the message names the file, the key, and what may stand there
    """
    return _Reader(os.fspath(path), table_of(path)).description()


def table_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a description says, as TOML has it.

    It is judged each time that it is read, also when a run is taken over: it names commands.  Those
    that come with GridMap belong to whoever installed it, as its code does.

    :raises ConfigError: it cannot be read, or somebody else could have written it
    """
    return load(path) if Path(path).parent == SHIPPED else load_trusted(path)


class _Reader:
    def __init__(self, path: str, table: dict[str, Any]) -> None:
        self._path = path
        self._table = table

    def description(self) -> Description:
        own = [name for name in Description.__struct_fields__ if name not in ("path", "words")]
        of_words = Words.__struct_fields__
        self._known_keys("", self._table, (*own, *of_words))
        try:
            words = words_from(self._table, self._path)
        except ValueError as error:
            raise ConfigError(str(error), self._path) from None
        for name, of in (
            *(("submit", Submit), ("status", List), ("history", List), ("find", List)),
            *(("cancel", Command), ("diagnose", Command), ("errors", Errors)),
        ):
            if isinstance(self._table.get(name), dict):
                self._known_keys(name, self._table[name], of.__struct_fields__)
        values = {name: self._table[name] for name in own if name in self._table}
        try:
            read = msgspec.convert({**values, "path": self._path, "words": words}, Description)
        except msgspec.ValidationError as error:
            raise self._error(*_place(str(error))) from None
        for name, least in (("deadline_s", 0.001), ("gone_after_s", 0)):
            if not least <= getattr(read, name) <= MOST_S:
                raise self._error(name, f"must be a number of seconds, at most {MOST_S}")
        self._check_submit(read)
        self._check_lists(read)
        self._check_states(read)
        self._check_words("cancel", read.cancel.command, OF_QUEUE)
        if read.diagnose is not None:
            self._check_words("diagnose", read.diagnose.command, OF_DIAGNOSE)
        for name in ("transient", "unknown"):
            self._pattern(f"errors.{name}", getattr(read.errors, name))
        past = read.history.or_as_in(read.status) if read.history else None
        read = replace(read, history=past, find=read.find.or_as_in(read.status))
        self._check_groups(read)
        return read

    def _error(self, key: str, reason: str) -> ConfigError:
        return ConfigError(f"{self._path}: {key}: {reason}", self._path)

    def _known_keys(self, where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
        unknown = sorted(table.keys() - set(known))
        if unknown:
            place = f"[{where}]" if where else "the file"
            raise self._error(
                f"{where}.{unknown[0]}" if where else unknown[0],
                f"no such key; {place} may have {', '.join(sorted(known))}",
            )

    # --- what the parts must have -----------------------------------------------------------------

    def _check_submit(self, read: Description) -> None:
        submit = read.submit
        names = OF_SUBMIT + (("array",) if submit.array else ())
        self._check_words("submit", submit.command, (*names, "options"))
        self._check_words("submit", submit.array, ("count", "first", "last"), "array")
        if submit.array and "array" not in [n for w in submit.command for n in variables(w)]:
            raise self._error("submit.command", "must have {array}, since there is an array")
        if submit.most < 1 or submit.least < 1:
            raise self._error("submit.most" if submit.most < 1 else "submit.least", "must be >= 1")
        texts = (*submit.command, *submit.array, submit.stdin)
        if read.words.options and "options" not in [n for x in texts for n in variables(x)]:
            raise self._error("submit.command", "must have {options}, or stdin must")
        if submit.most > 1 and not {"count", "last"} & {n for t in texts for n in variables(t)}:
            raise self._error("submit.most", "the command must have {count} or {last}, then")
        self._check_text("submit.script", submit.script, OF_SUBMIT)
        self._check_text("submit.stdin", submit.stdin, (*OF_SUBMIT, "options"))
        groups = self._pattern("submit.answer", submit.answer)
        for key in ("worker", "single"):
            allowed = (*groups, "element") if key == "worker" else tuple(groups)
            self._check_text(f"submit.{key}", getattr(submit, key), allowed)

    def _check_lists(self, read: Description) -> None:
        """Looks at the lists as they are written."""
        for name in ("status", "history", "find"):
            part: List | None = getattr(read, name)
            if part is not None and (name != "find" or part.command):
                self._check_words(name, part.command, OF_FIND if name == "find" else OF_QUEUE)
            for number, pattern in enumerate(part.patterns if part else ()):
                key = f"{name}.patterns[{number}]"
                known = {*variables(read.submit.worker), *variables(read.submit.single), *GROUPS}
                unknown = sorted(self._pattern(key, pattern) - known)
                if unknown:
                    there = ", ".join(sorted(known))
                    raise self._error(key, f"no group {unknown[0]!r}; there are {there}")

    def _check_groups(self, read: Description) -> None:
        """Looks at the lists with what they leave out."""
        worker = set(variables(read.submit.worker))
        for name, needed in (("status", "state"), ("history", "state"), ("find", "name")):
            part: List | None = getattr(read, name)
            if part is None or (name == "find" and part == read.status):
                continue
            groups = {one for p in part.patterns for one in self._pattern(name, p)}
            if not {"id"} & groups and not worker <= groups:
                lacking = ", ".join(sorted(worker - groups))
                raise self._error(f"{name}.patterns", f"must have a group 'id', or {lacking}")
            if needed not in groups:
                raise self._error(f"{name}.patterns", f"must have a group {needed!r}")

    def _check_states(self, read: Description) -> None:
        if not read.status.states:
            raise self._error("status.states", "is missing")
        for name in ("status", "history"):
            part = getattr(read, name)
            for word, state in part.states.items() if part else ():
                key = f"{name}.states.{word}"
                self._pattern(key, word)
                if state not in STATES:
                    raise self._error(key, f"no state {state!r}; there are {', '.join(STATES)}")
        for mark, pattern in read.marks.items():
            if mark not in MARKS:
                raise self._error(f"marks.{mark}", f"no such key; there are {', '.join(MARKS)}")
            self._pattern(f"marks.{mark}", pattern)

    def _check_words(
        self, name: str, words: Iterable[str], allowed: Iterable[str], key: str = "command"
    ) -> None:
        place = f"{name}.{key}"
        if key == "command" and not words:
            raise self._error(place, "must have the name of a command")
        for word in words:
            self._check_text(place, word, allowed)
            if sum(one in _LISTS for one in variables(word)) > 1:
                raise self._error(place, f"{word!r} has two variables of several values")

    def _check_text(self, key: str, text: str, allowed: Iterable[str]) -> None:
        for variable in variables(text):
            if variable not in allowed:
                known = ", ".join(f"{{{one}}}" for one in sorted(allowed))
                raise self._error(key, f"no variable {{{variable}}}; there are {known}")

    def _pattern(self, key: str, pattern: str) -> set[str]:
        try:
            return set(re.compile(pattern, re.MULTILINE).groupindex)
        except re.error as error:
            raise self._error(key, f"no regular expression: {error}") from None


def _place(message: str) -> tuple[str, str]:
    """Returns the key and the reason in an error of msgspec's."""
    reason, _, place = message.partition(" - at `$")
    key = place.rstrip("`").lstrip(".")
    missing = re.match(r"Object missing required field `(\w+)`", reason)
    if missing:
        return f"{key}.{missing[1]}".lstrip("."), "is missing"
    return key, reason[:1].lower() + reason[1:]
