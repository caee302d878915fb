"""What a described scheduler's commands print of its workers, read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gridmap.backends.base import HELD_FOR_GOOD, NEVER_STARTS
from gridmap.core.events import NativeState, NativeStatus
from gridmap.errors import Cause, signal_name

GROUPS = ("id", "job", "element", "state", "reason", "exit_status", "signal", "wait_status", "name",
          "host")  # fmt: skip
"""What the groups of a pattern may be called, beside those in the description's own ids."""

MARKS = ("deleted", "held", "never", "memory", "preempted", "walltime")
"""What a record may tell of a worker beside its state."""

ENDED = "ended"
"""A state of which the exit status says whether the worker is done or has failed."""

STATES = (*(state.value for state in NativeState), ENDED)

_NOTHING = ("", "-", "none", "null", "undefined", "n/a")
_WAITING = (NativeState.PENDING, NativeState.HELD)


class Record(NamedTuple):
    """What is told of one worker.

    :param fields: groups of the patterns, by name
    :param text: the whole of it
    """

    fields: Mapping[str, str]
    text: str


def records(patterns: Sequence[str], output: str) -> Iterator[Record]:
    """Yields what is told of each worker.

    :param patterns: the first one finds where a record begins, which goes on to where the next one
        does; the others are looked for in it
    """
    starts = list(re.finditer(patterns[0], output, re.MULTILINE))
    ends = [*(found.start() for found in starts[1:]), len(output)]
    for found, end in zip(starts, ends, strict=False):  # without a start there is an end
        text = output[found.start() : end]
        fields = dict(found.groupdict())
        for pattern in patterns[1:]:
            other = re.search(pattern, text, re.MULTILINE)
            fields.update(other.groupdict() if other else {})
        yield Record({name: value.strip() for name, value in fields.items() if value}, text)


class Meaning(NamedTuple):
    """What a scheduler's words mean.

    :param who: the command that says them
    :param states: regular expressions of its words for states, and ours; the first that fits counts
    :param marks: regular expressions of what else may be in a record, by MARKS
    :param signals_above: an exit status above it stands for a signal; 0: none does
    """

    who: str
    states: Mapping[str, str]
    marks: Mapping[str, str]
    signals_above: int = 0

    def status(self, record: Record, waited: bool = False) -> NativeStatus:
        """Returns the status of the worker that a record tells of.

        :param waited: it was in the queue when it was last asked for
        """
        fields = record.fields
        word = fields.get("state", "")
        told = [f"{self.who} says {word}"]
        if fields.get("reason", "").lower() not in _NOTHING:
            told.append(f"reason {fields['reason']}")
        if fields.get("host", "").lower() not in _NOTHING:
            told.append(f"on {fields['host']}")
        exit_status, signum = self._ending(fields)
        state = self._state(word, record, exit_status, signum, waited)
        cause = self._cause(record)
        if state in _WAITING and self._says("never", record):
            begin = HELD_FOR_GOOD if cause else NEVER_STARTS
            text = f"{begin}: {', '.join(told)}"
            return NativeStatus(NativeState.FAILED, text, cause=cause or Cause.NEVER_STARTED)
        if state not in (NativeState.DONE, NativeState.FAILED, NativeState.DELETED):
            return NativeStatus(state, ", ".join(told))
        if signum:
            told.append(f"ended by {signal_name(signum)}")
        elif exit_status:
            told.append(f"exited with {exit_status}")
        if state is NativeState.DONE:
            cause = None
        code = max(-1, exit_status) if exit_status is not None and not signum else -1
        return NativeStatus(state, ", ".join(told), code, signum, cause)

    def _ending(self, fields: Mapping[str, str]) -> tuple[int | None, int]:
        """Returns exit status (None: not told) and signal."""
        exit_status, signum = (_number(fields.get(name)) for name in ("exit_status", "signal"))
        waited = _number(fields.get("wait_status"))
        if waited is not None:  # as of wait(2)
            exit_status, signum = waited >> 8 & 0xFF, waited & 0x7F
        if not signum and exit_status is not None and 0 < self.signals_above < exit_status:
            signum = exit_status - self.signals_above
        return exit_status, signum or 0

    def _state(
        self, word: str, record: Record, exit_status: int | None, signum: int, waited: bool
    ) -> NativeState:
        named = (ours for theirs, ours in self.states.items() if re.fullmatch(theirs, word))
        ours = next(named, NativeState.UNKNOWN.value)
        if ours == ENDED:
            if exit_status is None and not signum:
                state = NativeState.DELETED if waited else NativeState.FAILED
            else:
                state = NativeState.FAILED if exit_status or signum else NativeState.DONE
        else:
            state = NativeState(ours)
        if state is NativeState.FAILED and self._says("deleted", record):
            return NativeState.DELETED
        if state is NativeState.PENDING and self._says("held", record):
            return NativeState.HELD
        return state

    def _cause(self, record: Record) -> Cause | None:
        for cause in (Cause.MEMORY, Cause.WALLTIME, Cause.PREEMPTED):
            if self._says(cause.value, record):
                return cause
        return None

    def _says(self, mark: str, record: Record) -> bool:
        pattern = self.marks.get(mark)
        return pattern is not None and re.search(pattern, record.text, re.MULTILINE) is not None


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None
