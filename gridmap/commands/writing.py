"""Values of a run, in a file."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gridmap.errors import GridMapError

PICKLE, JSON = "pickle", "json"


class Target:
    """Where values go; looked at before there are any, so that none are lost.

    :raises GridMapError: the file exists, or cannot be made there
    """

    def __init__(self, options: argparse.Namespace, default: str = "") -> None:
        self.path = Path(options.output or default).absolute()
        named = JSON if self.path.suffix == ".json" else PICKLE
        self.format = options.format or named
        self._replaces = options.force
        if self.path.is_dir():
            raise GridMapError(f"{self.path} is a folder; say which file in it")
        if self.path.exists() and not options.force:
            raise GridMapError(f"{self.path} exists; --force replaces it, --output names another")
        if not os.access(self.path.parent, os.W_OK | os.X_OK):
            raise GridMapError(f"{self.path.parent} is no folder that can be written")

    def write(self, run: str, values: Sequence[Any], errors: dict[int, str]) -> None:
        """Writes all of it, or nothing.

        :param values: in the order of the jobs; an exception, or None, for one without a value
        :param errors: what became of those
        :raises GridMapError: they cannot be written
        """
        content = self._json(run, values, errors) if self.format == JSON else _pickled(values)
        scratch = self.path.with_name(f".{self.path.name}.{os.urandom(4).hex()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(scratch, flags, 0o666), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if self.path.exists() and not self._replaces:
                raise GridMapError(f"{self.path} exists by now; --force replaces it")
            os.replace(scratch, self.path)
        except OSError as error:
            raise GridMapError(f"cannot write {self.path}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)

    def _json(self, run: str, values: Sequence[Any], errors: dict[int, str]) -> bytes:
        plain = [None if job in errors else value for job, value in enumerate(values)]
        told = {str(job): error for job, error in errors.items()}
        try:
            return json.dumps({"run": run, "values": plain, "errors": told}).encode()
        except (TypeError, ValueError, RecursionError):
            for job, value in enumerate(plain):
                try:
                    json.dumps(value)
                except (TypeError, ValueError, RecursionError) as error:
                    raise GridMapError(
                        f"the value of job {job} cannot be written as JSON ({error}); "
                        "--format pickle takes all"
                    ) from None
            raise


def _pickled(values: Sequence[Any]) -> bytes:
    import cloudpickle  # classes of the client's main program have no other home

    try:
        content: bytes = cloudpickle.dumps(list(values), protocol=pickle.DEFAULT_PROTOCOL)
    except Exception as error:  # a value may do anything when it is pickled
        raise GridMapError(
            f"the values cannot be pickled here: {type(error).__name__}: {error}"
        ) from error
    return content
