"""What a visit finds to be worth writing down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridmap.doctor import PROBES
from gridmap.doctor.findings import Examined, Finding, Status
from gridmap.doctor.needs import PROVED_BY, gather
from tests.doctor.visits import exam


def results(**statuses: Status) -> list[Examined]:
    """Returns what probes came to; ok where it is not said."""
    return [
        Examined(probe, (Finding("x", statuses.get(probe.name, Status.OK), ""),), 0.0)
        for probe in PROBES
    ]


def needed(*words: str, by_itself: bool = True, **statuses: Status) -> dict[str, Any]:
    visit = exam(*words)
    visit.chosen_by_itself = by_itself
    gather(visit, results(**statuses))
    return {".".join(keys): value for keys, value in visit.needed.items()}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROVED_BY:
        monkeypatch.delenv(name, raising=False)


def test_nothing_where_all_goes_by_itself() -> None:
    assert needed() == {}


def test_settings_of_the_environment_that_proved_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_PORTS", "50000-50100")
    monkeypatch.setenv("GRIDMAP_RUN_DIR", "/home/ada/runs")
    monkeypatch.setenv("NUM_RESUBMITS", "7")  # no matter of the cluster
    assert needed() == {
        "settings.GRIDMAP_PORTS": "50000-50100",
        "settings.GRIDMAP_RUN_DIR": "/home/ada/runs",
    }


@pytest.mark.parametrize("status", [Status.FAILED, Status.SKIPPED])
def test_those_that_did_not_prove_good_are_left_out(
    monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    monkeypatch.setenv("GRIDMAP_PORTS", "50000-50100")
    assert needed(connection=status) == {}


def test_the_backend_and_the_queue_that_were_asked_for() -> None:
    assert needed("--backend", "mine", "--queue", "long.q", by_itself=False) == {
        "settings.DEFAULT_QUEUE": "long.q",
        "settings.GRIDMAP_PROFILE": "doctor",
        "profiles.doctor.backend": "mine",
    }
    assert needed("--backend", "mine", by_itself=False, submit=Status.FAILED) == {}


def test_a_profile_that_is_in_use_gets_the_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "gridmap.toml"
    file.write_text("[profiles.gpu]\nmax_workers = 2\n[profiles.big]\nmax_workers = 3\n")
    file.chmod(0o600)
    monkeypatch.setenv("GRIDMAP_CONFIG", str(file))
    monkeypatch.setenv("GRIDMAP_PROFILE", "gpu")
    assert needed("--backend", "mine", by_itself=False) == {"profiles.gpu.backend": "mine"}
    asked = needed("--backend", "mine", "--profile", "big", by_itself=False)
    assert asked == {"profiles.big.backend": "mine"}


def test_every_probe_that_proves_something_exists() -> None:
    assert {name for names in PROVED_BY.values() for name in names} <= {p.name for p in PROBES}
