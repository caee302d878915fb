"""The node's front door: ``python -m gridmap.runner RUN_DIR POOL CHILDREN``, or this file by its
path.

Starts with the standard library alone, in syntax that Python 3.6 reads, so that whatever is wrong
on a node is said in one line of the worker's log, which the client shows.
"""

import json
import os
import stat
import sys

OLDEST = (3, 10)
CONNECTION_NAME = "connection.json"
MAX_FILE_BYTES = 1024**2


class StartError(Exception):
    """This worker cannot start; the message is all that a user needs."""


def get_memory_usage(pid: int, heart_pid: int) -> float:
    """Returns the resident memory [MB] of a process and its descendants, without `heart_pid`."""
    from gridmap.node import usage

    return usage.get_memory_usage(pid, heart_pid)


def get_cpu_load(pid: int, heart_pid: int) -> "tuple[float, bool]":
    """Returns (percent, running) of a process and its descendants, without `heart_pid`."""
    from gridmap.node import usage

    return usage.get_cpu_load(pid, heart_pid)


def get_job_status(parent_pid: int, heart_pid: int) -> dict:
    """Returns what is known of a job's processes: memory [MB], load, host's name."""
    from gridmap.node import usage

    return usage.get_job_status(parent_pid, heart_pid)


def _python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _check_python() -> None:
    if sys.version_info[:2] < OLDEST:
        oldest = f"{OLDEST[0]}.{OLDEST[1]}"
        raise StartError(f"{sys.executable} is Python {_python()}; {oldest} or newer is needed")


def _read_connection(run_dir: str) -> "tuple[str, str, list[str]]":
    """Reads what is needed before anything can be imported; the keys are read elsewhere."""
    path = os.path.join(run_dir, CONNECTION_NAME)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise StartError(
            f"cannot read {path}: {error.strerror}; is the run still going on, and its directory "
            "on a file system that this host shares?"
        ) from None
    # its sys_path decides which code runs here, so nobody else may have written it
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid() or mode & 0o077:
        raise StartError(
            f"{path} belongs to user {status.st_uid} with mode {mode:o}; it must belong to this "
            f"user ({os.geteuid()}) with mode 600"
        )
    try:
        connection = json.loads(content.decode("utf-8"))
        return connection["python"], connection["gridmap"], list(connection["sys_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise StartError(f"{path} is damaged: {error!r}") from None


def _check_client(python: str, version: str) -> None:
    if python != _python():
        raise StartError(
            f"{sys.executable} is Python {_python()}, the client's is {python}; both must be the "
            "same, since functions travel as its byte code"
        )
    import gridmap

    if version != gridmap.__version__:
        raise StartError(
            f"gridmap {gridmap.__version__} is in {os.path.dirname(gridmap.__file__)}, and the "
            f"client has gridmap {version}; install the same version in both"
        )


def _find_modules(sys_path: "list[str]") -> None:
    """Puts the client's folders behind our own."""
    sys.path += [entry for entry in sys_path if entry and entry not in sys.path]


def _serve(run_dir: str, pool: int, children: int) -> int:
    try:
        from gridmap.node.serve import serve
    except ImportError as error:
        raise StartError(
            f"{sys.executable} cannot import what gridmap needs: {error}; install gridmap for it, "
            "with its dependencies"
        ) from None
    return serve(run_dir, pool, children)


def _start(argv: "list[str]") -> int:
    numbers = [int(word) for word in argv[1:] if word.isdigit()]
    if len(argv) not in (2, 3) or len(numbers) != len(argv) - 1 or 0 in numbers[1:]:
        raise StartError("usage: python -m gridmap.runner RUN_DIR POOL [CHILDREN]")
    _check_python()
    python, version, sys_path = _read_connection(argv[0])
    _find_modules(sys_path)
    _check_client(python, version)
    return _serve(argv[0], numbers[0], (numbers[1:] or [1])[0])


def _says_all(error: Exception) -> bool:
    """Tells whether the message is enough; a fault of ours needs its traceback."""
    errors = sys.modules.get("gridmap.errors")
    return isinstance(error, (StartError, OSError, ImportError)) or (
        errors is not None and isinstance(error, errors.GridMapError)
    )


def main(argv: "list[str] | None" = None) -> int:
    """Runs a worker; returns its exit status."""
    try:
        return _start(sys.argv[1:] if argv is None else argv)
    except Exception as error:
        if not _says_all(error):
            import traceback

            traceback.print_exc()
        sys.stderr.write(f"gridmap worker on {os.uname()[1]}: {error or repr(error)}\n")
        sys.stderr.flush()
        return 1


if __name__ == "__main__":
    if not __package__:  # run by path: its folder holds our modules, not packages
        sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking the interpreter apart would take a quarter of a short worker's time
