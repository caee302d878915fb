"""Plots are PNGs, and cost nothing until one is drawn."""

from __future__ import annotations

import subprocess
import sys
import zlib

import pytest

from gridmap.report import plots


def test_a_plot_is_a_png_with_something_on_it() -> None:
    pytest.importorskip("matplotlib")
    rising = plots.memory_png([1, 10, 100], period_s=10)
    flat = plots.memory_png([1, 1, 1], period_s=10)
    assert rising.startswith(b"\x89PNG\r\n") and rising[-8:-4] == b"IEND"
    assert zlib.crc32(rising) != zlib.crc32(flat)
    assert plots.cpu_png([1, 10, 100], period_s=10) != rising


def test_the_users_own_figures_are_left_alone() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    plots.cpu_png([1, 2], period_s=1)
    assert pyplot.get_fignums() == before


def test_importing_and_asking_load_no_matplotlib() -> None:
    program = (
        "import sys; from gridmap.report import mail, plots; plots.available();"
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
