"""A network link that loses and delays packets: bad_link.py ONE_INTERFACE ANOTHER LOSS DELAY_S

Carries frames between two interfaces of its network namespace. Not every kernel can do that itself.
"""

import contextlib
import heapq
import itertools
import random
import select
import socket
import sys
import time

ETH_P_ALL = 3


def main(one, another, loss, delay_s):
    ends = []
    for name in (one, another):
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        end.bind((name, ETH_P_ALL))
        end.setblocking(False)
        ends.append(end)
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting, number = [], itertools.count()
    print("carrying", flush=True)
    while True:
        wait_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 1.0
        for end in select.select(ends, [], [], wait_s)[0]:
            frame, (_, _, kind, _, _) = end.recvfrom(65_600)
            if kind != socket.PACKET_OUTGOING and random.random() >= loss:
                due = time.monotonic() + random.uniform(0.5, 1.5) * delay_s
                heapq.heappush(waiting, (due, next(number), other[end], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, frame = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # it is lost
                end.send(frame)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
