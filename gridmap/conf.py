"""One table of settings, read when they are needed.

The value of a setting is, in this order:

1. what somebody set on this module (`gridmap.conf.NUM_RESUBMITS = 5`),
2. what somebody set on the package (`gridmap.NUM_RESUBMITS = 5`),
3. the environment variable of the same name,
4. the default of the table below.

Nothing is frozen at import: `gridmap.conf.NUM_RESUBMITS` looks the value up each time, and
`settings()` takes all of them at once, checked, for one run.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct

from gridmap.report.addresses import guess_recipient, guess_server

# For type checkers and people; the values come from __getattr__.
USE_MEM_FREE: bool
DEFAULT_QUEUE: str
DEFAULT_TEMP_DIR: str
DEFAULT_PAR_ENV: str
CREATE_PLOTS: bool
SEND_ERROR_MAIL: bool
SMTP_SERVER: str
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
DRMAA_PRESENT: bool

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})


def flag(value: object) -> bool:
    """Returns a yes or a no, given as such or as a word."""
    word = str(value).strip().lower()
    if word not in _YES | _NO:
        raise ValueError("must be one of 1, true, yes, on, 0, false, no, off")
    return word in _YES


def count(value: object) -> int:
    """Returns a whole number, 0 or more."""
    number = _number(value)
    if number < 0 or number != int(number):
        raise ValueError("must be a whole number, 0 or more")
    return int(number)


def positive(value: object) -> int:
    """Returns a whole number, 1 or more."""
    number = count(value)
    if number < 1:
        raise ValueError("must be a whole number, 1 or more")
    return number


def seconds(value: object) -> float:
    """Returns a time; whole seconds stay an int."""
    number = _number(value)
    if number <= 0:
        raise ValueError("must be a number of seconds, more than 0")
    return number


def percent(value: object) -> float:
    number = float(_number(value))
    if number < 0:
        raise ValueError("must be a number of percent, 0 or more")
    return number


def text(value: object) -> str:
    if not isinstance(value, str) or any(sign in value for sign in "\0\r\n"):
        raise ValueError("must be text of one line")
    return value


def folder(value: object) -> str:
    """Returns a path without `~`."""
    path = os.path.expanduser(text(os.fspath(value) if isinstance(value, os.PathLike) else value))
    if not path:
        raise ValueError("must be a path")
    return path


def start_method(value: object) -> str:
    if value not in ("auto", "fork", "launch"):
        raise ValueError("must be auto, fork or launch")
    return str(value)


def ledger(value: object) -> str:
    if value not in ("cluster", "always", "never"):
        raise ValueError("must be cluster, always or never")
    return str(value)


def days(value: object) -> float:
    number = float(_number(value))
    if number <= 0:
        raise ValueError("must be a number of days, more than 0")
    return number


def interface(value: object) -> str:
    name = text(value).strip()
    if not name:
        raise ValueError("must be a name, an address, a network, or all")
    return name


def ports(value: object) -> str:
    """Returns any, a port or a range of them, as text."""
    from gridmap.wire.address import parse_ports

    words = str(value).strip()
    parse_ports(words)
    return words


def announced(value: object) -> str:
    """Returns the addresses to tell workers, as text."""
    from gridmap.wire.address import parse_announced

    words = text(value).strip()
    parse_announced(words)
    return words


def _number(value: object) -> int | float:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever float() takes
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number") from None
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return int(number) if number == int(number) else number


def _run_dir() -> str:
    data = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):  # the XDG specification: a relative path counts as unset
        data = os.path.expanduser("~/.local/share")
    return os.path.join(data, "gridmap", "runs")


class Setting(NamedTuple):
    """One row of the table.

    :param field: its name in Settings
    :param kind: checks and converts what was set, or the text of the environment variable
    :param default: a value, or a function that finds it out when it is asked for
    """

    name: str
    field: str
    kind: Callable[[object], Any]
    default: Any
    meaning: str


TABLE: tuple[Setting, ...] = (
    Setting("USE_MEM_FREE", "use_mem_free", flag, False, "the cluster accepts mem_free"),
    Setting("DEFAULT_QUEUE", "default_queue", text, "all.q", "queue of jobs that name none"),
    Setting(
        "DEFAULT_TEMP_DIR",
        "default_temp_dir",
        text,
        "/scratch/",
        "folder for the workers' output; /scratch/ stands for the run's own directory",
    ),
    Setting(
        "DEFAULT_PAR_ENV",
        "default_par_env",
        text,
        "smp",
        "parallel environment of jobs with several slots",
    ),
    Setting(
        "CREATE_PLOTS", "create_plots", flag, True, "plots in mails, where matplotlib is there"
    ),
    Setting(
        "SEND_ERROR_MAIL", "send_error_mail", flag, True, "a mail when a job fails on a cluster"
    ),
    Setting(
        "SMTP_SERVER",
        "smtp_server",
        text,
        guess_server,
        "mail server, host or host:port; default: the last three parts of this host's name",
    ),
    Setting(
        "ERROR_MAIL_SENDER", "error_mail_sender", text, "error@gridmap.py", "who the mails are from"
    ),
    Setting(
        "ERROR_MAIL_RECIPIENT",
        "error_mail_recipient",
        text,
        guess_recipient,
        "who gets the mails; default: $USER at the last two parts of this host's name",
    ),
    Setting(
        "MAX_TIME_BETWEEN_HEARTBEATS",
        "max_time_between_heartbeats_s",
        seconds,
        90,
        "seconds of silence after which a worker is suspect",
    ),
    Setting(
        "IDLE_THRESHOLD",
        "idle_threshold_percent",
        percent,
        1.0,
        "percent of a processor below which a sleeping job counts as idle",
    ),
    Setting(
        "MAX_IDLE_HEARTBEATS",
        "max_idle_heartbeats",
        positive,
        3,
        "idle heartbeats in a row after which a job counts as stalled",
    ),
    Setting(
        "NUM_RESUBMITS", "num_resubmits", count, 3, "how often a job that started is tried again"
    ),
    Setting(
        "CHECK_FREQUENCY",
        "check_frequency_s",
        seconds,
        15,
        "seconds between two questions to the scheduler",
    ),
    Setting(
        "HEARTBEAT_FREQUENCY",
        "heartbeat_frequency_s",
        seconds,
        10,
        "seconds between two heartbeats of a worker",
    ),
    Setting(
        "GRIDMAP_RUN_DIR",
        "run_dir",
        folder,
        _run_dir,
        "folder of the run directories, seen by the nodes; "
        "default: gridmap/runs under $XDG_DATA_HOME or ~/.local/share",
    ),
    Setting(
        "GRIDMAP_MAX_WORKERS",
        "max_workers",
        positive,
        500,
        "most workers of a run, where max_workers= does not say otherwise",
    ),
    Setting(
        "GRIDMAP_STARTUP_DEADLINE",
        "startup_deadline_s",
        seconds,
        60,
        "seconds within which a worker that runs for the scheduler must report",
    ),
    Setting(
        "GRIDMAP_GRACE",
        "grace_s",
        seconds,
        300,
        "seconds that a worker goes on without a word from its monitor",
    ),
    Setting(
        "GRIDMAP_START_METHOD",
        "start_method",
        start_method,
        "auto",
        "how local processes come about: auto, fork or launch",
    ),
    Setting(
        "GRIDMAP_LEDGER",
        "ledger",
        ledger,
        "cluster",
        "which runs can be taken over when their program was killed: cluster, always or never",
    ),
    Setting(
        "GRIDMAP_KEEP_DAYS",
        "keep_days",
        days,
        14,
        "days until the folder of a run that did not succeed is removed",
    ),
    Setting(
        "GRIDMAP_INTERFACE",
        "interface",
        interface,
        "all",
        "the only network interface to listen on: its name, address or network",
    ),
    Setting(
        "GRIDMAP_PORTS",
        "ports",
        ports,
        "any",
        "TCP port to listen on, or a range such as 50000-50100",
    ),
    Setting(
        "GRIDMAP_ANNOUNCE",
        "announce",
        announced,
        "own",
        "HOST:PORT that workers are to connect to instead of this host, as through a tunnel",
    ),
)
_BY_NAME = {setting.name: setting for setting in TABLE}
# An empty environment variable is a value for these (no queue); for the others it is none.
_MAY_BE_EMPTY = frozenset({text})


class Settings(Struct, frozen=True):
    """All settings of one run, checked.

    `smtp_server` and `error_mail_recipient` are "" where nobody set them: they are guessed from
    this host's name, which may need a name server, when there is a mail to send.
    """

    use_mem_free: bool = False
    default_queue: str = "all.q"
    default_temp_dir: str = "/scratch/"
    default_par_env: str = "smp"
    create_plots: bool = True
    send_error_mail: bool = True
    smtp_server: str = ""
    error_mail_sender: str = "error@gridmap.py"
    error_mail_recipient: str = ""
    max_time_between_heartbeats_s: float = 90
    idle_threshold_percent: float = 1.0
    max_idle_heartbeats: int = 3
    num_resubmits: int = 3
    check_frequency_s: float = 15
    heartbeat_frequency_s: float = 10
    run_dir: str = ""
    max_workers: int = 500
    startup_deadline_s: float = 60
    grace_s: float = 300
    start_method: str = "auto"
    ledger: str = "cluster"
    keep_days: float = 14
    interface: str = "all"
    ports: str = "any"
    announce: str = "own"


def settings() -> Settings:
    """Returns what every setting is worth now.

    :raises ValueError: a value that is none; names the setting and where it was set
    """
    values = {setting.field: _given(setting, None) for setting in TABLE}
    for setting in TABLE:
        if values[setting.field] is None:
            guessed = setting.default in (guess_server, guess_recipient)
            values[setting.field] = "" if guessed else _default(setting)
    return Settings(**values)


def _given(setting: Setting, otherwise: Any) -> Any:
    for module in (__name__, "gridmap"):
        names = vars(sys.modules[module])
        if setting.name in names:
            return _checked(setting, names[setting.name], f"{module}.{setting.name}")
    value = os.environ.get(setting.name)
    if value is None or (not value.strip() and setting.kind not in _MAY_BE_EMPTY):
        return otherwise
    return _checked(setting, value, f"environment variable {setting.name}")


def _default(setting: Setting) -> Any:
    return setting.default() if callable(setting.default) else setting.default


def _checked(setting: Setting, value: object, where: str) -> Any:
    try:
        return setting.kind(value)
    except ValueError as error:
        raise ValueError(f"{where} is {value!r}, but {error} ({setting.meaning})") from None


def _drmaa_present() -> bool:
    try:
        from gridmap.backends import drmaa
    except ImportError:
        return False
    return bool(drmaa.present())


def __getattr__(name: str) -> Any:
    if name == "DRMAA_PRESENT":
        return _drmaa_present()
    setting = _BY_NAME.get(name)
    if setting is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = _given(setting, None)
    return _default(setting) if value is None else value


def __dir__() -> list[str]:
    return sorted({*globals(), *_BY_NAME, "DRMAA_PRESENT"})
