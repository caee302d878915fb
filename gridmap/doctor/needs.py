"""What is worth writing to a configuration file, so that the next run has it, too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from gridmap import conf
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Examined, Status
from gridmap.kinds import NO_PROFILE

PROFILE = "doctor"
"""Gets the backend that was chosen, where no other profile is in use."""

PROVED_BY: Mapping[str, tuple[str, ...]] = {
    "GRIDMAP_RUN_DIR": ("run_dir", "node"),
    "GRIDMAP_INTERFACE": ("connection",),
    "GRIDMAP_PORTS": ("connection",),
    "GRIDMAP_ANNOUNCE": ("connection",),
    "DEFAULT_QUEUE": ("submit",),
    "DEFAULT_TEMP_DIR": ("node",),
    "DEFAULT_PAR_ENV": ("submit",),
    "USE_MEM_FREE": ("submit",),
    "SMTP_SERVER": ("mail",),
    "ERROR_MAIL_SENDER": ("mail",),
    "ERROR_MAIL_RECIPIENT": ("mail",),
}
"""Settings that depend on the cluster, and the probes that show that they are right."""

_GOOD = (Status.OK, Status.WARNING)


def gather(exam: Exam, results: Iterable[Examined]) -> None:
    """Adds the settings of the environment, and options of the doctor, that have proved good."""
    status = {result.probe.name: result.status for result in results}
    for name, probes in PROVED_BY.items():
        proved = all(status.get(probe) in _GOOD for probe in probes)
        if proved and name in os.environ and ("settings", name) not in exam.needed:
            exam.need(name, getattr(conf, name))
    if status.get("submit") not in _GOOD:
        return
    queue = exam.options.queue
    if queue and queue != conf.DEFAULT_QUEUE:
        exam.need("DEFAULT_QUEUE", queue)
    if not exam.chosen_by_itself:
        used = conf.chosen_profile(exam.options.profile, conf.configured())
        exam.needed["profiles", PROFILE if used == NO_PROFILE else used, "backend"] = exam.backend
        if used == NO_PROFILE:
            exam.need("GRIDMAP_PROFILE", PROFILE)
