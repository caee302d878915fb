"""Programs that have hardly a descriptor left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, resource, sys
import numpy as np
import gridmap

gridmap.NUM_RESUBMITS = 0
LIMIT, LEFT = 256, int(sys.argv[2])

def take(left):
    '''Opens files until the kernel refuses, and leaves room among the lowest numbers.'''
    files = []
    try:
        while True:
            files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for fd in files[:left]:
            os.close(fd)

def f(i):
    if sys.argv[1] == "child" and i == 3:
        take(LEFT)
    if sys.argv[1] == "death" and not os.path.exists("dead"):
        os.close(os.open("dead", os.O_CREAT | os.O_WRONLY))
        os._exit(1)
    return [np.full(40_000, i + j) for j in range(3)]

def values():
    for i in range(40):
        if sys.argv[1] == "meanwhile" and i == 20:
            take(LEFT)
        yield i

if sys.argv[1] in ("death", "meanwhile"):
    # Who opens everything at the very moment in which the agent reads may take its reserve.
    gridmap.NUM_RESUBMITS = 1
resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
if sys.argv[1] in ("client", "death"):
    take(LEFT)
results = gridmap.grid_imap(f, values(), local=True, max_processes=2, window=4)
for i, arrays in enumerate(results):
    for j, a in enumerate(arrays):
        assert (len(a), a.min(), a.max()) == (40_000, i + j, i + j)
print("right", i)
"""


@pytest.mark.parametrize(
    ("who", "left"),
    [("client", 40), ("client", 24), ("meanwhile", 24), ("meanwhile", 40), ("child", 0),
     ("child", 10), ("death", 24)],
)  # fmt: skip
def test_large_values_arrive(who: str, left: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), who, str(left)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout.strip() == "right 39", done.stderr[-2000:]
