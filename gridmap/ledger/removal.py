"""Removes the folders of runs that nobody drives, so that nobody takes one over meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from gridmap.ledger.directory import LEDGER_NAME
from gridmap.ledger.file import lock

_GONE = re.compile(r"\.\d{8}-\d{6}-[0-9a-f]{8}\.gone")


def remove(folder: Path) -> None:
    """Removes a run with all that is kept of it.

    :raises LedgerInUse: its client lives
    :raises LedgerError: it cannot be said whether that lives
    :raises OSError: it cannot be removed; what is left of it has another name
    """
    gone = folder.with_name(f".{folder.name}.gone")
    with contextlib.ExitStack() as locked:
        if (folder / LEDGER_NAME).is_file():
            locked.enter_context(lock(folder))
        folder.rename(gone)  # from now on nobody takes it over
    import shutil  # most programs remove nothing

    shutil.rmtree(gone)


def remove_rest(parent: Path) -> None:
    """Removes what is left of runs whose removal did not succeed.

    :param parent: where runs are kept
    """
    import shutil

    for path in parent.iterdir():
        if _GONE.fullmatch(path.name) and path.lstat().st_uid == os.geteuid():
            shutil.rmtree(path, ignore_errors=True)
