"""What the benchmarks measured is kept, and shown as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import record, report
from benchmarks.local.measure import measure
from benchmarks.local.workloads import WORKLOADS
from benchmarks.record import Row, row
from benchmarks.slurm import systems as slurm
from benchmarks.slurm.main import AHEAD, in_how_many_ahead

PAGE = "Before\n\n.. begin local\n.. end local\n\n.. begin scale\nold\n.. end scale\n\nafter\n"


def first(ours: list[float], note: str = "") -> list[Row]:
    """Returns rows of three systems; GridMap's goal is 0.08 s."""
    return [
        row("first: 4 calls", "s", ours, goal={"at_most": 0.08}, note=note),
        row("first: 4 calls", "s", [0.2], "Pool"),
        row("first: 4 calls", "s", [], "mpire", note="dies: SIGSEGV"),
        row("first: 4 calls", "s", [0.0], "serial"),
    ]


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    file = tmp_path / "performance.json"
    record.record("local", "first", first([0.05, 0.02, 0.04]), "make it", {"Pool": "1"}, file)
    return file


def shown(measured: Path, tmp_path: Path) -> str:
    page = tmp_path / "performance.rst"
    page.write_text(PAGE)
    assert report.main(["--from", str(measured), "--page", str(page)]) == 0
    return page.read_text()


def test_a_table_takes_the_place_of_its_forerunner_only(measured: Path) -> None:
    second = [row("bytes", "MB/s", [1.0])]
    record.record("local", "import", second, "make it", {"Ray": "2"}, measured)
    record.record("scale", "agents", second, "make scale", file=measured)
    record.record("local", "first", first([1.0]), "make it anew", file=measured)
    parts = record.read(measured)
    assert parts.keys() == {"local", "scale"}
    assert parts["local"]["tables"] == {"first": first([1.0]), "import": second}
    assert parts["local"]["versions"] == {"Pool": "1", "Ray": "2"}
    assert parts["local"]["command"] == "make it anew"
    assert parts["local"]["machine"].keys() == {"cpu", "cores", "memory_gib", "kernel", "python"}
    assert list(measured.parent.iterdir()) == [measured]


def test_the_page_shows_medians_goals_and_ratios(measured: Path, tmp_path: Path) -> None:
    text = shown(measured, tmp_path)
    assert text.startswith("Before\n\n.. begin local\n\nMeasured with ``make it`` on ")
    assert text.endswith(".. end local\n\n.. begin scale\nold\n.. end scale\n\nafter\n")
    assert (
        "- 0.040 (0.020)\n     - at most 0.080: met\n     - 0.533: met\n     -\n"
        "     - Pool, 0.200\n     - 5.0x\n" in text
    )
    assert "* - Pool\n     - **0.200** (5.0x)\n" in text
    assert "* - mpire\n     - dies: SIGSEGV\n" in text


def test_a_goal_is_shown_at_the_speed_of_the_run(tmp_path: Path) -> None:
    """The others' 0.03 and 0.19 s, when the goal was 0.08 s, are 0.06 and 0.57 s now."""
    file = tmp_path / "performance.json"
    rows = [
        row("first", "s", [0.25], goal={"at_most": 0.08}),
        row("first", "s", [0.06], "Pool"),
        row("first", "s", [0.57], "loky"),
        row("first", "s", [9.0], "joblib", note="wrong results"),
    ]
    record.record("local", "first", rows, "make it", file=file)
    assert "- at most 0.080: **missed**\n     - 0.200: **missed**\n" in shown(file, tmp_path)
    record.record("local", "first", [{**rows[0], "values": [0.2]}, *rows[1:]], "it", file=file)
    assert "- at most 0.080: **missed**\n     - 0.200: met\n" in shown(file, tmp_path)


@pytest.mark.parametrize(
    ("values", "note"), [([0.09], ""), ([0.01], "wrong results"), ([], "hangs")]
)
def test_a_missed_goal_is_shown(
    measured: Path, tmp_path: Path, values: list[float], note: str
) -> None:
    record.record("local", "first", first(values, note), "make it", file=measured)
    text = shown(measured, tmp_path)
    assert "at most 0.080: **missed**" in text
    assert note in text


