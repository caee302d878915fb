"""How a run is to be made, and the numbers that follow from it."""

from __future__ import annotations

from msgspec import Struct

from gridmap import __version__
from gridmap.conf import Settings
from gridmap.core.policy import Policy
from gridmap.launch import LOCAL, PYTHON
from gridmap.report.progress import Shown

ON_ERROR = ("raise", "finish", "return")
KEPT_OPTIONS = (
    "processes", "max_workers", "on_error", "reuse", "log_dir", "keep_logs", "children", "profile",
)  # fmt: skip
"""What of its options a run's ledger keeps."""


class Options(Struct, frozen=True):
    """How a run is to be made.

    :param processes: processes on this machine, for local runs
    :param children: jobs that a worker of a cluster runs at once
    :param log_dir: where the workers' output goes; None: the run directory
    :param keep_logs: also after success
    :param durable: keep a ledger, by which the run can go on after this process was killed
    """

    settings: Settings
    backend: str = LOCAL
    processes: int = 1
    max_workers: int = 1
    on_error: str = "raise"
    reuse: bool = True
    log_dir: str | None = None
    keep_logs: bool = False
    durable: bool = False
    children: int = 1

    @property
    def profile(self) -> str:
        """The name of the profile whose settings these are."""
        return self.settings.profile


def shown_by(progress: Shown, settings: Settings, quiet: bool) -> Shown:
    """Returns what is to be shown of a run: yes, no, where somebody can see it (None), or to whom.

    :param quiet: somebody has said that the run is to be quiet
    :raises TypeError: it is nothing of the kind
    """
    if progress is None:
        return {"on": True, "off": False}.get(settings.progress, False if quiet else None)
    if progress is True or progress is False or callable(progress):
        return progress
    raise TypeError(f"progress is True, False, a function or None, not {progress!r}")


def policy_of(options: Options) -> Policy:
    """Returns the numbers that a run goes by."""
    settings = options.settings
    return Policy(
        gridmap=__version__,
        python=PYTHON,
        max_workers=0 if options.backend == LOCAL else options.max_workers,
        num_resubmits=settings.num_resubmits,
        heartbeat_s=settings.heartbeat_frequency_s,
        grace_s=settings.grace_s,
        silent_after_s=settings.max_time_between_heartbeats_s,
        poll_most_s=settings.check_frequency_s,
        poll_first_s=min(1.0, settings.check_frequency_s),
        startup_deadline_s=settings.startup_deadline_s,
        idle_threshold_fraction=settings.idle_threshold_percent / 100,
        max_idle_heartbeats=settings.max_idle_heartbeats,
        stop_on_failure=options.on_error == "raise",
    )
