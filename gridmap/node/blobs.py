"""Keeps the blobs that a node received in a file without a name, so that all its children, and the
other workers of the run on this node, map one copy, and nothing is left of them whatever ends the
node's processes."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Sequence

from gridmap.data import Frame, digest, join_frames, split_frames

MAX_BYTES = 8 << 30
SPARE_FRACTION = 0.1
"""Of a folder's file system this much stays free."""

SMALL_FRACTION = 0.1
"""A blob that needs no more than this of what is free may be kept all the same."""


class BlobStore:
    """Blobs, named by their digests; gone with this process and those that map them.

    :param folders: where to put them, best first; "" is the one for temporary files
    :param max_bytes: more than this is refused
    """

    def __init__(self, folders: Sequence[str] | None = None, max_bytes: int = MAX_BYTES) -> None:
        self._folders = list(folders or ("/dev/shm", ""))
        self._max_bytes = max_bytes
        self._files: dict[str, int] = {}
        self._others: dict[tuple[int, int], int] = {}  # by device and inode
        self._places: dict[str, tuple[int, int, int]] = {}
        self._bytes = 0

    def put(self, digest: str, frames: Sequence[Frame]) -> str:
        """Stores a blob; returns its place.

        :raises OSError: there is no room for it
        """
        if digest in self._places:
            return self.place(digest)
        parts = [memoryview(part) for part in join_frames(frames)]
        size = sum(part.nbytes for part in parts)
        if self._bytes + size > self._max_bytes:
            raise OSError(f"blobs of more than {self._max_bytes} bytes on one node")
        refused: OSError | None = None
        for folder in self._folders:
            try:
                self._places[digest] = self._write(folder, parts, size)
            except OSError as error:
                refused = error
                continue
            self._bytes += size
            return self.place(digest)
        raise refused or OSError("no folder for blobs")

    def place(self, digest: str) -> str:
        """Returns where a blob lies, as `map_blob` wants it; "" for one that was never stored."""
        if digest not in self._places:
            return ""
        fd, at, size = self._places[digest]
        return f"{at}+{size}:/proc/{os.getpid()}/fd/{fd}"

    def lend(self, digest: str) -> tuple[int, int, int]:
        """Returns where a blob lies, for another store: (descriptor, offset, size)."""
        return self._places[digest]

    def adopt(self, digest: str, fd: int, at: int, size: int) -> None:
        """Takes a blob that another process's store has lent; the descriptor is ours from now on.

        :raises OSError, ValueError: it is not what its digest says
        """
        try:
            status = os.fstat(fd)
            with mmap.mmap(fd, size, access=mmap.ACCESS_READ, offset=at) as lent:
                if not _is(digest, lent):
                    raise ValueError("it is not what its digest says")
        except BaseException:
            os.close(fd)
            raise
        known = self._others.setdefault((status.st_dev, status.st_ino), fd)
        if known != fd:
            os.close(fd)
        self._places[digest] = known, at, size

    def _write(self, folder: str, parts: Sequence[memoryview], size: int) -> tuple[int, int, int]:
        if not folder:
            import tempfile  # loads much, and is seldom needed

            folder = tempfile.gettempdir()
        state = os.statvfs(folder)
        free = state.f_bavail * state.f_frsize
        spare = SPARE_FRACTION * state.f_blocks * state.f_frsize
        if size > max(free - spare, SMALL_FRACTION * free):
            raise OSError(f"no room in {folder}: {size:,} bytes, and {free:,} are free")
        if folder not in self._files:
            self._files[folder] = _nameless(folder)
        fd = self._files[folder]
        end = os.lseek(fd, 0, os.SEEK_END)
        at = -(-end // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        try:
            to = at
            for part in parts:
                while part.nbytes:
                    written = os.pwrite(fd, part, to)
                    part, to = part[written:], to + written
        except OSError:
            os.ftruncate(fd, end)
            raise
        return fd, at, size

    def close(self) -> None:
        """Lets go of everything; a child that has mapped a blob keeps its memory."""
        for fd in (*self._files.values(), *self._others.values()):
            os.close(fd)
        self._files.clear()
        self._others.clear()
        self._places.clear()
        self._bytes = 0


def _is(name: str, joined: mmap.mmap) -> bool:
    with memoryview(joined) as whole:
        frames: list[memoryview] = []
        try:
            frames = split_frames(whole)
            return digest(frames) == name
        except struct.error:
            return False
        finally:
            for frame in frames:
                frame.release()


def _nameless(folder: str) -> int:
    """Returns a descriptor of a new file that no folder lists."""
    with contextlib.suppress(OSError, AttributeError):  # not every file system can
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    import tempfile

    fd, path = tempfile.mkstemp(prefix="gridmap-", dir=folder)
    os.unlink(path)
    return fd


def map_blob(place: str) -> mmap.mmap:
    """Maps a blob: private, writable, shared with the other children until written to.

    :param place: where it lies: "OFFSET+SIZE:FILE"
    """
    where, _, path = place.partition(":")
    at, size = map(int, where.split("+"))
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY, offset=at)
