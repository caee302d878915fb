"""What jobs ask of a scheduler: topics, and the values by which a template says them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from gridmap.backends.native import DEFAULT_PAR_ENV, memory_bytes, memory_text, walltime_s
from gridmap.core.spec import Resources

HISTORIC_QUEUE = "all.q"
"""What DEFAULT_QUEUE has always been; elsewhere than on Grid Engine, the cluster's own choice."""

LEAST_MEMORY_BYTES = 1 << 20

VALIDATION_LEVELS = ("e", "w", "n", "p", "v")

TOPICS: Mapping[str, tuple[str, ...]] = {
    "slots": ("slots", "cpus", "cpus_per_gpu"),
    "memory": (
        *("memory_bytes", "memory_kb", "memory_mb", "memory_gb", "memory_per_slot_mb"),
        *("h_vmem", "mem_free"),
    ),
    "walltime": ("walltime_s", "walltime_minutes", "walltime_hm", "walltime_hms", "h_rt"),
    "gpus": ("gpus",),
    "queue": ("queue",),
    "project": ("project",),
    "hosts": ("hosts", "host"),
    "features": ("features", "feature"),
    "resources": ("requests", "request"),
    "native": ("native",),
    "par_env": ("par_env",),
    "os_distribution": ("os_distribution",),
    "os_minor": ("os_minor",),
    "validation_level": ("validation_level",),
    "interpreting_shell": ("interpreting_shell",),
}
"""What jobs can ask for, and the values by which a template says it.

`slots` is there from 2 on, `cpus` always.  Memory is that of all slots, rounded up; `h_vmem`,
`mem_free` and `memory_per_slot_mb` are for each.  `walltime_hms` is 1:00:00, `walltime_hm` 1:00,
rounded up.  `host` is there when there is but one.  `request` and `feature` repeat their template.
"""

TOPIC_OF: Mapping[str, str] = {value: topic for topic, values in TOPICS.items() for value in values}


def asked(r: Resources, use_mem_free: bool) -> Iterator[tuple[str, str]]:
    """Yields each topic that is asked for, with a text that says so in the user's words.

    :param use_mem_free: `mem_free` counts
    """
    if r.num_slots > 1:
        yield "slots", f"num_slots={r.num_slots}"
        if r.par_env not in ("", DEFAULT_PAR_ENV):
            yield "par_env", f"par_env={r.par_env!r}"
    if r.h_vmem:
        yield "memory", f"h_vmem={r.h_vmem!r}"
    elif r.memory_bytes:
        yield "memory", f"memory={memory_text(r.memory_bytes)!r}"
    elif use_mem_free and r.mem_free:
        yield "memory", f"mem_free={r.mem_free!r}"
    if r.walltime_s:
        yield "walltime", f"h_rt={r.h_rt!r}" if r.h_rt else f"walltime={r.walltime_s:g} s"
    if r.gpu:
        yield "gpus", f"gpus={r.gpu}"
    if r.queue and r.queue != HISTORIC_QUEUE:
        yield "queue", f"queue={r.queue!r}"
    if r.hosts:
        yield "hosts", f"hosts={list(r.hosts)} (white_list)"
    if r.extra:
        yield "resources", f"resources={list(r.extra)}"
    for topic in ("features", "native"):
        if getattr(r, topic):
            yield topic, f"{topic}={list(getattr(r, topic))}"
    texts = ("project", "os_distribution", "os_minor", "validation_level", "interpreting_shell")
    for topic in texts:
        if getattr(r, topic):
            yield topic, f"{topic}={getattr(r, topic)!r}"


