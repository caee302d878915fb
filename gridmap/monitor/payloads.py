"""The arguments of the jobs that have not ended, as the packets in which they were pickled."""

from __future__ import annotations

from bisect import bisect_right

from gridmap.core.messages import Lease
from gridmap.core.spec import JobSpec, Span
from gridmap.data import Frame, Packet


class Payloads:
    """Finds the packets that a lease needs; drops each when the last of its jobs has ended."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._packets: list[Packet | None] = []
        self._unfinished: list[int] = []
        self._next = 0

    def add(self, packet: Packet) -> None:
        """Takes the packet of the next jobs."""
        self._firsts.append(self._next)
        self._packets.append(packet)
        self._unfinished.append(packet.count)
        self._next += packet.count

    def lease(self, span: Span, attempt: int, spec: JobSpec) -> tuple[Lease, list[Frame]]:
        """Returns a lease of these jobs and its payload frames."""
        packets: list[tuple[int, int, int]] = []
        frames: list[Frame] = []
        index = bisect_right(self._firsts, span.first) - 1
        at = span.first
        while at < span.stop:
            packet = self._packets[index]
            assert packet is not None, f"the arguments of job {at} have been dropped"
            skip = at - self._firsts[index]
            take = min(packet.count - skip, span.stop - at)
            packets.append((skip, take, len(packet.frames)))
            frames += packet.frames
            at += take
            index += 1
        lease = Lease(
            *span,
            attempt,
            spec.function,
            spec.context,
            spec.reuse,
            packets,
            spec.max_rss_bytes,
        )
        return lease, frames

    def ended(self, span: Span) -> None:
        """These jobs need their arguments no more."""
        index = bisect_right(self._firsts, span.first) - 1
        at = span.first
        while at < span.stop and index < len(self._firsts):
            packet = self._packets[index]
            if packet is None:
                at = self._firsts[index + 1] if index + 1 < len(self._firsts) else span.stop
            else:
                count = min(self._firsts[index] + packet.count, span.stop) - at
                self._unfinished[index] -= count
                if self._unfinished[index] <= 0:
                    self._packets[index] = None
                at += count
            index += 1
