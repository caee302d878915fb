"""One table of settings, read when they are needed.

The value of a setting is, in this order:

1. what somebody set on this module (`gridmap.conf.NUM_RESUBMITS = 5`),
2. what somebody set on the package (`gridmap.NUM_RESUBMITS = 5`),
3. the environment variable of the same name,
4. what the profile says that the call names, else GRIDMAP_PROFILE,
5. the configuration files: that of GRIDMAP_CONFIG, the project's, the user's, the site's,
6. the default of the table.

Nothing is frozen at import: `gridmap.conf.NUM_RESUBMITS` looks the value up each time, and
`settings()` takes all of them at once, checked, for one run.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from gridmap.configuration.current import Configuration, current
from gridmap.kinds import NO_PROFILE
from gridmap.settings_table import GUESSED, MAY_BE_EMPTY, TABLE, Setting, Settings

if TYPE_CHECKING:
    from gridmap.configuration.layout import Entry

# For type checkers and people; the values come from __getattr__.
USE_MEM_FREE: bool
DEFAULT_QUEUE: str
DEFAULT_TEMP_DIR: str
DEFAULT_PAR_ENV: str
CREATE_PLOTS: bool
SEND_ERROR_MAIL: bool
SMTP_SERVER: str
SMTP_STARTTLS: str
SMTP_SSL: bool
SMTP_USER: str
SMTP_PASSWORD_FILE: str
SMTP_CA_FILE: str
ERROR_MAIL_SENDER: str
ERROR_MAIL_RECIPIENT: str
MAX_TIME_BETWEEN_HEARTBEATS: float
IDLE_THRESHOLD: float
MAX_IDLE_HEARTBEATS: int
NUM_RESUBMITS: int
CHECK_FREQUENCY: float
HEARTBEAT_FREQUENCY: float
GRIDMAP_RUN_DIR: str
GRIDMAP_MAX_WORKERS: int
GRIDMAP_STARTUP_DEADLINE: float
GRIDMAP_GRACE: float
GRIDMAP_START_METHOD: str
GRIDMAP_LEDGER: str
GRIDMAP_KEEP_DAYS: float
GRIDMAP_INTERFACE: str
GRIDMAP_PORTS: str
GRIDMAP_ANNOUNCE: str
GRIDMAP_PROFILE: str
GRIDMAP_PROGRESS: str
DRMAA_PRESENT: bool


_BY_NAME = {setting.name: setting for setting in TABLE}
_KINDS = {setting.name: setting.kind for setting in TABLE}


class Source:
    """Where a value comes from.

    :param kind: program, environment, profile, file or default
    :param name: the constant, the variable or the profile
    :param entry: where it stands in a file
    """

    __slots__ = ("entry", "kind", "name")

    def __init__(self, kind: str, name: str = "", entry: Entry | None = None) -> None:
        self.kind = kind
        self.name = name
        self.entry = entry

    def __str__(self) -> str:
        if self.entry is None:
            return {"environment": f"environment variable {self.name}"}.get(
                self.kind, self.name or self.kind
            )
        of_profile = f" (profile {self.name})" if self.name else ""
        return f"{self.entry.where}{of_profile}"


DEFAULT = Source("default")

LATELY_S = 0.05
"""Where jobs are made one after the other, files are looked for so often."""


OTHER_VARIABLES = frozenset({
    "GRIDMAP_CONFIG", "GRIDMAP_NATIVE_ID", "GRIDMAP_SITE_CONFIG", "GRIDMAP_WORKER",
})  # fmt: skip
"""Variables of GridMap's that are no settings of the table."""


def meant(variable: str) -> str:
    """Returns the setting that a variable of the environment probably stands for; "": none."""
    import difflib  # takes a while, and is seldom needed

    names = [*_BY_NAME, *OTHER_VARIABLES]
    return next(iter(difflib.get_close_matches(variable, names, n=1, cutoff=0.75)), "")