class Values:
    """What the names in templates stand for; computed, and checked, when they are asked for.

    :param checked: returns a text under its name, or raises ValueError when it is none to pass on
    :param use_mem_free: `mem_free` counts: the cluster knows it, or it stands for memory
    :param has_all_q: HISTORIC_QUEUE is the name of a queue
    :raises ValueError: a number is out of range, a level or a time limit is none
    """

    def __init__(
        self,
        resources: Resources,
        checked: Callable[[str, str], str],
        use_mem_free: bool = False,
        has_all_q: bool = False,
    ) -> None:
        r = resources
        if r.num_slots < 1:
            raise ValueError(f"num_slots is {r.num_slots}; it must be 1 or more")
        if r.gpu < 0:
            raise ValueError(f"gpu is {r.gpu}; it must be 0 or more")
        if r.validation_level and r.validation_level not in VALIDATION_LEVELS:
            known = ", ".join(VALIDATION_LEVELS)
            raise ValueError(
                f"validation_level is {r.validation_level!r}; it must be one of {known}"
            )
        walltime_s(r.h_rt)  # for its ValueError
        self._r = r
        self._checked = checked
        self._use_mem_free = use_mem_free
        self._has_all_q = has_all_q
        self._known: dict[str, Sequence[str]] = {}

    def __call__(self, name: str) -> Sequence[str]:
        """Returns what a name stands for; nothing when that is not asked for."""
        if name not in self._known:
            self._known[name] = self._made(name)
        return self._known[name]

    def _made(self, name: str) -> Sequence[str]:
        r = self._r
        if name in _AMOUNTS:
            amount = _AMOUNTS[name](self)
            return [str(amount)] if amount else []
        if name in ("hosts", "host"):
            hosts = [self._checked("hosts (white_list)", host) for host in r.hosts]
            return hosts if name == "hosts" or len(hosts) == 1 else []
        if name == "features":
            return [self._checked("features", feature) for feature in r.features]
        if name == "requests":
            return [self._checked("resources", request) for request in r.extra]
        if name == "native":
            return r.native
        if name == "queue" and r.queue == HISTORIC_QUEUE and not self._has_all_q:
            return []
        text: str = getattr(r, name) or (DEFAULT_PAR_ENV if name == "par_env" else "")
        return [self._checked(name, text)] if text else []

    # --- amounts ----------------------------------------------------------------------------------

    def memory(self, unit: int) -> int:
        """Returns the memory of all slots together, in units of so many bytes, rounded up."""
        r = self._r
        nbytes = r.memory_bytes
        if r.h_vmem:
            nbytes = _amount("h_vmem", r.h_vmem) * r.num_slots
        elif not nbytes and self._use_mem_free and r.mem_free:
            nbytes = _amount("mem_free", r.mem_free) * r.num_slots
        return -(-nbytes // unit)

    def of_slot(self, name: str) -> str:
        """Returns the memory of each slot in Grid Engine's words: as said, or a share of all."""
        text: str = getattr(self._r, name)
        if text:
            return self._checked(name, text)
        nbytes = self._r.memory_bytes
        return memory_text(-(-nbytes // self._r.num_slots)) if nbytes else ""

    def mem_free(self) -> str:
        """Returns the memory that a host must have free for each slot, where that counts."""
        return self.of_slot("mem_free") if self._use_mem_free else ""

    def time(self, unit_s: int) -> int:
        """Returns the time limit in units of so many seconds, rounded up."""
        return int(-(-(self._r.walltime_s or 0) // unit_s))

    def h_rt(self) -> str | int:
        """Returns the time limit in Grid Engine's words: what was said, or seconds."""
        return self._checked("h_rt", self._r.h_rt) if self._r.h_rt else self.time(1)

    def clock(self, unit_s: int) -> str:
        """Returns the time limit as 1:00:00, or as 1:00 when the unit is a minute."""
        time = self.time(unit_s)
        if not time:
            return ""
        hours, minutes = divmod(time * unit_s // 60, 60)
        seconds = f":{time % 60:02d}" if unit_s == 1 else ""
        return f"{hours}:{minutes:02d}{seconds}"

    def slots(self, parts: int = 1) -> int:
        """Returns the number of slots, or of such a part of them, rounded up."""
        return -(-self._r.num_slots // (parts or 1))

    def gpus(self) -> int:
        """Returns the number of GPUs."""
        return self._r.gpu


def _amount(what: str, text: str) -> int:
    """Returns memory in bytes.

    :raises ValueError: so little is nobody's wish: "512" is 512 bytes to Grid Engine
    """
    nbytes = memory_bytes(what, text)
    if nbytes < LEAST_MEMORY_BYTES:
        raise ValueError(f'{what} is {text!r}, which is {nbytes} bytes; say "{text}M" or "{text}G"')
    return nbytes


_AMOUNTS: Mapping[str, Callable[[Values], str | int]] = {
    "slots": lambda v: v.slots() if v.slots() > 1 else 0,
    "cpus": Values.slots,
    "cpus_per_gpu": lambda v: v.slots(v.gpus()),
    "gpus": Values.gpus,
    "memory_bytes": lambda v: v.memory(1),
    "memory_kb": lambda v: v.memory(1 << 10),
    "memory_mb": lambda v: v.memory(1 << 20),
    "memory_gb": lambda v: v.memory(1 << 30),
    "memory_per_slot_mb": lambda v: v.memory(v.slots() << 20),
    "h_vmem": lambda v: v.of_slot("h_vmem"),
    "mem_free": Values.mem_free,
    "walltime_s": lambda v: v.time(1),
    "walltime_minutes": lambda v: v.time(60),
    "walltime_hm": lambda v: v.clock(60),
    "walltime_hms": lambda v: v.clock(1),
    "h_rt": Values.h_rt,
}
