"""The keys of a run, and the file that tells its workers where to go and how to be believed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import zmq
from msgspec import Struct

from gridmap.errors import GridMapError
from gridmap.wire.address import ANY_PORT, split_endpoint
from gridmap.wire.codec import LIMITS, Limits

CONNECTION_NAME = "connection.json"
WINDOW_NAME = "window.json"
_MAX_FILE_BYTES = 1024**2
_KEY_CHARS = 40  # a Curve25519 key in Z85


class ConnectionFileError(GridMapError):
    """The connection file is missing, not private, or not readable as one."""


class _Keeper(Struct, frozen=True):
    """A value that keeps its secrets when it is printed."""

    def __repr__(self) -> str:
        fields = (
            f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
            if not name.endswith("secret")
        )
        return f"{type(self).__name__}({', '.join(fields)})"


class KeyPair(_Keeper, frozen=True):
    """A CurveZMQ key pair; both halves in Z85."""

    public: bytes
    secret: bytes

    @classmethod
    def generate(cls) -> KeyPair:
        """Returns a new random pair."""
        public, secret = zmq.curve_keypair()
        return cls(public, secret)


class RunKeys(_Keeper, frozen=True):
    """The two pairs of a run: the monitor's own, and the one that all its workers share."""

    server: KeyPair
    workers: KeyPair

    @classmethod
    def generate(cls) -> RunKeys:
        """Returns two new random pairs."""
        return cls(KeyPair.generate(), KeyPair.generate())


class Connection(_Keeper, frozen=True):
    """All that a worker needs to join a run. Not the server's secret.

    :param addresses: ZeroMQ endpoints, to be tried in this order
    :param server_public: the key by which a worker knows the monitor, Z85
    :param worker_public: the key by which the monitor knows a worker, Z85
    :param python: the client's Python, "3.11"
    :param sys_path: the client's sys.path
    :param ports: the range of ports that the client was told to use
    :param announced: the addresses are not the client's own: GRIDMAP_ANNOUNCE names them
    :param startup_deadline_s: time that a worker has to report
    """

    run: str
    addresses: list[str]
    server_public: str
    worker_public: str
    worker_secret: str
    gridmap: str
    protocol: int
    python: str
    sys_path: list[str]
    host: str
    pid: int
    max_frame_bytes: int = LIMITS.frame_bytes
    max_payload_bytes: int = LIMITS.payload_bytes
    ports: str = ANY_PORT
    announced: bool = False
    startup_deadline_s: float = 60.0

    @property
    def limits(self) -> Limits:
        """The limits that the monitor of this run keeps."""
        return Limits(frame_bytes=self.max_frame_bytes, payload_bytes=self.max_payload_bytes)


class WindowKeys(_Keeper, frozen=True):
    """All that one needs to watch a run.

    :param addresses: ZeroMQ endpoints, to be tried together
    :param server_public: the key by which the run is known, Z85
    :param watcher_public: the key by which it knows those who may watch, Z85
    :param host: where it answers
    """

    run: str
    addresses: list[str]
    server_public: str
    watcher_public: str
    watcher_secret: str
    gridmap: str
    host: str
    pid: int


def write_connection(run_dir: str | os.PathLike[str], connection: Connection) -> Path:
    """Writes the connection file of a run, all of it or nothing; returns its path.

    :raises ConnectionFileError: the run directory is not private to us, or cannot be written
    """
    return _write(run_dir, CONNECTION_NAME, connection)


def write_window(run_dir: str | os.PathLike[str], window: WindowKeys) -> Path:
    """Writes the file that lets the owner of a run watch it.

    :raises ConnectionFileError: the run directory is not private to us, or cannot be written
    """
    return _write(run_dir, WINDOW_NAME, window)


def read_window(run_dir: str | os.PathLike[str]) -> WindowKeys:
    """Reads that file.

    :raises ConnectionFileError: it is missing, not private to us, or damaged
    """
    content, path = _read(run_dir, WINDOW_NAME)
    try:
        return msgspec.json.decode(content, type=WindowKeys)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConnectionFileError(f"{path} is damaged: {error}") from None


def _write(run_dir: str | os.PathLike[str], name: str, what: Connection | WindowKeys) -> Path:
    _check_dir(run_dir)
    path = Path(run_dir) / name
    scratch = path.with_name(f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        content = msgspec.json.format(msgspec.json.encode(what))
    except ValueError:  # a path of bytes that are no text
        raise ConnectionFileError(
            "the connection cannot be written as JSON; is an entry of sys.path not UTF-8?"
        ) from None
    try:
        _write_private(scratch, content)
        os.replace(scratch, path)
    except OSError as error:
        raise ConnectionFileError(f"cannot write {path}: {error.strerror}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return path


def read_connection(run_dir: str | os.PathLike[str]) -> Connection:
    """Reads the connection file of a run.

    :raises ConnectionFileError: it is missing, not private to us, or not a connection file
    """
    return _parse(*_read(run_dir, CONNECTION_NAME))


def _read(run_dir: str | os.PathLike[str], name: str) -> tuple[bytes, Path]:
    _check_dir(run_dir)
    path = Path(run_dir) / name
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConnectionFileError(
            f"cannot read {path}: {error.strerror}; is the run still going on, "
            "and its directory on a file system that this host shares?"
        ) from error
    with open(handle, "rb") as file:
        # The open file is looked at, not its name: nobody can exchange it in between.
        check_private(os.fstat(handle), path, folder=False)
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ConnectionFileError(f"{path} is too large for a connection file")
    return content, path


def check_private(
    status: os.stat_result,
    path: str | os.PathLike[str],
    *,
    folder: bool,
    uid: int | None = None,
) -> None:
    """Refuses what is not a folder (a file) that belongs to us alone.

    The mode is judged, not whether reading works: root may read anything.

    :param uid: who we are; the effective user where it is not given
    :raises ConnectionFileError: with the path, the fault and the cure
    """
    uid = os.geteuid() if uid is None else uid
    kind, good = ("folder", stat.S_ISDIR) if folder else ("file", stat.S_ISREG)
    wanted = "700" if folder else "600"
    mode = stat.S_IMODE(status.st_mode)
    if not good(status.st_mode):
        raise ConnectionFileError(f"{path} is not a {kind}")
    if status.st_uid != uid:
        raise ConnectionFileError(
            f"{path} belongs to user {status.st_uid}, and this is user {uid}; "
            "keys are only kept in what is one's own"
        )
    if mode & 0o077:
        raise ConnectionFileError(
            f"{path} is open to other users (mode {mode:o}); run: chmod {wanted} {path}"
        )


def _check_dir(run_dir: str | os.PathLike[str]) -> None:
    try:
        status = os.lstat(run_dir)
    except OSError as error:
        raise ConnectionFileError(f"no run directory {run_dir}: {error.strerror}") from error
    check_private(status, run_dir, folder=True)


def _write_private(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask took away
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _parse(content: bytes, path: Path) -> Connection:
    try:
        connection = msgspec.json.decode(content, type=Connection)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConnectionFileError(f"{path} is damaged: {error}") from None
    keys = (connection.server_public, connection.worker_public, connection.worker_secret)
    if any(len(key) != _KEY_CHARS or not key.isascii() for key in keys):
        raise ConnectionFileError(f"{path} is damaged: a key is not {_KEY_CHARS} characters long")
    for address in connection.addresses:
        try:
            split_endpoint(address)
        except ValueError as error:
            raise ConnectionFileError(f"{path} is damaged: {error}") from None
    if not connection.addresses:
        raise ConnectionFileError(f"{path} names no address of the monitor")
    return connection
