"""Maps Python functions onto a cluster, or onto the processors of this machine.

Every public name is loaded when it is first used, so that `import gridmap` costs next to nothing
and needs neither DRMAA nor ZeroMQ.  A setting (`gridmap.NUM_RESUBMITS`) is looked up each time it
is read; see `gridmap.conf` for where its value comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridmap._loading import load
from gridmap._version import __version__

VERSION: tuple[int | str, ...] = tuple(
    int(part) if part.isdigit() else part for part in __version__.split(".")
)

if TYPE_CHECKING:
    from gridmap.conf import CHECK_FREQUENCY as CHECK_FREQUENCY
    from gridmap.conf import CREATE_PLOTS as CREATE_PLOTS
    from gridmap.conf import DEFAULT_PAR_ENV as DEFAULT_PAR_ENV
    from gridmap.conf import DEFAULT_QUEUE as DEFAULT_QUEUE
    from gridmap.conf import DEFAULT_TEMP_DIR as DEFAULT_TEMP_DIR
    from gridmap.conf import ERROR_MAIL_RECIPIENT as ERROR_MAIL_RECIPIENT
    from gridmap.conf import ERROR_MAIL_SENDER as ERROR_MAIL_SENDER
    from gridmap.conf import GRIDMAP_ANNOUNCE as GRIDMAP_ANNOUNCE
    from gridmap.conf import GRIDMAP_GRACE as GRIDMAP_GRACE
    from gridmap.conf import GRIDMAP_INTERFACE as GRIDMAP_INTERFACE
    from gridmap.conf import GRIDMAP_KEEP_DAYS as GRIDMAP_KEEP_DAYS
    from gridmap.conf import GRIDMAP_LEDGER as GRIDMAP_LEDGER
    from gridmap.conf import GRIDMAP_MAX_WORKERS as GRIDMAP_MAX_WORKERS
    from gridmap.conf import GRIDMAP_PORTS as GRIDMAP_PORTS
    from gridmap.conf import GRIDMAP_PROFILE as GRIDMAP_PROFILE
    from gridmap.conf import GRIDMAP_PROGRESS as GRIDMAP_PROGRESS
    from gridmap.conf import GRIDMAP_RUN_DIR as GRIDMAP_RUN_DIR
    from gridmap.conf import GRIDMAP_START_METHOD as GRIDMAP_START_METHOD
    from gridmap.conf import GRIDMAP_STARTUP_DEADLINE as GRIDMAP_STARTUP_DEADLINE
    from gridmap.conf import HEARTBEAT_FREQUENCY as HEARTBEAT_FREQUENCY
    from gridmap.conf import IDLE_THRESHOLD as IDLE_THRESHOLD
    from gridmap.conf import MAX_IDLE_HEARTBEATS as MAX_IDLE_HEARTBEATS
    from gridmap.conf import MAX_TIME_BETWEEN_HEARTBEATS as MAX_TIME_BETWEEN_HEARTBEATS
    from gridmap.conf import NUM_RESUBMITS as NUM_RESUBMITS
    from gridmap.conf import SEND_ERROR_MAIL as SEND_ERROR_MAIL
    from gridmap.conf import SMTP_CA_FILE as SMTP_CA_FILE
    from gridmap.conf import SMTP_PASSWORD_FILE as SMTP_PASSWORD_FILE
    from gridmap.conf import SMTP_SERVER as SMTP_SERVER
    from gridmap.conf import SMTP_SSL as SMTP_SSL
    from gridmap.conf import SMTP_STARTTLS as SMTP_STARTTLS
    from gridmap.conf import SMTP_USER as SMTP_USER
    from gridmap.conf import USE_MEM_FREE as USE_MEM_FREE
    from gridmap.earlier import RunInfo as RunInfo
    from gridmap.earlier import attach as attach
    from gridmap.earlier import runs as runs
    from gridmap.errors import BackendError as BackendError
    from gridmap.errors import Cause as Cause
    from gridmap.errors import ConfigError as ConfigError
    from gridmap.errors import DRMAANotPresentException as DRMAANotPresentException
    from gridmap.errors import GridMapError as GridMapError
    from gridmap.errors import JobCanceled as JobCanceled
    from gridmap.errors import JobDied as JobDied
    from gridmap.errors import JobException as JobException
    from gridmap.errors import JobNeverStarted as JobNeverStarted
    from gridmap.errors import JobOutOfMemory as JobOutOfMemory
    from gridmap.errors import JobOutOfTime as JobOutOfTime
    from gridmap.errors import JobRefused as JobRefused
    from gridmap.errors import JobSilent as JobSilent
    from gridmap.errors import JobStalled as JobStalled
    from gridmap.errors import JobUnpicklable as JobUnpicklable
    from gridmap.errors import LedgerError as LedgerError
    from gridmap.errors import LedgerInUse as LedgerInUse
    from gridmap.errors import PicklingError as PicklingError
    from gridmap.errors import RemoteTraceback as RemoteTraceback
    from gridmap.errors import WireError as WireError
    from gridmap.job import Job as Job
    from gridmap.job import grid_imap as grid_imap
    from gridmap.job import grid_imap_unordered as grid_imap_unordered
    from gridmap.job import grid_map as grid_map
    from gridmap.job import process_jobs as process_jobs
    from gridmap.job import submit as submit
    from gridmap.pictures import plot as plot
    from gridmap.resources import Resources as Resources
    from gridmap.retry import Retry as Retry
    from gridmap.run import Run as Run

# Public name -> the module that has it. Kept equal to the imports above by tests/test_package.py.
_HOMES = {
    **dict.fromkeys(
        ("Job", "grid_map", "process_jobs", "grid_imap", "grid_imap_unordered", "submit"),
        "gridmap.job",
    ),
    **dict.fromkeys(("RunInfo", "attach", "runs"), "gridmap.earlier"),
    "plot": "gridmap.pictures",
    "Resources": "gridmap.resources",
    "Retry": "gridmap.retry",
    "Run": "gridmap.run",
    **dict.fromkeys(
        (
            "BackendError",
            "Cause",
            "ConfigError",
            "DRMAANotPresentException",
            "GridMapError",
            "JobCanceled",
            "JobDied",
            "JobException",
            "JobNeverStarted",
            "JobOutOfMemory",
            "JobOutOfTime",
            "JobRefused",
            "JobSilent",
            "JobStalled",
            "JobUnpicklable",
            "LedgerError",
            "LedgerInUse",
            "PicklingError",
            "RemoteTraceback",
            "WireError",
        ),
        "gridmap.errors",
    ),
}
_SETTINGS = (
    "CHECK_FREQUENCY",
    "CREATE_PLOTS",
    "DEFAULT_PAR_ENV",
    "DEFAULT_QUEUE",
    "DEFAULT_TEMP_DIR",
    "ERROR_MAIL_RECIPIENT",
    "ERROR_MAIL_SENDER",
    "GRIDMAP_GRACE",
    "GRIDMAP_ANNOUNCE",
    "GRIDMAP_INTERFACE",
    "GRIDMAP_KEEP_DAYS",
    "GRIDMAP_PORTS",
    "GRIDMAP_LEDGER",
    "GRIDMAP_MAX_WORKERS",
    "GRIDMAP_PROFILE",
    "GRIDMAP_PROGRESS",
    "GRIDMAP_RUN_DIR",
    "GRIDMAP_STARTUP_DEADLINE",
    "GRIDMAP_START_METHOD",
    "HEARTBEAT_FREQUENCY",
    "IDLE_THRESHOLD",
    "MAX_IDLE_HEARTBEATS",
    "MAX_TIME_BETWEEN_HEARTBEATS",
    "NUM_RESUBMITS",
    "SEND_ERROR_MAIL",
    "SMTP_CA_FILE",
    "SMTP_PASSWORD_FILE",
    "SMTP_SERVER",
    "SMTP_SSL",
    "SMTP_STARTTLS",
    "SMTP_USER",
    "USE_MEM_FREE",
)
_MODULES = ("conf", "data", "errors", "job")

__all__ = [*_HOMES, *_SETTINGS, "VERSION", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(load(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _SETTINGS:  # not kept here: read anew each time
        return getattr(load("gridmap.conf"), name)
    if name in _MODULES:
        return load(f"gridmap.{name}")
    raise AttributeError(f"module 'gridmap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
