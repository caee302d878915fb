"""Workers on PBS, LSF, HTCondor, Slurm and others, through their DRMAA libraries.

What these libraries share is what DRMAA says of single jobs.  How they name the elements of an
array, and what these know of it, is a matter of each of them, so workers are submitted one by one;
and there is no call that lists jobs.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gridmap.backends.base import SubmitRequest
from gridmap.backends.drmaa import DrmaaBackend
from gridmap.backends.drmaa_session import SESSION, DrmaaSession
from gridmap.backends.drmaa_systems import System, specification
from gridmap.backends.native import job_name
from gridmap.core.events import NativeStatus
from gridmap.errors import BackendError

log = logging.getLogger(__name__)

_CUT = re.compile(r"['\n]")
_CUT_UNQUOTED = re.compile(r"[^A-Za-z0-9_.+@/=:,~-]")


class OtherDrmaaBackend(DrmaaBackend):
    """A Backend of one run on another scheduler than Grid Engine.

    :param system: the scheduler
    :param use_mem_free: `mem_free` stands for memory where nothing else does
    :raises DRMAANotPresentException: no DRMAA library can be loaded
    :raises BackendError: the scheduler does not answer (transient), or refuses
    """

    def __init__(
        self, system: System, *, use_mem_free: bool = False, session: DrmaaSession = SESSION
    ) -> None:
        super().__init__(use_mem_free=use_mem_free, session=session)
        self.scheduler = system.words.name
        self._system = system
        self._files: dict[str, tuple[str, str]] = {}
        self._full_ids: dict[str, str] = {}

    def submit(self, request: SubmitRequest) -> list[str]:
        """Starts `count` workers, one after the other; all of them or none."""
        attributes = self._template(request)
        ids: list[str] = []
        try:
            for _ in range(request.count):
                stem = os.path.join(request.log_dir, f"worker.{os.urandom(6).hex()}")
                files = f"{stem}.out", f"{stem}.err"
                paths = {"outputPath": f":{files[0]}", "errorPath": f":{files[1]}"}
                native_id = self._short(self._session.submit_one({**attributes, **paths}))
                self._files[native_id] = files
                ids.append(native_id)
        except BackendError:
            if ids:
                self._cancel_after_failure(ids)
            raise
        log.info("run %s: %d workers submitted, from %s on", request.run_tag, len(ids), ids[0])
        return ids

    def cancel(self, ids: Sequence[str]) -> None:
        """Deletes workers, one after the other."""
        ended = self._reap(ids)
        for native_id in ids:
            if native_id not in ended:
                self._canceled.add(native_id)
                self._session.terminate(self._full(native_id))

    def find(self, run_tag: str) -> list[str]:
        """Returns nothing: DRMAA lists no jobs."""
        log.warning(
            "the workers of run %s cannot be looked for: DRMAA does not list those of %s",
            *(run_tag, self.scheduler),
        )
        return []

    def adopt(self, ids: Sequence[str]) -> None:
        """Takes over workers of another session, as far as the library knows of them."""

    def _reap(self, ids: Iterable[str]) -> dict[str, NativeStatus]:
        names = {self._full(native_id): native_id for native_id in ids}
        found = self._session.reap(names)
        return {names[full]: status for full, status in found.items()}

    def _poll(self, native_id: str) -> NativeStatus | None:
        return self._session.poll(self._full(native_id))

    def _look_again(self, answer: dict[str, NativeStatus]) -> None:
        """Believes the library: there is nobody else to ask."""

    def _explained(self, native_id: str, status: NativeStatus) -> NativeStatus:
        return status

    def _commands_say(self, native_id: str) -> Iterator[str]:
        yield from ()

    def _logs(self, native_id: str) -> tuple[str, ...]:
        return self._files.get(native_id, ())

    def _short(self, native_id: str) -> str:
        """Returns the name that a worker knows itself by.

        HTCondor's library puts the name of a schedd before it.
        """
        found = re.fullmatch(r".*[^\d.].*\.(\d+\.\d+)", native_id)
        if found is None or "Condor" not in self.scheduler:
            return native_id
        self._full_ids[found[1]] = native_id
        return found[1]

    def _full(self, native_id: str) -> str:
        return self._full_ids.get(native_id, native_id)

    def _template(self, request: SubmitRequest) -> Mapping[str, Any]:
        """Returns the attributes of a job, but for the files of its output.

        :raises BackendError: the scheduler cannot be asked for it, or its library would cut it
        """
        try:
            text = specification(self._system, request.resources, self._use_mem_free)
        except ValueError as error:
            raise BackendError(str(error)) from error
        words = list(request.command)
        shell = request.resources.interpreting_shell
        if shell:
            words = [shell, "-c", f"exec {shlex.join(words)}"]
        # some of these libraries write a script, with quotes around arguments and nothing else
        bad = [word for word in words[1:] if _CUT.search(word)]
        plain = (words[0], request.working_dir, request.log_dir)
        bad += [word for word in plain if _CUT_UNQUOTED.search(word)]
        if bad:
            raise BackendError(
                f"{self.scheduler} would cut {bad[0]!r}: blanks, quotes and signs in paths do not "
                "survive its DRMAA library"
            )
        name = job_name(request.name)[: self._system.job_name_characters]
        return {
            "remoteCommand": words[0],
            "args": words[1:],
            "nativeSpecification": text,
            "jobName": name,
            "workingDirectory": request.working_dir,
            "joinFiles": False,
        }