def test_the_page_shows_what_the_calls_alone_would_take(tmp_path: Path) -> None:
    file = tmp_path / "performance.json"
    rows = [row("10ms: 200 calls of 10 ms", "s", [1.25])]  # 2 s of work, two workers
    record.record("local", "10ms", rows, "make it", file=file)
    assert "- 1.25\n     -\n     -\n     - 1.25x\n     - none\n" in shown(file, tmp_path)


def slurm_tables(others_s: float) -> dict[str, list[Row]]:
    """Returns tables of GridMap, a peer that takes so long, and one that is never done."""
    tables = {}
    for count in slurm.COUNTS:
        for kind in ("first", "all"):
            name = f"{count:,} calls: {kind}"
            late = row(name, "s", [], "submitit", note="not done after 150 s: 9 results had come")
            tables[name] = [row(name, "s", [1.0]), row(name, "s", [others_s], "Parsl"), late]
    return tables


@pytest.mark.parametrize(("others_s", "ahead", "word"), [(2.5, 8, "met"), (0.5, 0, "**missed**")])
def test_being_ahead_on_slurm_is_a_goal(
    tmp_path: Path, others_s: float, ahead: int, word: str
) -> None:
    tables = slurm_tables(others_s)
    tables[AHEAD] = [in_how_many_ahead(tables)]
    file = tmp_path / "performance.json"
    for name, rows in tables.items():
        record.record("slurm", name, rows, "make bench-slurm", file=file)
    page = tmp_path / "performance.rst"
    page.write_text(".. begin summary\n.. end summary\n.. begin slurm\n.. end slurm\n")
    assert report.main(["--from", str(file), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.count(f"- {ahead} of 8 cells\n     - ahead in every cell: {word}\n") == 2
    head, _, rest = text.partition("Seconds to all results\n")
    assert "Seconds to the first result\n" in head and "- 10,000 calls\n" in rest
    best = "**2.50** (2.5x)" if others_s > 2 else "**0.500** (0.50x)"
    assert rest.count(best) == 4 and rest.count("not done after 150 s: 9 results had come") == 4


def test_rows_of_other_parts_are_a_list(tmp_path: Path) -> None:
    file = tmp_path / "performance.json"
    rows = [row("agents", "calls/s", [12345.6], goal={"at_least": 10000})]
    record.record("scale", "Many workers", rows, "make bench-scale", file=file)
    text = shown(file, tmp_path)
    assert "Many workers\n~~~~~~~~~~~~\n" in text
    assert "* - agents\n     - 12,346 calls/s\n     - at least 10,000: met\n" in text
    assert "old" not in text


def test_a_part_without_a_place_is_an_error(measured: Path) -> None:
    with pytest.raises(ValueError, match=r"no place for 'local': \.\. begin local"):
        report.page("nothing here\n", record.read(measured))


def test_a_change_of_the_page_is_noticed(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "performance.rst"
    shown(measured, tmp_path)
    arguments = ["--from", str(measured), "--page", str(page), "--check"]
    assert report.main(arguments) == 0
    page.write_text(page.read_text().replace("0.040", "0.030"))
    assert report.main(arguments) == 1
    assert "out of date" in capsys.readouterr().err


def test_the_page_is_what_was_measured() -> None:
    assert report.main(["--check"]) == 0


def test_every_workload_has_a_place_on_the_page() -> None:
    assert {name for names in report.GROUPS.values() for name in names} == WORKLOADS.keys()


@pytest.mark.parametrize("name", WORKLOADS)
def test_wrong_results_are_noticed(name: str) -> None:
    task = WORKLOADS[name].small()
    assert not task.check([])
    if name != "crash":  # which would end this process
        results = [task.function(argument) for argument in task.arguments]
        assert task.check(results)
        assert not task.check([*results[:-1], "wrong"])


def test_a_measurement_tells_what_went_wrong() -> None:
    assert measure("serial", "crash", "small").note == "dies: SIGSEGV"
    done = measure("Pool", "first", "small")
    assert done.note == "" and done.seconds is not None and done.import_s is not None
    assert 0 <= done.import_s <= done.seconds


def test_a_system_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.local.measure.TIMEOUT_S", 2.0)
    assert measure("Pool", "crash", "small").note == "not done after 2 s"
