"""Probe: one real `grid_map` of two calls, in a program of its own, as a user's is.

Also that program: ``python -m gridmap.doctor.proof OPTIONS`` takes options of `grid_map` as JSON,
and prints what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from gridmap.doctor.exam import JOB_NAME, Exam
from gridmap.doctor.findings import Finding, failed, ok, skipped

NUMBERS = [3, 4]
SAY_S = 10.0
TERMINATE_S = 30.0
"""How long the program may take to delete its workers when it is ended."""


def examine(exam: Exam) -> Iterator[Finding]:
    """Maps a function over two numbers."""
    reason = why_not(exam)
    if reason:
        yield skipped("grid_map", reason)
    else:
        yield run(exam, options_of(exam))


def why_not(exam: Exam) -> str:
    if exam.settings is None or not exam.backend:
        return "no scheduler was chosen"
    if exam.is_local:
        return "" if exam.submits else "--no-submit"
    if not exam.submits:
        return "--no-submit"
    if not exam.reports:
        return "no task has reported from a node"
    if not any(report.step("hello").get("answered") for report in exam.reports):
        return "no node has reached this host"
    return ""


def options_of(exam: Exam) -> dict[str, Any]:
    """Returns the options of grid_map that were asked for."""
    if exam.is_local:
        return {"local": True, "max_processes": len(NUMBERS)}
    options = {"backend": exam.backend, "name": JOB_NAME, "profile": exam.options.profile}
    if exam.options.temp_dir:
        options["temp_dir"] = exam.options.temp_dir
    if exam.resources():
        options["resources"] = exam.resources()
    return options


def run(exam: Exam, options: Mapping[str, Any]) -> Finding:
    """Runs the program, and ends it when it takes too long."""
    timeout_s = float(exam.options.timeout)
    began = time.monotonic()
    with _program(options, _environment(exam)) as process:
        while time.monotonic() < began + timeout_s:
            try:
                printed, said = process.communicate(timeout=SAY_S)
                return finding(printed, said, process.returncode, time.monotonic() - began, exam)
            except subprocess.TimeoutExpired:
                exam.say(f"{time.monotonic() - began:.0f} s: grid_map is under way")
    return failed(
        "grid_map",
        f"no result within {timeout_s:.0f} s",
        "see above what else is amiss, or try a longer --timeout when the cluster is busy",
    )


def _environment(exam: Exam) -> dict[str, str]:
    """Returns the environment of the program, whose run's folder goes with the doctor's."""
    more = {"SEND_ERROR_MAIL": "0"}
    if exam.directory is not None:
        more["GRIDMAP_RUN_DIR"] = str(exam.directory.path / "runs")
    return {**os.environ, **more}


@contextlib.contextmanager
def _program(
    options: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Starts it; ends it so that it deletes its workers, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gridmap.doctor.proof", json.dumps(options)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=TERMINATE_S)
            process.kill()
            process.communicate()


def finding(printed: str, said: str, status: int, seconds: float, exam: Exam) -> Finding:
    """Returns what came of the program."""
    try:
        told = json.loads(printed)
    except ValueError:
        told = {"error": f"it ended with {status}: {said.strip()[-2000:]}"}
    if told.get("error"):
        return failed(
            "grid_map",
            str(told["error"]),
            "see above what else is amiss; docs/failures.rst tells what causes of death mean",
            seconds=round(seconds, 3),
        )
    values = told["values"]
    hosts = sorted({host for _, host in values})
    if [number for number, _ in values] != [number * number for number in NUMBERS]:
        return failed("grid_map", f"wrong results: {values}", "report this as a fault of GridMap")
    where = "by processes of this machine" if exam.is_local else f"on {', '.join(hosts)}"
    text = f"grid_map squared {NUMBERS} {where}, in {seconds:.1f} s with its start"
    return ok("grid_map", text, seconds=round(seconds, 3), hosts=hosts)


# --- the program ----------------------------------------------------------------------------------


def main(text: str) -> int:
    """Maps, and prints what came of it."""
    from gridmap import Resources, grid_map

    options = json.loads(text)
    if "resources" in options:
        options["resources"] = Resources(**options["resources"])
    host_name = socket.gethostname

    def square(number: int) -> tuple[int, str]:
        return number * number, host_name()

    try:
        told: dict[str, Any] = {"values": grid_map(square, NUMBERS, **options)}
    except Exception as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    json.dump(told, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