def tell_of_variables() -> None:
    """Warns, once, of variables that look like settings and are none: they change nothing."""
    for name in sorted(os.environ):
        known = not name.startswith("GRIDMAP_") or name in _BY_NAME or name in OTHER_VARIABLES
        if known or (name, "") in _told:
            continue
        _told.add((name, ""))
        like = meant(name)
        if like:
            import logging

            logging.getLogger(__name__).warning(
                "the environment variable %s is no setting of GridMap, and changes nothing; "
                "is %s meant?", name, like,
            )  # fmt: skip


def settings(profile: str | None = None, within_s: float = 0.0) -> Settings:
    """Returns what every setting is worth now.

    :param profile: the name of one of the files' profiles, or none; GRIDMAP_PROFILE when not given
    :param within_s: files that were looked for so shortly ago are not looked for again
    :raises ConfigError: a value is none, a file cannot be used, or there is no such profile; names
        it, and where it was said.  A ValueError
    """
    files = current(_KINDS, within_s)
    chosen = chosen_profile(profile, files)
    found = {setting.field: _find(setting, files, chosen) for setting in TABLE}
    values = {field: value for field, (value, _) in found.items()}
    if values["smtp_password_file"] is not None:
        _keep_password(values, found)
    values["profile"] = str(chosen)  # as itself, where it is of a kind of its own
    for setting in TABLE:
        if values[setting.field] is None:
            values[setting.field] = "" if setting.default in GUESSED else _default(setting)
    return Settings(**values)


def value(name: str, profile: str | None = None, within_s: float = 0.0) -> Any:
    """Returns what a setting is worth now.

    The parameters are those of `settings`.
    """
    return explained(name, profile, within_s)[0]


def value_in(name: str, profile: str, files: Configuration) -> Any:
    """Returns what a setting is worth by what configuration files have said.

    :param profile: the one that was chosen
    """
    setting = _BY_NAME[name]
    found, source = _find(setting, files, profile)
    return _default(setting) if source is DEFAULT else found


def explained(name: str, profile: str | None = None, within_s: float = 0.0) -> tuple[Any, Source]:
    """Returns what a setting is worth now, and where that comes from."""
    setting = _BY_NAME[name]
    files = current(_KINDS, within_s)
    chosen = NO_PROFILE if name == "GRIDMAP_PROFILE" else chosen_profile(profile, files)
    found, source = _find(setting, files, chosen)
    return (_default(setting) if source is DEFAULT else found), source


def configured(within_s: float = 0.0) -> Configuration:
    """Returns what the configuration files say now.

    :raises ConfigError: a file cannot be used
    """
    return current(_KINDS, within_s)


def chosen_profile(profile: str | None, files: Configuration) -> str:
    """Returns the name of the profile to use, or none.

    :param profile: the one that a call names; GRIDMAP_PROFILE when not given
    :raises ConfigError: no file has it
    """
    source = Source("program", "the call")
    if profile is None:
        profile, source = _find(_BY_NAME["GRIDMAP_PROFILE"], files, NO_PROFILE)
    if not isinstance(profile, str | None):
        raise TypeError(f"profile is the name of a profile, not {profile!r}")
    if profile is None or profile in files.profiles or profile == NO_PROFILE:
        return profile or NO_PROFILE
    from gridmap.errors import ConfigError

    known = ", ".join(sorted(files.profiles)) or "none"
    read = ", ".join(place.path for place, why_not in files.files if not why_not) or "none"
    raise ConfigError(
        f"there is no profile {profile!r}, which {source} names; profiles: {known}; "
        f"configuration files: {read} (`gridmap config --path` tells where they are looked for)"
    )


def backend_files() -> dict[str, str]:
    """Returns the files that describe the backends of the configuration files, by name.

    What somebody else could have written is left out.
    """
    backends = configured().backends
    return {name: str(entry.value) for name, entry in backends.items() if not _refused(entry)}


def backend_file(name: str) -> str | None:
    """Returns the file that describes a backend of the configuration files; None: they have none.

    :raises ConfigError: somebody else could have written it, and it names commands to run
    """
    entry = configured().backends.get(name)
    if entry is not None:
        check_description(entry)
        tell_of_project(entry)
    return None if entry is None else str(entry.value)


