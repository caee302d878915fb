"""The arguments that a profile can give, and what their values are in TOML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gridmap.kinds import count, positive, text


class Shape(NamedTuple):
    """What a value may be.

    :param types: those of TOML, as Python has them; a list is one of texts
    :param check: raises a ValueError that says what it must be
    :param fields: where it may be a table: the keys that this can have; None: any, with texts
    :param path: it is a path, and a relative one starts from the folder of its file
    """

    types: tuple[type, ...]
    check: Callable[[Any], Any] | None = None
    fields: Mapping[str, Shape] | None = None
    path: Callable[[str], bool] | None = None


def one_of(*words: str) -> Callable[[Any], Any]:
    """Returns a check."""

    def check(value: Any) -> None:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")

    return check


def _any_path(value: str) -> bool:
    return True


def _description(value: str) -> bool:
    """Returns whether a backend is a file that describes it."""
    return value.endswith(".toml")


FLAG = Shape((bool,))
TEXT = Shape((str,), text)
TEXTS = Shape((list,))
COUNT = Shape((int,), count)
POSITIVE = Shape((int,), positive)
NUMBER = Shape((int, float))
AMOUNT = Shape((str, int))  # with a unit as a text, without one as bytes or seconds

RESOURCES: Mapping[str, Shape] = {
    "slots": POSITIVE,
    "memory": AMOUNT,
    "walltime": Shape((str, int, float)),
    "gpus": COUNT,
    "queue": TEXT,
    "project": TEXT,
    "hosts": TEXTS,
    "features": TEXTS,
    "native": TEXTS,
}
RETRY: Mapping[str, Shape] = {
    "times": COUNT,
    "backoff_s": NUMBER,
    "backoff_most_s": NUMBER,
    "other_host": FLAG,
    "memory": NUMBER,
    "memory_most": AMOUNT,
    "time": NUMBER,
    "time_most": AMOUNT,
    "causes": TEXTS,
}

ARGUMENTS: Mapping[str, Shape] = {
    # of Job, and of what makes jobs
    "cleanup": FLAG,
    "mem_free": TEXT,
    "num_slots": POSITIVE,
    "queue": TEXT,
    "interpreting_shell": TEXT,
    "copy_env": FLAG,
    "add_env": Shape((dict,)),
    "project": TEXT,
    "validation_level": Shape((str,), one_of("e", "w", "n", "p", "v")),
    "os_distribution": TEXT,
    "os_minor": TEXT,
    "par_env": TEXT,
    "gpu": COUNT,
    "h_vmem": TEXT,
    "h_rt": AMOUNT,
    "resources": Shape((dict, list), fields=RESOURCES),
    "retry": Shape((int, dict), fields=RETRY),
    "max_rss": AMOUNT,
    # of what runs them
    "temp_dir": Shape((str,), text, path=_any_path),
    "white_list": TEXTS,
    "quiet": FLAG,
    "progress": FLAG,
    "local": FLAG,
    "max_processes": POSITIVE,
    "require_cluster": FLAG,
    "completion_mail": FLAG,
    "max_workers": POSITIVE,
    "children": POSITIVE,
    "on_error": Shape((str,), one_of("raise", "finish", "return")),
    "reuse": FLAG,
    "backend": Shape((str,), text, path=_description),
    "window": POSITIVE,
}
"""All arguments of the doors but those that differ from call to call: functions, their arguments,
names, classes of exceptions."""
