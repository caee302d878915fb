"""Amounts of time and memory, and names of jobs, as Grid Engine takes them. Pure."""

from __future__ import annotations

import re

DEFAULT_PAR_ENV = "smp"

_CLOCK = re.compile(r"(\d*):(\d*):(\d*)", re.ASCII)
_PLAIN_SECONDS = re.compile(r"(0|[1-9]\d*)(\.\d*)?([eE]\d+)?", re.ASCII)


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
