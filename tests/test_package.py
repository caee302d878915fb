"""The package as a thing: what its import costs, what it exports, what is in its distributions."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import pydoc
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import gridmap
from gridmap import conf

HEAVY = ("cloudpickle", "drmaa", "matplotlib", "msgspec", "numpy", "psutil", "smtplib", "zmq")
CORE_MAY_IMPORT = {"__future__", "collections", "collections.abc", "enum", "msgspec"} | {
    *("bisect", "functools", "heapq", "itertools", "math", "msgspec.structs", "operator", "typing")
}


# --- import ---------------------------------------------------------------------------------------

IMPORT = """
import json, sys, time
began = time.perf_counter()
import gridmap
print(json.dumps([time.perf_counter() - began, sorted(sys.modules)]))
"""


def import_gridmap() -> tuple[float, list[str]]:
    """Imports gridmap in a fresh interpreter; returns the seconds it took, and all modules."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True, timeout=60
    )
    seconds, modules = json.loads(done.stdout)
    return seconds, modules


def test_import_takes_under_100_ms() -> None:
    assert min(import_gridmap()[0] for _ in range(5)) < 0.1


def test_import_loads_nothing_heavy() -> None:
    _, modules = import_gridmap()
    assert not {name.partition(".")[0] for name in modules} & set(HEAVY)
    ours = [name for name in modules if name.startswith("gridmap.")]
    assert ours == ["gridmap._loading", "gridmap._version"]


def test_settings_load_nothing_heavy() -> None:
    program = "import gridmap.conf, sys; gridmap.conf.settings(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert not {name.partition(".")[0] for name in done.stdout.split()} & set(HEAVY)


# --- names ----------------------------------------------------------------------------------------


def test_type_checkers_see_the_names_that_are_there() -> None:
    tree = ast.parse(Path(gridmap.__file__).read_text())
    seen = {
        alias.asname: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == gridmap._HOMES | dict.fromkeys(gridmap._SETTINGS, "gridmap.conf")


def test_every_setting_is_a_constant_of_the_package() -> None:
    assert set(gridmap._SETTINGS) == {setting.name for setting in conf.TABLE}


def test_all_and_dir() -> None:
    assert len(set(gridmap.__all__)) == len(gridmap.__all__)
    assert set(gridmap.__all__) <= set(dir(gridmap))
    assert {"Job", "JobException", "process_jobs", "grid_map", "DRMAANotPresentException"} <= set(
        gridmap.__all__
    )


@pytest.mark.parametrize("name", sorted(gridmap._HOMES))
def test_every_public_name_loads(name: str) -> None:
    assert getattr(gridmap, name).__name__ == name
    assert name in pydoc.plain(pydoc.render_doc(getattr(gridmap, name)))  # help() can tell of it


@pytest.mark.parametrize(
    "name",
    [
        *(setting.name for setting in conf.TABLE),
        *("Job", "JobException", "process_jobs", "grid_map", "DRMAANotPresentException"),
    ],
)
def test_old_code_finds_the_names_in_job_too(name: str) -> None:
    from gridmap import job

    assert hasattr(job, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'grid_mop'"):
        gridmap.grid_mop  # type: ignore[attr-defined]  # noqa: B018


def test_version() -> None:
    assert importlib.metadata.version("gridmap") == gridmap.__version__
    assert gridmap.VERSION[:3] == tuple(int(p) for p in gridmap.__version__.split(".")[:3])


def test_entry_points() -> None:
    found = importlib.metadata.entry_points()
    (backend,) = (e for e in found.select(group="gridmap.backends") if e.name == "drmaa")
    assert backend.value == "gridmap.backends.drmaa:drmaa_backend"
    assert backend.load().__name__ == "drmaa_backend"  # without a DRMAA library, too
    (script,) = (e for e in found.select(group="console_scripts") if e.name == "gridmap_web")
    assert callable(script.load())


# --- the core -------------------------------------------------------------------------------------


def imports_of(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names} | {
        n.module or "." for n in nodes if isinstance(n, ast.ImportFrom)
    }


def test_the_core_imports_only_what_it_may(root: Path) -> None:
    sources = list((root / "gridmap/core").glob("*.py"))
    assert len(sources) >= 6
    for path in sources:
        others = {
            name
            for name in imports_of(path) - CORE_MAY_IMPORT
            if name != "gridmap.errors" and not name.startswith("gridmap.core")
        }
        assert not others, f"{path.name} imports {others}"


# --- distributions --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distributions(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the sdist and the wheel that was made from it."""
    pytest.importorskip("build.__main__")
    work = tmp_path_factory.mktemp("dist")
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__")
    shutil.copytree(root, work / "tree", ignore=left_out)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(work / "out")]
    done = subprocess.run(
        [*command, str(work / "tree")], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work / "out"


def test_the_wheel_has_the_package_and_nothing_else(distributions: Path) -> None:
    (path,) = distributions.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = wheel.read(f"{info}/METADATA").decode()
    tree = distributions.parent / "tree"
    files = [p for kind in ("*.py", "*.toml") for p in (tree / "gridmap").rglob(kind)]
    package = {str(p.relative_to(tree)) for p in files}
    assert {name for name in names if not name.startswith(info)} == package | {"gridmap/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    needed = set(re.findall(r"^Requires-Dist: ([a-z]+)[^;\n]*$", metadata, re.MULTILINE))
    assert needed == {
        *("argcomplete", "cloudpickle", "drmaa", "msgspec", "psutil", "pyzmq", "rich"),
        "threadpoolctl",
    }
    assert f"Version: {gridmap.__version__}\n" in metadata


def test_the_sdist_has_what_is_needed_to_build(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "README.rst", "pyproject.toml", "gridmap/py.typed"} <= names


# --- documents ------------------------------------------------------------------------------------


def test_the_documents_are_good_restructured_text(root: Path) -> None:
    core = pytest.importorskip("docutils.core")
    documents = [root / "README.rst", *(root / "docs").glob("*.rst")]
    assert len(documents) >= 6
    for path in documents:
        settings = {"report_level": 2, "halt_level": 2, "file_insertion_enabled": False}
        core.publish_doctree(path.read_text(), str(path), settings_overrides=settings)


def test_links_between_documents_lead_somewhere(root: Path) -> None:
    documents = [root / "README.rst", *(root / "docs").glob("*.rst")]
    links = [
        (path, link)
        for path in documents
        for link in re.findall(r"`[^`]*<([^:>]+)>`_", path.read_text())
    ]
    assert len(links) >= 10
    assert [
        (p.name, link) for p, link in links if not (p.parent / link.partition("#")[0]).exists()
    ] == []


def test_the_table_of_settings_is_that_of_the_code(root: Path) -> None:
    rows = re.findall(r"^``([A-Z_]+)`` +(.+?)  +(.+)$", (root / "docs/api.rst").read_text(), re.M)
    assert [(name, meaning) for name, _, meaning in rows] == [
        (s.name, s.meaning) for s in conf.TABLE
    ]
    defaults = {name: default for name, default, _ in rows}
    for setting in conf.TABLE:
        if not callable(setting.default):
            assert defaults[setting.name] == str(setting.default)


def test_the_page_of_states_is_that_of_the_code(root: Path) -> None:
    command = [sys.executable, str(root / "tools/state_tables"), "--check"]
    subprocess.run(command, check=True, timeout=60)


def test_the_page_of_faults_is_that_of_the_tests(root: Path) -> None:
    command = [sys.executable, str(root / "tools/fault_table"), "--check"]
    subprocess.run(command, check=True, timeout=60)
