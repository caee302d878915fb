"""What the doctor prints: lines for people, or one JSON object for programs."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from gridmap.doctor.findings import Examined, Finding, Probe, Status, worst

FORMAT = 1
"""Grows when the JSON object changes in a way that breaks its readers."""

_COLORS = {
    Status.OK: "32",
    Status.WARNING: "33",
    Status.FAILED: "1;31",
    Status.SKIPPED: "2",
}
_INDENT = " " * 12
LEAST_WIDTH, MOST_WIDTH = 60, 120


class Screen:
    """Prints what is found as it is found.

    :param stream: colored, and told what is waited for in a line that is replaced, when it is a
        terminal
    """

    def __init__(self, stream: TextIO, environ: dict[str, str] | None = None) -> None:
        environ = dict(os.environ) if environ is None else environ
        self._stream = stream
        self._terminal = stream.isatty()
        self._colored = self._terminal and not environ.get("NO_COLOR")
        columns = shutil.get_terminal_size((100, 24)).columns if self._terminal else 100
        self._width = max(LEAST_WIDTH, min(MOST_WIDTH, columns - 1))
        self._waiting = False
        self._number = 0

    def begin(self, probe: Probe) -> None:
        self._number += 1
        self._print(self._paint("1", f"{self._number:2}. {probe.title}") + f": {probe.did}")

    def finding(self, finding: Finding) -> None:
        word = self._paint(_COLORS[finding.status], f"{finding.status.value:8}")
        lines = self._wrapped(finding.found) or [""]
        self._print(f"    {word}{lines[0]}")
        for line in lines[1:]:
            self._print(_INDENT + line)
        if finding.change:
            first, *rest = self._wrapped(finding.change, 3)
            self._print(f"{_INDENT}-> {first}")
            for line in rest:
                self._print(f"{_INDENT}   {line}")

    def say(self, line: str) -> None:
        """Tells what is waited for."""
        line = " ".join(line.split())
        if not self._terminal:
            self._print(f"    waiting {line}")
            return
        shown = textwrap.shorten(line, self._width - len(_INDENT), placeholder="...")
        self._stream.write(f"\r\033[K    waiting {shown}")
        self._stream.flush()
        self._waiting = True

    def end(self, results: Sequence[Examined]) -> None:
        """Sums up: how many findings of each kind, and what to change."""
        findings = [finding for result in results for finding in result.findings]
        counts = {s: sum(one.status is s for one in findings) for s in Status}
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        self._print("")
        self._print(self._paint(_COLORS[worst(f.status for f in findings)], told))
        for status in (Status.FAILED, Status.WARNING):
            for result in results:
                for finding in result.findings:
                    if finding.status is status:
                        self._sum_up(result.probe, finding)

    def _sum_up(self, probe: Probe, finding: Finding) -> None:
        word = self._paint(_COLORS[finding.status], f"{finding.status.value:8}")
        first, *rest = self._wrapped(f"{probe.title}: {finding.change or finding.found}")
        self._print(f"    {word}{first}")
        for line in rest:
            self._print(_INDENT + line)

    def text(self, text: str) -> None:
        self._print(text)

    def _wrapped(self, text: str, less: int = 0) -> list[str]:
        """Breaks long lines; those of a log stay apart."""
        width = self._width - len(_INDENT) - less
        how: dict[str, bool] = {"break_long_words": False, "break_on_hyphens": False}
        return [
            piece
            for line in text.splitlines()
            for piece in textwrap.wrap(line, width, **how) or [""]  # type: ignore[arg-type]
        ]

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colored else text

    def _print(self, line: str) -> None:
        if self._waiting:
            self._stream.write("\r\033[K")
            self._waiting = False
        self._stream.write(line + "\n")
        self._stream.flush()


class Silent(Screen):
    """Prints nothing: the JSON object comes at the end."""

    def _print(self, line: str) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""


def as_object(results: Iterable[Examined], **more: Any) -> dict[str, Any]:
    """Returns what was found, for programs."""
    results = list(results)
    return {
        "format": FORMAT,
        **more,
        "status": worst(result.status for result in results).value,
        "probes": [
            {
                "name": result.probe.name,
                "title": result.probe.title,
                "did": result.probe.did,
                "status": result.status.value,
                "seconds": round(result.seconds, 3),
                "findings": [
                    {
                        "name": finding.name,
                        "status": finding.status.value,
                        "found": finding.found,
                        "change": finding.change,
                        "facts": dict(finding.facts),
                    }
                    for finding in result.findings
                ],
            }
            for result in results
        ],
    }


def print_object(stream: TextIO, found: dict[str, Any]) -> None:
    json.dump(found, stream, indent=2, default=str)
    stream.write("\n")
    stream.flush()
