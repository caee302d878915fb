"""The table of settings, and all of their values together."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from gridmap.kinds import (
    NO_PROFILE,
    announced,
    count,
    days,
    flag,
    folder,
    interface,
    ledger,
    optional,
    optional_file,
    percent,
    ports,
    positive,
    profile,
    progress,
    seconds,
    start_method,
    starttls,
    temp_dir,
    text,
)
from gridmap.report.addresses import NONE, guess_recipient, guess_server


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


GUESSED = (guess_server, guess_recipient)
"""Defaults that may need a name server, and so are found out when they are needed."""

TABLE: tuple[Setting, ...] = (
    Setting("USE_MEM_FREE", "use_mem_free", flag, False, "the cluster accepts mem_free"),
    Setting("DEFAULT_QUEUE", "default_queue", text, "all.q", "queue of jobs that name none"),
    Setting(
        "DEFAULT_TEMP_DIR",
        "default_temp_dir",
        temp_dir,
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
        "SMTP_STARTTLS",
        "smtp_starttls",
        starttls,
        "auto",
        "whether mails are encrypted: auto (where the server offers it), on or off",
    ),
    Setting(
        "SMTP_SSL", "smtp_ssl", flag, False, "the server speaks TLS from the first byte (port 465)"
    ),
    Setting("SMTP_USER", "smtp_user", optional, NONE, "who logs in at the mail server"),
    Setting(
        "SMTP_PASSWORD_FILE",
        "smtp_password_file",
        optional_file,
        NONE,
        "file with the password of SMTP_USER in its first line; only you may read it (mode 600)",
    ),
    Setting(
        "SMTP_CA_FILE",
        "smtp_ca_file",
        optional_file,
        NONE,
        "file with the certificates (PEM) that the mail server's is checked by, in place of the "
        "system's",
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
        "days until what is left of a run is removed",
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
    Setting(
        "GRIDMAP_PROGRESS",
        "progress",
        progress,
        "auto",
        "show how far a run is: auto (where a person can see it, if quiet=True is not said), "
        "on or off",
    ),
    Setting(
        "GRIDMAP_PROFILE",
        "profile",
        profile,
        NO_PROFILE,
        "profile of the configuration files that calls use which name none",
    ),
)
MAY_BE_EMPTY = frozenset({text, temp_dir, profile, optional, optional_file})
"""For these an empty environment variable is a value (no queue); for the others it is none."""


class Settings(NamedTuple):
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
    smtp_starttls: str = "auto"
    smtp_ssl: bool = False
    smtp_user: str = NONE
    smtp_password_file: str = NONE
    smtp_ca_file: str = NONE
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
    progress: str = "auto"
    profile: str = NO_PROFILE
