"""A link between this machine and a network namespace that delays packets and loses some: `lossy_link.py NAMESPACE
HOST_ADDRESS BOARD_ADDRESS DELAY_MS LOSS SEED`, delay each way, loss a share. It says "up" and runs until it is ended.

For kernels that lack netem: a TUN device on each side, and packets wait here for their time.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from itertools import count

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 1500


def device(name: str) -> int:
    """A new network device, as a file of its packets."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return file


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def main(namespace: str, host: str, board: str, delay_s: float, loss: float, seed: int) -> None:
    """Carry packets both ways."""
    here, there = device(f"{namespace}h"), device(f"{namespace}b")
    ip("link", "set", f"{namespace}b", "netns", namespace)
    ip("addr", "add", host, "peer", board, "dev", f"{namespace}h")
    ip("link", "set", f"{namespace}h", "up")
    ip("-n", namespace, "addr", "add", board, "peer", host, "dev", f"{namespace}b")
    ip("-n", namespace, "link", "set", f"{namespace}b", "up")
    print("up", flush=True)
    chance, order = random.Random(seed), count()
    waiting: list[tuple[float, int, int, bytes]] = []  # when it is due, to whom
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for file in select.select([here, there], [], [], pause)[0]:
            packet = os.read(file, MTU + 100)
            if chance.random() >= loss:
                due = time.monotonic() + delay_s
                heapq.heappush(waiting, (due, next(order), there if file == here else here, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, file, packet = heapq.heappop(waiting)
            try:
                os.write(file, packet)
            except OSError:  # its queue is full: lost as well
                continue


if __name__ == "__main__":
    main(*sys.argv[1:4], float(sys.argv[4]) / 1e3, float(sys.argv[5]), int(sys.argv[6]))  # type: ignore[misc]
