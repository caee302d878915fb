"""The folder of a run, on a file system that the nodes share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from gridmap.ledger import spool

LEDGER_NAME = "ledger.sqlite"
HISTORY = "history"
"""Folder, beside the runs, of what is known of those that are over: ledgers without values."""


class RunDirectory:
    """A folder for its owner alone; the workers' logs lie in it, or where the user wants them.

    :param path: the folder itself
    :param log_dir: where the logs go; None: into the folder
    """

    def __init__(self, path: Path, log_dir: str | None = None) -> None:
        self.path = path
        self.logs = Path(log_dir) if log_dir else path / "logs"

    @classmethod
    def make(cls, parent: str, run: str, log_dir: str | None = None) -> RunDirectory:
        """Makes the folder of a new run.

        :param parent: folder of all runs; made if it is not there
        :raises OSError: it cannot be made; the message says where to point GRIDMAP_RUN_DIR
        """
        self = cls(Path(parent).absolute() / run, log_dir)
        try:
            Path(parent).mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            try:
                self.logs.mkdir(mode=0o700, exist_ok=True)
            except OSError:
                self.path.rmdir()
                raise
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot make the run directory ({error.strerror}); set GRIDMAP_RUN_DIR to a "
                "folder that you may write and that the nodes share",
                error.filename,
            ) from error
        return self

    def end(self, logs: Iterable[str], keep_logs: bool, keep_ledger: bool = False) -> None:
        """Removes what is not needed any more.

        :param logs: names of the workers' log files
        """
        if not keep_logs:
            for name in logs:
                if name and Path(name).parent == self.logs:
                    with contextlib.suppress(OSError, ValueError):  # a worker may name anything
                        Path(name).unlink()
        if keep_ledger or (keep_logs and self._has_logs()):
            if not keep_ledger:
                self._remember()
            for entry in self.path.iterdir() if self.path.is_dir() else ():
                if entry.name == spool.FOLDER:
                    _remove(entry)
                elif entry.is_file() and not (keep_ledger and entry.name.startswith("ledger.")):
                    with contextlib.suppress(OSError):  # gone by now, or NFS thinks so
                        entry.unlink()
        else:
            self.remove()

    def _has_logs(self) -> bool:
        if self.logs.parent != self.path or not self.logs.is_dir():
            return False
        return any(self.logs.iterdir())

    def remove(self) -> None:
        """Removes the folder and what is in it; the ledger, without values, goes to the history."""
        self._remember()
        _remove(self.path)

    def discard(self) -> None:
        """Removes the folder of a run that never began."""
        _remove(self.path)

    def _remember(self) -> None:
        ledger = self.path / LEDGER_NAME
        with contextlib.suppress(OSError):  # there is none, or no room: then there is no history
            if ledger.is_file():
                folder = self.path.parent / HISTORY / self.path.name
                folder.parent.mkdir(mode=0o700, exist_ok=True)
                folder.mkdir(mode=0o700)
                ledger.rename(folder / LEDGER_NAME)


def _remove(folder: Path) -> None:
    import shutil  # a worker, which needs the names in this module, would wait for it

    shutil.rmtree(folder, ignore_errors=True)
