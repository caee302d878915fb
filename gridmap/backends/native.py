"""Resources in the words of Grid Engine: the native specification, and its time values. Pure."""

from __future__ import annotations

import re

from gridmap.core.spec import Resources

VALIDATION_LEVELS = ("e", "w", "n", "p", "v")
DEFAULT_PAR_ENV = "smp"

# What queues, hosts, amounts and resource expressions are made of. Grid Engine reads the
# specification word by word: blanks, quotes and shell characters would end or change a word.
_VALUE = re.compile(r"[A-Za-z0-9_.+@*?!|&()\[\]:=,/%^~][A-Za-z0-9_.+@*?!|&()\[\]:=,/%^~-]*")
_CLOCK = re.compile(r"(\d*):(\d*):(\d*)", re.ASCII)
_PLAIN_SECONDS = re.compile(r"(0|[1-9]\d*)(\.\d*)?([eE]\d+)?", re.ASCII)


def native_specification(
    resources: Resources, *, use_mem_free: bool = False, shell: bool = True
) -> str:
    """Returns the options that ask Grid Engine for these resources.

    :param use_mem_free: the cluster knows the resource `mem_free`
    :param shell: a shell on the node starts the command (and reads its words once more)
    :raises ValueError: a value that Grid Engine would take for something else; the message names it
    Source: qsub(1), sge_types(1)
    """
    r = resources
    options = [f"-shell {'yes' if shell else 'no'} -b yes"]
    if r.interpreting_shell:
        options.append(f"-S {_checked('interpreting_shell', r.interpreting_shell)}")
    if use_mem_free and r.mem_free:
        options.append(f"-l mem_free={_checked('mem_free', r.mem_free)}")
    if r.num_slots < 1:
        raise ValueError(f"num_slots is {r.num_slots}; it must be 1 or more")
    if r.num_slots > 1:
        options.append(f"-pe {_checked('par_env', r.par_env or DEFAULT_PAR_ENV)} {r.num_slots}")
    if r.queue:
        options.append(f"-q {_checked('queue', r.queue)}")
    if r.hosts:
        options.append("-l h=" + "|".join(_checked("white_list", host) for host in r.hosts))
    if r.project:
        options.append(f"-P {_checked('project', r.project)}")
    if r.validation_level:
        options.append(f"-w {checked_validation_level(r.validation_level)}")
    if r.gpu < 0:
        raise ValueError(f"gpu is {r.gpu}; it must be 0 or more")
    if r.h_rt:
        walltime_s(r.h_rt)  # for its ValueError
    limits = {
        "os_distribution": r.os_distribution,
        "os_minor": r.os_minor,
        "gpu": str(r.gpu) if r.gpu else "",
        "h_vmem": r.h_vmem,
        "h_rt": r.h_rt,
    }
    options += [f"-l {name}={_checked(name, value)}" for name, value in limits.items() if value]
    options += [f"-l {_checked('resources', request)}" for request in r.extra]
    return " ".join(options)


def checked_validation_level(level: str) -> str:
    """Returns the level when `qsub -w` knows it.

    :raises ValueError: it is none of e, w, n, p and v
    """
    if level not in VALIDATION_LEVELS:
        known = ", ".join(VALIDATION_LEVELS)
        raise ValueError(f"validation_level is {level!r}; it must be one of {known}")
    return level


def walltime_s(h_rt: str | int | float | None, what: str = "h_rt") -> float | None:
    """Returns a time limit in seconds; None for no limit.

    Grid Engine takes seconds (also octal with a leading 0, or hexadecimal with 0x), and
    hours:minutes:seconds of which each may be left out ("1::1").

    :param what: its name, for the error
    :raises ValueError: Grid Engine would refuse it
    Source: sge_types(1) "time_specifier"; tried on Son of Grid Engine 8.1.9
    """
    if h_rt is None or h_rt == "":
        return None
    text = str(h_rt).strip()
    if text.upper() == "INFINITY":
        return None
    clock = _CLOCK.fullmatch(text)
    if clock and any(clock.groups()):
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(hours * 3600 + minutes * 60 + seconds)
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
        return float(int(text, 16))
    if re.fullmatch(r"0[0-7]+", text):
        return float(int(text, 8))
    if _PLAIN_SECONDS.fullmatch(text):
        return float(text)
    raise ValueError(f"{what} is {h_rt!r}; it must be seconds or hours:minutes:seconds")


_MEMORY = re.compile(r"(0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?)([kKmMgGtT]?)", re.ASCII)
_UNITS = {"": 1, "k": 1000, "K": 1 << 10, "m": 1000**2, "M": 1 << 20, "g": 1000**3, "G": 1 << 30,
          "t": 1000**4, "T": 1 << 40}  # fmt: skip


def memory_bytes(what: str, amount: str | int) -> int:
    """Returns an amount of memory in bytes.

    A letter multiplies: K, M, G, T by powers of 1024, k, m, g, t by powers of 1000.

    :param what: its name, for the error
    :raises ValueError: Grid Engine would refuse it, or it is nothing
    Source: sge_types(1) "memory_specifier"
    """
    whole = hasattr(amount, "__index__") and not isinstance(amount, bool)
    found = _MEMORY.fullmatch(str(amount).strip()) if whole or isinstance(amount, str) else None
    if found is None:
        raise ValueError(
            f'{what} is {amount!r}; it must be an amount of memory, such as "4G", or bytes'
        )
    number, unit = found.groups()
    count = int(number, 16) if number[:2] in ("0x", "0X") else float(number)
    if not int(count * _UNITS[unit]):
        raise ValueError(f"{what} is {amount!r}; it must be more than nothing")
    return int(count * _UNITS[unit])


def memory_text(nbytes: int) -> str:
    """Returns an amount of memory in the words of Grid Engine, rounded up to whole MB."""
    megabytes = -(-nbytes // (1 << 20))
    return f"{megabytes >> 10}G" if megabytes % 1024 == 0 else f"{megabytes}M"


def job_name(name: str, run_tag: str = "") -> str:
    """Returns a name that Grid Engine takes, and that ends in the run's tag."""
    text = re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[:80] or "gridmap"
    if not text[0].isalpha():
        text = f"_{text}"  # it refuses names that start with a digit
    return f"{text}-{_tag(run_tag)}" if run_tag else text


def is_of_run(name: str, run_tag: str) -> bool:
    """Returns whether `job_name` made this name for this run."""
    return name.endswith(f"-{_tag(run_tag)}")


def _tag(run_tag: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", run_tag)


def _checked(what: str, value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"{what} is {value!r}; Grid Engine's options cannot hold blanks, quotes or "
            "shell characters, nor start with '-'"
        )
    return value