def check_description(entry: Entry) -> None:
    """Refuses the description of a backend that somebody else could have written.

    :raises ConfigError: he could; names both files
    """
    reason = _refused(entry)
    if reason:
        from gridmap.errors import ConfigError

        raise ConfigError(
            f"{entry.where}: {entry.name}: {entry.value} is not used: {reason}",
            entry.document.path,
            entry.document.line(entry.keys),
        )


def tell_of_project(entry: Entry) -> None:
    """Warns, once, that a command to be run is named by a file that was only found.

    Whoever unpacks or clones a folder owns all that is in it, the project's file too, and need not
    know of it.

    :param entry: the path of a description, a shell, or native options, which may name a program
    """
    path, value = entry.document.path, str(entry.value)
    if _is_project(entry) and (path, value) not in _told:
        _told.add((path, value))
        import logging  # takes long to load, for this

        logging.getLogger(__name__).warning(
            "%s, found from the working directory, says by %s what commands are run: %s",
            entry.where, entry.name, value,
        )  # fmt: skip


_told: set[tuple[str, str]] = set()


def _keep_password(values: dict[str, Any], found: dict[str, tuple[Any, Source]]) -> None:
    """Sees to it that no password goes where a file says that was only found.

    Whoever unpacks or clones a folder owns the project's file in it: that may not choose which
    server gets a password, nor which file is sent as one.  Mails then go without a login.
    """
    for field in ("smtp_password_file", "smtp_server", "smtp_ca_file"):
        entry = found[field][1].entry
        if entry is not None and _is_project(entry):
            values["smtp_user"] = values["smtp_password_file"] = None
            if (entry.document.path, field) not in _told:
                _told.add((entry.document.path, field))
                import logging

                logging.getLogger(__name__).warning(
                    "%s, found from the working directory, sets %s: so no password is sent to the "
                    "mail server. Set it in your own file, or name this one by GRIDMAP_CONFIG",
                    entry.where, entry.name,
                )  # fmt: skip
            return


def _is_project(entry: Entry) -> bool:
    """Returns whether an entry stands in a file that nobody named, but that was found."""
    path = entry.document.path
    return {place.role for place, _ in configured(LATELY_S).files if place.path == path} == {
        "project"
    }


def _refused(entry: Entry) -> str:
    from gridmap.trust import why_not

    try:
        return why_not(entry.value, os.stat(entry.value))
    except OSError:
        return ""  # it is not there, and whoever opens it says so


def _find(setting: Setting, files: Configuration, profile: str) -> tuple[Any, Source]:
    """Returns what was set, checked, and where; None where nothing was."""
    for module in (__name__, "gridmap"):
        names = vars(sys.modules[module])
        if setting.name in names:
            source = Source("program", f"{module}.{setting.name}")
            return _checked(setting, names[setting.name], source), source
    given = os.environ.get(setting.name)
    if given is not None and (given.strip() or setting.kind in MAY_BE_EMPTY):
        source = Source("environment", setting.name)
        return _checked(setting, given, source), source
    if profile != NO_PROFILE:
        entry = files.profiles[profile].get(("settings", setting.name))
        if entry is not None:
            return entry.value, Source("profile", profile, entry)
    entry = files.settings.get(setting.name)
    if entry is not None:
        return entry.value, Source("file", "", entry)
    return None, DEFAULT


def _default(setting: Setting) -> Any:
    return setting.default() if callable(setting.default) else setting.default


def _checked(setting: Setting, value: object, source: Source) -> Any:
    try:
        return setting.kind(value)
    except ValueError as error:
        from gridmap.errors import ConfigError

        raise ConfigError(f"{source} is {value!r}, but {error} ({setting.meaning})") from None


def _drmaa_present() -> bool:
    try:
        from gridmap.backends import drmaa
    except ImportError:
        return False
    return bool(drmaa.present())


def __getattr__(name: str) -> Any:
    if name == "DRMAA_PRESENT":
        return _drmaa_present()
    if name not in _BY_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return value(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_BY_NAME, "DRMAA_PRESENT"})
