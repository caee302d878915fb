"""What a probe finds, and what it comes to. Standard library alone: the rest may be missing."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gridmap.doctor.exam import Exam


class Status(str, enum.Enum):
    """How good it is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"

    def __str__(self) -> str:
        return self.value


_BADNESS = (Status.SKIPPED, Status.OK, Status.WARNING, Status.FAILED)


class Finding(NamedTuple):
    """One thing that a probe looked at.

    :param name: stable: programs that read --json go by it
    :param found: what is so, or why it was not looked at
    :param change: what to do about it; "" when nothing is to be done
    :param facts: the same for programs: numbers, texts and lists of them
    """

    name: str
    status: Status
    found: str
    change: str = ""
    facts: Mapping[str, Any] = {}


def ok(name: str, found: str, **facts: Any) -> Finding:
    return Finding(name, Status.OK, found, "", facts)


def warning(name: str, found: str, change: str, **facts: Any) -> Finding:
    return Finding(name, Status.WARNING, found, change, facts)


def failed(name: str, found: str, change: str, **facts: Any) -> Finding:
    return Finding(name, Status.FAILED, found, change, facts)


def skipped(name: str, reason: str) -> Finding:
    return Finding(name, Status.SKIPPED, reason)


class Probe(NamedTuple):
    """One look at one thing.

    :param name: stable, for programs
    :param did: what it does, in a few words
    :param examine: looks, and yields what it finds as it finds it
    """

    name: str
    title: str
    did: str
    examine: Callable[[Exam], Iterator[Finding]]


class Examined(NamedTuple):
    """What a probe has found."""

    probe: Probe
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def status(self) -> Status:
        return worst(finding.status for finding in self.findings)


def worst(statuses: Iterable[Status]) -> Status:
    """Returns the worst of them; what was skipped counts least."""
    return max(statuses, key=_BADNESS.index, default=Status.SKIPPED)


def merged(findings: Iterable[tuple[str, Finding]]) -> list[Finding]:
    """Returns what was found on several hosts: once what is the same, with the hosts' names.

    What differs in nothing but times is the same; the first stands for all.

    :param findings: (host, what was found there)
    """
    same: dict[tuple[str, Status, str, str], list[tuple[str, Finding]]] = {}
    for host, finding in findings:
        key = (finding.name, finding.status, _TIME.sub("", finding.found), finding.change)
        same.setdefault(key, []).append((host, finding))
    several = len({host for some in same.values() for host, _ in some}) > 1
    found = []
    for some in same.values():
        hosts = list(dict.fromkeys(host for host, _ in some))
        first = some[0][1]
        where = f"{', '.join(hosts)}: " if several or first.status is not Status.OK else ""
        facts = {**first.facts, "hosts": hosts}
        found.append(first._replace(found=where + first.found, facts=facts))
    return sorted(found, key=lambda finding: _order(finding, found))


_TIME = re.compile(r"\d+\.\d+ s\b")


def _order(finding: Finding, all_of_them: list[Finding]) -> int:
    """Keeps findings of one name together, in the order in which the names came."""
    names = [one.name for one in all_of_them]
    return names.index(finding.name)
