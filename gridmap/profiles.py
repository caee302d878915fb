"""Profiles: what a configuration file gives as defaults of the arguments of a call.

What the call says wins.  None says nothing: it is what a function that hands its own arguments on
has for those that it was not given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from gridmap import conf
from gridmap.errors import ConfigError
from gridmap.resources import Resources, WithList
from gridmap.retry import Retry

if TYPE_CHECKING:
    from gridmap.configuration.current import Configuration
    from gridmap.configuration.layout import Entry, Keys

P = ParamSpec("P")
R = TypeVar("R")
Entries = dict["Keys", "Entry"]

SAME = (
    ("num_slots", "slots"),
    ("h_vmem", "memory"),
    ("mem_free", "memory"),
    ("h_rt", "walltime"),
    ("gpu", "gpus"),
    ("queue", "queue"),
    ("project", "project"),
    ("white_list", "hosts"),
)
"""Arguments, and the fields of Resources that say the same."""

SILENT_WHEN_EMPTY = ("h_vmem", "mem_free", "h_rt", "white_list")
"""Of these, arguments that say nothing of the field when they are empty: "" and []."""

INSTEAD = {
    "local": ("backend", "require_cluster"),
    "backend": ("local", "require_cluster"),
    "require_cluster": ("local",),
}
"""What a call says where it runs, and arguments that would contradict it."""


class Applied(str):
    """The name of a profile whose values are among the arguments already.

    :param files: what the configuration files said then
    """

    files: Configuration
    given: Collection[str] = ()
    """The names of the arguments that the call or the profile gives."""

    def value(self, setting: str) -> Any:
        """Returns what a setting is worth."""
        return conf.value_in(setting, str(self), self.files)


def with_profile(
    within_s: float = 0.0, more: Iterable[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that gives a function's arguments the defaults of a profile.

    The function has a parameter `profile`, or takes any name; it is called with an Applied.

    :param within_s: how long configuration files are taken to be as they were
    :param more: arguments that it takes beside those that it names
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names, takes = parameters(function)
        takes |= {*more}

        @functools.wraps(function)
        def filled(*args: P.args, **options: P.kwargs) -> R:
            profile: Any = options.get("profile")
            if type(profile) is Applied:
                return function(*args, **options)
            files = conf.configured(within_s)
            name = options["profile"] = Applied(conf.chosen_profile(profile, files))
            name.files = files
            name.given = {*names[: len(args)], *map(str, options)}
            if name not in files.profiles:
                return function(*args, **options)
            given = dict(zip(names, args, strict=False))
            wrong = len(args) > len(names) or given.keys() & options.keys()
            if wrong:  # Python itself says it best
                return function(*args, **options)
            given |= options
            arguments: Any = _filled(given, files.profiles[name], takes)
            name.given = arguments.keys()
            return function(**arguments)  # type: ignore[call-arg]

        return filled

    return decorate


def parameters(function: Callable[..., Any]) -> tuple[tuple[str, ...], set[str]]:
    """Returns the names of those that can be given by place, and of all.

    The module inspect would take long to load.
    """
    code = getattr(function, "__wrapped__", function).__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return names[: code.co_argcount], set(names)


def _filled(
    given: dict[str, Any], profile: Mapping[Keys, Entry], takes: set[str]
) -> dict[str, Any]:
    """Returns the arguments of a call, with those of a profile where it says nothing.

    :param takes: the arguments that there are
    """
    said = {name: value for name, value in given.items() if value is not None}
    entries = {keys: entry for keys, entry in profile.items() if keys[0] in takes}
    listed = entries.get(("resources",))
    for name, value in said.items():
        entries.pop((name,), None)
        for other in INSTEAD.get(name, ()) if value else ():
            entries.pop((other,), None)
    backend = entries.get(("backend",))
    if said.get("require_cluster") and backend is not None and backend.value == "local":
        del entries[("backend",)]
    of_resources = _said_fields(said.get("resources"))
    for name, field in SAME:
        if name in said and not (name in SILENT_WHEN_EMPTY and _empty(said[name])):
            entries.pop(("resources", field), None)
        if field in of_resources:
            entries.pop((name,), None)
    backend = entries.get(("backend",))
    if backend is not None and str(backend.value).endswith(".toml"):
        conf.check_description(backend)
        conf.tell_of_project(backend)
    for keys in (("interpreting_shell",), ("resources", "native")):
        if keys in entries:
            conf.tell_of_project(entries[keys])
    filled = {**given, **{keys[0]: entry.value for keys, entry in entries.items() if not keys[1:]}}
    for name, make in _TABLES.items():
        table = {keys: entry for keys, entry in entries.items() if keys[0] == name and keys[1:]}
        if table:
            filled[name] = _made(make, table, said.get(name))
    if listed is not None and isinstance(said.get("resources"), Resources):
        filled["resources"] = WithList(**of_resources, extra=tuple(listed.value))
    return filled


def _empty(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, set, frozenset)) and not value


def _made(make: Callable[[dict[str, Any], Any], Any], table: Entries, said: Any) -> Any:
    """Returns what a table of the profile stands for, with what the call says.

    :raises ConfigError: it stands for nothing; names the file
    """
    values = {keys[1]: entry.value for keys, entry in table.items()}
    try:
        return make(values, said)
    except (TypeError, ValueError) as error:
        entry = next(iter(table.values()))
        where = ", ".join(dict.fromkeys(each.where for each in table.values()))
        name = ".".join(entry.keys[:-1])
        path, line = entry.document.path, entry.document.line(entry.keys)
        raise ConfigError(f"{where}: {name}: {error}", path, line) from None


def _environment(values: dict[str, Any], said: Any) -> Any:
    return {**values, **(said or {})} if said is None or isinstance(said, Mapping) else said


def _retry(values: dict[str, Any], said: Any) -> Any:
    return Retry(**values) if said is None else said


def _resources(values: dict[str, Any], said: Any) -> Any:
    """Returns Resources; where the call has some, too, each field of theirs wins.

    A historic list of the call is something else than the fields, and stands beside them.
    """
    if isinstance(said, str | Mapping) or not isinstance(said, Resources | Iterable | None):
        return said  # whoever takes it says what is wrong with it
    if said is None or isinstance(said, Resources):
        return Resources(**{**values, **_said_fields(said)})
    return WithList(**values, extra=tuple(said))


def _said_fields(resources: Any) -> dict[str, Any]:
    """Returns those fields of a call's Resources that say something."""
    return resources.said() if isinstance(resources, Resources) else {}


_TABLES: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "add_env": _environment,
    "retry": _retry,
    "resources": _resources,
}
