"""Which devices of a worker, and how many threads, a process for jobs has. Pure.

The scheduler gives a worker the devices of all its jobs, in variables such as CUDA_VISIBLE_DEVICES;
each child has its own part of each list, and the same part as the child in whose place it came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

RELATIVE = frozenset({"HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"})
"""Lists of numbers that AMD's runtime counts among those that ROCR_VISIBLE_DEVICES has left.

Source: ROCm documentation, "GPU isolation techniques"
"""

DEVICES = RELATIVE | {"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}
"""Lists of devices, with commas between them: numbers, UUIDs, names of parts (MIG)."""

_GRANTED = re.compile(r"SGE_HGR_\w*gpu\w*", re.IGNORECASE)
"""What Grid Engine (Univa's, Altair's) granted of a resource map, with blanks between."""

SLOTS = ("NSLOTS", "SLURM_CPUS_PER_TASK")
"""How many slots the scheduler gave: a job reads there how many it has."""

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
"""How many threads the numerical libraries start."""


def part(devices: Sequence[str], place: int, of: int, each: int = 0) -> list[str]:
    """Returns the devices of one of several children.

    Where there are enough, each has as many as its job asked for; where it asked for none, all are
    dealt out. Where there are fewer, several children share one: none goes without.

    :param devices: those of the worker
    :param place: which child, 0 .. of - 1
    :param each: how many a job asked for; 0: it did not say
    """
    count = len(devices)
    if of < 2 or not count:
        return list(devices)
    if each and count >= each * of:
        return list(devices[place * each : (place + 1) * each])
    if count >= of and not each:
        return list(devices[place * count // of : (place + 1) * count // of])
    own = (devices[(place * max(1, each) + i) % count] for i in range(max(1, each)))
    return list(dict.fromkeys(own))


def variables(
    environ: Mapping[str, str], place: int, of: int, each: int = 0, amd: bool = False
) -> dict[str, str]:
    """Returns the variables that name a child's devices, as far as the worker has them.

    :param environ: the worker's
    :param place: see `part`, as for `of` and `each`
    :param amd: there are AMD's devices, whose runtime reads CUDA_VISIBLE_DEVICES as its own
    """
    if of < 2:
        return {name: environ[name] for name in environ if is_of_devices(name)}

    def share(text: str) -> list[str]:
        return part(_listed(text), place, of, each)

    # a word for "none", or nothing at all, holds for every child
    listed = DEVICES & environ.keys()
    own = {name: ",".join(share(environ[name])) or environ[name] for name in listed}
    left = len(share(environ.get("ROCR_VISIBLE_DEVICES", "")))
    for name in RELATIVE | ({"CUDA_VISIBLE_DEVICES"} if amd else set()):
        if left and _listed(own.get(name, "")):
            own[name] = ",".join(map(str, range(left)))
    for name in filter(_GRANTED.fullmatch, environ):
        own[name] = " ".join(part(environ[name].split(), place, of, each))
    return own


def is_of_devices(name: str) -> bool:
    """Returns whether a variable of this name tells which devices there are."""
    return name in DEVICES or _GRANTED.fullmatch(name) is not None


def _listed(text: str) -> list[str]:
    """Returns the devices that a list names; [] for one that says that there are none.

    CUDA reads a list up to the first number that is no device's, such as -1; Slurm says NoDevFiles.
    """
    devices: list[str] = []
    for word in text.split(","):
        word = word.strip()
        if not word or word.startswith("-") or word.lower() in ("nodevfiles", "none", "void"):
            break
        devices.append(word)
    return devices


def slots(environ: Mapping[str, str], each: int, of: int) -> dict[str, str]:
    """Returns what the variables of the scheduler say of the slots of a job.

    :param environ: the worker's, which has those of all its jobs
    :param each: slots of a job; 0: not known
    """
    if of < 2 or not each:
        return {}
    return {name: str(each) for name in SLOTS if name in environ}


def threads(environ: Mapping[str, str], count: int) -> dict[str, str]:
    """Returns the variables that keep libraries to so many threads, without those that are set.

    Where OMP_NUM_THREADS is, all are left alone: the libraries follow it where they have no
    variable of their own.

    :param environ: what the job is to have
    :param count: 0: as many as they like
    """
    if count < 1 or "OMP_NUM_THREADS" in environ:
        return {}
    return {name: str(count) for name in THREADS if name not in environ}
