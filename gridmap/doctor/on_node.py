"""What the doctor starts on a node: ``python gridmap/doctor/on_node.py FOLDER DIGEST``.

Like the front door of a worker it starts with the standard library alone, in syntax that Python 3.6
reads: what is wrong on the node is what it is to find out.  It looks at one thing after the other,
and writes what it has found so far to FOLDER/node.TOKEN.json before each: so also a step that kills
it is known.  Where FOLDER is not to be seen, its exit status says so.
"""

import collections.abc
import errno
import fcntl
import hashlib
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time

QUESTIONS_NAME = "questions.json"
LOCK_NAME = "lock"

NOT_SEEN, NOT_WRITTEN, ANOTHER = 40, 41, 42
"""Exit statuses: the folder is not there; it cannot be written; it is another one."""

SEEN_WITHIN_S = 15.0
"""A network file system may take some seconds to show a new folder."""

NAME_S = 3.0
TCP_S = 3.0
HELLO_S = 10.0
SAMPLE_BYTES = 1 << 16

NATIVE = (
    "JOB_ID", "SGE_TASK_ID", "QUEUE", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_PARTITION", "GRIDMAP_NATIVE_ID",
)  # fmt: skip


class Report:
    """What is known so far, in a file that the doctor reads."""

    def __init__(self, folder: str) -> None:
        self.token = os.urandom(8).hex()
        self.path = os.path.join(folder, f"node.{self.token}.json")
        self.content = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "uid": os.geteuid(),
            "python": "{}.{}".format(*sys.version_info),
            "version": ".".join(str(part) for part in sys.version_info[:3]),
            "executable": sys.executable,
            "native": {name: os.environ[name] for name in NATIVE if name in os.environ},
            "began_at": time.time(),
            "doing": "",
            "done": False,
        }

    def write(self) -> None:
        """Replaces the file, all of it at once."""
        self.content["wrote_at"] = time.time()
        scratch = self.path + ".new"
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(self.content, file)
        os.replace(scratch, self.path)


# --- steps ----------------------------------------------------------------------------------------


def limits(questions: dict) -> dict:
    """Returns this process's limits: -1 is none."""
    names = {"open_files": "NOFILE", "memory_lock": "MEMLOCK", "address_space": "AS"}
    found = {}
    for name, word in names.items():
        soft, hard = resource.getrlimit(getattr(resource, "RLIMIT_" + word))
        found[name] = [-1 if value == resource.RLIM_INFINITY else value for value in (soft, hard)]
    return found


def folders(questions: dict) -> dict:
    """Returns of each folder that jobs use whether it is there, is the same, and can be written."""
    found = {}
    for name, asked in questions["folders"].items():
        path = asked["path"]
        answer = {"path": path, "there": os.path.isdir(path)}
        if answer["there"]:
            sample = asked["sample"]
            try:
                answer["seen"] = sum(os.path.lexists(os.path.join(path, one)) for one in sample)
                answer["readable"] = os.access(path, os.R_OK | os.X_OK)
            except OSError as error:
                answer["error"] = error.strerror
            if asked["written"]:
                answer["error"] = _write_error(path)
        found[name] = answer
    try:
        temporary = tempfile.gettempdir()
        found["temporary"] = {"path": temporary, "there": True, "error": _write_error(temporary)}
    except OSError as error:
        found["temporary"] = {"path": "", "there": False, "error": str(error)}
    return found


