"""Uploads and downloads of the ssh device against scp on the same link: run by hand, with nothing else running.

    python tests/bench/bench_transfer.py [MEGABYTES [ROUNDS]]

A server of its own on loopback; a second pass goes through a relay that delays each direction by 10 ms. The three take
turns in every round; scp's time is that of the command, the connection included, as its users know it, and once more
with that taken off (a transfer of an empty file, the fastest of its round's three).
"""

from __future__ import annotations

import os
import queue
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from qpipe_devices import ssh
from qpipe_devices.link import Link
from sshd import SSHD, config

DELAY_S = 0.01
PART = 1 << 18
AHEAD = 64  # parts on their way: the link's capacity


def serve(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    (folder / "config").write_text(config(folder, port), encoding="utf-8")
    server = subprocess.Popen(
        [str(SSHD), "-D", "-e", "-f", folder / "config"], stderr=subprocess.DEVNULL
    )
    time.sleep(1)
    return server, port


def relay(port: int) -> int:
    """A port that leads to another, each byte DELAY_S later."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            here = listener.accept()[0]
            there = socket.create_connection(("127.0.0.1", port))
            for source, sink in ((here, there), (there, here)):
                for end in (source, sink):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _delayed(source, sink)

    threading.Thread(target=accept, daemon=True).start()
    own: int = listener.getsockname()[1]
    return own


def _delayed(source: socket.socket, sink: socket.socket) -> None:

    parts: queue.Queue[tuple[float, bytes]] = queue.Queue(AHEAD)

    def read() -> None:
        part = b"x"
        while part:
            try:
                part = source.recv(PART)
            except OSError:
                part = b""
            parts.put((time.monotonic() + DELAY_S, part))

    def write() -> None:
        while True:
            due, part = parts.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not part:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(part)
            except OSError:
                return

    for target in (read, write):
        threading.Thread(target=target, daemon=True).start()


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def quiet(done: float, total: float | None = None, unit: str = "") -> None:
    """Progress that nobody looks at."""


def interval(values: list[float]) -> tuple[float, float]:
    """Of the median, by bootstrap."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[-50]


def compare(
    title: str,
    device: Link,
    scp: list[str | Path],
    remote: str,
    folder: Path,
    size: int,
    rounds: int,
) -> None:
    source, back, empty, there = (
        folder / "source",
        folder / "back",
        folder / "empty",
        folder / "there",
    )
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: device.transport.put(source, str(there), quiet),
        "get": lambda: device.transport.get(str(source), back),
        "scp put": lambda: subprocess.run([*scp, source, f"{remote}:{there}"], check=True),
        "scp get": lambda: subprocess.run([*scp, f"{remote}:{source}", back], check=True),
        "scp nothing": lambda: subprocess.run([*scp, empty, f"{remote}:{there}"], check=True),
    }
    device.transport.start(["true"]).wait(10)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        order = list(calls)
        random.Random(index).shuffle(order)
        for name in order:
            seconds = timed(calls[name])
            if index:  # the first warms up
                times[name].append(seconds)
    for name in ("put", "get"):
        report(
            f"{title}: {name}", times[name], times[f"scp {name}"], min(times["scp nothing"]), size
        )


def report(title: str, ours: list[float], theirs: list[float], start: float, size: int) -> None:
    own, other = (size / statistics.median(times) for times in (ours, theirs))
    for what, connected in (("with its connection", 0.0), ("without", start)):
        ratios = [(their - connected) / our for our, their in zip(ours, theirs, strict=True)]
        low, high = interval(ratios)
        ratio = f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"
        print(
            f"{title} {own:.0f} MB/s, scp {other:.0f}: {ratio} times scp's rate {what} (at least 0.9)",
            flush=True,
        )


def main(size: int = 64, rounds: int = 8) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "source").write_bytes(os.urandom(size * 1_000_000))
        (folder / "empty").touch()
        server, port = serve(folder)
        try:
            for title, way in (
                ("loopback", port),
                (f"{2e3 * DELAY_S:g} ms round trip", relay(port)),
            ):
                kind, key = (folder / "host_key.pub").read_text(encoding="utf-8").split()[:2]
                known = folder / f"known_{way}"
                known.write_text(f"[127.0.0.1]:{way} {kind} {key}\n", encoding="utf-8")
                user = os.environ.get("USER") or "root"
                device = ssh(
                    "here",
                    host="127.0.0.1",
                    port=way,
                    user=user,
                    key=folder / "user_key",
                    known_hosts=known,
                )
                assert isinstance(device, Link)
                options = [
                    f"UserKnownHostsFile={known}",
                    f"IdentityFile={folder / 'user_key'}",
                    "IdentitiesOnly=yes",
                ]
                scp = [
                    "scp",
                    "-q",
                    "-P",
                    str(way),
                    *(word for option in options for word in ("-o", option)),
                ]
                compare(title, device, [*scp], f"{user}@127.0.0.1", folder, size, rounds)
                device.close()
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
