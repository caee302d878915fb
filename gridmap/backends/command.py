"""Workers on any scheduler whose commands a TOML file describes: `gridmap.backends.description`."""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence

from gridmap.backends.base import SubmitRequest
from gridmap.backends.bookkeeping import ENDED, MOST_IDS, BackendByCommands, InDoubt, job_of
from gridmap.backends.commands import (
    LATE,
    MISSING,
    needed_environment,
    run,
    words_said,
    worker_logs,
)
from gridmap.backends.description import Description, List, read
from gridmap.backends.filling import Values, fill, fill_words, variables
from gridmap.backends.listing import Meaning, Record, records
from gridmap.backends.native import is_of_run, job_name
from gridmap.backends.options import render
from gridmap.core.events import NativeStatus
from gridmap.errors import BackendError

log = logging.getLogger(__name__)

SAID_CHARACTERS = 2_000


def why_not(description: Description) -> str:
    """Returns which of its commands are missing here, or "" when none is."""
    parts = (description.submit, description.status, description.cancel)
    names = dict.fromkeys(part.command[0] for part in parts)
    missing = [name for name in names if shutil.which(name) is None]
    return f"no {', '.join(missing)} on PATH" if missing else ""


class DescribedBackend(BackendByCommands):
    """A Backend of one run.

    :param path: the file that describes the scheduler
    :param use_mem_free: the cluster is asked for `mem_free`, too
    :raises ConfigError: the file cannot be used
    :raises BackendError: the scheduler's commands are not here
    """

    def __init__(self, path: str | os.PathLike[str], *, use_mem_free: bool = False) -> None:
        super().__init__()
        self._of = description = read(path)
        self.name = description.path
        self.scheduler = description.words.name
        self.largest_array = description.submit.most
        self.gone_after_s = description.gone_after_s
        self._use_mem_free = use_mem_free
        reason = why_not(description)
        if reason:
            raise BackendError(f"{self.scheduler}: {reason}")

    # --- starting ---------------------------------------------------------------------------------

    def _start(self, request: SubmitRequest, count: int) -> list[str]:
        submit = self._of.submit
        words, stdin = self._submission(request, count)
        code, output = self._run(words, stdin)
        if code != 0:
            reason = f"{words[0]}: {words_said(output)}"
            if self._may_pass(code, output):  # it may have been heard all the same
                raise InDoubt(reason, transient=True)
            raise BackendError(reason)
        jobs = [found.groupdict("") for found in re.finditer(submit.answer, output, re.MULTILINE)]
        if not jobs:
            raise InDoubt(f"{words[0]} printed {output.strip()!r}, and no job id")
        if self._is_array(count):
            numbers = range(submit.first, submit.first + count)
            return [fill(submit.worker, {**jobs[0], "element": str(n)}) for n in numbers]
        if len(jobs) != count:
            raise InDoubt(f"{words[0]} made {len(jobs)} jobs, not {count}")
        return [fill(submit.single or submit.worker, {"element": "", **job}) for job in jobs]

    def _is_array(self, count: int) -> bool:
        submit = self._of.submit
        return "element" in variables(submit.worker) and count >= submit.least

    def _submission(self, request: SubmitRequest, count: int) -> tuple[list[str], str]:
        """Returns the words of the command that submits, and its standard input.

        :raises BackendError: the scheduler has no words for what is wanted
        """
        submit = self._of.submit
        self._check_paths(request)
        try:
            options = render(self._of.words, request.resources, self._use_mem_free)
        except ValueError as error:
            raise BackendError(str(error)) from error
        out, err = worker_logs(request.log_dir, submit.log_id)
        first = submit.first
        values: dict[str, str | Sequence[str]] = {
            "command": self._command(request),
            "count": str(count),
            "err": err,
            "first": str(first),
            "last": str(first + count - 1),
            "log_dir": request.log_dir,
            "name": job_name(request.name, request.run_tag),
            "options": options,
            "out": out,
            "shell": request.resources.interpreting_shell or "/bin/sh",
            "tag": request.run_tag,
            "user": _user(),
            "working_dir": request.working_dir,
        }
        values["array"] = fill_words(submit.array, values) if self._is_array(count) else []
        unquoted = ("command", "shell")  # the one is quoted, the other no word
        quoted = {
            name: shlex.quote(value) if isinstance(value, str) and name not in unquoted else value
            for name, value in values.items()
        }
        script = fill(submit.script, quoted)
        named = {name for text in (*submit.command, submit.stdin) for name in variables(text)}
        if "script" in named:
            values["script"] = _written(script, request.working_dir)
        given = "" if named & {"script", "command"} else script
        return fill_words(submit.command, values), fill(submit.stdin, values) or given

    def _command(self, request: SubmitRequest) -> str:
        """Returns the worker's command as a line for a shell, which tells it who it is."""
        told = [f'"GRIDMAP_NATIVE_ID={self._of.native_id}"'] if self._of.native_id else []
        if os.environ.get("LD_LIBRARY_PATH"):  # Python may need it
            told.append(f"LD_LIBRARY_PATH={shlex.quote(os.environ['LD_LIBRARY_PATH'])}")
        line = shlex.join(request.command)
        return f"/usr/bin/env {' '.join(told)} {line}" if told else line

    def _check_paths(self, request: SubmitRequest) -> None:
        """Makes sure that no path is taken for something else than it is.

        :raises BackendError: one would be
        """
        signs = {sign for sign in self._of.submit.log_id if not re.match(r"[\w.\[\]() -]", sign)}
        for path in (request.log_dir, request.working_dir):
            bad = [sign for sign in sorted({*signs, "\n"}) if sign in path]
            if bad:
                raise BackendError(f"{self.scheduler} cannot write to {path!r}: {bad[0]!r} in it")

    # --- asking -----------------------------------------------------------------------------------

    def _listed(self, ids: Sequence[str]) -> Mapping[str, NativeStatus]:
        part = self._of.status
        found: dict[str, NativeStatus] = {}
        for words in self._queries(part.command, ids):
            code, output = self._run(words)
            if code != 0 and not self._knows_none(output):
                transient = code != MISSING
                raise BackendError(f"{words[0]}: {words_said(output)}", transient=transient)
            found |= self._read(part, output)
        return found

    def _history(self, ids: Sequence[str]) -> Mapping[str, NativeStatus] | None:
        part = self._of.history
        found: dict[str, NativeStatus] = {}
        for words in self._queries(part.command, ids) if part else ():
            code, output = self._run(words)
            if code == MISSING:
                self._history_s = 0.0
            if code != 0 and not self._knows_none(output):
                return None
            assert part is not None
            found |= self._read(part, output)
        return found

    def _queries(self, command: Sequence[str], ids: Sequence[str]) -> Iterator[list[str]]:
        """Yields calls of a command that are about these workers, in all."""
        named = {name for word in command for name in variables(word)}
        jobs = list(dict.fromkeys(map(job_of, ids)))
        values: dict[str, str | Sequence[str]] = {"user": _user()}
        if named & {"id", "job"}:
            name = "id" if "id" in named else "job"
            for one in ids if name == "id" else jobs:
                yield fill_words(command, {**values, "id": one, "job": job_of(one)})
            return
        most = MOST_IDS if named & {"ids", "jobs"} else max(1, len(ids))
        for at in range(0, len(ids), most):
            some = ids[at : at + most]
            jobs = list(dict.fromkeys(map(job_of, some)))
            yield fill_words(command, {**values, "ids": some, "jobs": jobs})

    def _read(self, part: List, output: str) -> dict[str, NativeStatus]:
        meaning = Meaning(part.command[0], part.states, self._of.marks, part.signals_above)
        return {
            native_id: meaning.status(record, native_id in self._waits)
            for record in records(part.patterns, output)
            if (native_id := self._id(record))
        }

    def _id(self, record: Record) -> str:
        """Returns the native id of the worker that a record tells of; "" when it is of none."""
        fields, submit = record.fields, self._of.submit
        if "id" in fields:
            return fields["id"]
        for template in (submit.worker, submit.single):
            if template and all(name in fields for name in variables(template)):
                return fill(template, fields)
        return ""

    def _named(self, run_tag: str) -> list[str]:
        find = self._of.find
        needs = {name for word in find.command for name in variables(word)}
        if not needs <= {"tag", "user"}:  # it is [status], which asks for workers by their names
            log.warning(
                "run %s: its workers cannot be looked for, since %s has no [find]",
                run_tag, self._of.path,
            )  # fmt: skip
            return []
        words = fill_words(find.command, {"tag": run_tag, "user": _user()})
        code, output = self._run(words)
        if code != 0 and not self._knows_none(output):
            raise BackendError(f"{words[0]}: {words_said(output)}", transient=code != MISSING)
        meaning = Meaning(words[0], find.states, self._of.marks, find.signals_above)
        return [
            native_id
            for record in records(find.patterns, output)
            if (native_id := self._id(record))
            and is_of_run(record.fields.get("name", ""), run_tag)
            and meaning.status(record).state not in ENDED
        ]

    def _told(self, native_id: str) -> str:
        if self._of.diagnose is None:
            return ""
        values: Values = {"id": native_id, "job": job_of(native_id), "user": _user()}
        words = fill_words(self._of.diagnose.command, values)
        _, output = self._run(words)
        return f"{shlex.join(words)}:\n{output.strip()[-SAID_CHARACTERS:]}"

    # --- ending -----------------------------------------------------------------------------------

    def _delete(self, ids: Sequence[str]) -> None:
        failed: BackendError | None = None
        for words in self._queries(self._of.cancel.command, ids):
            code, output = self._run(words)
            if code != 0 and not self._knows_none(output):
                transient = self._may_pass(code, output)
                failed = BackendError(f"{words[0]}: {words_said(output)}", transient=transient)
        if failed is not None:
            raise failed

    def _run(self, words: Sequence[str], text: str = "") -> tuple[int, str]:
        environment = needed_environment(self._of.environment)
        return run(*words, deadline_s=self._of.deadline_s, text=text, environment=environment)

    def _may_pass(self, code: int, output: str) -> bool:
        """Returns whether a command may succeed later that failed now."""
        errors = self._of.errors
        said = errors.transient and re.search(errors.transient, output, re.MULTILINE)
        return code == LATE or code < 0 or code in errors.transient_exits or bool(said)

    def _knows_none(self, output: str) -> bool:
        """Returns whether a command failed since there are no such jobs (any more)."""
        unknown = self._of.errors.unknown
        return bool(unknown) and re.search(unknown, output, re.MULTILINE) is not None


def _written(script: str, folder: str) -> str:
    """Writes a script for a node into a folder; returns its path, the same for the same script."""
    digest = hashlib.sha256(script.encode()).hexdigest()[:12]
    path = os.path.join(folder, f"worker-{digest}.sh")
    try:
        if not os.path.exists(path):
            descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700)
            with open(descriptor, "w") as file:
                file.write(script)
            os.rename(f"{path}.new", path)
    except OSError as error:
        raise BackendError(f"cannot write the worker's script {path}: {error.strerror}") from error
    return path


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())  # a user without an entry
