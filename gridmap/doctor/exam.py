"""What the doctor knows so far: its probes read it, and add to it."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridmap.backends.base import Backend
    from gridmap.conf import Settings
    from gridmap.doctor.listener import Listener
    from gridmap.doctor.node import Report
    from gridmap.ledger.directory import RunDirectory
    from gridmap.work import Job

LOCAL = "local"

JOB_NAME = "gridmap_doctor"

CLOSE_S = 10.0
"""How long a backend that started nothing may take to let go of its scheduler."""

RESOURCES = ("queue", "project", "slots", "gpus", "memory", "walltime", "hosts", "native")
"""Options of the doctor that are fields of Resources, under the same names."""


class Exam:
    """One visit to the doctor.

    :param options: of the command line; see `add_arguments`
    :param say: takes a line that tells what is waited for

    The attributes are what probes have found out; None, or empty, where they could not.  `undo` has
    what is to be put in order at the end.  `temp_dir` is where workers are to write their output;
    "" is the run's folder.
    """

    def __init__(
        self, options: argparse.Namespace, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.options = options
        self.say = say
        self.undo = contextlib.ExitStack()
        self.settings: Settings | None = None
        self.backend = ""
        self.chosen_by_itself = True  # by backend="auto", or this machine
        self.is_grid_engine = False
        self.workers = 0  # that a run may have, where it does not say
        self.white_list: list[str] = []
        self.temp_dir = ""
        self.opened: Backend | None = None
        self.directory: RunDirectory | None = None
        self.listener: Listener | None = None
        self.not_listening = ""
        self.questions: dict[str, Any] = {}
        self.reports: list[Report] = []
        self.most_workers = 0  # that the scheduler lets a user have; 0: any number
        self.needed: dict[tuple[str, ...], Any] = {}

    @property
    def is_local(self) -> bool:
        """Whether runs use this machine."""
        return self.backend == LOCAL

    @property
    def submits(self) -> bool:
        return not self.options.no_submit

    def resources(self) -> dict[str, Any]:
        """Returns the fields of Resources that were asked for."""
        given = {name: getattr(self.options, name) for name in RESOURCES}
        return {name: value for name, value in given.items() if value is not None}

    def job(self) -> Job:
        """Returns a job that asks for what was asked for, here and by the profile.

        :raises TypeError, ValueError: that cannot be asked for
        """
        from gridmap.resources import Resources
        from gridmap.work import Job

        more: dict[str, Any] = {}
        if self.resources():
            more["resources"] = Resources(**self.resources())
        return Job(os.getpid, [], name=JOB_NAME, profile=self.options.profile, **more)

    def hand_over(self) -> Backend:
        """Returns the backend to whom it belongs, and who closes it, from now on."""
        backend, self.opened = self.opened, None
        assert backend is not None, "a probe before has opened it"
        return backend

    def close(self) -> None:
        """Puts everything in order again."""
        with self.undo:
            if self.opened is not None:
                closing = threading.Thread(target=self.hand_over().close, daemon=True)
                closing.start()
                closing.join(CLOSE_S)
                if closing.is_alive():
                    raise TimeoutError(f"the scheduler was not let go of within {CLOSE_S:g} s")

    def need(self, name: str, value: Any) -> None:
        """Notes a setting that this cluster needs, for --write-config."""
        self.needed["settings", name] = value


def run_parent(settings: Settings) -> Path:
    """Returns the folder of all runs."""
    return Path(os.path.abspath(settings.run_dir))
