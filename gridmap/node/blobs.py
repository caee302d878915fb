"""Keeps the blobs that a node received as files, so that all its children map one copy."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gridmap.data import Frame, join_frames

MAX_BYTES = 8 << 30
SPARE_FRACTION = 0.1
"""Of a folder's file system this much stays free."""


class BlobStore:
    """A private folder of blobs, named by their digests; gone when the process ends well.

    :param folders: where to put them, best first; the default is shared memory, then temp files
    :param max_bytes: more than this is refused
    """

    def __init__(self, folders: Sequence[str] | None = None, max_bytes: int = MAX_BYTES) -> None:
        self._folders = list(folders or ("/dev/shm", tempfile.gettempdir()))
        self._max_bytes = max_bytes
        self._made: dict[str, Path] = {}
        self._paths: dict[str, Path] = {}
        self._bytes = 0
        self._pid = os.getpid()
        self.on_folder: Callable[[str], None] = lambda folder: None

    def put(self, digest: str, frames: Sequence[Frame]) -> Path:
        """Stores a blob; the file appears complete or not at all.

        :raises OSError: there is no room for it
        """
        if digest in self._paths:
            return self._paths[digest]
        data = join_frames(frames)
        if self._bytes + len(data) > self._max_bytes:
            raise OSError(f"blobs of more than {self._max_bytes} bytes on one node")
        refused: OSError | None = None
        for folder in self._folders:
            try:
                path = self._write(folder, digest, data)
            except OSError as error:
                refused = error
                continue
            self._paths[digest] = path
            self._bytes += len(data)
            return path
        raise refused or OSError("no folder for blobs")

    def path(self, digest: str) -> str:
        """Returns the file of a blob, "" for one that was never stored."""
        return str(self._paths.get(digest, ""))

    def _write(self, folder: str, digest: str, data: bytes) -> Path:
        state = os.statvfs(folder)
        spare = SPARE_FRACTION * state.f_blocks
        if len(data) > (state.f_bavail - spare) * state.f_frsize:
            raise OSError(f"no room in {folder}")
        if folder not in self._made:
            self._made[folder] = Path(tempfile.mkdtemp(prefix="gridmap-", dir=folder))  # 0700
            self.on_folder(str(self._made[folder]))
        path = self._made[folder] / digest
        part = path.with_suffix(".part")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(data)
            part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return path

    def close(self) -> None:
        """Removes everything; a child that has mapped a blob keeps its memory."""
        if os.getpid() != self._pid:
            return
        for folder in self._made.values():
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
        self._made.clear()
        self._paths.clear()
        self._bytes = 0


def map_blob(path: str) -> mmap.mmap:
    """Maps a blob's file: private, writable, shared with the other children until written to."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
