"""The schedulers behind DRMAA libraries: which one it is, and how it is asked for resources. Pure.

DRMAA passes a text of options on, `nativeSpecification`.  Each library reads it in a way of its
own, not always as the scheduler's command does.
"""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from gridmap.backends.options import GRID_ENGINE, SLURM, Words, render, words_of
from gridmap.core.spec import Resources


class System(Struct, frozen=True):
    """A scheduler behind a DRMAA library.

    :param words: how it is asked for resources
    :param separator: what stands between two options
    :param quotes: its library takes words with blanks, in double quotes
    :param grid_engine: it has Grid Engine's commands, arrays and variables
    :param job_name_characters: longest name of a job
    :param own: options without which GridMap would not hear of its workers
    """

    words: Words
    separator: str = " "
    quotes: bool = False
    grid_engine: bool = False
    job_name_characters: int = 100
    own: tuple[str, ...] = ()


def _like(words: Words, **templates: str | None) -> tuple[str, ...]:
    """Returns options of which some, named by a value that they take, are others, or none."""
    options = []
    for option in words.options:
        for name, other in templates.items():
            if f"{{{name}}}" in option:
                option = other or ""
        options += [option] if option else []
    return tuple(dict.fromkeys(options))


def _grid_engine() -> System:
    return System(GRID_ENGINE, grid_engine=True)


def _slurm() -> System:
    """Source: slurm-drmaa 1.1, "Native specification": memory in MB, time in hours and minutes."""
    options = _like(
        SLURM,
        memory_mb="--mem={memory_mb}",
        walltime_hms="--time={walltime_hm}",
        gpus="--gres=gpu:{gpus}",
    )
    words = replace(
        SLURM,
        name="Slurm (DRMAA)",
        options=("--nodelist={host}", *options),  # it takes all that it lists
        otherwise=("interpreting_shell", "validation_level"),
    )
    return System(words, own=("--no-requeue",))


def _pbs() -> System:
    """Source: pbs-drmaa 1.0, "Native specification": the options of qsub."""
    return System(replace(words_of("openpbs"), name="PBS (DRMAA)"), job_name_characters=15)


def _torque() -> System:
    """Source: pbs-drmaa 1.0; Torque's qsub, "Requesting resources"."""
    words = words_of("openpbs")
    options = (
        *("-q {queue}", "-A {project}"),
        "-l nodes=1:ppn={cpus}<:gpus={gpus}><:{features::}>",
        *("-l mem={memory_mb}mb", "-l walltime={walltime_hms}", "-l {request}", "{native}"),
    )
    words = replace(words, name="Torque (DRMAA)", options=options)
    return System(words, job_name_characters=15)


def _lsf() -> System:
    """Source: lsf-drmaa 1.1, "Native specification": one -R; memory limits in KB; no GPUs."""
    words = words_of("lsf")
    resource = next(option for option in words.options if option.startswith("-R"))
    options = _like(words, memory_mb="-M {memory_kb}", gpus=None)
    options = (*options[:-1], resource.replace("{memory_mb}MB", "{memory_mb}"), options[-1])
    return System(replace(words, name="LSF (DRMAA)", options=options), quotes=True)


def _condor() -> System:
    """Source: HTCondor's manual, "The DRMAA API": lines of a submit description."""
    own = ("environment=GRIDMAP_NATIVE_ID=$(Cluster).$(Process)",)
    words = replace(words_of("htcondor"), name="HTCondor (DRMAA)")
    return System(words, separator="\n", own=own)


_KNOWN = (
    # "SGE 8.1.9", "GE 6.2u5", "OGS/GE 2011.11", "UGE 8.6.4", "Altair Grid Engine 2023.1.0"; and
    # " 8.1.9" in all threads but the first that asks (measured on Son of Grid Engine 8.1.9)
    (r"^v?\d[\w.+-]*$|\b(S|U|A)?GE\b|\bOGS\b|grid ?engine|\b[OG]CS\b|gridware|univa", _grid_engine),
    (r"slurm", _slurm),  # "SLURM 22.05.8"
    (r"torque", _torque),  # "Torque"
    (r"\bpbs|openpbs", _pbs),  # "PBS Professional"
    (r"\blsf\b", _lsf),  # "Platform LSF 9.1.3", "IBM Spectrum LSF Standard 10.1.0.0"
    (r"condor", _condor),  # "Condor"
)


def system_of(drms_info: str, sge_root: bool = False) -> System:
    """Returns the scheduler that a DRMAA library says it is for.

    One that nobody knows here is told native options, and cannot be asked for anything else.

    :param sge_root: SGE_ROOT is set: what nobody knows is a Grid Engine by another name
    """
    for pattern, make in _KNOWN:
        if re.search(pattern, drms_info.strip(), re.IGNORECASE):
            return make()
    if sge_root:
        return _grid_engine()
    name = drms_info.strip() or "This scheduler"
    return System(Words(f"{name} (DRMAA), whose options GridMap does not know,", ("{native}",)))


def specification(system: System, resources: Resources, use_mem_free: bool = False) -> str:
    """Returns the options that ask a scheduler for resources, as the one text that DRMAA passes on.

    :raises ValueError: it cannot be asked for something, or its library would cut an option
    """
    options = [*system.own, *render(system.words, resources, use_mem_free)]
    return system.separator.join(_told(system, option) for option in options)


def _told(system: System, option: str) -> str:
    if system.separator == "\n" or not re.search(r"[\s'\"\\]", option):
        return option
    if system.quotes and '"' not in option:
        return f'"{option}"'
    raise ValueError(
        f"{system.words.name} cannot be told {option!r}: DRMAA would cut it at a blank or a quote"
    )