def _write_error(folder: str) -> str:
    try:
        handle, path = tempfile.mkstemp(prefix="gridmap-doctor-", dir=folder)
        try:
            os.write(handle, bytes(SAMPLE_BYTES))
        finally:
            os.close(handle)
            os.unlink(path)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def locks(questions: dict) -> dict:
    """Tries to get the lock that the doctor holds."""
    path = os.path.join(questions["folder"], LOCK_NAME)
    try:
        with open(path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return {"refused": True, "error": ""}
        return {"refused": False, "error": error.strerror}
    return {"refused": False, "error": ""}


def tcp(questions: dict) -> dict:
    """Returns what becomes of a TCP connection to each address: "connected", or what went wrong."""
    outcomes = {}
    waiting = {}
    for endpoint in questions["addresses"]:
        host, _, port = endpoint[len("tcp://") :].rpartition(":")
        resolved = _resolve(host.strip("[]"), int(port))
        if not resolved:
            outcomes[endpoint] = {"unknown name": "unknown name"}
        for family, address in resolved:
            each = outcomes.setdefault(endpoint, {})
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                each[address[0]] = _name(error.errno or errno.EAFNOSUPPORT)
                continue
            sock.setblocking(False)
            code = sock.connect_ex(address)
            if code == errno.EINPROGRESS:
                each[address[0]] = "timed out"
                waiting[sock] = (each, address[0])
            else:
                each[address[0]] = _name(code)
                sock.close()
    deadline = time.monotonic() + TCP_S
    while waiting and time.monotonic() < deadline:
        left_s = max(0.0, deadline - time.monotonic())
        for sock in select.select([], list(waiting), [], left_s)[1]:
            each, address = waiting.pop(sock)
            each[address] = _name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            sock.close()
    for sock in waiting:
        sock.close()
    return outcomes


def _name(code: int) -> str:
    if not code:
        return "connected"
    return "timed out" if code == errno.ETIMEDOUT else errno.errorcode.get(code, str(code))


def _resolve(host: str, port: int) -> list:
    """Returns family and address of each meaning of a name; waits for the name service a while."""
    found = []

    def ask() -> None:
        try:
            for answer in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                if (answer[0], answer[4]) not in found:
                    found.append((answer[0], answer[4]))
        except (OSError, UnicodeError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NAME_S)
    return list(found)


def modules(questions: dict) -> dict:
    """Imports what a worker imports; returns the version of each, or why it cannot be."""
    found = {}
    for package, module in questions["modules"].items():
        answer = {"version": "", "error": "", "path": ""}
        try:
            loaded = importlib.import_module(module)
            answer["path"] = os.path.dirname(getattr(loaded, "__file__", None) or "")
            answer["version"] = _version(package, loaded)
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        found[package] = answer
    return found


def _version(package: str, loaded: object) -> str:
    own = getattr(loaded, "__version__", None)
    if own:
        return str(own)
    try:
        from importlib import metadata  # since Python 3.8

        return metadata.version(package)
    except Exception:
        return ""


def hello(questions: dict) -> dict:
    """Calls the doctor as an agent calls its monitor, with the run's keys."""
    answer = {"connected": "", "answered": False, "error": "", "explanation": ""}
    try:
        import zmq

        from gridmap.node.serve import make_hello
        from gridmap.wire.caller import AgentLink
        from gridmap.wire.keys import read_connection
        from gridmap.wire.reach import explain

        connection = read_connection(questions["folder"])
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
        return answer
    message = make_hello(0, 1)
    answer["incarnation"] = message.incarnation
    began = time.monotonic()
    with AgentLink(connection) as link:
        link.send(message)
        link.begin()
        while time.monotonic() < began + HELLO_S and not answer["answered"]:
            poller = zmq.Poller()
            for sock in link.sockets():
                poller.register(sock, zmq.POLLIN)
            poller.poll(50)
            link.keep_time(time.monotonic())
            answer["answered"] = bool(link.receive())
            if link.connected and not answer["connected"]:
                answer.update(connected=link.address, at=time.time())
                answer["connect_s"] = time.monotonic() - began
        answer["answer_s"] = time.monotonic() - began
        if not answer["connected"]:
            host = socket.gethostname()
            answer["explanation"] = explain(connection, host, link.seen(), HELLO_S, TCP_S)
    return answer


STEPS = (limits, folders, locks, tcp, modules, hello)

# --- all of it ------------------------------------------------------------------------------------


def read_questions(folder: str, digest: str) -> dict:
    """Reads what the doctor wants to know; ends the process where that cannot be.

    :param digest: of the content of the file: another folder of the same name has another
    """
    path = os.path.join(folder, QUESTIONS_NAME)
    deadline = time.monotonic() + SEEN_WITHIN_S
    while True:
        try:
            with open(path, "rb") as file:
                content = file.read()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                _leave(NOT_SEEN, f"cannot read {path}: {error.strerror}")
        time.sleep(0.25)
    if hashlib.sha256(content).hexdigest() != digest:
        _leave(ANOTHER, f"{path} has another content here than on the doctor's host")
    questions = json.loads(content.decode("utf-8"))  # type: dict
    return questions


def _leave(status: int, text: str) -> None:
    sys.stderr.write(f"gridmap doctor on {socket.gethostname()}: {text}\n")
    sys.stderr.flush()
    os._exit(status)


def find_modules(sys_path: list) -> None:
    """Puts the client's folders behind our own, as a worker does."""
    sys.path += [entry for entry in sys_path if entry and entry not in sys.path]


def main(argv: list) -> int:
    """Answers the doctor's questions."""
    folder, digest = argv
    began = time.monotonic()
    questions = read_questions(folder, digest)
    # whatever hangs: the step that it hangs in has been written down
    signal.alarm(int(questions["seconds"]))
    report = Report(folder)
    report.content["seen_after_s"] = time.monotonic() - began
    find_modules(questions["sys_path"])
    try:
        for step in STEPS:
            report.content["doing"] = step.__name__
            report.write()
            report.content[step.__name__] = answer_of(step, questions)
        report.content.update(doing="", done=True)
        report.write()
    except OSError as error:
        _leave(NOT_WRITTEN, f"cannot write {report.path}: {error.strerror}")
    return 0


def answer_of(step: "collections.abc.Callable[[dict], dict]", questions: dict) -> dict:
    """Returns what a step finds; a fault of the step is one more finding."""
    try:
        return step(questions)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    # run by its path, its folder holds modules of the doctor's, and no packages
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = os.path.dirname(os.path.dirname(_here))
    sys.exit(main(sys.argv[1:]))
