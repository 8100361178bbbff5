"""The processes of a runner: the cores they may use, and how busy other processes keep those."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .system_files import read_text

SWITCHES = {"voluntary": "voluntary_ctxt_switches", "involuntary": "nonvoluntary_ctxt_switches"}
SHORTEST_S = 0.2  # the kernel counts CPU time in hundredths of a second


class GroupMember(NamedTuple):
    """A process of a process group."""

    folder: Path  # in proc
    fields: list[str]  # of its `stat`, after its name


def usable_cores(group: int) -> set[int]:
    """Return the cores that any thread of a process group may run on.

    Empty where the system does not report them.
    """
    cores: set[int] = set()
    if not hasattr(os, "sched_getaffinity"):
        return cores
    for member in _members(Path("/"), group):
        for thread in member.folder.glob("task/[0-9]*"):
            with contextlib.suppress(OSError):  # it may have ended
                cores |= os.sched_getaffinity(int(thread.name))
    return cores


def context_switches(root: Path, group: int) -> dict[str, int]:
    """Return the context switches so far of all threads of a process group."""
    totals: dict[str, int] = {}
    for member in _members(root, group):
        for status in member.folder.glob("task/*/status"):
            for line in (read_text(status) or "").splitlines():
                field, _, value = line.partition(":")
                for kind, name in SWITCHES.items():
                    if field == name:
                        totals[kind] = totals.get(kind, 0) + int(value)
    return totals


class CpuLoad:
    """How busy others keep the cores that a runner may use, from the moment `now` on."""

    def __init__(self, root: Path, group: int, cores: Iterable[int], now: float) -> None:
        self.root = root
        self.group = group
        self.cores = sorted(cores)
        self.start = now
        self.busy = self._busy_seconds()
        self.runner = self._runner_seconds()

    def others(self, now: float) -> float | None:
        """Return the share of those cores that neither the runner nor this process took.

        None where the kernel does not report it, or the time was too short.
        """
        elapsed = now - self.start
        busy = self._busy_seconds()
        if busy is None or self.busy is None or not self.cores or elapsed < SHORTEST_S:
            return None
        by_runner = self._runner_seconds() - self.runner
        by_others = (busy - self.busy) - by_runner
        return max(0.0, by_others / (elapsed * len(self.cores)))

    def _busy_seconds(self) -> float | None:
        """Return the CPU seconds of all processes on those cores.

        None where the kernel does not report them, or the cores are shared by quota.
        """
        quota = (read_text(self.root / "sys/fs/cgroup/cpu.max") or "max").split()[0]
        ticks = _busy_ticks(self.root)
        if quota != "max" or not set(self.cores) <= set(ticks):
            return None
        return sum(ticks[core] for core in self.cores) / os.sysconf("SC_CLK_TCK")

    def _runner_seconds(self) -> float:
        """Return the CPU seconds of the runner's process group and of this process."""
        ticks = 0
        for member in _members(self.root, self.group):
            ticks += sum(int(field) for field in member.fields[11:15])
        times = os.times()
        return ticks / os.sysconf("SC_CLK_TCK") + times.user + times.system


def _busy_ticks(root: Path) -> dict[int, int]:
    """Return the clock ticks so far in which each core was not idle."""
    ticks: dict[int, int] = {}
    for line in (read_text(root / "proc/stat") or "").splitlines():
        columns = line.split()
        if re.fullmatch(r"cpu\d+", columns[0]):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[1:9])
            ticks[int(columns[0][3:])] = user + nice + system + irq + softirq + steal
    return ticks


def _members(root: Path, group: int) -> Iterator[GroupMember]:
    for path in (root / "proc").glob("[0-9]*/stat"):
        fields = (read_text(path) or "").rpartition(")")[2].split()
        if len(fields) > 15 and fields[2] == str(group):
            yield GroupMember(path.parent, fields)
