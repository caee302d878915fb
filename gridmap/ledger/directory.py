"""The folder of a run, on a file system that the nodes share."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path


class RunDirectory:
    """A folder for its owner alone; the workers' logs lie in it, or where the user wants them.

    :param parent: folder of all runs; made if it is not there
    :param run: the run's id
    :param log_dir: where the logs go; None: into the folder
    :raises OSError: it cannot be made; the message says where to point GRIDMAP_RUN_DIR
    """

    def __init__(self, parent: str, run: str, log_dir: str | None = None) -> None:
        self.path = Path(parent).absolute() / run
        self.logs = Path(log_dir) if log_dir else self.path / "logs"
        try:
            Path(parent).mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot make the run directory ({error.strerror}); set GRIDMAP_RUN_DIR to a "
                "folder that you may write and that the nodes share",
                error.filename,
            ) from error

    def end(self, logs: Iterable[str], keep_logs: bool) -> None:
        """Removes what is not needed any more: all of it, or all but the logs.

        :param logs: names of the workers' log files
        """
        if not keep_logs:
            for name in logs:
                if name and Path(name).parent == self.logs:
                    Path(name).unlink(missing_ok=True)
        if keep_logs and self._has_logs():
            for entry in self.path.iterdir():
                if entry != self.logs:
                    entry.unlink()
        else:
            self.remove()

    def _has_logs(self) -> bool:
        return self.logs.parent == self.path and any(self.logs.iterdir())

    def remove(self) -> None:
        """Removes the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
