"""Results of workers that nobody took in before they had to leave, kept in the run directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gridmap.core.messages import Result
from gridmap.pickling import Frame

FOLDER = "spool"


class Spooled(msgspec.Struct, frozen=True):
    """What one worker left.

    :param frames: the payloads of the items, in their order
    """

    worker: str
    incarnation: str
    host: str
    items: list[Result]
    frames: list[bytes]


def write(
    run_dir: str | os.PathLike[str],
    worker: str,
    incarnation: str,
    host: str,
    items: Sequence[Result],
    frames: Sequence[Frame],
) -> Path:
    """Writes a worker's results, all of them or nothing.

    :raises OSError: it cannot be written
    """
    folder = Path(run_dir) / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    spooled = Spooled(worker, incarnation, host, list(items), [bytes(frame) for frame in frames])
    path = folder / f"{worker}.{os.urandom(4).hex()}"
    scratch = path.with_name(f".{path.name}")
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.msgpack.encode(spooled))
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def read(run_dir: str | os.PathLike[str]) -> Iterator[tuple[Path, Spooled]]:
    """Yields what workers left; a file that cannot be read is passed over."""
    folder = Path(run_dir) / FOLDER
    for path in sorted(folder.glob("[!.]*")) if folder.is_dir() else ():
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            yield path, msgspec.msgpack.decode(path.read_bytes(), type=Spooled)
